//! CA certificates as members of a bundle.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::P256PublicKey;

/// A CA certificate of a trust domain. Its subject, its SAN and its dates are not judged here:
/// being in the bundle is what makes it trusted (and published examples have SANs that are not
/// SPIFFE ids by the letter).
#[derive(Clone)]
pub struct X509Authority {
    der: Arc<[u8]>,
    parameters: Arc<Parameters>,
    spki_sha256: [u8; 32],
}

/// The members of a JWK that say which key it is: `kty` and what belongs to it.
pub(super) type Parameters = BTreeMap<&'static str, String>;

/// How bytes fail to be a CA certificate that can be in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not text in base64 (the plain alphabet, padded), where that is its form.
    #[error("certificate is not in base64")]
    Base64,
    /// Not the DER of one X.509 certificate.
    #[error("not the der of an x.509 certificate")]
    Malformed,
    /// Something follows the certificate.
    #[error("bytes follow the certificate")]
    TrailingBytes,
    /// Its key is none of RSA, P-256, P-384, P-521, Ed25519, or is malformed.
    #[error("certificate has a public key that a jwk here can't express")]
    UnsupportedKey,
}

impl X509Authority {
    /// Reads one DER certificate, and nothing after it.
    ///
    /// # Errors
    ///
    /// [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::TrailingBytes);
        }
        let spki = certificate.public_key();
        Ok(Self {
            der: Arc::from(der),
            parameters: Arc::new(parameters(spki).ok_or(CertificateError::UnsupportedKey)?),
            spki_sha256: Sha256::digest(spki.raw).into(),
        })
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of its SubjectPublicKeyInfo, by which a join string pins it.
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

// All else is computed from the certificate.
impl PartialEq for X509Authority {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for X509Authority {}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "X509Authority({})",
            URL_SAFE_NO_PAD.encode(self.spki_sha256)
        )
    }
}

fn parameters(spki: &SubjectPublicKeyInfo<'_>) -> Option<Parameters> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        elliptic(spki)
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        rsa(spki)
    } else if *algorithm == OID_SIG_ED25519 {
        let x = &*spki.subject_public_key.data;
        (x.len() == 32).then(|| {
            Parameters::from([
                ("kty", "OKP".into()),
                ("crv", "Ed25519".into()),
                ("x", text(x)),
            ])
        })
    } else {
        None
    }
}

fn elliptic(spki: &SubjectPublicKeyInfo<'_>) -> Option<Parameters> {
    let curve = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let (name, size) = [
        (OID_EC_P256, ("P-256", 32)),
        (OID_NIST_EC_P384, ("P-384", 48)),
        (OID_NIST_EC_P521, ("P-521", 66)),
    ]
    .into_iter()
    .find_map(|(oid, found)| (oid == curve).then_some(found))?;
    let point = &*spki.subject_public_key.data;
    if size == 32 {
        P256PublicKey::from_sec1(point).ok()?;
    }
    let coordinates = point
        .strip_prefix(&[4])
        .filter(|rest| rest.len() == 2 * size)?;
    let (x, y) = coordinates.split_at_checked(size)?;
    Some(Parameters::from([
        ("kty", "EC".into()),
        ("crv", name.into()),
        ("x", text(x)),
        ("y", text(y)),
    ]))
}

fn rsa(spki: &SubjectPublicKeyInfo<'_>) -> Option<Parameters> {
    let Ok(PublicKey::RSA(key)) = spki.parsed() else {
        return None;
    };
    let (n, e) = (unsigned(key.modulus), unsigned(key.exponent));
    Some(Parameters::from([
        ("kty", "RSA".into()),
        ("n", text(n)),
        ("e", text(e)),
    ]))
}

/// The fewest octets that hold the number: RFC 7518 section 2 wants no sign octet.
fn unsigned(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    octets.get(zeros..).unwrap_or_default()
}

fn text(octets: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}
