//! The one writer (P28): everything that waits becomes one group, one batch, one sync.
//!
//! There is no timer. While one group is being synced the next one gathers, so groups grow with
//! the load and a lone commit waits for nobody.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

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

/// How often a writer in trouble looks whether something waits for it, or it is time to try again.
const LOOK: Duration = Duration::from_millis(10);

/// How long it waits between two tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

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
    /// RocksDB's own number of the last write that succeeded.
    pub(crate) written: u64,
    /// The last write failed: what the disk holds must be looked at before the next one.
    pub(crate) trouble: Option<Trouble>,
    /// Whether commits are taken, for those who report on it.
    pub(crate) writable: watch::Sender<bool>,
}

/// After a write that failed.
pub(crate) struct Trouble {
    /// Why nothing can be written.
    error: StoreError,
    /// Looked at again from here on.
    again: Instant,
    /// How long the next look waits if this one fails.
    pause: Duration,
    /// No look will help.
    is_final: bool,
}

/// Status chunks that were written lately: the end of a task reads and writes one.
#[derive(Default)]
pub(crate) struct Hot {
    chunks: BTreeMap<Key, Arc<Chunk>>,
    floor: u32,
}

impl Writer {
    /// Works until all senders are gone.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = self.next(&mut jobs) {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            self.write(group);
        }
    }

    /// The next job. In trouble it tries to get out of it meanwhile: whoever sees that nothing can
    /// be written may well send nothing until it can.
    fn next(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        while self.trouble.is_some() {
            match jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => thread::sleep(LOOK),
            }
            // What comes of it, the next job is told.
            self.recover().ok();
        }
        jobs.blocking_recv()
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
            self.trouble = Some(Trouble {
                error: error.clone(),
                again: Instant::now(),
                pause: PAUSE,
                is_final: false,
            });
            self.writable.send_replace(false);
            return Err(error);
        }
        self.written = self.base.sequence()?;
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

    /// Tries to get out of trouble, if there is any and it is time.
    fn recover(&mut self) -> Result<(), StoreError> {
        let Some(trouble) = &self.trouble else {
            return Ok(());
        };
        if trouble.is_final || Instant::now() < trouble.again {
            return Err(trouble.error.clone());
        }
        let pause = trouble.pause;
        let found = self.resume().map(Some).or_else(|error| self.reopen(&error));
        let (error, is_final) = match found {
            Ok(Some(found)) => {
                self.hot = Hot::default();
                self.publish(self.ledger, found);
                self.trouble = None;
                self.writable.send_replace(true);
                let sequence = found.sequence;
                tracing::info!(sequence, "writing again after a failed write");
                return Ok(());
            }
            // Its callers were told that it failed, and went by that; so did all that is kept in
            // memory. A new start reads everything.
            Ok(None) => {
                let why = "a write that failed was found on disk: the server must be restarted";
                (StoreError::Failed(why.into()), true)
            }
            Err(error) => (error, false),
        };
        tracing::error!(%error, "the store can't be written to");
        self.trouble = Some(Trouble {
            error: error.clone(),
            again: Instant::now() + pause,
            pause: (pause * 2).min(MAX_PAUSE),
            is_final,
        });
        Err(error)
    }

    /// Goes on with the database as it is: possible once a full disk has room again.
    ///
    /// After a failed write the log file may still hold it, and a crash would bring it back beside
    /// what is written later under the same numbers. Flushing starts a new log file and retires
    /// the old; then what the database says is where the counters stand.
    fn resume(&mut self) -> Result<Ledger, StoreError> {
        // First a write that changes nothing: while RocksDB is stopped a flush would only queue up,
        // and what queues keeps it from starting again (tried).
        let mut probe = WriteBatch::default();
        self.base.put_identity(&mut probe, &self.identity)?;
        self.base.write(probe, &self.options)?;
        self.written = self.base.sequence()?;
        self.base.flush()?;
        ledger(&*self.base)
    }

    /// Opens the database anew: after any fault but a full disk RocksDB takes no more writes. Of a
    /// full disk it takes care itself, and opening would need room. None if the write that failed is
    /// there after all: all of it reached the log file, and only the sync went wrong.
    fn reopen(&mut self, error: &StoreError) -> Result<Option<Ledger>, StoreError> {
        if error.to_string().contains("No space left on device") {
            return Err(error.clone());
        }
        self.base.reopen()?;
        if self.base.sequence()? != self.written {
            return Ok(None);
        }
        self.resume().map(Some)
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
                self.chunks.insert(key, chunk);
            }
        }
        // Only then is there anything to sweep: an end must not cost more where more ended before.
        if floor > self.floor {
            self.floor = floor;
            self.chunks
                .retain(|key, _| key.bucket().is_some_and(|bucket| bucket >= floor));
        }
        if self.chunks.len() > HOT_CHUNKS {
            self.chunks.clear();
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
        match self.hot.chunks.get(key) {
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

#[cfg(test)]
mod tests {
    use taskmint_status::{Generation, LogId};

    use super::*;
    use crate::Options;

    fn writer(folder: &std::path::Path) -> Writer {
        let options = Options::default();
        let base = Base::open(folder, &options).unwrap();
        let log = LogId([7; 8]);
        let identity = LogIdentity {
            log,
            generation: 1,
            epoch: 1,
            replaces: None,
        };
        let ledger = Ledger::new(log, Generation::FIRST);
        let mut batch = WriteBatch::default();
        base.put_identity(&mut batch, &identity).unwrap();
        base.put(&mut batch, &Key::Ledger, Some(&Row::Ledger(ledger)))
            .unwrap();
        base.write(batch, &options.for_writes()).unwrap();
        Writer {
            written: base.sequence().unwrap(),
            base: Arc::new(base),
            places: Arc::default(),
            identity,
            retention: options.retention,
            options: options.for_writes(),
            ledger,
            position: watch::channel(ledger.position()).0,
            hot: Hot::default(),
            trouble: None,
            writable: watch::channel(true).0,
        }
    }

    fn reopened(writer: &mut Writer) -> Result<Option<Ledger>, String> {
        let failed = StoreError::Failed("input/output error".into());
        writer.reopen(&failed).map_err(|error| error.to_string())
    }

    #[test]
    fn opening_anew_goes_on_where_it_was_unless_a_failed_write_came_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path());
        let same = Ok(Some(writer.ledger));
        assert_eq!(reopened(&mut writer), same);
        assert_eq!(reopened(&mut writer), same, "again");
        // A write that nobody was told of.
        let mut batch = WriteBatch::default();
        let identity = &writer.identity;
        writer.base.put_identity(&mut batch, identity).unwrap();
        writer.base.write(batch, &writer.options).unwrap();
        assert_eq!(reopened(&mut writer), Ok(None));
    }

    #[test]
    fn a_database_is_not_closed_while_it_is_read_or_its_folder_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path());
        let base = Arc::clone(&writer.base);
        let read = base.frozen(|_| Ok(reopened(&mut writer))).unwrap();
        assert!(read.unwrap_err().contains("reads are at work"));
        // A folder is in the way of the file that is tried first.
        std::fs::create_dir(folder.path().join("taskmint.probe")).unwrap();
        assert!(reopened(&mut writer).unwrap_err().contains("can't write"));
        assert_eq!(ledger(&*base).unwrap(), writer.ledger, "reading goes on");
        let full = StoreError::Failed("No space left on device".into());
        assert!(writer.reopen(&full).is_err());
    }
}
