//! The CAs whose certificates prove nodes.

use std::ops::RangeInclusive;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest as _, Sha256};
use taskmint_attest::AttestError;
use taskmint_model::Timestamp;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::chain::Chain;
use crate::proof::refused;

/// SHA-256 of a certificate, DER.
pub(crate) type Fingerprint = [u8; 32];

/// CA files that can't be trusted. Files and certificates are counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// No file at all.
    #[error("no CA file")]
    NoFile,
    /// A file that is not PEM, or holds no certificate.
    #[error("CA file {file} holds no certificate as PEM")]
    NoCertificate {
        /// Which.
        file: usize,
    },
    /// A certificate that can't be read.
    #[error("certificate {number} of CA file {file} is malformed")]
    Malformed {
        /// Which file.
        file: usize,
        /// Which certificate in it.
        number: usize,
    },
    /// A certificate that may not issue others.
    #[error("certificate {number} of CA file {file} is not a CA's")]
    NotCa {
        /// Which file.
        file: usize,
        /// Which certificate in it.
        number: usize,
    },
}

/// The configured CAs.
pub(crate) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each of `anchors`.
    certificates: Vec<Root>,
}

struct Root {
    fingerprint: Fingerprint,
    /// Seconds since 1970.
    valid: RangeInclusive<u64>,
}

impl Roots {
    pub(crate) fn from_pem(files: &[Vec<u8>]) -> Result<Self, RootsError> {
        let mut roots = Self {
            anchors: Vec::new(),
            certificates: Vec::new(),
        };
        for (file, pem) in (1..).zip(files) {
            let none = RootsError::NoCertificate { file };
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let certificates = certificates.map_err(|_| none)?;
            if certificates.is_empty() {
                return Err(none);
            }
            for (number, der) in (1..).zip(&certificates) {
                roots.add(der, file, number)?;
            }
        }
        if roots.anchors.is_empty() {
            return Err(RootsError::NoFile);
        }
        Ok(roots)
    }

    fn add(
        &mut self,
        der: &CertificateDer<'_>,
        file: usize,
        number: usize,
    ) -> Result<(), RootsError> {
        let malformed = RootsError::Malformed { file, number };
        let anchor = anchor_from_trusted_cert(der).map_err(|_| malformed)?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| malformed)?;
        if !parsed.is_ca() {
            return Err(RootsError::NotCa { file, number });
        }
        let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp());
        let validity = parsed.validity();
        // A validity that begins before 1970 begins in 1970.
        let from = seconds(validity.not_before).unwrap_or(0);
        let to = seconds(validity.not_after).map_err(|_| malformed)?;
        self.anchors.push(anchor.to_owned());
        self.certificates.push(Root {
            fingerprint: Sha256::digest(der).into(),
            valid: from..=to,
        });
        Ok(())
    }

    /// Finds a path from the chain's leaf to a CA that is valid `now`; returns the fingerprints of
    /// the CAs on it, the leaf's issuer first.
    ///
    /// # Errors
    /// A refusal that says what is wrong with the chain.
    pub(crate) fn path(
        &self,
        chain: &Chain,
        now: Timestamp,
    ) -> Result<Vec<Fingerprint>, AttestError> {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.secs()));
        let leaf = EndEntityCert::try_from(chain.leaf()).map_err(why)?;
        // webpki looks at no dates of anchors, so an expired root would vouch for ever.
        let live = |path: &VerifiedPath<'_>| match self.live(path.anchor(), at).next() {
            Some(_) => Ok(()),
            None => Err(webpki::Error::CertDistrusted),
        };
        // It bounds the signatures that it checks, whatever chain is sent.
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                chain.others(),
                at,
                KeyUsage::client_auth(),
                None,
                Some(&live),
            )
            .map_err(why)?;
        let mut authorities: Vec<Fingerprint> = path
            .intermediate_certificates()
            .map(|authority| Sha256::digest(authority.der()).into())
            .collect();
        authorities.extend(self.live(path.anchor(), at));
        Ok(authorities)
    }

    /// The certificates of this CA that are valid: several, if it renewed its own over one key.
    fn live(&self, anchor: &TrustAnchor<'_>, at: UnixTime) -> impl Iterator<Item = Fingerprint> {
        self.anchors
            .iter()
            .zip(&self.certificates)
            .filter(move |(of, root)| *of == anchor && root.valid.contains(&at.as_secs()))
            .map(|(_, root)| root.fingerprint)
    }
}

fn why(error: webpki::Error) -> AttestError {
    use webpki::Error;
    match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => AttestError::Malformed {
            what: "a certificate of the chain",
        },
        Error::CertExpired { .. } => refused(
            "CERTIFICATE_EXPIRED",
            "a certificate of the chain has expired: renew it",
        ),
        Error::CertNotValidYet { .. } => refused(
            "CERTIFICATE_NOT_YET_VALID",
            "a certificate of the chain is not valid yet: check the clocks",
        ),
        Error::CaUsedAsEndEntity => refused(
            "CERTIFICATE_IS_CA",
            "the first certificate is a CA's: a node proves itself with one that is not",
        ),
        Error::CertDistrusted => refused(
            "CA_EXPIRED",
            "the chain leads to a CA whose own certificate is not valid now",
        ),
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => refused(
            "CERTIFICATE_UNTRUSTED",
            "the chain leads to no CA of the server's `node_attestors.x509pop.ca_files`",
        ),
        other => refused(
            "CERTIFICATE_UNFIT",
            format!("a certificate of the chain can't be used: {other}"),
        ),
    }
}
