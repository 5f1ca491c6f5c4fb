//! What a commit means: expectations checked and effects derived, for every store alike.
//!
//! A [`Group`] sees what is stored through a [`View`] and lays the effects of its own commits over
//! it, so that the second commit of a group is checked against the first. It writes nothing: what
//! must be written, all of it or none, is [`Group::finish`]'s answer.

mod index;
mod log;

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use taskmint_model::{Audit, Denial, Issuance, State, Task, TaskId, TaskKind, Timestamp};
use taskmint_status::{Place, Slot, place::MAX_INDEX};

use crate::chain::audit_hash;
use crate::commit::{Change, Commit, CommitError, Committed, Conflict, Expect, Malformed};
use crate::ledger::{Ledger, Retention};
use crate::port::{AuditLine, LogIdentity, StoreError};
use crate::rows::{self, Key, Row, View, request_hash};

pub use index::index_rows;

/// Commits that are written together.
pub struct Group<'v> {
    view: &'v dyn View,
    identity: LogIdentity,
    retention: Retention,
    rows: BTreeMap<Key, Option<Row>>,
    before: Ledger,
    ledger: Ledger,
}

/// What a group of commits changes. To be written whole or not at all.
#[derive(Debug)]
pub struct Effects {
    /// Rows to put, and rows to delete where there is none. The ledger's own is among them.
    pub rows: BTreeMap<Key, Option<Row>>,
    /// Where the counters stood.
    pub before: Ledger,
    /// Where the counters stand afterwards. Every row of a bucket below its floor goes, and every
    /// log record up to `trimmed`.
    pub ledger: Ledger,
}

impl<'v> Group<'v> {
    /// An empty group over what is stored, whose counters stand at `ledger`.
    pub fn new(
        view: &'v dyn View,
        identity: LogIdentity,
        ledger: Ledger,
        retention: Retention,
    ) -> Self {
        Self {
            view,
            identity,
            retention,
            rows: BTreeMap::new(),
            before: ledger,
            ledger,
        }
    }

    /// Takes a commit into the group, or nothing of it.
    ///
    /// # Errors
    /// As for [`crate::Commits::commit`].
    pub fn apply(&mut self, commit: Commit) -> Result<Committed, CommitError> {
        let mut draft = Draft {
            group: self,
            rows: BTreeMap::new(),
            ledger: self.ledger,
            ended: Vec::new(),
        };
        for expect in commit.expect {
            if !draft.holds(&expect)? {
                return Err(Conflict(expect).into());
            }
        }
        for change in commit.changes {
            draft.change(change)?;
        }
        draft.mark_ends();
        let Draft { rows, ledger, .. } = draft;
        self.take(rows, ledger);
        Ok(Committed {
            sequence: ledger.sequence,
        })
    }

    /// Appends the record with which the identity's epoch begins.
    pub fn begin_epoch(&mut self, at: Timestamp) {
        let mut draft = Draft {
            group: self,
            rows: BTreeMap::new(),
            ledger: self.ledger,
            ended: Vec::new(),
        };
        draft.append(taskmint_status::Change::Epoch, at);
        let Draft { rows, ledger, .. } = draft;
        self.take(rows, ledger);
    }

    fn take(&mut self, rows: BTreeMap<Key, Option<Row>>, ledger: Ledger) {
        self.rows.extend(rows);
        self.ledger = ledger;
    }

    /// Reserves the next `count` indices of a bucket, or what is left of them.
    ///
    /// # Errors
    /// When the bucket is used up or below the floor.
    pub fn reserve(&mut self, bucket: u32, count: u64) -> Result<Range<u64>, StoreError> {
        if bucket < self.ledger.floor {
            return Err(StoreError::BelowFloor(bucket));
        }
        let key = Key::Block(bucket);
        let start = rows::block(self, &key)?.unwrap_or(0);
        let end = start.saturating_add(count).min(MAX_INDEX + 1);
        if start >= end {
            return Err(StoreError::BucketFull(bucket));
        }
        self.rows.insert(key, Some(Row::Block(end)));
        Ok(start..end)
    }

    /// What must be written; nothing if every commit was refused or changed nothing.
    pub fn finish(mut self) -> Option<Effects> {
        if self.rows.is_empty() && self.ledger == self.before {
            return None;
        }
        self.rows
            .insert(Key::Ledger, Some(Row::Ledger(self.ledger)));
        Some(Effects {
            rows: self.rows,
            before: self.before,
            ledger: self.ledger,
        })
    }
}

impl View for Group<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.view.get(key),
        }
    }

    /// Rules look up single rows: what a scan would cost must not be paid by the one writer.
    fn scan(
        &self,
        _: RangeInclusive<Key>,
        _: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Failed("a group is not scanned".into()))
    }
}

/// One commit on its way into a group: dropped if anything of it can't be applied.
struct Draft<'g, 'v> {
    group: &'g Group<'v>,
    rows: BTreeMap<Key, Option<Row>>,
    ledger: Ledger,
    /// Tasks whose end the commit puts into the log.
    ended: Vec<Slot>,
}

impl View for Draft<'_, '_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        // What lies below the floor is gone, though the group that moves it is not written yet.
        let gone = |bucket: Option<u32>| bucket.is_some_and(|bucket| bucket < self.ledger.floor);
        if gone(key.bucket()) {
            return Ok(None);
        }
        let row = match self.rows.get(key) {
            Some(row) => row.clone(),
            None => self.group.get(key)?,
        };
        Ok(row.filter(|row| !gone(row.bucket())))
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.group.scan(range, each)
    }
}

impl Draft<'_, '_> {
    fn holds(&self, expect: &Expect) -> Result<bool, StoreError> {
        Ok(match expect {
            Expect::NoTask(id) => rows::task_id(self, &Key::TaskId(*id))?.is_none(),
            Expect::Task(id, version) => self.task(*id)?.is_some_and(|t| t.version == *version),
            Expect::LiveTask(id, at) => self.task(*id)?.is_some_and(|task| task.is_live(*at)),
            Expect::Entry(id, revision) => {
                let found = rows::entry(self, &Key::Entry(*id))?;
                found.map_or(0, |entry| entry.revision) == *revision
            }
            Expect::Node(id, version) => {
                let found = rows::node(self, &Key::Node(id.as_str().to_owned()))?;
                found.map_or(0, |node| node.version) == *version
            }
            Expect::Token { hash, key } => rows::token(self, &Key::Token(*hash))?
                .is_some_and(|token| token.consumed_by.is_none_or(|by| by == *key)),
            Expect::NewRequest(key) => {
                rows::request(self, &Key::Request(request_hash(key)))?.is_none()
            }
        })
    }

    fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError> {
        match rows::task_id(self, &Key::TaskId(id))? {
            Some(slot) => rows::task(self, &Key::Task(slot)),
            None => Ok(None),
        }
    }

    fn put(&mut self, key: Key, row: Row) {
        self.rows.insert(key, Some(row));
    }

    fn delete(&mut self, key: Key) {
        self.rows.insert(key, None);
    }

    fn change(&mut self, change: Change) -> Result<(), CommitError> {
        match change {
            Change::PutTask(task) => return self.put_task(*task),
            Change::Status(change) => return self.status(&change),
            Change::Floor { bucket, at } => return self.floor(bucket, at),
            Change::Issue(issuance) => return self.issue(issuance),
            Change::ConsumeToken { hash, key } => return self.consume(hash, key),
            Change::PutRequest(request) => {
                self.known(request.bucket)?;
                let key = Key::Request(request_hash(&request.key));
                self.put(key, Row::Request(request.into()));
            }
            Change::PutEntry(entry) => {
                self.put(Key::Entry(entry.id), Row::Entry(Arc::from(entry)));
            }
            Change::DeleteEntry(id) => self.delete(Key::Entry(id)),
            Change::PutNode(node) => {
                let key = Key::Node(node.id.as_str().to_owned());
                self.put(key, Row::Node(Arc::from(node)));
            }
            Change::PutToken(token) => self.put(Key::Token(token.hash), Row::Token(token.into())),
            Change::DeleteToken(hash) => self.delete(Key::Token(hash)),
            Change::PutBar(bar) => {
                let key = Key::Bar(bar.node.as_str().to_owned(), bar.entry, bar.process);
                self.put(key, Row::Bar(bar.into()));
            }
            Change::LiftBar {
                entry,
                node,
                process,
            } => {
                self.delete(Key::Bar(node.as_str().to_owned(), entry, process));
            }
            Change::PutDenial(denial) => self.deny(Arc::from(denial))?,
            Change::Audit(audit) => self.audit(audit),
            Change::PutAuthority(record) => {
                self.put(Key::Authority(record.id), Row::Authority(record.into()));
            }
            Change::DeleteAuthority(id) => self.delete(Key::Authority(id)),
            Change::BumpBundle => self.ledger.bundle += 1,
            Change::Promise(promise) => self.ledger.promise = Some(promise),
        }
        Ok(())
    }

    fn put_task(&mut self, task: Task) -> Result<(), CommitError> {
        let slot = self.slot(task.place)?;
        let before = rows::task(self, &Key::Task(slot))?;
        match &before {
            Some(old) if old.id != task.id => return Err(Malformed::Taken(task.place).into()),
            Some(old) if old.version >= task.version => {
                return Err(Malformed::Version {
                    task: task.id,
                    version: task.version,
                }
                .into());
            }
            Some(old) if old.is_ended() && !task.is_ended() => {
                return Err(Malformed::Ended(task.place).into());
            }
            Some(_) => {}
            None => self.add_task(&task, slot)?,
        }
        self.index(before.as_deref(), &task)?;
        self.put(Key::Task(slot), Row::Task(task.into()));
        Ok(())
    }

    fn add_task(&mut self, task: &Task, slot: Slot) -> Result<(), CommitError> {
        if rows::task_id(self, &Key::TaskId(task.id))?.is_some() {
            return Err(Malformed::Moved(task.id).into());
        }
        self.put(Key::TaskId(task.id), Row::TaskId(slot));
        if let Some(parent) = task.parent {
            let parent = rows::task_id(self, &Key::TaskId(parent))?;
            let parent = parent.ok_or(Malformed::NoParent(task.id))?;
            self.put(Key::Child(parent, slot), Row::Child);
        }
        Ok(())
    }

    fn issue(&mut self, issuance: Issuance) -> Result<(), CommitError> {
        let slot = self.slot(issuance.place)?;
        self.ledger.issuances += 1;
        let lasts = issuance.expires_at.since(issuance.at);
        if self.ledger.longest.is_some_and(|longest| longest < lasts) && self.is_workload(slot)? {
            self.ledger.longest = Some(lasts);
        }
        let key = Key::Issuance(slot, self.ledger.issuances);
        self.put(key, Row::Issuance(issuance.into()));
        Ok(())
    }

    fn is_workload(&self, slot: Slot) -> Result<bool, StoreError> {
        let task = rows::task(self, &Key::Task(slot))?;
        let kind = task.map(|task| task.kind);
        Ok(!matches!(kind, Some(TaskKind::Node | TaskKind::Server)))
    }

    /// Writes into every task that ended where in the log everything that ended with it has.
    fn mark_ends(&mut self) {
        for slot in std::mem::take(&mut self.ended) {
            let Some(Some(Row::Task(task))) = self.rows.get_mut(&Key::Task(slot)) else {
                continue;
            };
            if let State::Ended { trace, .. } = &mut Arc::make_mut(task).state {
                trace.position = Some(self.ledger.sequence);
            }
        }
    }

    fn consume(&mut self, hash: [u8; 32], by: [u8; 32]) -> Result<(), CommitError> {
        let mut token = rows::token(self, &Key::Token(hash))?.ok_or(Malformed::NoToken)?;
        Arc::make_mut(&mut token).consumed_by = Some(by);
        self.put(Key::Token(hash), Row::Token(token));
        Ok(())
    }

    fn deny(&mut self, denial: Arc<Denial>) -> Result<(), StoreError> {
        self.ledger.denials += 1;
        let number = self.ledger.denials;
        self.put(Key::DenialId(denial.id), Row::DenialId(number));
        self.put(Key::Denial(number), Row::Denial(denial));
        let Some(oldest) = number.checked_sub(self.group.retention.denials) else {
            return Ok(());
        };
        if let Some(old) = rows::denial(self, &Key::Denial(oldest))? {
            self.delete(Key::DenialId(old.id));
            self.delete(Key::Denial(oldest));
        }
        Ok(())
    }

    fn audit(&mut self, audit: Audit) {
        let number = self.ledger.audit + 1;
        let hash = audit_hash(&self.ledger.audit_hash, number, &audit);
        (self.ledger.audit, self.ledger.audit_hash) = (number, hash);
        self.put(
            Key::Audit(number),
            Row::Audit(
                AuditLine {
                    number,
                    hash,
                    audit,
                }
                .into(),
            ),
        );
    }

    /// The slot of a place of this log that is not swept.
    fn slot(&self, place: Place) -> Result<Slot, CommitError> {
        if place.log() != self.group.identity.log {
            return Err(Malformed::ForeignLog(place).into());
        }
        self.known(place.bucket())?;
        Ok(place.slot())
    }

    fn known(&self, bucket: u32) -> Result<(), CommitError> {
        if bucket < self.ledger.floor {
            return Err(Malformed::BelowFloor(bucket).into());
        }
        Ok(())
    }
}
