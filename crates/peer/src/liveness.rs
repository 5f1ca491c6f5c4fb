//! Watching very many held processes: each one's exit is an event, none is polled for.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{AbortHandle, Abortable, BoxFuture, abortable};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::ProcessRef;
use crate::held::HeldProcess;

type Exit = Abortable<BoxFuture<'static, io::Result<ProcessRef>>>;

/// Takes processes to watch. Clones feed the same [`Exits`].
#[derive(Debug, Clone)]
pub struct Liveness {
    watched: Arc<Mutex<HashMap<ProcessRef, AbortHandle>>>,
    added: mpsc::UnboundedSender<Exit>,
}

/// The stream of watched processes that have exited, each once. One task reads it; it ends when
/// every [`Liveness`] is dropped and nothing is watched.
///
/// All waiting happens inside this stream: there is no task behind it that could die unnoticed.
#[derive(Debug)]
pub struct Exits {
    watched: Arc<Mutex<HashMap<ProcessRef, AbortHandle>>>,
    added: mpsc::UnboundedReceiver<Exit>,
    waiting: FuturesUnordered<Exit>,
}

impl Liveness {
    /// A pair that watches nothing yet.
    pub fn new() -> (Self, Exits) {
        let watched = Arc::new(Mutex::new(HashMap::new()));
        // Bounded by the descriptors that the watched processes hold.
        let (sender, receiver) = mpsc::unbounded_channel();
        let liveness = Self {
            watched: Arc::clone(&watched),
            added: sender,
        };
        (
            liveness,
            Exits {
                watched,
                added: receiver,
                waiting: FuturesUnordered::new(),
            },
        )
    }

    /// Watches a process: one registration with epoll. True if it was not watched before.
    ///
    /// One that has exited already is reported too.
    ///
    /// # Errors
    /// If its pidfd can't be registered with the runtime: then it is *not* watched.
    pub fn watch(&self, held: HeldProcess) -> io::Result<bool> {
        held.register()?;
        let process = held.process();
        let exit: BoxFuture<'static, _> =
            Box::pin(async move { held.exited().await.map(|()| process) });
        let (exit, abort) = abortable(exit);
        let mut watched = self.watched.lock();
        if watched.contains_key(&process) {
            return Ok(false);
        }
        if self.added.send(exit).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "nobody reads the exits",
            ));
        }
        watched.insert(process, abort);
        Ok(true)
    }

    /// Stops watching a process; it is not reported from now on. True if it was watched.
    pub fn forget(&self, process: ProcessRef) -> bool {
        let watch = self.watched.lock().remove(&process);
        watch.inspect(AbortHandle::abort).is_some()
    }

    /// How many processes are watched.
    pub fn len(&self) -> usize {
        self.watched.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Exits {
    /// The next process that has exited. Cancel-safe.
    pub async fn next(&mut self) -> Option<ProcessRef> {
        StreamExt::next(self).await
    }

    fn settle(&self, exit: io::Result<ProcessRef>) -> Option<ProcessRef> {
        match exit {
            // Forgotten in the last moment: no longer anyone's business.
            Ok(process) => self.watched.lock().remove(&process).map(|_| process),
            // The runtime is going down. Nothing follows about the process: whoever comes next
            // adopts it or finds it gone.
            Err(error) => {
                tracing::error!(%error, "a process can no longer be watched");
                None
            }
        }
    }
}

impl Stream for Exits {
    type Item = ProcessRef;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ProcessRef>> {
        let added_all = loop {
            match self.added.poll_recv(context) {
                Poll::Ready(Some(exit)) => self.waiting.push(exit),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        loop {
            match self.waiting.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(exit))) => {
                    if let Some(process) = self.settle(exit) {
                        return Poll::Ready(Some(process));
                    }
                }
                Poll::Ready(Some(Err(_forgotten))) => {}
                Poll::Ready(None) if added_all => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Actor, raise_file_limit, skip};
    use std::collections::HashSet;

    #[tokio::test]
    async fn each_exit_is_told_once_and_the_living_are_not() {
        let (liveness, mut exits) = Liveness::new();
        let mut actors: Vec<Actor> = (0..4).map(|_| Actor::sleeping().unwrap()).collect();
        let held: Vec<HeldProcess> = actors
            .iter()
            .map(|actor| HeldProcess::open(actor.pid()).unwrap())
            .collect();
        for held in &held {
            assert!(liveness.watch(held.clone()).unwrap());
            assert!(!liveness.watch(held.clone()).unwrap(), "twice is once");
        }
        assert!(liveness.forget(held[3].process()));
        assert!(!liveness.forget(held[3].process()));

        for index in [0, 3, 1] {
            actors[index].end().unwrap();
        }
        let told: HashSet<_> = [exits.next().await.unwrap(), exits.next().await.unwrap()].into();
        assert_eq!(told, HashSet::from([held[0].process(), held[1].process()]));
        assert_eq!(liveness.len(), 1);

        drop(liveness);
        actors[2].end().unwrap();
        assert_eq!(exits.next().await, Some(held[2].process()));
        assert_eq!(exits.next().await, None);
    }

    #[tokio::test]
    async fn one_that_exited_before_it_was_watched_is_told() {
        let (liveness, mut exits) = Liveness::new();
        let mut actor = Actor::sleeping().unwrap();
        let held = HeldProcess::open(actor.pid()).unwrap();
        actor.end().unwrap();
        assert!(liveness.watch(held.clone()).unwrap());
        assert_eq!(exits.next().await, Some(held.process()));
    }

    #[tokio::test]
    async fn one_added_while_the_stream_is_waited_for_is_told() {
        let (liveness, mut exits) = Liveness::new();
        let reader = tokio::spawn(async move { exits.next().await });
        tokio::task::yield_now().await;
        let mut actor = Actor::sleeping().unwrap();
        let held = HeldProcess::open(actor.pid()).unwrap();
        liveness.watch(held.clone()).unwrap();
        actor.end().unwrap();
        assert_eq!(reader.await.unwrap(), Some(held.process()));
    }

    #[tokio::test]
    async fn ten_thousand_holders_are_watched_at_once() {
        const HOLDERS: usize = 10_000;
        const PROCESSES: usize = 20;
        if raise_file_limit(HOLDERS as u64 + 1_000).is_err() {
            return skip(
                "ten_thousand_holders_are_watched_at_once",
                "too few descriptors",
            );
        }
        // A pidfd and a registration each; several for one process, so that the test starts 20
        // processes and not 10,000. The map is by process, so each round has its own.
        let mut actors: Vec<Actor> = (0..PROCESSES).map(|_| Actor::sleeping().unwrap()).collect();
        let mut rounds: Vec<(Liveness, Exits)> =
            (0..HOLDERS / PROCESSES).map(|_| Liveness::new()).collect();
        for (liveness, _) in &rounds {
            for actor in &actors {
                liveness
                    .watch(HeldProcess::open(actor.pid()).unwrap())
                    .unwrap();
            }
        }
        assert_eq!(
            rounds
                .iter()
                .map(|(liveness, _)| liveness.len())
                .sum::<usize>(),
            HOLDERS
        );
        for actor in &mut actors {
            actor.end().unwrap();
        }
        for (liveness, exits) in &mut rounds {
            for _ in 0..PROCESSES {
                exits.next().await.unwrap();
            }
            assert!(liveness.is_empty());
        }
    }
}
