//! Many small requests as few large calls: whatever waits when a call can be made goes along. A server
//! that asks for a pause gets it: those who come meanwhile wait if it is short, and are told if not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use taskmint_wire::retry_after_of;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status};

use crate::denial::Denial;
use crate::server::unreachable;

/// The most items of one call.
const MAX_ITEMS: usize = 256;

/// Calls at the same time. While they run, what comes in gathers.
const CALLS: usize = 4;

/// Items that wait.
const QUEUED: usize = 4_096;

/// A pause that callers sit out; they are told of a longer one.
const SHORT: Duration = Duration::from_secs(1);

/// The longest pause that the server gets.
const LONGEST: Duration = Duration::from_secs(60);

type Outcome<R> = Result<R, Status>;
type Job<Q, R> = (Q, oneshot::Sender<Outcome<R>>);

/// Asks for many things of one kind.
pub(crate) struct Batcher<Q, R> {
    jobs: mpsc::Sender<Job<Q, R>>,
    rest: Arc<Rest>,
}

/// Until when the server is left alone.
#[derive(Default)]
struct Rest(Mutex<Option<Instant>>);

impl Rest {
    /// Heeds what a call that failed says.
    fn hear(&self, status: &Status) {
        let Some(told) = retry_after_of(status) else {
            return;
        };
        let until = Instant::now() + told.min(LONGEST);
        let mut rest = self.0.lock();
        *rest = (*rest).max(Some(until));
    }

    /// Returns once the server may be asked.
    async fn over(&self) {
        let until = *self.0.lock();
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// Tells of a pause that is too long to be sat out.
    fn is_short(&self) -> Result<(), Status> {
        let until = *self.0.lock();
        let left = until.map(|until| until.duration_since(Instant::now()));
        match left.filter(|left| *left > SHORT) {
            Some(left) => {
                let message = "too much is asked of the server";
                let denial = Denial::new(Code::ResourceExhausted, "RATE_LIMITED", message);
                Err(denial.fix("try again later").retry_after(left).status())
            }
            None => Ok(()),
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> Batcher<Q, R> {
    /// A batcher, and the work behind it, to be run as a task. `call` answers each item, in order.
    pub(crate) fn new(
        call: impl Fn(Vec<Q>) -> BoxFuture<'static, Outcome<Vec<Outcome<R>>>> + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, receiver) = mpsc::channel(QUEUED);
        let rest = Arc::<Rest>::default();
        let work = run(receiver, Arc::new(call), Arc::clone(&rest));
        (Self { jobs, rest }, work)
    }

    /// Asks for one thing.
    pub(crate) async fn ask(&self, item: Q) -> Outcome<R> {
        self.rest.is_short()?;
        let (answer, answered) = oneshot::channel();
        if self.jobs.send((item, answer)).await.is_err() {
            return Err(unreachable());
        }
        answered.await.unwrap_or_else(|_| Err(unreachable()))
    }
}

async fn run<Q, R, F>(mut jobs: mpsc::Receiver<Job<Q, R>>, call: Arc<F>, rest: Arc<Rest>)
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
        rest.over().await;
        let mut batch = vec![first];
        while batch.len() < MAX_ITEMS
            && let Ok(next) = jobs.try_recv()
        {
            batch.push(next);
        }
        let (call, rest) = (Arc::clone(&call), Arc::clone(&rest));
        tokio::spawn(async move {
            // Who no longer waits needs no credential.
            let batch = batch.into_iter().filter(|(_, answer)| !answer.is_closed());
            let (items, answers): (Vec<_>, Vec<_>) = batch.unzip();
            if !items.is_empty() {
                let outcome = call(items).await;
                if let Err(status) = &outcome {
                    rest.hear(status);
                }
                hand_out(answers, outcome);
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

    /// A batcher whose first call is refused with a pause; when each call was made.
    async fn refused_once(pause: Duration) -> (Batcher<u32, u32>, Arc<Mutex<Vec<Instant>>>) {
        let calls = Arc::<Mutex<Vec<Instant>>>::default();
        let seen = Arc::clone(&calls);
        let (batcher, work) = Batcher::new(move |items: Vec<u32>| {
            let mut calls = seen.lock();
            calls.push(Instant::now());
            let first = calls.len() == 1;
            async move {
                if first {
                    let denied = Denial::new(Code::ResourceExhausted, "RATE_LIMITED", "too many");
                    return Err(denied.retry_after(pause).status());
                }
                Ok(items.into_iter().map(Ok).collect())
            }
            .boxed()
        });
        tokio::spawn(work);
        let refused = batcher.ask(1).await.unwrap_err();
        assert_eq!(retry_after_of(&refused), Some(pause));
        (batcher, calls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_pause_that_the_server_asks_for_is_sat_out() {
        let pause = Duration::from_millis(400);
        let (batcher, calls) = refused_once(pause).await;
        assert_eq!(batcher.ask(2).await.unwrap(), 2);
        let calls = calls.lock();
        assert!(calls[1] - calls[0] >= pause, "{calls:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_is_told_and_the_server_hears_nothing_of_it() {
        let (batcher, calls) = refused_once(Duration::from_secs(20)).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let told = retry_after_of(&batcher.ask(2).await.unwrap_err()).unwrap();
        assert!(told.abs_diff(Duration::from_secs(15)) < Duration::from_millis(10));
        assert_eq!(calls.lock().len(), 1);
        tokio::time::advance(told).await;
        assert_eq!(batcher.ask(3).await.unwrap(), 3);
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
