//! The handle by which work learns that it should stop, and says that it has.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Asks for a stop and waits for it. Clones share one state.
///
/// Two steps: *requested* (take no new work, finish what is in hand) and *forced* (drop it).
/// Pass it to `serve` functions; tests call [`Shutdown::request`] where a process would get a
/// signal.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    soft: CancellationToken,
    hard: CancellationToken,
    guards: watch::Sender<usize>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            guards: watch::Sender::new(0),
        }
    }
}

impl Shutdown {
    /// A handle on which nothing has been asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a stop. Does nothing the second time.
    pub fn request(&self) {
        self.inner.soft.cancel();
    }

    /// Asks for a stop at once, work in hand included.
    pub fn force(&self) {
        self.inner.soft.cancel();
        self.inner.hard.cancel();
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.inner.soft.is_cancelled()
    }

    /// Whether a stop was forced.
    pub fn is_forced(&self) -> bool {
        self.inner.hard.is_cancelled()
    }

    /// Returns once a stop is asked for.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.soft.clone().cancelled_owned()
    }

    /// Returns once a stop is forced.
    pub fn forced(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.hard.clone().cancelled_owned()
    }

    /// A token cancelled with [`Shutdown::request`], for libraries that take one.
    pub fn token(&self) -> CancellationToken {
        self.inner.soft.child_token()
    }

    /// Holds the drain open until the guard is dropped: one for each request or stream in hand.
    #[must_use = "the drain waits only while the guard lives"]
    pub fn guard(&self) -> DrainGuard {
        self.inner.guards.send_modify(|count| *count += 1);
        DrainGuard {
            inner: Arc::clone(&self.inner),
        }
    }

    /// How many guards are held.
    pub fn guards(&self) -> usize {
        *self.inner.guards.borrow()
    }

    /// Returns once a stop was asked for and no guard is held.
    pub async fn drained(&self) {
        self.requested().await;
        let mut guards = self.inner.guards.subscribe();
        // The sender lives in `self`, so this can't end before the count is zero.
        drop(guards.wait_for(|count| *count == 0).await);
    }
}

/// Work in hand: the drain waits until it is dropped. See [`Shutdown::guard`].
#[derive(Debug)]
pub struct DrainGuard {
    inner: Arc<Inner>,
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.inner
            .guards
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    /// Whether the future is still waiting after one poll.
    async fn waits(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|context| {
            Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn a_drain_waits_for_every_guard() {
        let shutdown = Shutdown::new();
        let (first, second) = (shutdown.guard(), shutdown.guard());
        let mut drained = Box::pin(shutdown.drained());
        assert!(waits(&mut drained).await, "no stop was asked for");
        shutdown.request();
        assert!(waits(&mut drained).await);
        drop(first);
        assert!(waits(&mut drained).await);
        drop(second);
        drained.await;
        assert_eq!(shutdown.guards(), 0);
    }

    #[tokio::test]
    async fn a_drain_without_work_is_immediate() {
        let shutdown = Shutdown::new();
        shutdown.request();
        shutdown.drained().await;
    }

    #[tokio::test]
    async fn a_request_is_not_force_but_force_is_a_request() {
        let shutdown = Shutdown::new();
        shutdown.request();
        assert!(shutdown.is_requested() && !shutdown.is_forced());
        shutdown.force();
        shutdown.forced().await;

        let other = Shutdown::new();
        let token = other.token();
        other.force();
        assert!(other.is_requested() && token.is_cancelled());
    }

    #[test]
    fn cancelling_a_token_handed_out_stops_nobody_else() {
        let shutdown = Shutdown::new();
        shutdown.token().cancel();
        assert!(!shutdown.is_requested());
    }
}
