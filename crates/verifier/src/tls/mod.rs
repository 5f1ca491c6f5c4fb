//! TLS by rustls: both sides judge the peer's SVID, and its task's status, in the handshake.
//!
//! The provider is aws-lc-rs, always named. TLS 1.3 is preferred; 1.2 is there for peers of other
//! trust domains. Tickets and session stores are off on both sides (P20): a resumed session skips
//! the verifier, so a task that ended in between would get in. A service that turns them on calls
//! [`recheck`] after each handshake, before the first byte.

mod error;
mod identity;
mod verifier;

pub mod authorize;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use taskmint_model::Clock;

pub use error::{PeerRefused, TlsError, refusal_of};
pub use identity::{Identity, IdentityError};
use verifier::PeerVerifier;

pub use crate::Trust;
use crate::{PeerSvid, StatusCheck, SvidError};

/// Says whether a verified peer may talk to us at all; if not, why.
pub type Authorize = Arc<dyn Fn(&PeerSvid) -> Result<(), String> + Send + Sync>;

/// Whether clients must show an SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They must.
    Required,
    /// They may; one that is shown must be good.
    Optional,
    /// As `Optional`, and a node's SVID passes so long after it expired: for the issuer's own
    /// listener, which lets such a node renew and nothing else.
    OptionalWithGrace(std::time::Duration),
}

/// The server's side. ALPN is left to the caller.
///
/// # Errors
/// [`TlsError`] where the provider lacks what the protocol versions need.
pub fn server_config(
    identity: &Identity,
    trust: &Trust,
    clock: Arc<dyn Clock>,
    clients: Clients,
    authorize: Authorize,
    status: Option<Arc<dyn StatusCheck>>,
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let grace = match clients {
        Clients::OptionalWithGrace(grace) => grace,
        Clients::Required | Clients::Optional => std::time::Duration::ZERO,
    };
    let verifier = PeerVerifier::new(&provider, trust, clock, authorize, status)
        .optional(clients != Clients::Required)
        .node_grace(grace);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(identity.clone()));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's side; it shows `identity` where there is one. The name that it connects to is not
/// compared: `authorize` says whom it wants to meet. ALPN is left to the caller.
///
/// # Errors
/// [`TlsError`] where the provider lacks what the protocol versions need.
pub fn client_config(
    identity: Option<&Identity>,
    trust: &Trust,
    clock: Arc<dyn Clock>,
    authorize: Authorize,
    status: Option<Arc<dyn StatusCheck>>,
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = PeerVerifier::new(&provider, trust, clock, authorize, status);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Reads a leaf that the handshake of a configuration from here has verified already, from
/// `peer_certificates()`.
///
/// # Errors
/// [`SvidError`] for a leaf that no such handshake can have let through.
pub fn read_verified(leaf: &CertificateDer<'_>) -> Result<PeerSvid, SvidError> {
    crate::peer::read(leaf)
}

/// Judges a chain again, against the bundles and statuses of now: for services that resume
/// sessions, after the handshake and before the first byte (P20).
///
/// # Errors
/// [`PeerRefused`]; the connection is then to be closed.
pub fn recheck(
    chain: &[CertificateDer<'_>],
    trust: &Trust,
    clock: &dyn Clock,
    status: Option<&dyn StatusCheck>,
) -> Result<PeerSvid, PeerRefused> {
    let peer = crate::verify_x509(chain, &trust.get(), clock.now())?;
    if let Some(status) = status {
        check_status(&peer, status)?;
    }
    Ok(peer)
}

fn check_status(peer: &PeerSvid, status: &dyn StatusCheck) -> Result<(), PeerRefused> {
    crate::judge(status, &peer.spiffe_id, peer.binding.as_ref()).map_err(|refused| {
        PeerRefused::Status {
            spiffe_id: peer.spiffe_id.clone(),
            refused,
        }
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
