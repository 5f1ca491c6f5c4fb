//! How the agent reaches the server: the seam between it and TLS.

use std::sync::Arc;

use async_trait::async_trait;
use taskmint_attest::NodeProver;
use taskmint_id::TrustDomain;
use tonic::transport::Channel;

use crate::identity::NodeIdentity;

/// Opens connections to the server. Each call opens a new one.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// For the attestation: the server is pinned by the root, and nothing is shown to it.
    ///
    /// # Errors
    /// If the server can't be reached, or is not who it should be.
    async fn bootstrap(&self) -> Result<Bootstrap, UpstreamError>;

    /// The attestation went well and what came of it is saved: what was needed for it alone is not
    /// needed any more.
    async fn attested(&self) {}

    /// For the node API, as this node.
    ///
    /// # Errors
    /// If the server can't be reached, or is not who it should be.
    async fn nodes(&self, identity: &NodeIdentity) -> Result<Channel, UpstreamError>;

    /// For the revocation log at `address`, as this node.
    ///
    /// # Errors
    /// If the server can't be reached, or is not who it should be.
    async fn watch(&self, address: &str, identity: &NodeIdentity)
    -> Result<Channel, UpstreamError>;
}

/// A connection on which the node proves what it is.
pub struct Bootstrap {
    /// The connection: one, that is not replaced behind the exporter's back.
    pub channel: Channel,
    /// Exporter of its TLS session, which the proof is bound to.
    pub exporter: [u8; 32],
    /// The trust domain that the join string names.
    pub trust_domain: TrustDomain,
    /// `host:port` that it leads to.
    pub server: String,
    /// What the node proves itself with.
    pub prover: Arc<dyn NodeProver>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Nothing answers, or the handshake failed.
    #[error("the server at `{address}` can't be reached")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What leads to the server is missing or wrong.
    #[error("{why}")]
    Bootstrap {
        /// What is missing, and what to do.
        why: String,
    },
}
