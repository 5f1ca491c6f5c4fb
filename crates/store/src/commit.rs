//! What can be changed, and what must still hold when it is.

use taskmint_id::SpiffeId;
use taskmint_model::{
    Audit, AuthorityId, Bar, Cause, Denial, Entry, EntryId, Issuance, JoinToken, Node, Process,
    Task, TaskId, Timestamp,
};
use taskmint_status::{Place, Status};

use crate::ledger::Promise;
use crate::port::{AuthorityRecord, StoreError};

/// Changes that happen together or not at all, and what must still hold when they do.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Checked by the writer, in order, against everything committed before.
    pub expect: Vec<Expect>,
    /// Applied in order.
    pub changes: Vec<Change>,
}

/// What must hold at the moment of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// No task with this id exists.
    NoTask(TaskId),
    /// The task has this version.
    Task(TaskId, u64),
    /// The task is live (whatever its version) and its deadline lies after the instant: so no mint
    /// lands after an end (P18).
    LiveTask(TaskId, Timestamp),
    /// The entry has this revision; 0 means that none exists.
    Entry(EntryId, u64),
    /// The node has this version; 0 means that none exists.
    Node(SpiffeId, u64),
    /// The token exists, and nobody or this key has consumed it.
    Token {
        /// SHA-256 of the token.
        hash: [u8; 32],
        /// SHA-256 of the SPKI DER of the key that consumes it.
        key: [u8; 32],
    },
    /// The request was not seen yet.
    NewRequest(RequestKey),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores the task as given; its version must already be the new one.
    PutTask(Box<Task>),
    /// Appends a log record and sets the two bits of a place.
    Status(StatusChange),
    /// Everything in buckets below this hour is gone: appends a floor record (P16) and deletes
    /// what those buckets held, by range.
    Floor {
        /// The new floor, in hours since 1970.
        bucket: u32,
        /// When.
        at: Timestamp,
    },
    /// Records a minted credential.
    Issue(Issuance),
    /// Stores an entry.
    PutEntry(Box<Entry>),
    /// Deletes an entry.
    DeleteEntry(EntryId),
    /// Stores a node.
    PutNode(Box<Node>),
    /// Stores a join token.
    PutToken(JoinToken),
    /// Deletes a join token.
    DeleteToken([u8; 32]),
    /// Marks a join token as consumed by a key.
    ConsumeToken {
        /// SHA-256 of the token.
        hash: [u8; 32],
        /// SHA-256 of the SPKI DER.
        key: [u8; 32],
    },
    /// Remembers a request, so that a retry is recognised (P6). Swept with its bucket.
    PutRequest(RequestRecord),
    /// Bars a process from new implicit tasks (P3).
    PutBar(Bar),
    /// Lifts a bar.
    LiftBar {
        /// Its entry.
        entry: EntryId,
        /// Its node.
        node: SpiffeId,
        /// Its process.
        process: Process,
    },
    /// Keeps a denial for `explain`.
    PutDenial(Box<Denial>),
    /// Appends an audit record to the hash chain (P32).
    Audit(Audit),
    /// Stores an authority's sealed key, public part and state.
    PutAuthority(AuthorityRecord),
    /// Forgets an authority.
    DeleteAuthority(AuthorityId),
    /// Raises the bundle's sequence number by one (BND-04).
    BumpBundle,
    /// Says how long verifiers may believe a head from here on (P18).
    Promise(Promise),
}

/// A change of a task's two status bits: one record of the revocation log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// Where.
    pub place: Place,
    /// Whose.
    pub task: TaskId,
    /// To what.
    pub status: Status,
    /// Why; meaningful for ends.
    pub cause: Option<Cause>,
    /// When it was decided.
    pub at: Timestamp,
}

/// Names a request: ids are scoped to node, caller process and method (P6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// The node or admin that passed it on.
    pub via: String,
    /// The caller's process, where there is one.
    pub process: Option<Process>,
    /// The method.
    pub method: String,
    /// The id that the caller chose.
    pub id: [u8; 16],
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its scope and id.
    pub key: RequestKey,
    /// SHA-256 over its content: same id with other content is refused.
    pub digest: [u8; 32],
    /// The task that it began or changed.
    pub task: TaskId,
    /// Swept with this bucket.
    pub bucket: u32,
}

/// How many requests of one caller are remembered until one bucket is swept (P6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestCount {
    /// The node or admin that passed them on.
    pub via: String,
    /// The caller's process, where there is one.
    pub process: Option<Process>,
    /// Swept with this bucket.
    pub bucket: u32,
    /// How many; at least one.
    pub count: u32,
}

/// What a commit became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The log's newest sequence number once this commit was applied; its own records end here.
    pub sequence: u64,
}

/// Why a commit was not applied. Nothing of it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Something changed since it was read: read again and decide again.
    #[error("something changed meanwhile: {0}")]
    Conflict(#[from] Conflict),
    /// No store applies this, whenever it is tried: a fault of the caller.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The store can't write.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The expectation that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}")]
pub struct Conflict(pub Expect);

/// A change that breaks what always holds. It is refused though all expectations hold, so that a
/// fault in the rules can't undo an end or use a place twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The place belongs to another log.
    #[error("place {0} belongs to another log")]
    ForeignLog(Place),
    /// The bucket is swept.
    #[error("bucket {0} lies below the floor")]
    BelowFloor(u32),
    /// The place holds another task.
    #[error("place {0} holds another task")]
    Taken(Place),
    /// The task has another place already.
    #[error("task {0} has another place already")]
    Moved(TaskId),
    /// The task's version does not go up.
    #[error("task {task} is stored in version {version} or a later one already")]
    Version {
        /// Which task.
        task: TaskId,
        /// The version given.
        version: u64,
    },
    /// It has ended: it neither lives again nor ends twice.
    #[error("place {0} has ended, and ends are final")]
    Ended(Place),
    /// An end without a cause.
    #[error("place {0} would end without a cause")]
    NoCause(Place),
    /// The task's parent is not stored.
    #[error("the parent of task {0} is not stored")]
    NoParent(TaskId),
    /// The join token is not stored.
    #[error("the join token is not stored")]
    NoToken,
    /// The floor would rise above the hour in which it is decided.
    #[error("the floor can't rise to bucket {0}, which has not ended")]
    FloorAhead(u32),
}
