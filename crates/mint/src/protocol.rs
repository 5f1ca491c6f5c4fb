//! What the server and the signer say to each other (`proto/taskmint/signer/v1/signer.proto`):
//! frames, their meaning, and the check that answers carry (P27).
//!
//! Both ends are hostile in theory: a frame has a bound, and whatever it holds is converted to the
//! types of this crate before anything acts on it.

mod convert;
mod frame;

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::policy::{Caps, Policy};
use crate::port::{KeyKind, LogStart, Prepared, Sealed, Signed};
use crate::request::{Facts, Grant, LogKeyRequest, Refusal, Request};
pub use convert::{BadMessage, Unchecked};
#[cfg(feature = "remote")]
pub(crate) use frame::length_of;
pub use frame::{FrameError, read_frame, write_frame};
use taskmint_id::TrustDomain;
use taskmint_model::{AuthorityId, Timestamp, millis};

/// The version of the protocol. The layout of what is signed is part of it: the server builds every
/// credential once more and compares (P27), so that one of another release looks like a forged one.
pub const VERSION: u32 = 1;

/// What [`VERSION`] stands for: of each kind that is signed, SHA-256 of the to-be-signed octets of one
/// with fixed keys and a fixed request. A test of the authority holds them against what it builds.
pub const LAYOUTS: [(&str, &str); 8] = [
    (
        "CA",
        "45380c0ce9f96ad6949c40bc9fd752e089d8dca8183f8b14409b45da25bceefe",
    ),
    (
        "certificate of the log's key",
        "d2507452f73c933f58277dfc0a57b1ba74d8affc3e17a5f4c0f4d87d4629bd6a",
    ),
    (
        "X.509-SVID",
        "b90d4749dff587812e21af250b15d34ee37217f51939cf1a74c33add743c48ae",
    ),
    (
        "JWT-SVID",
        "7312b3b5abf20fec5ff9cc7bce9dab142a5e02ccc2fab8ac6e79268d3ff63b04",
    ),
    (
        "CRL",
        "233afadbd96c99513460024c3ac5b00568597543e2095145ff534d09f11f8bb7",
    ),
    (
        "status list",
        "31cf2ef1526f941eef2d0531ad981e18fece7a01f6101b584553296f92f124f9",
    ),
    (
        "head",
        "1b476362b88efa42cee8efaab49898e74ce219a3d0af471833f1bc0cb81afe65",
    ),
    (
        "checkpoint",
        "dd0b72d1aba9f59300f1c7420fa5ba5302fac1ea4edc568787876b7086b9b323",
    ),
];

/// The longest frame, in octets without its length: a status list of the largest bucket fits.
pub const MAX_FRAME: usize = 64 << 20;

/// The most requests in one frame.
pub const MAX_BATCH: usize = 1024;

/// As generated.
#[allow(
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "generated"
)]
pub(crate) mod wire {
    include!(concat!(env!("OUT_DIR"), "/taskmint.signer.v1.rs"));
}

/// What the server asks.
#[derive(Debug, Clone)]
pub enum Call {
    /// First on a connection, and only there.
    Open(Open),
    /// See [`crate::Authority::load`].
    Load(Vec<Sealed>, LogStart),
    /// See [`crate::Authority::prepare`].
    Prepare(KeyKind, AuthorityId, Timestamp),
    /// See [`crate::Authority::activate`].
    Activate(AuthorityId),
    /// See [`crate::Authority::retire`].
    Retire(AuthorityId),
    /// See [`crate::Authority::certify_log_key`].
    CertifyLogKey(LogKeyRequest),
    /// Grants and signatures, answered one by one.
    Batch(Vec<Wanted>),
}

/// The first frame.
#[derive(Clone)]
pub struct Open {
    /// Must be [`VERSION`].
    pub version: u32,
    /// Fixes what the answers of this connection are checked with.
    pub check: CheckKey,
    /// The trust domain that the server issues for.
    pub trust_domain: String,
}

/// One of a batch.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A grant for a new task.
    Grant(Facts),
    /// A signature.
    Sign(Request),
}

/// What the signer answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Call::Open`].
    Opened(Opened),
    /// Nothing of the frame was done.
    Refused(Refusal),
    /// To a load, an activation, a retirement.
    Done,
    /// To [`Call::Prepare`].
    Prepared(Prepared),
    /// To [`Call::CertifyLogKey`].
    Certificate(Vec<u8>),
    /// To [`Call::Batch`], one for each, in order.
    Batch(Vec<Result<Given, Refusal>>),
}

/// What the signer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Random id of its start (P24).
    pub instance: [u8; 16],
    /// How many frames it works on at the same time.
    pub workers: u32,
    /// How its keys are kept from readers, in words.
    pub protection: String,
    /// What it refuses whoever asks.
    pub policy: Policy,
}

/// One answer of a batch.
#[derive(Debug, Clone)]
pub enum Given {
    /// To [`Wanted::Grant`].
    Grant(Grant),
    /// To [`Wanted::Sign`].
    Signed(Box<Signed>),
}

/// A frame of the server, or of the signer, with its number.
#[derive(Debug, Clone)]
pub struct Numbered<T> {
    /// Counts the frames of a connection, from 1; the answer repeats it. 0 answers no frame.
    pub id: u64,
    /// What it says.
    pub what: T,
}

/// Binds an answer to what was asked, so that a flipped bit does not leave as a credential (P27).
/// It is no defence against the signer, or against who reads the socket: they have the key.
#[derive(Clone)]
pub struct CheckKey([u8; 32]);

/// SHA-256 over a frame's message.
pub type Digest = [u8; 32];

impl CheckKey {
    /// From its octets.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(crate) fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// The check of an answer.
    pub fn check(&self, asked: &Digest, answer: &[u8]) -> [u8; 32] {
        self.mac(asked, answer).finalize().into_bytes().into()
    }

    /// Whether this is the check of an answer.
    pub fn is_check(&self, asked: &Digest, answer: &[u8], check: &[u8]) -> bool {
        self.mac(asked, answer).verify_slice(check).is_ok()
    }

    fn mac(&self, asked: &Digest, answer: &[u8]) -> Hmac<Sha256> {
        // RFC 2104: a key shorter than a block is filled up with zeroes.
        let mut block = [0; 64];
        block
            .iter_mut()
            .zip(self.0)
            .for_each(|(to, from)| *to = from);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(asked);
        mac.update(answer);
        mac
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey(..)")
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("version", &self.version)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// What [`CheckKey::check`] takes of the asking frame.
pub fn digest(message: &[u8]) -> Digest {
    Sha256::digest(message).into()
}

/// A policy as it goes over the wire.
fn policy_to_wire(policy: &Policy) -> wire::Policy {
    let caps = &policy.caps;
    wire::Policy {
        workload_cap: millis(caps.workload),
        node_cap: millis(caps.node),
        server_cap: millis(caps.server),
        jwt_cap: millis(caps.jwt),
        authority_cap: millis(caps.authority),
        clock_skew: millis(policy.clock_skew),
        max_limit: millis(policy.max_limit),
        max_head_age: millis(policy.max_head_age),
        max_list_age: millis(policy.max_list_age),
        public_url: policy.public_url.clone().unwrap_or_default(),
    }
}

fn policy_from_wire(wire: wire::Policy, trust_domain: TrustDomain) -> Policy {
    let span = Duration::from_millis;
    Policy {
        trust_domain,
        caps: Caps {
            workload: span(wire.workload_cap),
            node: span(wire.node_cap),
            server: span(wire.server_cap),
            jwt: span(wire.jwt_cap),
            authority: span(wire.authority_cap),
        },
        clock_skew: span(wire.clock_skew),
        max_limit: span(wire.max_limit),
        max_head_age: span(wire.max_head_age),
        max_list_age: span(wire.max_list_age),
        public_url: Some(wire.public_url).filter(|url| !url.is_empty()),
    }
}
