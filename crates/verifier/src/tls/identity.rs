//! The certificate and key that we show, exchanged while connections go on.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What we show in handshakes: nothing until [`set`](Self::set). Clones share it; open
/// connections keep what they were made with.
#[derive(Clone, Default)]
pub struct Identity(Arc<ArcSwapOption<CertifiedKey>>);

/// A chain and a key that are no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The chain is empty.
    #[error("there is no certificate")]
    NoCertificate,
    /// Not a private key in PKCS#8.
    #[error("private key is malformed")]
    Key,
    /// The key belongs to another certificate.
    #[error("private key is not the certificate's")]
    Mismatch,
}

impl Identity {
    /// None yet: a handshake that needs one fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this chain, leaf first, from the next handshake on. `pkcs8` is unencrypted DER; the
    /// copy that is made of it is wiped when it is replaced.
    ///
    /// # Errors
    /// [`IdentityError`]; what was shown before then stays.
    pub fn set(
        &self,
        chain: Vec<CertificateDer<'static>>,
        pkcs8: &[u8],
    ) -> Result<(), IdentityError> {
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8));
        let key = any_supported_type(&key).map_err(|_| IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(IdentityError::Mismatch),
        }
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Shows nothing any more: the task has ended.
    pub fn clear(&self) {
        self.0.store(None);
    }

    /// The chain shown now.
    pub fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.0
            .load()
            .as_ref()
            .map(|certified| certified.cert.clone())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self
            .0
            .load()
            .as_ref()
            .map_or(0, |certified| certified.cert.len());
        write!(f, "Identity({certificates} certificates)")
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
