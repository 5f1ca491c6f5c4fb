//! The verifier of a bootstrap: the pinned root, and a server below it.
//!
//! It shares no code with the verifier of everyday connections, which needs a trust bundle; this
//! one is how the first bundle is come by.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use taskmint_id::{Kind, SpiffeId, TrustDomain};
use taskmint_model::{Clock, Timestamp};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::JoinString;

/// The root and the server that a handshake showed; nothing before one went through.
#[derive(Clone, Debug, Default)]
pub struct PinnedRoot(Arc<OnceLock<(CertificateDer<'static>, SpiffeId)>>);

/// Why a server is not the one that the join string speaks of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// None of the certificates has the pinned key.
    #[error(
        "the server shows no root with the pinned key: it is another, or the join string is old"
    )]
    NoPinnedRoot,
    /// The certificate of the pinned key is no CA's, not its own, or outside of its dates.
    #[error("the pinned root is not usable: {0}")]
    Root(&'static str),
    /// A certificate can't be read.
    #[error("a certificate is malformed")]
    Malformed,
    /// The pinned root did not sign the server's certificate, or not for now.
    #[error("the server's certificate is not vouched for by the pinned root")]
    Path(#[source] webpki::Error),
    /// The certificate does not name exactly one SPIFFE id.
    #[error("the server's certificate does not name one spiffe id")]
    NoId,
    /// Somebody of the trust domain who is not a server: a workload or a node that poses as one.
    #[error("`{spiffe_id}` is not a server of `{trust_domain}`")]
    NotAServer {
        /// Who it is.
        spiffe_id: SpiffeId,
        /// Whose server was expected.
        trust_domain: TrustDomain,
    },
}

impl PinnedRoot {
    /// The root, DER, and the server's id.
    pub fn get(&self) -> Option<(CertificateDer<'static>, SpiffeId)> {
        self.0.get().cloned()
    }
}

pub(super) struct PinVerifier {
    trust_domain: TrustDomain,
    root_sha256: [u8; 32],
    clock: Arc<dyn Clock>,
    algorithms: WebPkiSupportedAlgorithms,
    pinned: PinnedRoot,
}

impl PinVerifier {
    pub(super) fn new(
        join: &JoinString,
        clock: Arc<dyn Clock>,
        provider: &CryptoProvider,
    ) -> (Self, PinnedRoot) {
        let pinned = PinnedRoot::default();
        let verifier = Self {
            trust_domain: join.trust_domain.clone(),
            root_sha256: join.root_sha256,
            clock,
            algorithms: provider.signature_verification_algorithms,
            pinned: pinned.clone(),
        };
        (verifier, pinned)
    }

    fn judge<'a>(
        &self,
        leaf: &CertificateDer<'_>,
        others: &'a [CertificateDer<'_>],
    ) -> Result<(&'a CertificateDer<'a>, SpiffeId), PinError> {
        let now = self.clock.now();
        let has_pin = |der: &&CertificateDer<'_>| {
            let spki = X509Certificate::from_der(der).map(|(_, root)| {
                let digest: [u8; 32] = Sha256::digest(root.public_key().raw).into();
                digest
            });
            spki.is_ok_and(|digest| digest == self.root_sha256)
        };
        let root = others.iter().find(has_pin).ok_or(PinError::NoPinnedRoot)?;
        check_root(root, now)?;
        check_path(leaf, root, others, now)?;
        let spiffe_id = spiffe_id(leaf)?;
        let server = spiffe_id.kind() == Kind::Server;
        if !server || *spiffe_id.trust_domain() != self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(PinError::NotAServer {
                spiffe_id,
                trust_domain,
            });
        }
        Ok((root, spiffe_id))
    }
}

/// Anyone can wrap the pinned public key in a certificate: only the key's own signature over it
/// makes its dates and its name worth something.
fn check_root(der: &CertificateDer<'_>, now: Timestamp) -> Result<(), PinError> {
    let (rest, root) = X509Certificate::from_der(der).map_err(|_| PinError::Malformed)?;
    let constraints = root.basic_constraints().map_err(|_| PinError::Malformed)?;
    if !rest.is_empty() || !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(PinError::Root("it is not a ca"));
    }
    let second = i64::try_from(now.secs()).unwrap_or(i64::MAX);
    let validity = root.validity();
    if second < validity.not_before.timestamp() || second > validity.not_after.timestamp() {
        return Err(PinError::Root("it is outside of its dates"));
    }
    let own = EndEntityCert::try_from(der).map_err(PinError::Path)?;
    let signed = webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| {
        let id = algorithm.signature_alg_id();
        // The algorithm that the certificate names, and no other.
        root.signature_algorithm.algorithm.as_bytes() == oid_of(id.as_ref())
            && own
                .verify_signature(
                    *algorithm,
                    root.tbs_certificate.as_ref(),
                    &root.signature_value.data,
                )
                .is_ok()
    });
    if signed {
        Ok(())
    } else {
        Err(PinError::Root("it is not signed by itself"))
    }
}

/// The content of the OBJECT IDENTIFIER that an AlgorithmIdentifier's content begins with.
fn oid_of(algorithm: &[u8]) -> &[u8] {
    match algorithm {
        [6, length, rest @ ..] => rest.get(..usize::from(*length)).unwrap_or_default(),
        _ => &[],
    }
}

fn check_path(
    leaf: &CertificateDer<'_>,
    root: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), PinError> {
    let anchors = [anchor_from_trusted_cert(root).map_err(PinError::Path)?];
    let leaf = EndEntityCert::try_from(leaf).map_err(PinError::Path)?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(now.millis()));
    let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, KeyUsage::server_auth());
    leaf.verify_for_usage(algorithms, &anchors, others, at, usage, None, None)
        .map(drop)
        .map_err(PinError::Path)
}

/// The one URI name, of a leaf that is no CA (webpki refused those) and can't sign certificates.
fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, PinError> {
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| PinError::Malformed)?;
    let usage = leaf.key_usage().map_err(|_| PinError::Malformed)?;
    if !rest.is_empty() || usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(PinError::Malformed);
    }
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| PinError::Malformed)?;
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).map_err(|_| PinError::NoId),
        _ => Err(PinError::NoId),
    }
}

impl fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinVerifier")
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (root, server) = self.judge(leaf, others).map_err(|error| {
            let other = OtherError(Arc::new(error));
            rustls::Error::InvalidCertificate(CertificateError::Other(other))
        })?;
        // A second handshake over the same configuration met the same pin.
        self.pinned
            .0
            .get_or_init(|| (root.clone().into_owned(), server));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Only 1.3 is offered: the exporter of 1.2 binds less.
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
