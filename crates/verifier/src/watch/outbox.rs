//! What a watcher has to say: its opening, then at most one acknowledgement and one nonce at a
//! time. A newer acknowledgement replaces one that was not sent yet, since it stands for it.

use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use taskmint_status::Position;
use taskmint_status::watcher::Hello;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_request::Message;
use tokio::sync::Notify;

use super::evidence::shown;
use super::keys::LogKeys;

/// Waiting messages of one connection. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    nonce: Option<[u8; 16]>,
    acknowledge: Option<Position>,
}

impl Outbox {
    pub(super) fn nonce(&self, nonce: [u8; 16]) {
        self.0.waiting.lock().nonce = Some(nonce);
        self.0.filled.notify_one();
    }

    pub(super) fn acknowledge(&self, position: Position) {
        self.0.waiting.lock().acknowledge = Some(position);
        self.0.filled.notify_one();
    }

    /// The requests of a connection that begins with `open`.
    pub(super) fn requests(
        &self,
        open: wire::Open,
    ) -> impl Stream<Item = wire::WatchRequest> + Send + use<> {
        let first = Some(Message::Open(open));
        futures::stream::unfold((self.clone(), first), |(outbox, mut first)| async move {
            let message = match first.take() {
                Some(first) => first,
                None => outbox.next().await,
            };
            Some((
                wire::WatchRequest {
                    message: Some(message),
                },
                (outbox, None),
            ))
        })
    }

    async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.0.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Message> {
        let mut waiting = self.0.waiting.lock();
        // A nonce first: everything is refused until it is answered.
        if let Some(nonce) = waiting.nonce.take() {
            return Some(Message::Nonce(wire::Nonce {
                nonce: nonce.to_vec().into(),
            }));
        }
        let Position { sequence, hash, .. } = waiting.acknowledge.take()?;
        let log_hash = hash.0.to_vec().into();
        Some(Message::Acknowledge(wire::Acknowledge {
            sequence,
            log_hash,
            ..wire::Acknowledge::default()
        }))
    }
}

/// The opening that says `hello`; `keys` have the certificates of what it shows.
pub(super) fn open(hello: &Hello, keys: &LogKeys, name: &str, instance: [u8; 16]) -> wire::Open {
    let mut open = wire::Open {
        nonce: hello.nonce.to_vec().into(),
        name: name.to_owned(),
        instance: instance.to_vec().into(),
        ..wire::Open::default()
    };
    if let Some(fork) = &hello.fork {
        // Also where nothing was applied: whose fork it is must be known.
        open.log_id = fork.log.0.to_vec().into();
        open.generation = u32::from(fork.generation.get());
        open.forked = true;
        open.shown = shown(fork, keys);
    }
    if let Some(position) = &hello.resume {
        open.log_id = position.log.0.to_vec().into();
        open.generation = u32::from(position.generation.get());
        open.sequence = position.sequence;
        open.log_hash = position.hash.0.to_vec().into();
    }
    open
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use taskmint_status::{ChainHash, Generation, LogId};

    use super::*;

    fn position(sequence: u64) -> Position {
        let (log, generation) = (LogId([1; 8]), Generation::FIRST);
        Position {
            log,
            generation,
            sequence,
            hash: ChainHash([2; 32]),
        }
    }

    #[tokio::test]
    async fn acknowledgements_that_wait_are_one_the_newest() {
        let outbox = Outbox::default();
        let hello = Hello {
            nonce: [3; 16],
            resume: Some(position(4)),
            fork: None,
        };
        let keys = LogKeys::new("example.org".parse().unwrap());
        let mut requests = Box::pin(outbox.requests(open(&hello, &keys, "w", [9; 16])));
        let Some(Message::Open(open)) = requests.next().await.unwrap().message else {
            panic!()
        };
        assert_eq!(
            (open.sequence, open.name.as_str(), open.nonce.len()),
            (4, "w", 16)
        );
        for sequence in 5..9 {
            outbox.acknowledge(position(sequence));
        }
        outbox.nonce([4; 16]);
        let next = [
            requests.next().await.unwrap(),
            requests.next().await.unwrap(),
        ];
        let [
            Some(Message::Nonce(_)),
            Some(Message::Acknowledge(acknowledge)),
        ] = next.map(|request| request.message)
        else {
            panic!("a nonce, then one acknowledgement");
        };
        assert_eq!(acknowledge.sequence, 8);
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), requests.next());
        assert!(more.await.is_err(), "nothing else is waiting");
    }
}
