//! What a store keeps, row by row: the common ground of every store that keeps rows.
//!
//! A commit's rules ([`crate::group`]) and every reading method ([`crate::read`]) are written once,
//! over [`View`]; a store adds only where the rows lie. So two stores can't disagree.

use std::ops::RangeInclusive;
use std::sync::Arc;

use taskmint_id::SpiffeId;
use taskmint_model::{
    AuthorityId, Bar, Denial, DenialId, Entry, EntryId, Issuance, JoinToken, Node, Process, Task,
    TaskId, Timestamp,
};
use taskmint_status::{Chunk, Record, Slot};

use crate::commit::{RequestKey, RequestRecord};
use crate::ledger::Ledger;
use crate::port::{AuditLine, AuthorityRecord, StoreError};

/// Names a row. Rows sort by table first, then by the parts of their key in order, numbers by
/// value and texts by bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Where every counter stands.
    Ledger,
    /// First index of a bucket that no block has reserved.
    Block(u32),
    /// The task at a slot.
    Task(Slot),
    /// Where a task is.
    TaskId(TaskId),
    /// Parent's slot, child's slot.
    Child(Slot, Slot),
    /// The task's slot, and the issuance's number in the whole store.
    Issuance(Slot, u64),
    /// Bucket, and the number of a chunk of its map.
    Status(u32, u32),
    /// A log record's sequence number.
    Log(u64),
    /// SHA-256 of a [`RequestKey`], by [`request_hash`].
    Request([u8; 32]),
    /// A registration entry.
    Entry(EntryId),
    /// A node's SPIFFE ID.
    Node(String),
    /// SHA-256 of a join token.
    Token([u8; 32]),
    /// A bar's node, entry and process.
    Bar(String, EntryId, Process),
    /// A denial's number; the first is 1.
    Denial(u64),
    /// Finds a denial's number by its id.
    DenialId(DenialId),
    /// An audit record's number; the first is 1.
    Audit(u64),
    /// An authority.
    Authority(AuthorityId),
    /// A live task's bucket, its deadline, and its index in the bucket.
    Due(u32, Timestamp, u64),
    /// Who holds a live task, by name, and the task. The issuer's own are held by no name.
    Held(String, TaskId),
    /// A bucket, whose live tasks are counted.
    Live(u32),
}

/// What a row holds. Each variant belongs to the key of the same name; what is large is shared.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// [`Key::Ledger`].
    Ledger(Ledger),
    /// [`Key::Block`].
    Block(u64),
    /// [`Key::Task`].
    Task(Arc<Task>),
    /// [`Key::TaskId`].
    TaskId(Slot),
    /// [`Key::Child`]: the key says it all.
    Child,
    /// [`Key::Issuance`].
    Issuance(Arc<Issuance>),
    /// [`Key::Status`].
    Status(Arc<Chunk>),
    /// [`Key::Log`].
    Log(Arc<Record>),
    /// [`Key::Request`].
    Request(Arc<RequestRecord>),
    /// [`Key::Entry`].
    Entry(Arc<Entry>),
    /// [`Key::Node`].
    Node(Arc<Node>),
    /// [`Key::Token`].
    Token(Arc<JoinToken>),
    /// [`Key::Bar`].
    Bar(Arc<Bar>),
    /// [`Key::Denial`].
    Denial(Arc<Denial>),
    /// [`Key::DenialId`].
    DenialId(u64),
    /// [`Key::Audit`].
    Audit(Arc<AuditLine>),
    /// [`Key::Authority`].
    Authority(Arc<AuthorityRecord>),
    /// [`Key::Due`].
    Due(TaskId),
    /// [`Key::Held`].
    Held(Slot),
    /// [`Key::Live`].
    Live(u64),
}

/// Reads rows.
pub trait View {
    /// One row.
    ///
    /// # Errors
    /// When it can't be read, or is not what was written.
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError>;

    /// Hands the rows of one table's range to `each`, in order of their keys, until it says no.
    ///
    /// # Errors
    /// When they can't be read, or what `each` returns.
    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError>;
}

impl Key {
    /// The bucket that the row is swept with, as far as the key tells.
    pub fn bucket(&self) -> Option<u32> {
        match self {
            Self::Block(bucket)
            | Self::Status(bucket, _)
            | Self::Due(bucket, ..)
            | Self::Live(bucket) => Some(*bucket),
            Self::Task(slot) | Self::Child(slot, _) | Self::Issuance(slot, _) => {
                Some(slot.bucket())
            }
            _ => None,
        }
    }
}

impl Row {
    /// The bucket that the row is swept with, where only the row tells: such rows are found by an
    /// id that names no bucket.
    pub fn bucket(&self) -> Option<u32> {
        match self {
            Self::TaskId(slot) | Self::Held(slot) => Some(slot.bucket()),
            Self::Request(request) => Some(request.bucket),
            _ => None,
        }
    }
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($value:ty);)*) => {
        $($(#[$doc])*
        pub(crate) fn $name<V: View + ?Sized>(
            view: &V,
            key: &Key,
        ) -> Result<Option<$value>, StoreError> {
            match view.get(key)? {
                Some(Row::$variant(value)) => Ok(Some(value)),
                Some(other) => Err(misplaced(key, &other)),
                None => Ok(None),
            }
        })*
    };
}

typed! {
    ledger: Ledger(Ledger);
    block: Block(u64);
    task: Task(Arc<Task>);
    task_id: TaskId(Slot);
    chunk: Status(Arc<Chunk>);
    request: Request(Arc<RequestRecord>);
    entry: Entry(Arc<Entry>);
    node: Node(Arc<Node>);
    token: Token(Arc<JoinToken>);
    denial: Denial(Arc<Denial>);
    denial_id: DenialId(u64);
    live: Live(u64);
}

/// The error for a row that does not belong under its key.
pub(crate) fn misplaced(key: &Key, row: &Row) -> StoreError {
    StoreError::Damaged(format!("{key:?} holds {row:?}").into())
}

/// Under which key a request is kept: SHA-256 over its parts, each with its length before it.
pub fn request_hash(key: &RequestKey) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for text in [&key.via, &key.method] {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }
    match &key.process {
        None => hash.update([0]),
        Some(process) => {
            hash.update([1]);
            hash.update(process.pid.to_be_bytes());
            hash.update(process.start_time.to_be_bytes());
            hash.update(process.boot_id);
        }
    }
    hash.update(key.id);
    hash.finalize().into()
}

/// Ranges over whole tables or all rows under one parent.
pub(crate) mod span {
    use super::{Key, RangeInclusive, SpiffeId};
    use taskmint_model::{AuthorityId, EntryId, Process, TaskId, Timestamp};
    use taskmint_status::Slot;

    /// Sorts after every SPIFFE ID, which is ASCII.
    const LAST_TEXT: &str = "\u{10ffff}";
    const LAST_PROCESS: Process = Process {
        pid: u32::MAX,
        start_time: u64::MAX,
        boot_id: [u8::MAX; 16],
    };
    const FIRST_PROCESS: Process = Process {
        pid: 0,
        start_time: 0,
        boot_id: [0; 16],
    };

    /// The first slot of a bucket.
    pub(crate) fn first(bucket: u32) -> Slot {
        slot(bucket, 0)
    }

    /// The last slot there is.
    pub(crate) fn last() -> Slot {
        slot(u32::MAX, taskmint_status::place::MAX_INDEX)
    }

    /// The slot after this one, if there is one.
    pub(crate) fn next(after: Slot) -> Option<Slot> {
        Slot::new(after.bucket(), after.index() + 1)
            .ok()
            .or_else(|| after.bucket().checked_add(1).map(first))
    }

    #[expect(clippy::expect_used, reason = "both callers' indices are in range")]
    fn slot(bucket: u32, index: u64) -> Slot {
        Slot::new(bucket, index).expect("at most the largest index")
    }

    pub(crate) fn tasks(from: Slot) -> RangeInclusive<Key> {
        Key::Task(from)..=Key::Task(last())
    }

    pub(crate) fn children(of: Slot) -> RangeInclusive<Key> {
        Key::Child(of, first(0))..=Key::Child(of, last())
    }

    pub(crate) fn issuances(of: Slot) -> RangeInclusive<Key> {
        Key::Issuance(of, 0)..=Key::Issuance(of, u64::MAX)
    }

    /// Those after a slot and a number, to the last.
    pub(crate) fn issuances_after(after: Option<(Slot, u64)>) -> RangeInclusive<Key> {
        let (slot, number) = after.unwrap_or((first(0), 0));
        Key::Issuance(slot, number.saturating_add(1))..=Key::Issuance(last(), u64::MAX)
    }

    pub(crate) fn maps(floor: u32) -> RangeInclusive<Key> {
        Key::Status(floor, 0)..=Key::Status(u32::MAX, u32::MAX)
    }

    pub(crate) fn map_of(bucket: u32) -> RangeInclusive<Key> {
        Key::Status(bucket, 0)..=Key::Status(bucket, u32::MAX)
    }

    pub(crate) fn log(after: u64) -> RangeInclusive<Key> {
        Key::Log(after.saturating_add(1))..=Key::Log(u64::MAX)
    }

    pub(crate) fn audit(from: u64) -> RangeInclusive<Key> {
        Key::Audit(from)..=Key::Audit(u64::MAX)
    }

    pub(crate) fn requests() -> RangeInclusive<Key> {
        Key::Request([0; 32])..=Key::Request([u8::MAX; 32])
    }

    pub(crate) fn entries() -> RangeInclusive<Key> {
        let [first, last] = [0, u8::MAX].map(|octet| EntryId::from_octets([octet; 16]));
        Key::Entry(first)..=Key::Entry(last)
    }

    pub(crate) fn nodes() -> RangeInclusive<Key> {
        Key::Node(String::new())..=Key::Node(LAST_TEXT.to_owned())
    }

    pub(crate) fn tokens() -> RangeInclusive<Key> {
        Key::Token([0; 32])..=Key::Token([u8::MAX; 32])
    }

    pub(crate) fn bars(node: &SpiffeId) -> RangeInclusive<Key> {
        let [first, last] = [0, u8::MAX].map(|octet| EntryId::from_octets([octet; 16]));
        let node = node.as_str().to_owned();
        Key::Bar(node.clone(), first, FIRST_PROCESS)..=Key::Bar(node, last, LAST_PROCESS)
    }

    /// Deadlines of live tasks, from a bucket's first on.
    pub(crate) fn due(from: u32) -> RangeInclusive<Key> {
        let last = Timestamp::from_millis(u64::MAX);
        Key::Due(from, Timestamp::default(), 0)..=Key::Due(u32::MAX, last, u64::MAX)
    }

    /// What a holder holds, from a task on.
    pub(crate) fn held(by: &str, from: Option<TaskId>) -> RangeInclusive<Key> {
        let [first, last] = [0, u8::MAX].map(|octet| TaskId::from_octets([octet; 16]));
        let from = from.unwrap_or(first);
        Key::Held(by.to_owned(), from)..=Key::Held(by.to_owned(), last)
    }

    pub(crate) fn live() -> RangeInclusive<Key> {
        Key::Live(0)..=Key::Live(u32::MAX)
    }

    pub(crate) fn authorities() -> RangeInclusive<Key> {
        let [first, last] = [0, u8::MAX].map(|octet| AuthorityId::from_octets([octet; 16]));
        Key::Authority(first)..=Key::Authority(last)
    }
}
