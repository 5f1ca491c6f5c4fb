//! Why a configuration or a peer is refused.

use std::error::Error;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use taskmint_id::SpiffeId;

use crate::{Refused, SvidError};

/// No configuration came about.
#[derive(Debug, thiserror::Error)]
#[error("tls configuration is refused")]
pub struct TlsError(#[from] rustls::Error);

/// Why a peer was refused in the handshake, or after it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// Its certificate is no SVID that counts.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// It is who it says, and not whom we talk to.
    #[error("`{spiffe_id}` is not allowed here: {why}")]
    Unauthorized {
        /// Who.
        spiffe_id: SpiffeId,
        /// What `authorize` said.
        why: String,
    },
    /// Its task may not act, or that can't be known.
    #[error("`{spiffe_id}` is refused: {refused}")]
    Status {
        /// Who.
        spiffe_id: SpiffeId,
        /// What the statuses say.
        refused: Refused,
    },
}

impl PeerRefused {
    /// A stable name, for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Svid(error) => error.reason(),
            Self::Unauthorized { .. } => "PEER_NOT_ALLOWED",
            Self::Status { refused, .. } => refused.reason,
        }
    }
}

impl From<PeerRefused> for rustls::Error {
    fn from(refused: PeerRefused) -> Self {
        let other = OtherError(Arc::new(refused));
        Self::InvalidCertificate(CertificateError::Other(other))
    }
}

/// Our verifier's own word in a failed handshake, wherever it is wrapped in I/O errors. The peer
/// itself sees an alert only.
pub fn refusal_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a PeerRefused> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
            error.downcast_ref()
        {
            return inner.downcast_ref();
        }
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        // An I/O error's source is what its inner error stems from, not the inner error itself.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
