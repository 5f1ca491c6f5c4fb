//! Nonces of the verifiers of this node, on their way to the server, and heads on their way back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_fanout::{Allowance, Head};
use tokio::sync::{Notify, oneshot};
use tonic::{Code, Status};

use crate::denial::Denial;
use crate::server::unreachable;

type Nonce = [u8; 16];

/// How long a verifier waits for its answer: long beyond what makes it connect anew by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Verifiers that wait at the same time; those beyond them try again.
const MOST: usize = 4096;

/// Nonces that wait for their answers.
pub(super) struct Nonces {
    state: Mutex<State>,
    said: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// The stream that asks now.
    stream: u64,
    waiting: VecDeque<Nonce>,
    /// The server has them, and has not answered.
    asked: HashSet<Nonce>,
    seekers: HashMap<Nonce, Vec<Seeker>>,
    count: usize,
    next: u64,
}

struct Seeker {
    number: u64,
    answer: oneshot::Sender<Head>,
}

/// Somebody waits; not any more when dropped.
struct Waits<'a> {
    nonces: &'a Nonces,
    nonce: Nonce,
    number: u64,
}

impl Nonces {
    pub(super) fn new(said: Arc<Notify>) -> Self {
        Self {
            state: Mutex::default(),
            said,
        }
    }

    /// The head that answers a nonce. Streams from the server may come and go meanwhile.
    pub(super) async fn ask(&self, nonce: Nonce) -> Result<Head, Status> {
        let (answer, answered) = oneshot::channel();
        let number = self.enter(nonce, answer)?;
        let _waits = Waits {
            nonces: self,
            nonce,
            number,
        };
        self.said.notify_waiters();
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(head)) => Ok(head),
            _ => Err(unreachable()),
        }
    }

    fn enter(&self, nonce: Nonce, answer: oneshot::Sender<Head>) -> Result<u64, Status> {
        let state = &mut *self.state.lock();
        if state.count >= MOST {
            let message = "more nonces than can be answered in time";
            return Err(Denial::new(Code::ResourceExhausted, "TOO_MANY_NONCES", message).status());
        }
        let number = state.next;
        state.next += 1;
        state.count += 1;
        let seekers = state.seekers.entry(nonce).or_default();
        // Who asks the same gets the same: it can't be older than the one that is asked for.
        let is_first = seekers.is_empty();
        seekers.push(Seeker { number, answer });
        if is_first {
            state.waiting.push_back(nonce);
        }
        Ok(number)
    }

    /// A new stream to the server: what the one before left unanswered is asked again, first.
    pub(super) fn begin(&self, stream: u64) {
        let state = &mut *self.state.lock();
        state.stream = stream;
        for nonce in state.asked.drain() {
            if state.seekers.contains_key(&nonce) && !state.waiting.contains(&nonce) {
                state.waiting.push_front(nonce);
            }
        }
        self.said.notify_waiters();
    }

    /// What is to be asked next, of the stream that asks now: not more than the server takes from
    /// a relay at once.
    pub(super) fn next(&self, stream: u64) -> Option<Nonce> {
        let state = &mut *self.state.lock();
        let most = usize::try_from(Allowance::relay().nonces_at_once).unwrap_or(usize::MAX);
        if state.stream != stream || state.asked.len() >= most {
            return None;
        }
        let nonce = state.waiting.pop_front()?;
        state.asked.insert(nonce);
        Some(nonce)
    }

    /// Hands an answer to who asked, if anybody still waits.
    pub(super) fn answer(&self, nonce: &Nonce, head: &Head) {
        let state = &mut *self.state.lock();
        if !state.asked.remove(nonce) {
            // Answered though nobody on this stream had asked: that head is as good.
            state.waiting.retain(|waiting| waiting != nonce);
        }
        let seekers = state.seekers.remove(nonce).unwrap_or_default();
        state.count -= seekers.len();
        for seeker in seekers {
            // Whoever has left needs none.
            drop(seeker.answer.send(head.clone()));
        }
        self.said.notify_waiters();
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let state = &mut *self.nonces.state.lock();
        let Some(seekers) = state.seekers.get_mut(&self.nonce) else {
            return;
        };
        let before = seekers.len();
        seekers.retain(|seeker| seeker.number != self.number);
        state.count -= before - seekers.len();
        if seekers.is_empty() {
            state.seekers.remove(&self.nonce);
            state.waiting.retain(|waiting| *waiting != self.nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use taskmint_fanout::Key;
    use taskmint_model::Timestamp;

    use super::*;

    fn head(sequence: u64) -> Head {
        Head {
            sequence,
            at: Timestamp::from_millis(1),
            body: Bytes::new(),
            signature: Bytes::new(),
            key: Key {
                revision: 1,
                certificate: Bytes::new(),
            },
        }
    }

    async fn ask(nonces: &Arc<Nonces>, nonce: u8) -> tokio::task::JoinHandle<Result<Head, Status>> {
        let of_task = Arc::clone(nonces);
        let asked = tokio::spawn(async move { of_task.ask([nonce; 16]).await });
        while nonces.state.lock().count == 0 {
            tokio::task::yield_now().await;
        }
        asked
    }

    #[tokio::test]
    async fn an_answer_goes_to_who_asked_and_to_nobody_else() {
        let nonces = Arc::new(Nonces::new(Arc::default()));
        nonces.begin(1);
        let asked = ask(&nonces, 7).await;
        assert_eq!(nonces.next(1), Some([7; 16]));
        assert_eq!(nonces.next(1), None);
        nonces.answer(&[8; 16], &head(1));
        assert!(!asked.is_finished());
        nonces.answer(&[7; 16], &head(2));
        assert_eq!(asked.await.unwrap().unwrap().sequence, 2);
    }

    #[tokio::test]
    async fn what_one_stream_left_unanswered_is_asked_on_the_next() {
        let nonces = Arc::new(Nonces::new(Arc::default()));
        nonces.begin(1);
        let _asked = ask(&nonces, 7).await;
        assert_eq!(nonces.next(1), Some([7; 16]));
        nonces.begin(2);
        assert_eq!(nonces.next(1), None, "the old stream asks no more");
        assert_eq!(nonces.next(2), Some([7; 16]));
    }

    #[tokio::test]
    async fn who_leaves_asks_no_more() {
        let nonces = Arc::new(Nonces::new(Arc::default()));
        nonces.begin(1);
        let asked = ask(&nonces, 7).await;
        asked.abort();
        drop(asked.await);
        assert_eq!(nonces.next(1), None);
        assert_eq!(nonces.state.lock().count, 0);
    }
}
