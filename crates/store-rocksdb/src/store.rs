//! The store as the rest of the issuer sees it.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rocksdb::WriteBatch;
use taskmint_model::Timestamp;
use taskmint_status::{Generation, LogId, Place};
use taskmint_store::{
    Commit, CommitError, Commits, Committed, Group, Key, Ledger, LogIdentity, LogPosition, Row,
    Rows, StoreError, View, ledger,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::base::Base;
use crate::keys::Table;
use crate::places::Places;
use crate::writer::{Hot, Job, QUEUE, Writer};
use crate::{Options, SCHEMA};

/// A store in a folder of its own. Dropping it waits until the last group is on disk.
pub struct RocksStore {
    base: Arc<Base>,
    identity: LogIdentity,
    places: Arc<Places>,
    position: watch::Receiver<LogPosition>,
    can_write: watch::Receiver<bool>,
    writer: Running,
}

/// How long closing waits for reads that nobody awaits any more.
const READS: Duration = Duration::from_secs(5);

/// The writer thread and the way to it.
struct Running {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl RocksStore {
    /// Opens the store in `folder`. A new one gets the log `log_if_new`, generation 1, epoch 1; an
    /// old one keeps its log and begins its next epoch, which is durable when this returns. Blocks.
    ///
    /// # Errors
    /// When the folder can't be used, another process has it open, its schema is unknown, or it is
    /// damaged.
    pub fn open(
        folder: &Path,
        log_if_new: LogId,
        now: Timestamp,
        options: Options,
    ) -> Result<Self, StoreError> {
        let base = Base::open(folder, &options)?;
        let (identity, ledger) = match base.schema()? {
            None => create(&base, log_if_new, &options)?,
            Some(_) => begin_epoch(&base, now, &options)?,
        };
        base.set_floor(ledger.floor);
        let (base, places) = (Arc::new(base), Arc::new(Places::default()));
        let (publish, position) = watch::channel(ledger.position());
        let (writable, can_write) = watch::channel(true);
        let writer = Writer {
            written: base.sequence()?,
            base: Arc::clone(&base),
            places: Arc::clone(&places),
            identity,
            retention: options.retention,
            options: options.for_writes(),
            ledger,
            position: publish,
            hot: Hot::default(),
            trouble: None,
            writable,
        };
        Ok(Self {
            base,
            identity,
            places,
            position,
            can_write,
            writer: Running::start(writer)?,
        })
    }
}

impl RocksStore {
    /// Whether commits are taken: false from a write that failed until the store has recovered,
    /// which it tries by itself.
    pub fn writable(&self) -> watch::Receiver<bool> {
        self.can_write.clone()
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let position = self.position.borrow();
        write!(
            f,
            "RocksStore(schema {SCHEMA}, {:?}, {position:?})",
            self.identity
        )
    }
}

fn create(base: &Base, log: LogId, options: &Options) -> Result<(LogIdentity, Ledger), StoreError> {
    let identity = LogIdentity {
        log,
        generation: 1,
        epoch: 1,
        replaces: None,
    };
    let ledger = Ledger::new(log, Generation::FIRST);
    let mut batch = WriteBatch::default();
    base.put_identity(&mut batch, &identity)?;
    base.put(&mut batch, &Key::Ledger, Some(&Row::Ledger(ledger)))?;
    base.write(batch, &options.for_writes())?;
    Ok((identity, ledger))
}

fn begin_epoch(
    base: &Base,
    now: Timestamp,
    options: &Options,
) -> Result<(LogIdentity, Ledger), StoreError> {
    let found = ledger(base)?;
    check(base, &found)?;
    let old = base.identity()?;
    let epoch = old.epoch.checked_add(1);
    let epoch = epoch.ok_or_else(|| StoreError::Damaged("there is no further epoch".into()))?;
    let identity = LogIdentity { epoch, ..old };
    let mut group = Group::new(base, identity, found, options.retention);
    group.begin_epoch(now);
    let mut batch = WriteBatch::default();
    base.put_identity(&mut batch, &identity)?;
    let Some(effects) = group.finish() else {
        return Ok((identity, found));
    };
    base.put_effects(&mut batch, &effects)?;
    base.write(batch, &options.for_writes())?;
    Ok((identity, effects.ledger))
}

/// Whether the counters and the numbered tables agree: they are written together.
fn check(base: &Base, ledger: &Ledger) -> Result<(), StoreError> {
    let kept = |newest: u64, before: u64| (newest > before).then_some(newest);
    for (table, expected) in [
        (Table::Log, kept(ledger.sequence, ledger.trimmed)),
        (Table::Audit, kept(ledger.audit, 0)),
    ] {
        let found = base.last(table)?;
        if found != expected {
            let name = table.name();
            let why = format!("the {name} ends at {found:?}, the ledger says {expected:?}");
            return Err(StoreError::Damaged(why.into()));
        }
    }
    Ok(())
}

impl Running {
    fn start(writer: Writer) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn(move || writer.run(queue)).map_err(|error| {
            StoreError::Failed(format!("can't start the writer thread: {error}").into())
        })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    fn jobs(&self) -> Result<&mpsc::Sender<Job>, StoreError> {
        self.jobs.as_ref().ok_or(StoreError::Closed)
    }
}

impl Drop for RocksStore {
    /// Leaves the folder to the next opener: a read that was given up may still be at work.
    fn drop(&mut self) {
        self.writer.stop();
        let waited = std::time::Instant::now();
        while Arc::strong_count(&self.base) > 1 && waited.elapsed() < READS {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Running {
    fn stop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Commits for RocksStore {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Commit(Box::new(commit), reply);
        self.writer
            .jobs()?
            .send(job)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn place(&self, bucket: u32) -> Result<Place, StoreError> {
        let jobs = self.writer.jobs()?;
        loop {
            if let Some((index, low)) = self.places.take(bucket) {
                // A full queue is no reason to wait: the next caller asks again.
                if low
                    && let Ok(permit) = jobs.try_reserve()
                    && self.places.ask(bucket)
                {
                    permit.send(Job::Reserve(bucket));
                }
                return Place::new(self.identity.log, bucket, index)
                    .map_err(|_| StoreError::BucketFull(bucket));
            }
            // The permit first: a caller that goes away between asking and sending would leave
            // everybody waiting for a block that nobody asked for.
            let permit = jobs.reserve().await.map_err(|_| StoreError::Closed)?;
            let (wait, ask) = self.places.wait(bucket);
            if ask {
                permit.send(Job::Reserve(bucket));
            }
            wait.await.map_err(|_| StoreError::Closed)??;
        }
    }

    async fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        let (base, folder) = (Arc::clone(&self.base), folder.to_owned());
        blocking(move || base.backup(&folder)).await
    }
}

#[async_trait]
impl Rows for RocksStore {
    fn peek<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        read(&*self.base)
    }

    async fn read<R, F>(&self, read: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&dyn View) -> Result<R, StoreError> + Send + 'static,
    {
        let base = Arc::clone(&self.base);
        blocking(move || base.frozen(read)).await
    }

    fn log_identity(&self) -> LogIdentity {
        self.identity
    }

    fn log_position(&self) -> watch::Receiver<LogPosition> {
        self.position.clone()
    }
}

/// Runs what may wait for the disk away from the async threads.
async fn blocking<R: Send + 'static>(
    run: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string().into())))
}
