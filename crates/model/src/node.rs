//! Attested nodes and the tokens that let them join.

use taskmint_id::SpiffeId;

use crate::{Selectors, TaskId, Timestamp};

/// An attested host that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `spiffe://<td>/taskmint/node/<attestor>/<id>`.
    pub id: SpiffeId,
    /// Goes up with every change.
    pub version: u64,
    /// Which attestor vouched for it.
    pub attestor: String,
    /// What it was attested to be.
    pub selectors: Selectors,
    /// SHA-256 of the SPKI DER of the key that it attested with and renews over (P11).
    pub key_hash: [u8; 32],
    /// Whether it may act.
    pub state: NodeState,
    /// The SVID in use.
    pub current: NodeSvid,
    /// A renewed SVID that has not been used yet: it becomes current at first use (P11).
    pub pending: Option<NodeSvid>,
    /// When it was first attested.
    pub attested_at: Timestamp,
    /// When it was last heard of, to within a lease.
    pub seen_at: Timestamp,
}

/// One SVID of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSvid {
    /// The task that it hangs off: each renewal opens a successor (P4).
    pub task: TaskId,
    /// Its serial number.
    pub serial: [u8; 20],
    /// When it stops counting.
    pub expires_at: Timestamp,
    /// The certificate itself, so that the same renewal gets the same one again.
    pub certificate: Vec<u8>,
    /// The request that made it.
    pub request: Option<[u8; 16]>,
}

/// Whether a node may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Attested; may act while its lease lasts.
    Active,
    /// A superseded serial was used, or two streams answered: it must attest anew (P11).
    Suspended,
    /// Evicted: its tasks are ended; it may attest anew.
    Evicted,
    /// Banned: its tasks are ended, and it may not come back until an admin says so.
    Banned,
}

/// A one-time token that lets one node join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the token: the token itself is shown once and never stored.
    pub hash: [u8; 32],
    /// The last segment of the node's id.
    pub node: String,
    /// Selectors that the node gets beside its own.
    pub selectors: Selectors,
    /// When it stops counting.
    pub expires_at: Timestamp,
    /// The key that consumed it: only the same key may retry (P10).
    pub consumed_by: Option<[u8; 32]>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
}
