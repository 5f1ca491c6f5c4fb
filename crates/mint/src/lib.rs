//! The issuing request, its refusals and the authority port. No keys in here.
//!
//! The authority builds and signs everything itself from the typed requests of this crate, and
//! refuses what the contract forbids (P23): so a compromised caller stays inside these limits.
//! - [`Authority`]: the port.
//! - [`protocol`]: what a server and a signer in another process say to each other.
//! - `credential` (feature `credential`): what credentials say.
//! - `Remote` (feature `remote`): the port over that protocol.

#[cfg(feature = "credential")]
pub mod credential;
pub mod journal;
mod policy;
mod port;
pub mod protocol;
#[cfg(feature = "remote")]
mod remote;
mod request;

pub use policy::{Caps, Policy};
pub use port::{Authority, KeyKind, LogStart, Prepared, Sealed, Signed, SignerTail};
#[cfg(feature = "remote")]
pub use remote::{Connect, Connection, LossReason, MeterReadings, Meters, Remote, RemoteSettings};
pub use request::{
    CheckpointRequest, Class, CrlNumber, CrlReason, CrlRequest, Facts, Grant, HeadRequest,
    JwtRequest, KeyAlgorithm, LogKeyRequest, PublicKey, Refusal, Request, Revoked,
    StatusListRequest, X509Request,
};
