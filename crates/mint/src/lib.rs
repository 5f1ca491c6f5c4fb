//! The issuing request, its refusals and the authority port. No keys in here.
//!
//! The authority builds and signs everything itself from the typed requests of this crate, and
//! refuses what the contract forbids (P23): so a compromised caller stays inside these limits.
//! Today the authority runs in the server's process; it moves into one of its own behind this
//! port.

mod port;
mod request;

pub use port::{Authority, KeyKind, LogStart, Prepared, Sealed, Signed, SignerTail};
pub use request::{
    CheckpointRequest, Class, CrlNumber, CrlReason, CrlRequest, Facts, Grant, HeadRequest,
    JwtRequest, KeyAlgorithm, LogKeyRequest, PublicKey, Refusal, Request, Revoked,
    StatusListRequest, X509Request,
};
