//! The traits that a store implements.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskmint_id::SpiffeId;
use taskmint_model::{
    Audit, AuthorityId, Bar, Denial, DenialId, Entry, EntryId, Issuance, JoinToken, Node, Task,
    TaskId, TaskKind, Timestamp,
};
use taskmint_status::{LogId, Place, Record, StatusMap};
use tokio::sync::watch;

use crate::commit::{Commit, CommitError, Committed, RequestCount, RequestKey, RequestRecord};
use crate::ledger::Promise;
use crate::lists::Lists;

/// Everything that the issuer keeps. All methods may be called concurrently.
pub trait Store: Commits + Tasks + Registry + Log + Journal + Lists {}

impl<T: Commits + Tasks + Registry + Log + Journal + Lists> Store for T {}

/// Writing.
#[async_trait]
pub trait Commits: Send + Sync + 'static {
    /// Applies a commit durably, or nothing of it.
    ///
    /// # Errors
    /// A conflict names the expectation that did not hold; a store error says that nothing can be
    /// written now.
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError>;

    /// Hands out a place in `bucket` that was never handed out before and never will be again,
    /// whatever happens to this process (indices come from blocks reserved durably ahead, P28).
    ///
    /// # Errors
    /// When no further block can be reserved, or the bucket's 2^40 indices are used up.
    async fn place(&self, bucket: u32) -> Result<Place, StoreError>;

    /// Writes a consistent copy of everything into `folder`, which must not exist.
    ///
    /// # Errors
    /// When the folder exists or can't be written, or the store keeps nothing on disk.
    async fn backup(&self, folder: &Path) -> Result<(), StoreError>;
}

/// Reading tasks and what hangs off them.
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// One task.
    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// The task at a place.
    async fn task_at(&self, place: Place) -> Result<Option<Task>, StoreError>;
    /// Direct children in every state, oldest first.
    async fn children(&self, id: TaskId) -> Result<Vec<Task>, StoreError>;
    /// A page of tasks, in order of place.
    async fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, StoreError>;
    /// What was minted under the task at a place, oldest first, at most `max`.
    async fn issuances(&self, place: Place, max: usize) -> Result<Vec<Issuance>, StoreError>;
    /// What was minted and is not swept yet, by place, each with its number in the whole store;
    /// those after a place and number, at most `max`.
    async fn all_issuances(
        &self,
        after: Option<(Place, u64)>,
        max: usize,
    ) -> Result<Vec<(u64, Issuance)>, StoreError>;
    /// Live tasks whose deadline is at `until` or earlier, earliest first, at most `max`.
    async fn due(
        &self,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<(Timestamp, TaskId)>, StoreError>;
    /// Live tasks that a node holds, by id: those after one, at most `max`. Without a node, the
    /// issuer's own.
    async fn held(
        &self,
        node: Option<&SpiffeId>,
        after: Option<TaskId>,
        max: usize,
    ) -> Result<Vec<TaskId>, StoreError>;
    /// How many tasks are live.
    fn live_tasks(&self) -> Result<u64, StoreError>;
    /// The latest expiry of what was minted under the task at each place; at 1970 if nothing was.
    /// None where more than `max` were: then nobody looked through them.
    async fn last_expiries(
        &self,
        places: Vec<Place>,
        max: usize,
    ) -> Result<Vec<Option<Timestamp>>, StoreError>;
    /// A request that was answered before.
    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, StoreError>;
    /// How many requests are remembered, by caller and bucket. Reads all of them: for a start.
    async fn request_counts(&self) -> Result<Vec<RequestCount>, StoreError>;
    /// The longest that any workload's credential was to last when it was minted; none if that was
    /// not noted from the first one on.
    async fn longest_credential(&self) -> Result<Option<Duration>, StoreError>;
    /// All bars on one node.
    async fn bars(&self, node: &SpiffeId) -> Result<Vec<Bar>, StoreError>;
}

/// Reading entries, nodes, tokens and authorities. These sets are small enough to read whole.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// One entry.
    async fn entry(&self, id: EntryId) -> Result<Option<Entry>, StoreError>;
    /// All entries, by id.
    async fn entries(&self) -> Result<Vec<Entry>, StoreError>;
    /// One node.
    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError>;
    /// All nodes, by id.
    async fn nodes(&self) -> Result<Vec<Node>, StoreError>;
    /// One join token, by its hash.
    async fn token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError>;
    /// All join tokens.
    async fn tokens(&self) -> Result<Vec<JoinToken>, StoreError>;
    /// All authorities that are not forgotten, oldest first.
    async fn authorities(&self) -> Result<Vec<AuthorityRecord>, StoreError>;
    /// The bundle's sequence number; starts at 1.
    async fn bundle_sequence(&self) -> Result<u64, StoreError>;
}

/// Reading the revocation log.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Which log this is.
    fn identity(&self) -> LogIdentity;
    /// How long verifiers were last promised that they may believe a head.
    async fn promise(&self) -> Result<Option<Promise>, StoreError>;
    /// The newest durable position; changes only after what it covers is on disk.
    fn position(&self) -> watch::Receiver<LogPosition>;
    /// Records after sequence `after`, in order without gaps, at most `max`. Records below the
    /// retained window are gone: then the first one returned is not `after + 1`.
    async fn records(&self, after: u64, max: usize) -> Result<Vec<Record>, StoreError>;
    /// The exact maps of all buckets at or above the floor, at one position.
    async fn snapshot(&self) -> Result<StatusSnapshot, StoreError>;
    /// The status bits of one place at the newest durable position. A place of another log or
    /// below the floor reads ended: nothing there counts any more.
    async fn status(&self, place: Place) -> Result<taskmint_status::Status, StoreError>;
}

/// Reading what was refused and what was done.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// One denial.
    async fn denial(&self, id: DenialId) -> Result<Option<Denial>, StoreError>;
    /// The newest denials first, at most `max`.
    async fn denials(&self, max: usize) -> Result<Vec<Denial>, StoreError>;
    /// Audit records from number `from` (the first is 1), at most `max`.
    async fn audit(&self, from: u64, max: usize) -> Result<Vec<AuditLine>, StoreError>;
}

/// Which log a store holds: fixed when it is made, renewed by a restore (P14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Its id.
    pub log: LogId,
    /// 1 for the first log of a trust domain, one more after each restore.
    pub generation: u8,
    /// Fences writers: one more at each open.
    pub epoch: u32,
    /// The log that this one replaced, if any.
    pub replaces: Option<LogId>,
}

/// The newest position of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// Its sequence number; 0 before the first record.
    pub sequence: u64,
    /// The chain hash over all records up to it.
    pub hash: [u8; 32],
    /// Buckets below this hour are refused.
    pub floor: u32,
}

/// Exact maps of all live buckets at one position.
#[derive(Debug, Clone)]
pub struct StatusSnapshot {
    /// Where the log stood.
    pub position: LogPosition,
    /// By bucket; a bucket that is absent is all valid.
    pub maps: BTreeMap<u32, Arc<StatusMap>>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskQuery {
    /// Only those that have not ended.
    pub live_only: bool,
    /// Only those held on this node.
    pub node: Option<SpiffeId>,
    /// Only those with this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Only those in this tree.
    pub root: Option<TaskId>,
    /// Only those of this entry.
    pub entry: Option<EntryId>,
    /// Only those of these kinds; empty means all.
    pub kinds: Vec<TaskKind>,
    /// Only those acting for this owner.
    pub owner: Option<String>,
    /// From the place after this one (the cursor of the page before).
    pub after: Option<Place>,
    /// At most so many; 0 means 1,000, which is also the bound.
    pub max: usize,
}

/// A page of a listing.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// What matched.
    pub items: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub next: Option<Place>,
}

/// One record of the audit log with its number and chain hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number; the first is 1.
    pub number: u64,
    /// SHA-256 over the hash before and this record's bytes.
    pub hash: [u8; 32],
    /// The record.
    pub audit: Audit,
}

/// A signing key as the store keeps it: sealed, with its public part (P25).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// Names it.
    pub id: AuthorityId,
    /// What it signs.
    pub usage: KeyUse,
    /// Where it is in its life.
    pub state: AuthorityState,
    /// The key, sealed by the authority; opaque here. Empty if the authority keeps keys in memory
    /// alone.
    pub sealed: Vec<u8>,
    /// SPKI DER of its public key.
    pub spki: Vec<u8>,
    /// For CAs: the certificate (anchor); for the log's key: its certificate by an active CA.
    pub certificate: Vec<u8>,
    /// `kid` of a JWT key, subject key id of a CA.
    pub key_id: String,
    /// When it was prepared.
    pub created_at: Timestamp,
    /// When it stops counting.
    pub expires_at: Timestamp,
    /// When it was activated, if ever.
    pub activated_at: Option<Timestamp>,
    /// When it was retired, and so the latest instant at which it signed anything.
    pub retired_at: Option<Timestamp>,
}

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyUse {
    /// Certificates.
    Ca,
    /// JWT-SVIDs.
    Jwt,
    /// Heads, checkpoints and status lists of the revocation log (P15).
    Log,
    /// Grants: a MAC key, not a signing key (P23).
    Grant,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorityState {
    /// In the bundle, not signing yet.
    Prepared,
    /// Signing.
    Active,
    /// In the bundle while what it signed lives, signing no more.
    Retired,
}

/// The store can't do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk or the database refused.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// Something on disk is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(Arc<str>),
    /// Written by a newer version.
    #[error(
        "the store has schema version {found}, this build reads {known}: use the build that wrote it"
    )]
    Schema {
        /// Version on disk.
        found: u32,
        /// Version of this build.
        known: u32,
    },
    /// The bucket's indices are used up.
    #[error("bucket {0} is full")]
    BucketFull(u32),
    /// The bucket is swept: no new place can be in it.
    #[error("bucket {0} lies below the floor")]
    BelowFloor(u32),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}
