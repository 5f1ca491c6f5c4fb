//! The authority port (P25): all keys are behind it.

use async_trait::async_trait;
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_status::LogId;

use crate::request::{Facts, Grant, LogKeyRequest, Refusal, Request};

/// What holds the keys. Builds and signs; opens no file, knows no store.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Hands back, once for each start of the authority, every sealed key that the store has, says
    /// which are active, and where the log stands. Before it, nothing can be made.
    ///
    /// The position is believed: a process without files can't know better. What it then signs
    /// carries its new instance (P24), so a log that was set back shows as a second instance at an
    /// old position.
    ///
    /// # Errors
    /// When a key can't be opened: wrong sealing key, torn blob, another trust domain. When it was
    /// called before: a second call could set the log back. Nothing is taken over then.
    async fn load(&self, keys: Vec<Sealed>, start: LogStart) -> Result<(), Refusal>;

    /// Waits until the authority was started again, without keys: then it is to be loaded.
    async fn lost(&self) {
        std::future::pending().await
    }

    /// Makes a new key. It signs nothing until it is activated; store it durably first.
    ///
    /// # Errors
    /// When the kind can't be made now, such as a log key without an active CA to certify it.
    async fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal>;

    /// Makes a prepared key the one that signs; the one before it signs no more.
    ///
    /// # Errors
    /// When the key is unknown or retired.
    async fn activate(&self, id: AuthorityId) -> Result<(), Refusal>;

    /// Wipes a key. What it signed stays valid until it expires; but grants that a wiped grant key
    /// made are refused, so keep one while tasks live that it granted.
    ///
    /// # Errors
    /// When the key is unknown, or still the active one.
    async fn retire(&self, id: AuthorityId) -> Result<(), Refusal>;

    /// Certifies the log's key by a CA: for a new CA, so that verifiers need only its anchor.
    ///
    /// # Errors
    /// When either key is unknown.
    async fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal>;

    /// Binds the facts of a new task.
    ///
    /// # Errors
    /// When the facts break a rule: foreign trust domain, reserved name, limit past the bucket.
    async fn grant(&self, facts: &Facts) -> Result<Grant, Refusal>;

    /// Signs a batch, one answer for each request, in order.
    async fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>>;
}

/// What a key is for, with what it needs to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Signs certificates; self-signed, valid so many seconds.
    Ca {
        /// Lifetime of its certificate in seconds.
        ttl_secs: u64,
    },
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs heads, checkpoints and status lists; certified by the active CA.
    Log {
        /// Lifetime of its certificate in seconds.
        ttl_secs: u64,
    },
    /// Makes grants.
    Grant,
}

/// A key that the store kept, handed back at start.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Names it.
    pub id: AuthorityId,
    /// What it is for. Lifetimes are not looked at.
    pub kind: KeyKind,
    /// Whether it is the one that signs.
    pub active: bool,
    /// The blob of [`Prepared::sealed`].
    pub blob: Vec<u8>,
    /// The certificate of [`Prepared::certificate`].
    pub certificate: Vec<u8>,
    /// The public key of [`Prepared::spki`]. It is for whoever verifies; the authority has its own.
    pub spki: Vec<u8>,
}

/// Where the log stands when the authority starts, as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// Which log.
    pub log: LogId,
    /// Its generation, from 1.
    pub generation: u8,
    /// The log that this one replaced, whose generation was one less (P14).
    pub replaces: Option<LogId>,
    /// The epoch of the writer.
    pub epoch: u32,
    /// The newest durable record; 0 before the first.
    pub sequence: u64,
    /// The chain hash up to it; for sequence 0, the hash that the chain starts from.
    pub hash: [u8; 32],
    /// Buckets below are refused.
    pub floor: u32,
    /// Time of the newest head in this epoch, if an authority that is gone signed one; else zero.
    pub at: Timestamp,
}

/// A new key: sealed, with its public part.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Names it.
    pub id: AuthorityId,
    /// The key, sealed. Opaque to everybody else; empty when keys are kept in memory alone.
    pub sealed: Vec<u8>,
    /// SPKI DER; empty for grant keys.
    pub spki: Vec<u8>,
    /// Certificate DER of a CA or of the log's key; empty otherwise.
    pub certificate: Vec<u8>,
    /// `kid`, or the subject key id in hexadecimal.
    pub key_id: String,
    /// When it stops counting; [`Timestamp::MAX`] for a key without a certificate.
    pub expires_at: Timestamp,
}

/// What was signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Certificate DER, compact JWT text, or the canonical bytes of a head or checkpoint.
    pub bytes: Vec<u8>,
    /// Signature over a head or checkpoint (raw r || s, 64 octets); empty for the others, which
    /// carry theirs inside.
    pub signature: Vec<u8>,
    /// The key that signed.
    pub authority: AuthorityId,
    /// Where the signer's chain stands after it (P24).
    pub tail: SignerTail,
}

/// Where the signer's chain of signatures stands (P24).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignerTail {
    /// Random id of this start of the signer.
    pub instance: [u8; 16],
    /// Signatures made since.
    pub counter: u64,
    /// Chain hash over all of them.
    pub hash: [u8; 32],
}
