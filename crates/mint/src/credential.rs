//! What credentials say, octet by octet. No key in here.
//!
//! The authority builds a credential around the signature that it makes. Whoever asked for it builds it
//! once more, from what was asked and around the signature that came back, and compares (P27).

mod certificate;
mod crl;
mod token;

use taskmint_id::P256PublicKey;

use crate::request::Refusal;
pub use certificate::{CaName, Validity, ca_serial, key_id, log_key_serial};
pub use crl::CrlContent;
pub use token::TokenHeader;

/// What makes, or made, a credential's signature.
pub trait Sign {
    /// The public half of the key.
    fn public(&self) -> &P256PublicKey;

    /// The signature over `said`: DER in certificates and lists, `r || s` in tokens.
    ///
    /// # Errors
    /// When there is none to be had.
    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, Refusal>;
}
