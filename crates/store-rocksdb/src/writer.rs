//! The one writer (P28): everything that waits becomes one group, one batch, one sync.
//!
//! There is no timer. While one group is being synced the next one gathers, so groups grow with
//! the load and a lone commit waits for nobody.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use rocksdb::{WriteBatch, WriteOptions};
use taskmint_status::Chunk;
use taskmint_store::{
    Commit, CommitError, Committed, Effects, Group, Key, Ledger, LogIdentity, LogPosition,
    Retention, Row, StoreError, View, ledger,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::base::Base;
use crate::places::{BLOCK, Places};

/// How many jobs wait before callers do.
pub(crate) const QUEUE: usize = 4096;

/// The most jobs of one group: a bound on how long the first waits for the last.
const GROUP: usize = 2048;

/// The most status chunks (4 KiB each) that stay in memory.
const HOT_CHUNKS: usize = 1024;

/// What the writer is asked for.
pub(crate) enum Job {
    /// Write this.
    Commit(Box<Commit>, oneshot::Sender<Result<Committed, CommitError>>),
    /// Reserve a block of places in a bucket; [`Places`] gets the answer.
    Reserve(u32),
}

/// What a job became, told once its group is on disk.
enum Answer {
    Commit(
        oneshot::Sender<Result<Committed, CommitError>>,
        Result<Committed, CommitError>,
    ),
    Reserve(u32, Result<Range<u64>, StoreError>),
}

/// The one writer's state.
pub(crate) struct Writer {
    pub(crate) base: Arc<Base>,
    pub(crate) places: Arc<Places>,
    pub(crate) identity: LogIdentity,
    pub(crate) retention: Retention,
    pub(crate) options: WriteOptions,
    pub(crate) ledger: Ledger,
    pub(crate) position: watch::Sender<LogPosition>,
    pub(crate) hot: Hot,
    /// The last write failed: what the disk holds must be looked at before the next one.
    pub(crate) suspect: bool,
}

/// Status chunks that were written lately: the end of a task reads and writes one.
#[derive(Default)]
pub(crate) struct Hot(BTreeMap<Key, Arc<Chunk>>);

impl Writer {
    /// Works until all senders are gone.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            self.write(group);
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let recovered = self.recover();
        let view = Cached {
            base: &self.base,
            hot: &self.hot,
        };
        let mut group = Group::new(&view, self.identity, self.ledger, self.retention);
        let mut answers: Vec<Answer> = jobs
            .into_iter()
            .map(|job| match job {
                Job::Commit(commit, reply) => Answer::Commit(reply, group.apply(*commit)),
                Job::Reserve(bucket) => Answer::Reserve(bucket, group.reserve(bucket, BLOCK)),
            })
            .collect();
        let effects = group.finish();
        let written = recovered.and_then(|()| effects.map_or(Ok(()), |it| self.put(it)));
        if let Err(error) = written {
            tracing::error!(%error, commits = answers.len(), "a group of commits was not written");
            answers.iter_mut().for_each(|answer| answer.fail(&error));
        }
        answers
            .into_iter()
            .for_each(|answer| answer.send(&self.places));
    }

    /// Writes a group's effects; only then do they count.
    fn put(&mut self, effects: Effects) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        self.base.put_effects(&mut batch, &effects)?;
        if let Err(error) = self.base.write(batch, &self.options) {
            self.suspect = true;
            return Err(error);
        }
        let Effects {
            rows,
            before,
            ledger,
        } = effects;
        self.hot.keep(rows, ledger.floor);
        self.publish(before, ledger);
        Ok(())
    }

    fn publish(&mut self, before: Ledger, ledger: Ledger) {
        self.ledger = ledger;
        if ledger.floor > before.floor {
            self.base.set_floor(ledger.floor);
            self.places.sweep(ledger.floor);
        }
        let position = ledger.position();
        self.position
            .send_if_modified(|old| std::mem::replace(old, position) != position);
    }

    /// After a failed write the log file may still hold it, and a crash would bring it back beside
    /// what is written later under the same numbers. Flushing starts a new log file and retires
    /// the old; then what the database says is where the counters stand.
    fn recover(&mut self) -> Result<(), StoreError> {
        if !self.suspect {
            return Ok(());
        }
        // First a write that changes nothing: while RocksDB is stopped a flush would only queue up,
        // and what queues keeps it from starting again (tried).
        let mut probe = WriteBatch::default();
        self.base.put_identity(&mut probe, &self.identity)?;
        self.base.write(probe, &self.options)?;
        self.base.flush()?;
        let found = ledger(&*self.base)?;
        self.hot = Hot::default();
        self.publish(self.ledger, found);
        self.suspect = false;
        tracing::info!(
            sequence = found.sequence,
            "writing again after a failed write"
        );
        Ok(())
    }
}

impl Answer {
    fn fail(&mut self, error: &StoreError) {
        match self {
            Self::Commit(_, result) => *result = Err(error.clone().into()),
            Self::Reserve(_, result) => *result = Err(error.clone()),
        }
    }

    fn send(self, places: &Places) {
        match self {
            // Whoever stopped waiting learns of it by reading.
            Self::Commit(reply, result) => drop(reply.send(result)),
            Self::Reserve(bucket, result) => places.answer(bucket, result),
        }
    }
}

impl Hot {
    fn keep(&mut self, rows: impl IntoIterator<Item = (Key, Option<Row>)>, floor: u32) {
        for (key, row) in rows {
            if let Some(Row::Status(chunk)) = row {
                self.0.insert(key, chunk);
            }
        }
        self.0
            .retain(|key, _| key.bucket().is_some_and(|bucket| bucket >= floor));
        if self.0.len() > HOT_CHUNKS {
            self.0.clear();
        }
    }
}

/// The rows on disk, hot chunks from memory.
struct Cached<'a> {
    base: &'a Base,
    hot: &'a Hot,
}

impl View for Cached<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        match self.hot.0.get(key) {
            Some(chunk) => Ok(Some(Row::Status(Arc::clone(chunk)))),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.base.scan(range, each)
    }
}
