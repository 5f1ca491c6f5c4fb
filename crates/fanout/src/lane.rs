//! A fan-out, and the lanes on which its connections are served.

use std::fmt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::crowd::{Crowd, Roster};
use crate::{Feed, Metrics, Settings, Source};

/// A source, its feed, and how they are served. Clones are handles on one.
#[derive(Debug)]
pub struct Fanout<S> {
    source: Arc<S>,
    feed: Feed,
    settings: Settings,
    metrics: Arc<Metrics>,
}

/// Serves connections on one runtime. Clones are handles on one.
///
/// A publication wakes a lane once; the lane wakes its own watchers, on their own thread where the
/// runtime has one thread.
pub struct Lane<S: Source> {
    shared: Arc<Shared<S>>,
    tasks: TaskTracker,
}

/// What all connections of a lane have in common.
pub(crate) struct Shared<S: Source> {
    pub(crate) source: Arc<S>,
    pub(crate) feed: Feed,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) stop: CancellationToken,
}

impl<S: Source> Shared<S> {
    pub(crate) fn streams(&self) -> u32 {
        u32::try_from(self.settings.streams).unwrap_or(u32::MAX)
    }
}

impl<S> Clone for Fanout<S> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            feed: self.feed.clone(),
            settings: self.settings,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl<S: Source> Fanout<S> {
    /// A fan-out of `feed` to whomever `source` lets in.
    pub fn new(source: Arc<S>, feed: Feed, settings: Settings) -> Self {
        Self {
            source,
            feed,
            settings,
            metrics: Arc::default(),
        }
    }

    /// What is measured, on all lanes together.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How it is served.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A lane on the present runtime, until `stop`: then its watchers are told `STOPPING`.
    pub fn lane(&self, stop: CancellationToken) -> Lane<S> {
        let shared = Arc::new(Shared {
            source: Arc::clone(&self.source),
            feed: self.feed.clone(),
            settings: self.settings,
            metrics: Arc::clone(&self.metrics),
            crowd: Arc::default(),
            stop,
        });
        let tasks = TaskTracker::new();
        tasks.spawn(cry(
            self.feed.clone(),
            Arc::clone(&shared.crowd),
            shared.stop.clone(),
        ));
        Lane { shared, tasks }
    }
}

impl<S: Source> Lane<S> {
    /// Serves a connection in a task of its own. Its peer is known already.
    pub fn serve<IO>(&self, io: IO, peer: S::Peer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(connection::serve(shared, io, peer));
    }

    /// As [`serve`](Self::serve), in the task of the caller: until the connection is over.
    pub async fn run<IO>(&self, io: IO, peer: S::Peer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        connection::serve(Arc::clone(&self.shared), io, peer).await;
    }

    /// Returns once the stop was asked for and the last connection is over; none takes longer than
    /// [`Settings::drain`].
    pub async fn drained(&self) {
        self.shared.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<S>> {
        &self.shared
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

impl<S: Source> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tasks: self.tasks.clone(),
        }
    }
}

impl<S: Source> fmt::Debug for Lane<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("settings", &self.shared.settings)
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// Passes publications on to all of a lane's watchers, and the stop.
///
/// Once they were told of one, each has its turn before they are told of the next: whoever's turn comes
/// late is sent all that came meanwhile. To tell them more often would keep a busy lane busy with that.
async fn cry(feed: Feed, crowd: Arc<Crowd>, stop: CancellationToken) {
    let mut bell = feed.bell();
    drop(feed);
    let mut roster = Roster::default();
    loop {
        tokio::select! {
            rung = bell.changed() => {
                if rung.is_err() {
                    return;
                }
                crowd.tell(&mut roster);
            }
            () = stop.cancelled() => return crowd.ring(&mut roster),
        }
        // Behind all of those who were woken.
        tokio::task::yield_now().await;
    }
}
