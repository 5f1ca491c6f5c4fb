//! What was minted: one durable record before each credential leaves (contract line 2).

use taskmint_status::Place;

use crate::{AuthorityId, Timestamp};

/// The record of one minted credential. It holds facts, not the signed bytes (P28).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// The task's place.
    pub place: Place,
    /// What was minted.
    pub kind: CredentialKind,
    /// The certificate's serial number, or the token's `jti` padded with zeroes.
    pub serial: [u8; 20],
    /// SHA-256 of the SPKI DER; zero for tokens.
    pub key_hash: [u8; 32],
    /// When it stops counting.
    pub expires_at: Timestamp,
    /// The key that signed it.
    pub authority: AuthorityId,
    /// When it was minted.
    pub at: Timestamp,
}

/// What kind of credential was minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// X.509-SVID of a workload, node or server.
    X509Svid,
    /// JWT-SVID.
    JwtSvid,
}
