//! How a node that trusts nothing yet comes to trust its server (P10).
//!
//! A [`JoinString`] pins the trust domain's root by the hash of its key. The server sends that
//! root along in its handshake; [`bootstrap_config`] lets a connection come about only if the
//! pinned root signed a certificate of `/taskmint/server/<id>`. So the token is revealed to nobody
//! else, and what comes back over the connection, the trust bundle, can be believed.

mod join_string;
mod pin;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::CertificateDer;
use taskmint_id::SpiffeId;
use taskmint_model::Clock;
use tonic::transport::Channel;

pub use join_string::{JoinString, JoinStringError, JoinToken, VERSION};
use pin::PinVerifier;
pub use pin::{PinError, PinnedRoot};

use crate::connect::{ConnectError, connect_once};

/// Label of the exporter that node attestation binds its signatures to.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-taskmint-attest";

/// A configuration for one bootstrap.
#[derive(Debug)]
pub struct Bootstrap {
    /// Connects to the pinned server and to nobody else; shows no certificate.
    pub config: ClientConfig,
    /// Holds the root once a handshake has gone through.
    pub pinned: PinnedRoot,
}

/// A connection to the pinned server.
#[derive(Debug)]
pub struct Bootstrapped {
    /// Calls over this connection and no other.
    pub channel: Channel,
    /// The root, whose key has the pinned hash.
    pub root: CertificateDer<'static>,
    /// The server.
    pub server: SpiffeId,
    /// Exporter for [`EXPORTER_LABEL`].
    pub exporter: [u8; 32],
}

/// Why there was no bootstrap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// TLS could not be configured.
    #[error("tls configuration is refused")]
    Tls(#[from] rustls::Error),
    /// The server could not be reached, or was not the pinned one.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The handshake went through without the pinned root.
    #[error("the server did not show the pinned root")]
    NotPinned,
}

/// Whom a [`JoinString`] lets in, as TLS 1.3 configuration.
///
/// # Errors
/// [`BootstrapError::Tls`].
pub fn bootstrap_config(
    join: &JoinString,
    clock: Arc<dyn Clock>,
) -> Result<Bootstrap, BootstrapError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (verifier, pinned) = PinVerifier::new(join, clock, &provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Bootstrap { config, pinned })
}

/// Connects to the server of a [`JoinString`].
///
/// # Errors
/// [`BootstrapError`].
pub async fn connect(
    join: &JoinString,
    clock: Arc<dyn Clock>,
) -> Result<Bootstrapped, BootstrapError> {
    let Bootstrap { config, pinned } = bootstrap_config(join, clock)?;
    let session = connect_once(&join.address, Arc::new(config), EXPORTER_LABEL).await?;
    let (root, server) = pinned.get().ok_or(BootstrapError::NotPinned)?;
    Ok(Bootstrapped {
        channel: session.channel,
        root,
        server,
        exporter: session.exporter,
    })
}

#[cfg(test)]
mod tests;
