//! Named tasks: one that fails, ends early or panics stops the rest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, info, warn};

use crate::exit::{self, Failure};
use crate::{Readiness, Reload, Shutdown};

/// How long work in hand may take after a stop was asked for, unless [`Tasks::set_grace`] says
/// otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long tasks may take to notice that the stop was forced, before they are dropped.
const FORCED_GRACE: Duration = Duration::from_secs(1);

/// What first went wrong.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("task `{name}` failed: {failure}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error, with the exit code that it asks for.
        failure: Failure,
    },
    /// A task that should run until the stop returned before it.
    #[error("task `{name}` ended early")]
    EndedEarly {
        /// The task.
        name: &'static str,
    },
    /// A task panicked.
    #[error("task `{name}` panicked: {message}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// What the panic said.
        message: String,
    },
    /// The stop was forced, or its grace used up, with work still in hand.
    #[error("stopped before the work in hand was finished{}", remains(.tasks, *.guards))]
    NotDrained {
        /// The tasks that still ran when the stop was forced.
        tasks: Vec<&'static str>,
        /// The drain guards that were held to the end.
        guards: usize,
    },
}

impl TaskError {
    /// The exit code that says so; see [`exit`].
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed { failure, .. } => failure.code(),
            Self::EndedEarly { .. } => exit::FAILED,
            Self::Panicked { .. } => exit::PANICKED,
            Self::NotDrained { .. } => exit::NOT_DRAINED,
        }
    }
}

/// The named tasks of one process, with what they share. Clones are handles on one set.
#[derive(Clone, Debug)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shutdown: Shutdown,
    readiness: Readiness,
    reload: Reload,
    tracker: TaskTracker,
    grace: Mutex<Duration>,
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
    first: Mutex<Option<TaskError>>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    kind: Kind,
    abort: AbortHandle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Runs until the stop; the drain waits for it.
    Service,
    /// May end when it is done; the drain waits for it.
    Once,
    /// Runs until everything else has drained.
    Support,
}

impl Tasks {
    /// An empty set that stops with `shutdown`. Must be used within a tokio runtime.
    pub fn new(shutdown: Shutdown) -> Self {
        let inner = Inner {
            shutdown,
            readiness: Readiness::new(),
            reload: Reload::new(),
            tracker: TaskTracker::new(),
            grace: Mutex::new(DEFAULT_GRACE),
            running: Mutex::default(),
            next: AtomicU64::new(0),
            first: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The stop that these tasks obey.
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// The conditions under which the process is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.inner.readiness
    }

    /// The reloads that SIGHUP asks for.
    pub fn reload(&self) -> &Reload {
        &self.inner.reload
    }

    /// Sets how long the work in hand may take after a stop was asked for.
    pub fn set_grace(&self, grace: Duration) {
        *lock(&self.inner.grace) = grace;
    }

    /// Runs a task that should go on until the stop: returning before it is a failure.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        self.start(name, Kind::Service, task);
    }

    /// Runs a task that may end when it is done.
    pub fn spawn_once<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        self.start(name, Kind::Once, task);
    }

    /// Runs a task that the drain doesn't wait for and that goes on until all others have ended:
    /// health endpoints, watchdog pings. It is dropped at the end; [`Shutdown::forced`] tells it.
    pub fn spawn_support<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        self.start(name, Kind::Support, task);
    }

    /// Returns once every task has ended: by itself, or after a stop within its grace.
    ///
    /// # Errors
    ///
    /// What first went wrong: a task that failed, ended early or panicked, or work that was cut
    /// off by the end of the grace or a forced stop.
    pub async fn join(&self) -> Result<(), TaskError> {
        let Inner {
            shutdown, tracker, ..
        } = &*self.inner;
        tracker.close();
        tokio::select! {
            biased;
            () = shutdown.requested() => self.drain().await,
            () = tracker.wait() => shutdown.request(),
        }
        self.inner.readiness.stop();
        shutdown.force();
        self.abort_all();
        lock(&self.inner.first).take().map_or(Ok(()), Err)
    }

    async fn drain(&self) {
        let Inner {
            shutdown,
            tracker,
            readiness,
            ..
        } = &*self.inner;
        readiness.stop();
        let grace = *lock(&self.inner.grace);
        info!(?grace, "stopping: finishing the work in hand");
        let quiet = async { tokio::join!(tracker.wait(), shutdown.drained()) };
        tokio::pin!(quiet);
        tokio::select! {
            // Forced first: tasks that end at its word did not finish their work.
            biased;
            () = shutdown.forced() => warn!("stop forced"),
            _ = &mut quiet => return,
            () = tokio::time::sleep(grace) => warn!("grace used up: stop forced"),
        }
        let cut_off = self.unfinished();
        shutdown.force();
        if tokio::time::timeout(FORCED_GRACE, &mut quiet)
            .await
            .is_err()
        {
            warn!(tasks = ?self.unfinished(), "dropping tasks that don't stop");
        }
        let guards = shutdown.guards();
        // A task that had only to be told twice lost its work in hand all the same.
        self.record(TaskError::NotDrained {
            tasks: cut_off,
            guards,
        });
    }

    fn start<F, E>(&self, name: &'static str, kind: Kind, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        let task = async move { task.await.map_err(Into::into) };
        let span = tracing::info_span!("task", name);
        // A task of its own, so that a panic ends in `settle` and not in whoever spawned it.
        let handle = tokio::spawn(task.instrument(span));
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let abort = handle.abort_handle();
        lock(&self.inner.running).insert(id, Running { name, kind, abort });
        let tasks = self.clone();
        let watcher = async move {
            let outcome = handle.await;
            lock(&tasks.inner.running).remove(&id);
            tasks.settle(name, kind, outcome);
        };
        match kind {
            Kind::Support => drop(tokio::spawn(watcher)),
            Kind::Service | Kind::Once => drop(self.inner.tracker.spawn(watcher)),
        }
    }

    fn settle(
        &self,
        name: &'static str,
        kind: Kind,
        outcome: Result<Result<(), Failure>, JoinError>,
    ) {
        match outcome {
            Ok(Ok(())) if kind != Kind::Once && !self.inner.shutdown.is_requested() => {
                self.fail(TaskError::EndedEarly { name });
            }
            Ok(Ok(())) => debug!(name, "task ended"),
            Ok(Err(failure)) => self.fail(TaskError::Failed { name, failure }),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => {
                    let message = panic_message(panic.as_ref());
                    self.fail(TaskError::Panicked { name, message });
                }
                // Dropped by us, after the drain.
                Err(_) => debug!(name, "task dropped"),
            },
        }
    }

    fn fail(&self, error: TaskError) {
        self.record(error);
        self.inner.shutdown.request();
    }

    /// Keeps the first error; later ones are mostly its consequences, and only logged.
    fn record(&self, error: TaskError) {
        let mut first = lock(&self.inner.first);
        if first.is_some() {
            error!(%error, "and then");
        } else {
            // `run` reports it once more, at the end; here it shows when it happened.
            error!(%error, "stopping");
            *first = Some(error);
        }
    }

    fn unfinished(&self) -> Vec<&'static str> {
        let running = lock(&self.inner.running);
        running
            .values()
            .filter(|task| task.kind != Kind::Support)
            .map(|task| task.name)
            .collect()
    }

    fn abort_all(&self) {
        for task in lock(&self.inner.running).values() {
            task.abort.abort();
        }
    }
}

/// Locks, also after a panic elsewhere: what is kept here is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remains(tasks: &[&str], guards: usize) -> String {
    match (tasks, guards) {
        ([], 0) => String::new(),
        ([], guards) => format!(" ({guards} in hand)"),
        (tasks, 0) => format!(" (tasks: {})", tasks.join(", ")),
        (tasks, guards) => format!(" (tasks: {}; {guards} in hand)", tasks.join(", ")),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests;
