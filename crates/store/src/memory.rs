//! A store that forgets everything with its process: for tests, and for trying things out.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use taskmint_status::{Generation, LogId, Place};
use tokio::sync::watch;

use crate::commit::{Commit, CommitError, Committed};
use crate::group::{Effects, Group};
use crate::ledger::{Ledger, Retention};
use crate::port::{Commits, LogIdentity, LogPosition, StoreError};
use crate::read::Rows;
use crate::rows::{Key, Row, View};

/// A store in memory.
#[derive(Debug)]
pub struct Memory {
    identity: LogIdentity,
    retention: Retention,
    rows: RwLock<Table>,
    /// Where the counters stand; its lock is the one writer.
    writer: Mutex<Ledger>,
    position: watch::Sender<LogPosition>,
}

#[derive(Debug, Default)]
struct Table(BTreeMap<Key, Row>);

impl Memory {
    /// An empty store with the first log of a trust domain.
    pub fn new(log: LogId) -> Self {
        Self::with_retention(log, Retention::default())
    }

    /// As [`Self::new`], keeping as much as said.
    pub fn with_retention(log: LogId, retention: Retention) -> Self {
        let identity = LogIdentity {
            log,
            generation: 1,
            epoch: 1,
            replaces: None,
        };
        let ledger = Ledger::new(log, Generation::FIRST);
        let rows = BTreeMap::from([(Key::Ledger, Row::Ledger(ledger))]);
        Self {
            identity,
            retention,
            rows: RwLock::new(Table(rows)),
            writer: Mutex::new(ledger),
            position: watch::Sender::new(ledger.position()),
        }
    }

    /// Runs one group of its own, and stores its effects where it succeeds.
    fn write<R, E>(&self, run: impl FnOnce(&mut Group<'_>) -> Result<R, E>) -> Result<R, E> {
        let mut ledger = self.writer.lock();
        let (result, effects) = {
            let rows = self.rows.read();
            let mut group = Group::new(&*rows, self.identity, *ledger, self.retention);
            let result = run(&mut group)?;
            (result, group.finish())
        };
        let Some(effects) = effects else {
            return Ok(result);
        };
        let (before, after) = (effects.before.position(), effects.ledger.position());
        *ledger = effects.ledger;
        self.rows.write().apply(effects);
        if before != after {
            self.position.send_replace(after);
        }
        Ok(result)
    }
}

impl Table {
    fn apply(&mut self, effects: Effects) {
        let Effects {
            rows,
            before,
            ledger,
        } = effects;
        for (key, row) in rows {
            match row {
                Some(row) => self.0.insert(key, row),
                None => self.0.remove(&key),
            };
        }
        if before.floor != ledger.floor {
            let gone = |bucket: u32| bucket < ledger.floor;
            self.0
                .retain(|key, row| !key.bucket().or_else(|| row.bucket()).is_some_and(gone));
        }
        if before.trimmed != ledger.trimmed {
            self.0
                .retain(|key, _| !matches!(key, Key::Log(n) if *n <= ledger.trimmed));
        }
    }
}

impl View for Table {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for (key, row) in self.0.range(range) {
            if !each(key.clone(), row.clone())? {
                break;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Commits for Memory {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.write(|group| group.apply(commit))
    }

    async fn place(&self, bucket: u32) -> Result<Place, StoreError> {
        let index = self.write(|group| group.reserve(bucket, 1))?.start;
        Place::new(self.identity.log, bucket, index).map_err(|_| StoreError::BucketFull(bucket))
    }

    async fn backup(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::Failed(
            "it keeps nothing on disk, so there is nothing to back up".into(),
        ))
    }
}

#[async_trait]
impl Rows for Memory {
    fn peek<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        read(&*self.rows.read())
    }

    async fn read<R, F>(&self, read: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&dyn View) -> Result<R, StoreError> + Send + 'static,
    {
        read(&*self.rows.read())
    }

    fn log_identity(&self) -> LogIdentity {
        self.identity
    }

    fn log_position(&self) -> watch::Receiver<LogPosition> {
        self.position.subscribe()
    }
}
