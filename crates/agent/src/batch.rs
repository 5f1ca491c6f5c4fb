//! Many small requests as few large calls: whatever waits when a call can be made goes along.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Status;

use crate::server::unreachable;

/// The most items of one call.
const MAX_ITEMS: usize = 256;

/// Calls at the same time. While they run, what comes in gathers.
const CALLS: usize = 4;

/// Items that wait.
const QUEUED: usize = 4_096;

type Outcome<R> = Result<R, Status>;
type Job<Q, R> = (Q, oneshot::Sender<Outcome<R>>);

/// Asks for many things of one kind.
pub(crate) struct Batcher<Q, R>(mpsc::Sender<Job<Q, R>>);

impl<Q: Send + 'static, R: Send + 'static> Batcher<Q, R> {
    /// A batcher, and the work behind it, to be run as a task. `call` answers each item, in order.
    pub(crate) fn new(
        call: impl Fn(Vec<Q>) -> BoxFuture<'static, Outcome<Vec<Outcome<R>>>> + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUED);
        (Self(sender), run(receiver, Arc::new(call)))
    }

    /// Asks for one thing.
    pub(crate) async fn ask(&self, item: Q) -> Outcome<R> {
        let (answer, answered) = oneshot::channel();
        if self.0.send((item, answer)).await.is_err() {
            return Err(unreachable());
        }
        answered.await.unwrap_or_else(|_| Err(unreachable()))
    }
}

async fn run<Q, R, F>(mut jobs: mpsc::Receiver<Job<Q, R>>, call: Arc<F>)
where
    Q: Send + 'static,
    R: Send + 'static,
    F: Fn(Vec<Q>) -> BoxFuture<'static, Outcome<Vec<Outcome<R>>>> + Send + Sync + 'static,
{
    let slots = Arc::new(Semaphore::new(CALLS));
    while let Some(first) = jobs.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let mut batch = vec![first];
        while batch.len() < MAX_ITEMS
            && let Ok(next) = jobs.try_recv()
        {
            batch.push(next);
        }
        let call = Arc::clone(&call);
        tokio::spawn(async move {
            // Who no longer waits needs no credential.
            let batch = batch.into_iter().filter(|(_, answer)| !answer.is_closed());
            let (items, answers): (Vec<_>, Vec<_>) = batch.unzip();
            if !items.is_empty() {
                hand_out(answers, call(items).await);
            }
            drop(slot);
        });
    }
}

fn hand_out<R>(answers: Vec<oneshot::Sender<Outcome<R>>>, outcome: Outcome<Vec<Outcome<R>>>) {
    match outcome {
        Ok(results) => {
            // A missing answer drops its sender, which reads as no answer.
            for (answer, result) in answers.into_iter().zip(results) {
                drop(answer.send(result));
            }
        }
        Err(status) => {
            for answer in answers {
                drop(answer.send(Err(status.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn each_gets_its_own_answer_and_few_calls_carry_many_items() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let (batcher, work) = Batcher::new(move |items: Vec<u32>| {
            seen.lock().push(items.len());
            async move {
                tokio::task::yield_now().await;
                let odd = |n: u32| Err(Status::not_found(n.to_string()));
                Ok(items
                    .into_iter()
                    .map(|n| if n % 2 == 0 { Ok(n) } else { odd(n) })
                    .collect())
            }
            .boxed()
        });
        let asked = futures::future::join_all((0..1_000).map(|n| batcher.ask(n)));
        let answers = tokio::select! {
            answers = asked => answers,
            () = work => unreachable!("the batcher lives"),
        };
        for (n, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => assert_eq!(answer as usize, n),
                Err(status) => assert_eq!(status.message(), n.to_string()),
            }
        }
        let sizes = sizes.lock();
        assert_eq!(sizes.iter().sum::<usize>(), 1_000);
        assert!(
            sizes.len() < 100 && sizes.iter().all(|n| *n <= MAX_ITEMS),
            "{sizes:?}"
        );
    }

    #[tokio::test]
    async fn a_call_that_failed_fails_all_its_items() {
        let (batcher, work) =
            Batcher::<u32, u32>::new(|_| async { Err(Status::unavailable("away")) }.boxed());
        let answers = tokio::select! {
            answers = futures::future::join_all([batcher.ask(1), batcher.ask(2)]) => answers,
            () = work => unreachable!("the batcher lives"),
        };
        assert!(
            answers
                .iter()
                .all(|a| a.as_ref().unwrap_err().code() == tonic::Code::Unavailable)
        );
    }
}
