//! SPIFFE values: ids, trust domains, trust bundles, P-256 keys and JWT-SVIDs before their
//! signature is checked. No I/O, no clock, no private keys.
//!
//! - [`TrustDomain`], [`SpiffeId`], [`PathPrefix`]: names, by SPIFFE-ID.md section 2.
//! - [`jwk`]: P-256 public keys as SPKI and JWK, with thumbprints.
//! - [`bundle`]: trust bundles and bundle maps in SPIFFE JSON.
//! - [`csr`]: keys that their owner keeps.
//! - [`jws`]: what a compact JWT-SVID says, before anyone vouches for it.
//!
//! Every parser here takes input from strangers: sizes are bounded before work is spent, JSON
//! members given twice are refused, and no input panics.

pub mod bundle;
pub mod csr;
mod json;
pub mod jwk;
pub mod jws;
mod prefix;
mod spiffe_id;
mod trust_domain;

pub use bundle::{Bundle, BundleSet, X509Authority};
pub use jwk::{Jwk, P256PublicKey};
pub use prefix::PathPrefix;
pub use spiffe_id::{Kind, MAX_SPIFFE_ID, SpiffeId, SpiffeIdError};
pub use trust_domain::{MAX_TRUST_DOMAIN, TrustDomain};
