//! Node attestation by possession of an X.509 certificate (P10).
//!
//! ```text
//! agent                                            server
//!   certificate chain ───────────────────────────> leads to a configured CA?
//!   <────────────────────────── nonce (32 octets)
//!   signature by the certificate's key ──────────> over nonce, TLS exporter, trust domain,
//!                                                  the node's new public key, the certificate
//! ```
//!
//! The signature is good for one nonce, on one connection, for one key: whoever overhears or relays
//! it can do nothing with it.

mod attestor;
mod chain;
mod facts;
mod proof;
mod prover;
mod roots;
#[cfg(test)]
mod tests;

pub use attestor::X509PopAttestor;
pub use chain::{Chain, ChainError, MAX_CERTIFICATE, MAX_CERTIFICATES};
pub use prover::{ProverError, X509PopProver};
pub use roots::RootsError;

/// The attestor's name, in node ids and in the configuration.
pub const NAME: &str = "x509pop";
