//! The reading half of the port, written once for every store that keeps rows.

mod live;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskmint_id::SpiffeId;
use taskmint_model::{
    Bar, Denial, DenialId, Entry, EntryId, Issuance, JoinToken, Node, Task, TaskId, Timestamp,
};
use taskmint_status::map::chunk_of;
use taskmint_status::{LogId, Place, Record, Status, StatusMap};
use tokio::sync::watch;

use crate::commit::{RequestCount, RequestKey, RequestRecord};
use crate::ledger::{Ledger, Promise};
use crate::port::{
    AuditLine, AuthorityRecord, Journal, Log, LogIdentity, LogPosition, Page, Registry,
    StatusSnapshot, StoreError, TaskQuery, Tasks,
};
use crate::rows::{self, Key, Row, View, misplaced, request_hash, span};

/// The most items of a page.
const MAX_PAGE: usize = 1_000;

/// The most tasks that one page looks at: a rare match must not turn a page into a full scan.
const MAX_LOOKED_AT: usize = 20_000;

/// The value of a row of one variant, or the row.
macro_rules! take {
    ($row:expr, $variant:ident) => {
        match $row {
            Row::$variant(value) => Ok(value),
            other => Err(other),
        }
    };
}

/// Where rows lie. Whatever has this reads by the port.
#[async_trait]
pub trait Rows: Send + Sync + 'static {
    /// Runs something short over the newest rows: a few single rows, on the caller's thread.
    fn peek<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R;

    /// Runs something long over the rows as they are at one instant, away from the caller's
    /// thread where it could block.
    async fn read<R, F>(&self, read: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&dyn View) -> Result<R, StoreError> + Send + 'static;

    /// Which log this is.
    fn log_identity(&self) -> LogIdentity;

    /// The newest durable position.
    fn log_position(&self) -> watch::Receiver<LogPosition>;
}

#[async_trait]
impl<T: Rows> Tasks for T {
    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.peek(|view| match rows::task_id(view, &Key::TaskId(id))? {
            Some(slot) => rows::task(view, &Key::Task(slot)),
            None => Ok(None),
        })
        .map(owned)
    }

    async fn task_at(&self, place: Place) -> Result<Option<Task>, StoreError> {
        let found = self.peek(|view| rows::task(view, &Key::Task(place.slot())))?;
        // After a restore the slot may hold an ended task of the log before.
        Ok(owned(found.filter(|task| task.place == place)))
    }

    async fn children(&self, id: TaskId) -> Result<Vec<Task>, StoreError> {
        self.read(move |view| children(view, id)).await
    }

    async fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, StoreError> {
        let query = query.clone();
        let log = self.log_identity().log;
        self.read(move |view| page(view, &query, log)).await
    }

    async fn issuances(&self, place: Place, max: usize) -> Result<Vec<Issuance>, StoreError> {
        self.read(move |view| {
            let mut found = Vec::new();
            each(view, span::issuances(place.slot()), |row| match row {
                Row::Issuance(issuance) if issuance.place == place => {
                    Ok(push(&mut found, issuance, max))
                }
                Row::Issuance(_) => Ok(true),
                other => Err(other),
            })?;
            Ok(found)
        })
        .await
    }

    async fn all_issuances(
        &self,
        after: Option<(Place, u64)>,
        max: usize,
    ) -> Result<Vec<(u64, Issuance)>, StoreError> {
        let after = after.map(|(place, number)| (place.slot(), number));
        self.read(move |view| {
            let mut found = Vec::new();
            if max == 0 {
                return Ok(found);
            }
            let floor = ledger(view)?.floor;
            view.scan(
                span::issuances_after(after),
                &mut |key, row| match (key, row) {
                    (Key::Issuance(_, number), Row::Issuance(issuance)) => {
                        if issuance.place.bucket() >= floor {
                            found.push((number, Arc::unwrap_or_clone(issuance)));
                        }
                        Ok(found.len() < max)
                    }
                    (key, row) => Err(misplaced(&key, &row)),
                },
            )?;
            Ok(found)
        })
        .await
    }

    async fn due(
        &self,
        until: Timestamp,
        max: usize,
    ) -> Result<Vec<(Timestamp, TaskId)>, StoreError> {
        self.read(move |view| live::due(view, until, max)).await
    }

    async fn held(
        &self,
        node: Option<&SpiffeId>,
        after: Option<TaskId>,
        max: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        let by = node.map(|node| node.as_str().to_owned());
        let by = by.unwrap_or_default();
        self.read(move |view| live::held(view, &by, after, max))
            .await
    }

    fn live_tasks(&self) -> Result<u64, StoreError> {
        self.peek(live::count)
    }

    async fn last_expiries(
        &self,
        places: Vec<Place>,
        max: usize,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.read(move |view| live::last_expiries(view, &places, max))
            .await
    }

    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, StoreError> {
        self.peek(|view| {
            let found = rows::request(view, &Key::Request(request_hash(key)))?;
            let floor = ledger(view)?.floor;
            Ok(owned(found.filter(|request| request.bucket >= floor)))
        })
    }

    async fn request_counts(&self) -> Result<Vec<RequestCount>, StoreError> {
        self.read(request_counts).await
    }

    async fn longest_credential(&self) -> Result<Option<Duration>, StoreError> {
        self.peek(|view| ledger(view)).map(|ledger| ledger.longest)
    }

    async fn bars(&self, node: &SpiffeId) -> Result<Vec<Bar>, StoreError> {
        let span = span::bars(node);
        self.read(move |view| all(view, span, |row| take!(row, Bar)))
            .await
    }
}

#[async_trait]
impl<T: Rows> Registry for T {
    async fn entry(&self, id: EntryId) -> Result<Option<Entry>, StoreError> {
        self.peek(|view| rows::entry(view, &Key::Entry(id)))
            .map(owned)
    }

    async fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.read(|view| all(view, span::entries(), |row| take!(row, Entry)))
            .await
    }

    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        self.peek(|view| rows::node(view, &Key::Node(id.as_str().to_owned())))
            .map(owned)
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.read(|view| all(view, span::nodes(), |row| take!(row, Node)))
            .await
    }

    async fn token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError> {
        self.peek(|view| rows::token(view, &Key::Token(*hash)))
            .map(owned)
    }

    async fn tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        self.read(|view| all(view, span::tokens(), |row| take!(row, Token)))
            .await
    }

    async fn authorities(&self) -> Result<Vec<AuthorityRecord>, StoreError> {
        let found = self.read(|view| all(view, span::authorities(), |row| take!(row, Authority)));
        let mut found = found.await?;
        found.sort_by_key(|record| (record.created_at, record.id));
        Ok(found)
    }

    async fn bundle_sequence(&self) -> Result<u64, StoreError> {
        self.peek(|view| ledger(view)).map(|ledger| ledger.bundle)
    }
}

#[async_trait]
impl<T: Rows> Log for T {
    fn identity(&self) -> LogIdentity {
        self.log_identity()
    }

    async fn promise(&self) -> Result<Option<Promise>, StoreError> {
        self.peek(|view| ledger(view)).map(|ledger| ledger.promise)
    }

    fn position(&self) -> watch::Receiver<LogPosition> {
        self.log_position()
    }

    async fn records(&self, after: u64, max: usize) -> Result<Vec<Record>, StoreError> {
        self.read(move |view| {
            let mut found = Vec::new();
            each(view, span::log(after), |row| match row {
                Row::Log(record) => Ok(push(&mut found, record, max)),
                other => Err(other),
            })?;
            Ok(found)
        })
        .await
    }

    async fn snapshot(&self) -> Result<StatusSnapshot, StoreError> {
        self.read(|view| snapshot(view)).await
    }

    async fn status(&self, place: Place) -> Result<Status, StoreError> {
        let log = self.log_identity().log;
        self.peek(|view| status(view, place, log))
    }
}

#[async_trait]
impl<T: Rows> Journal for T {
    async fn denial(&self, id: DenialId) -> Result<Option<Denial>, StoreError> {
        self.peek(|view| match rows::denial_id(view, &Key::DenialId(id))? {
            Some(number) => rows::denial(view, &Key::Denial(number)),
            None => Ok(None),
        })
        .map(owned)
    }

    async fn denials(&self, max: usize) -> Result<Vec<Denial>, StoreError> {
        self.read(move |view| newest_denials(view, max)).await
    }

    async fn audit(&self, from: u64, max: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.read(move |view| {
            let mut found = Vec::new();
            each(view, span::audit(from), |row| match row {
                Row::Audit(line) => Ok(push(&mut found, line, max)),
                other => Err(other),
            })?;
            Ok(found)
        })
        .await
    }
}

/// Where the counters stand.
///
/// # Errors
/// When there is no ledger: then the store was never made, or is damaged.
pub fn ledger<V: View + ?Sized>(view: &V) -> Result<Ledger, StoreError> {
    let found = rows::ledger(view, &Key::Ledger)?;
    found.ok_or_else(|| StoreError::Damaged("there is no ledger".into()))
}

fn children(view: &dyn View, id: TaskId) -> Result<Vec<Task>, StoreError> {
    let Some(parent) = rows::task_id(view, &Key::TaskId(id))? else {
        return Ok(Vec::new());
    };
    let mut slots = Vec::new();
    view.scan(span::children(parent), &mut |key, row| match key {
        Key::Child(_, child) => {
            slots.push(child);
            Ok(true)
        }
        key => Err(misplaced(&key, &row)),
    })?;
    let mut found = Vec::with_capacity(slots.len());
    for slot in slots {
        // A child whose own bucket was swept before its parent's is gone.
        found.extend(owned(rows::task(view, &Key::Task(slot))?));
    }
    found.sort_by_key(|task| (task.times.opened, task.id));
    Ok(found)
}

fn page(view: &dyn View, query: &TaskQuery, log: LogId) -> Result<Page<Task>, StoreError> {
    let max = if query.max == 0 {
        MAX_PAGE
    } else {
        query.max.min(MAX_PAGE)
    };
    let from = match query.after {
        None => Some(span::first(0)),
        Some(after) => span::next(after.slot()),
    };
    let mut page = Page {
        items: Vec::new(),
        next: None,
    };
    let Some(from) = from else { return Ok(page) };
    let mut looked_at = 0;
    view.scan(span::tasks(from), &mut |key, row| {
        let Row::Task(task) = row else {
            return Err(misplaced(&key, &row));
        };
        looked_at += 1;
        let slot = task.place.slot();
        if matches(query, &task) {
            page.items.push(Arc::unwrap_or_clone(task));
        }
        let full = page.items.len() >= max || looked_at >= MAX_LOOKED_AT;
        page.next = full.then(|| slot.in_log(log));
        Ok(!full)
    })?;
    Ok(page)
}

fn matches(query: &TaskQuery, task: &Task) -> bool {
    (!query.live_only || !task.is_ended())
        && query
            .node
            .as_ref()
            .is_none_or(|node| task.holder.node.as_ref() == Some(node))
        && query
            .spiffe_id
            .as_ref()
            .is_none_or(|id| task.spiffe_id == *id)
        && query.root.is_none_or(|root| task.root == root)
        && query.entry.is_none_or(|entry| task.entry == Some(entry))
        && (query.kinds.is_empty() || query.kinds.contains(&task.kind))
        && query
            .owner
            .as_ref()
            .is_none_or(|owner| task.owner == *owner)
}

fn snapshot(view: &dyn View) -> Result<StatusSnapshot, StoreError> {
    let position = ledger(view)?.position();
    let mut chunks = BTreeMap::<u32, Vec<_>>::new();
    view.scan(
        span::maps(position.floor),
        &mut |key, row| match (key, row) {
            (Key::Status(bucket, number), Row::Status(chunk)) => {
                chunks
                    .entry(bucket)
                    .or_default()
                    .push((number, Arc::unwrap_or_clone(chunk)));
                Ok(true)
            }
            (key, row) => Err(misplaced(&key, &row)),
        },
    )?;
    let maps = chunks
        .into_iter()
        .map(|(bucket, chunks)| (bucket, StatusMap::from_chunks(chunks)));
    let maps = maps.filter(|(_, map)| !map.is_all_valid());
    Ok(StatusSnapshot {
        position,
        maps: maps.map(|(bucket, map)| (bucket, map.into())).collect(),
    })
}

fn status(view: &dyn View, place: Place, log: LogId) -> Result<Status, StoreError> {
    if place.log() != log || place.bucket() < ledger(view)?.floor {
        return Ok(Status::Ended);
    }
    let Ok((number, position)) = chunk_of(place.index()) else {
        return Ok(Status::Ended);
    };
    let chunk = rows::chunk(view, &Key::Status(place.bucket(), number))?;
    Ok(chunk.map_or(Status::Valid, |chunk| chunk.get(position)))
}

fn request_counts(view: &dyn View) -> Result<Vec<RequestCount>, StoreError> {
    let floor = ledger(view)?.floor;
    let mut counts = BTreeMap::<_, u32>::new();
    each(view, span::requests(), |row| {
        let request = take!(row, Request)?;
        if request.bucket >= floor {
            let key = &request.key;
            *counts
                .entry((key.via.clone(), key.process, request.bucket))
                .or_default() += 1;
        }
        Ok(true)
    })?;
    let counts = counts.into_iter();
    Ok(counts
        .map(|((via, process, bucket), count)| RequestCount {
            via,
            process,
            bucket,
            count,
        })
        .collect())
}

fn newest_denials(view: &dyn View, max: usize) -> Result<Vec<Denial>, StoreError> {
    let newest = ledger(view)?.denials;
    let mut found = Vec::new();
    for number in (1..=newest).rev().take(max) {
        // They are numbered without gaps, and the oldest go first.
        let Some(denial) = rows::denial(view, &Key::Denial(number))? else {
            break;
        };
        found.push(Arc::unwrap_or_clone(denial));
    }
    Ok(found)
}

fn push<T: Clone>(into: &mut Vec<T>, item: Arc<T>, max: usize) -> bool {
    if into.len() < max {
        into.push(Arc::unwrap_or_clone(item));
    }
    into.len() < max
}

fn owned<T: Clone>(found: Option<Arc<T>>) -> Option<T> {
    found.map(Arc::unwrap_or_clone)
}

/// Hands every row of a range to `take`, which gives back a row that does not belong there.
fn each(
    view: &dyn View,
    range: std::ops::RangeInclusive<Key>,
    mut take: impl FnMut(Row) -> Result<bool, Row>,
) -> Result<(), StoreError> {
    view.scan(range, &mut |key, row| {
        take(row).map_err(|row| misplaced(&key, &row))
    })
}

/// Every row of a range.
fn all<T: Clone>(
    view: &dyn View,
    range: std::ops::RangeInclusive<Key>,
    take: impl Fn(Row) -> Result<Arc<T>, Row>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    each(view, range, |row| {
        take(row).map(|item| push(&mut found, item, usize::MAX))
    })?;
    Ok(found)
}
