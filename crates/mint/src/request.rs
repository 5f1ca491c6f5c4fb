//! What can be asked of the authority, and how it refuses.

use std::borrow::Cow;
use std::time::Duration;

use taskmint_id::{P256PublicKey, SpiffeId};
use taskmint_model::{AuthorityId, TaskId, Timestamp};
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::{Generation, LogId, Place, Record, Serial, TaskBinding};

/// One thing to be signed.
#[derive(Debug, Clone)]
pub enum Request {
    /// An X.509-SVID.
    X509(X509Request),
    /// A JWT-SVID.
    Jwt(JwtRequest),
    /// A head of the revocation log.
    Head(HeadRequest),
    /// A checkpoint of the revocation log.
    Checkpoint(CheckpointRequest),
    /// A certificate revocation list.
    Crl(CrlRequest),
    /// A token status list.
    StatusList(StatusListRequest),
}

/// The facts of a task, stated once at begin; the authority binds them by a [`Grant`] (P23).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The task.
    pub task: TaskId,
    /// The task at the top of its tree.
    pub root: TaskId,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// Its status place.
    pub place: Place,
    /// The latest instant that anything minted under it may reach.
    pub limit: Timestamp,
    /// Whose credential it is.
    pub class: Class,
}

impl Facts {
    /// What ties a credential to its task (P13).
    pub fn binding(&self) -> TaskBinding {
        TaskBinding {
            place: self.place,
            task: self.task.octets(),
            root: self.root.octets(),
        }
    }
}

/// Proof that the authority itself saw these facts at begin: a MAC under a key that only it
/// holds. Stored with the task and presented with every later request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant(pub Vec<u8>);

/// Whose credential it is: caps differ, and only nodes and servers live below `/taskmint/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A workload's.
    Workload,
    /// A node's.
    Node,
    /// A server's.
    Server,
}

/// A public key to be certified: SPKI DER and the name of its algorithm (P31).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

impl PublicKey {
    /// The key itself, if it is a valid one.
    pub fn point(&self) -> Option<P256PublicKey> {
        match self.algorithm {
            KeyAlgorithm::EcP256 => P256PublicKey::from_spki_der(&self.spki).ok(),
        }
    }
}

/// Algorithm of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA over NIST P-256.
    EcP256,
}

/// An X.509-SVID. The authority chooses nothing: serial and times are recorded before they are
/// signed, so they come with the request.
#[derive(Debug, Clone)]
pub struct X509Request {
    /// The task's facts.
    pub facts: Facts,
    /// Proof of the facts.
    pub grant: Grant,
    /// The key to certify.
    pub key: PublicKey,
    /// DNS names beside the SPIFFE ID.
    pub dns_names: Vec<String>,
    /// Nine random octets; the rest of the serial is the place (P13).
    pub serial_random: [u8; 9],
    /// First second at which it counts; at most 60 s off the authority's clock.
    pub not_before: Timestamp,
    /// Last second at which it counts.
    pub not_after: Timestamp,
}

impl X509Request {
    /// The serial number, in a log of this generation (P13).
    pub fn serial(&self, generation: Generation) -> [u8; 20] {
        let serial = Serial {
            generation,
            slot: self.facts.place.slot(),
            random: self.serial_random,
        };
        serial.encode()
    }
}

/// A JWT-SVID.
#[derive(Debug, Clone)]
pub struct JwtRequest {
    /// The task's facts.
    pub facts: Facts,
    /// Proof of the facts.
    pub grant: Grant,
    /// At least one.
    pub audiences: Vec<String>,
    /// Sixteen random octets; `jti` is their hexadecimal text.
    pub jti: [u8; 16],
    /// `iat`.
    pub issued_at: Timestamp,
    /// `exp`.
    pub expires_at: Timestamp,
    /// Address of the status list (P21), if the trust domain has a public one.
    pub status_uri: Option<String>,
}

/// A head over the log as far as `records` takes it. The authority computes the hash itself,
/// from the records, and never signs two for one position (P23).
#[derive(Debug, Clone)]
pub struct HeadRequest {
    /// Which log.
    pub log: LogId,
    /// Its generation.
    pub generation: u8,
    /// Fences writers.
    pub epoch: u32,
    /// Everything after the newest head; may be empty for a heartbeat or a nonce.
    pub records: Vec<Record>,
    /// Buckets below are refused: what the newest floor record says, this head's records included.
    pub floor: u32,
    /// Time of the head; never goes back within an epoch.
    pub at: Timestamp,
    /// How old it may become before verifiers close, in milliseconds (P17).
    pub max_age_ms: u64,
    /// The nonce of the verifier that asked (P17).
    pub nonce: Option<[u8; 16]>,
}

/// A checkpoint: the exact maps at the authority's newest head.
#[derive(Debug, Clone)]
pub struct CheckpointRequest {
    /// Which log.
    pub log: LogId,
    /// The position that the maps stand at.
    pub sequence: u64,
    /// Buckets below are refused.
    pub floor: u32,
    /// Digest of each bucket's map, ascending; all-valid maps are left out.
    pub digests: Vec<BucketDigest>,
    /// When.
    pub at: Timestamp,
}

/// A complete certificate revocation list of one CA key (P22).
#[derive(Debug, Clone)]
pub struct CrlRequest {
    /// The CA: one that signs, did sign, or will.
    pub ca: AuthorityId,
    /// Higher than that of any list before.
    pub number: CrlNumber,
    /// From when it counts; at most 60 s off the authority's clock.
    pub this_update: Timestamp,
    /// Until when it counts.
    pub next_update: Timestamp,
    /// What is revoked: serials strictly ascending.
    pub revoked: Vec<Revoked>,
}

/// `CRLNumber`. It goes up over restarts and restores without a write of its own, since those
/// raise epoch and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CrlNumber {
    /// The log's generation.
    pub generation: u8,
    /// The log's epoch.
    pub epoch: u32,
    /// Counts within the epoch.
    pub count: u64,
}

/// A certificate that counts no more, or not for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: [u8; 20],
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: CrlReason,
}

/// The reason of a revocation, by RFC 5280, section 5.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrlReason {
    /// Its task has ended by itself.
    CessationOfOperation,
    /// A successor took its task's place.
    Superseded,
    /// Somebody took the right away.
    PrivilegeWithdrawn,
    /// Its task is suspended, and may be resumed.
    CertificateHold,
}

/// A token status list of one bucket (draft-ietf-oauth-status-list), two bits for each place.
#[derive(Debug, Clone)]
pub struct StatusListRequest {
    /// Which log.
    pub log: LogId,
    /// Which bucket.
    pub bucket: u32,
    /// The statuses, index 0 in the lowest bits of the first octet, as one zlib stream.
    pub list: Vec<u8>,
    /// `iat`.
    pub at: Timestamp,
    /// `exp`: from here on nobody may use it.
    pub expires_at: Timestamp,
    /// `ttl`: how long a copy may be used before a new one is fetched, in seconds.
    pub ttl_secs: u64,
    /// Certificate DER of the log's key, named in the header (`x5c`).
    pub certificate: Vec<u8>,
}

/// A certificate for the log's key by an active CA; it is no SVID (P15).
#[derive(Debug, Clone, Copy)]
pub struct LogKeyRequest {
    /// The log's key.
    pub key: AuthorityId,
    /// The CA that certifies it.
    pub by: AuthorityId,
}

/// Why the authority refused. Nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The facts are not those that the grant was made for.
    #[error("the grant is not for these facts")]
    Grant,
    /// Another trust domain's name.
    #[error("`{0}` is in another trust domain")]
    ForeignTrustDomain(SpiffeId),
    /// A reserved name for a workload, or an ordinary one for a node or server.
    #[error("`{id}` is no name for a {class:?}")]
    Name {
        /// The name.
        id: SpiffeId,
        /// Whose it should be.
        class: Class,
    },
    /// Not a valid P-256 point, or another algorithm.
    #[error("the public key is no valid P-256 key")]
    Key,
    /// Longer than the class allows, or less than a second.
    #[error("a lifetime of {asked_secs} s is not within 1 s and the cap of {cap_secs} s")]
    Lifetime {
        /// Asked for, in seconds.
        asked_secs: u64,
        /// Allowed, in seconds.
        cap_secs: u64,
    },
    /// Reaches past the task's limit or its bucket.
    #[error("not after `{not_after}` lies past the task's limit `{limit}`")]
    PastLimit {
        /// Asked for.
        not_after: Timestamp,
        /// The end.
        limit: Timestamp,
    },
    /// Not within 60 s of the authority's own clock.
    #[error("`{0}` is not within 60 s of the authority's clock")]
    Clock(Timestamp),
    /// No audience, too many, or an ill-formed one.
    #[error("audiences must be 1 to 64 non-empty texts")]
    Audience,
    /// An ill-formed DNS name.
    #[error("`{0}` is no DNS name")]
    DnsName(String),
    /// No active key for this use.
    #[error("no active {0} key")]
    NoActiveKey(Cow<'static, str>),
    /// The key is unknown or in the wrong state.
    #[error("authority {0} is unknown or not in a state for this")]
    Authority(AuthorityId),
    /// The log would fork, go back, or leave a gap.
    #[error("the log can't go from sequence {at} to {to}")]
    Log {
        /// Newest head's sequence number.
        at: u64,
        /// Sequence number asked for.
        to: u64,
    },
    /// Epoch, floor or time of the log would go back, or not agree with its records.
    #[error("the log's {0} goes back, or is not what its records say")]
    LogValue(Cow<'static, str>),
    /// A place, head or checkpoint of a log that is not this authority's.
    #[error("log {0} is not this authority's log")]
    OtherLog(LogId),
    /// A status list anywhere but below the trust domain's public address.
    #[error("`{0}` is not where this trust domain publishes the status of the place")]
    StatusUri(String),
    /// The number of a CRL does not go up, or is another epoch's.
    #[error("the number of the list is not above that of the one before, or another epoch's")]
    CrlNumber,
    /// Entries out of order, of another shape, from the future, or too many.
    #[error("the list's {0}")]
    List(Cow<'static, str>),
    /// A sealed key can't be opened.
    #[error("a sealed key can't be opened: {0}")]
    Sealed(Cow<'static, str>),
    /// The authority itself failed.
    #[error("the authority failed: {0}")]
    Failed(String),
    /// What was asked makes no sense, or comes out of turn.
    #[error("the authority does not understand what it is asked: {0}")]
    Protocol(Cow<'static, str>),
    /// The authority serves another server.
    #[error("the authority serves another server already")]
    Taken,
    /// The authority is being started again: nothing is known of what was asked. Try again.
    #[error("the authority is being started again")]
    Away,
    /// More is asked of the authority than it can do in time. There is room again after so long,
    /// at the pace that it has now.
    #[error("too much is asked of the authority at once")]
    Busy(Duration),
}
