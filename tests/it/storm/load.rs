//! A thousand ends a second, by their due times: half of them one by one, half of them with the
//! task above them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use taskmint_issuer::{Begin, Cause, Issuer, Principal, Receipt};
use taskmint_model::{Binding, EntryId, Task, TaskId};
use taskmint_status::TaskBinding;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::SharedOracle;
use super::oracle::End;

/// One batch of ends each.
const PACE: Duration = Duration::from_millis(50);

/// In a family, the parent included; and as many beside it.
const FAMILY: usize = 25;

/// Ends of one batch.
const BATCH: u64 = 2 * FAMILY as u64;

/// Of so many batches one is waited for until a second is over: what verifiers say then is named.
const WAITED: u64 = 10;
const WAIT: Duration = Duration::from_secs(1);

/// Batches that are begun ahead, so many at a time, and that may be ending at once.
const AHEAD: usize = 120;
const BEGINNERS: usize = 16;
const ENDING: usize = 40;

/// Children that an entry must allow.
pub(super) const CHILDREN: u32 = FAMILY as u32;

/// What begins and ends tasks.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) issuer: Arc<Issuer>,
    pub(super) entry: EntryId,
    pub(super) oracle: SharedOracle,
}

/// Tasks that are to end together.
struct Batch {
    /// Ends with its first.
    family: Vec<Task>,
    singles: Vec<Task>,
}

/// What was done.
pub(super) struct Done {
    pub(super) ends: u64,
    pub(super) took: Duration,
}

pub(super) fn binding(task: &Task) -> TaskBinding {
    TaskBinding {
        place: task.place,
        task: task.id.octets(),
        root: task.root.octets(),
    }
}

impl Load {
    pub(super) async fn begin(&self, parent: Option<TaskId>) -> Task {
        let begin = Begin {
            request: None,
            parent,
            implicit: None,
            entry: Some(self.entry),
            spiffe_id: None,
            purpose: "storm".to_owned(),
            owner: None,
            authority: None,
            ttl: None,
            limit: None,
            limits: None,
            binding: Binding::None,
            holder: None,
            node: None,
            key: None,
            continues: None,
        };
        self.issuer.begin(&admin(), begin).await.unwrap().task
    }

    /// Begins batches ahead of those that are taken, until nobody takes any; returns when the first
    /// ones are there.
    pub(super) async fn fill(&self) -> Stock {
        let (batches, stock) = mpsc::channel(AHEAD);
        for _ in 0..BEGINNERS {
            let (load, batches) = (self.clone(), batches.clone());
            tokio::spawn(async move { while batches.send(load.batch().await).await.is_ok() {} });
        }
        while batches.capacity() > 0 {
            tokio::time::sleep(PACE).await;
        }
        Stock(stock)
    }

    async fn batch(&self) -> Batch {
        let parent = self.begin(None).await;
        let (mut family, mut singles) = (vec![parent], vec![self.begin(None).await]);
        while family.len() < FAMILY {
            // A parent has one child more with each: they begin one after the other.
            let both = tokio::join!(self.begin(Some(family[0].id)), self.begin(None));
            family.push(both.0);
            singles.push(both.1);
        }
        Batch { family, singles }
    }

    /// Ends batches when they are due, for so long.
    pub(super) async fn run(self, mut stock: Stock, span: Duration) -> Done {
        let ending = Arc::new(Semaphore::new(ENDING));
        let done = Arc::new(Mutex::new(0));
        let mut running = JoinSet::new();
        let begun = Instant::now();
        let mut due = tokio::time::interval(PACE);
        for number in 0.. {
            due.tick().await;
            if begun.elapsed() >= span {
                break;
            }
            let turn = Arc::clone(&ending).acquire_owned().await.unwrap();
            let batch = stock.0.recv().await.unwrap();
            let (load, done) = (self.clone(), Arc::clone(&done));
            running.spawn(async move {
                let first = load.end(batch).await;
                *done.lock().await += BATCH;
                drop(turn);
                if number % WAITED == 0 {
                    load.wait(first).await;
                }
            });
            while running.try_join_next().is_some() {}
        }
        // What is late counts as late.
        drop(ending.acquire_many(ENDING as u32).await.unwrap());
        let took = begun.elapsed();
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        let ends = *done.lock().await;
        Done { ends, took }
    }

    /// Ends a batch; returns one of it.
    async fn end(&self, batch: Batch) -> Task {
        let Batch { family, singles } = batch;
        let families = std::iter::once(&family[..]).chain(singles.chunks(1));
        let mut ended = join_all(families.map(|family| self.end_with(family))).await;
        ended.swap_remove(0)
    }

    /// Ends a task, and all that are below it.
    async fn end_with(&self, family: &[Task]) -> Task {
        let (who, cause) = (admin(), Cause::REVOKED);
        let ended = self.issuer.end(&who, family[0].id, cause, "storm").await;
        let (task, position) = ended.unwrap();
        let receipt = self.issuer.receipt(&task).unwrap();
        let acknowledged = self.issuer.now();
        self.hear(&receipt);
        let mut oracle = self.oracle.lock().unwrap();
        for task in family {
            oracle.ended(End {
                binding: binding(task),
                position,
                acknowledged,
                dead_by: receipt.dead_everywhere_by,
            });
        }
        task
    }

    async fn wait(&self, task: Task) {
        let mut waiting = self.issuer.wait(None, task, Some(WAIT)).unwrap();
        while let Some(receipt) = waiting.next().await {
            self.hear(&receipt);
        }
    }

    /// Tells the oracle whom a receipt names.
    fn hear(&self, receipt: &Receipt) {
        let mut oracle = self.oracle.lock().unwrap();
        for hearer in &receipt.heard.applied {
            oracle.heard(hearer.name.parse().unwrap(), receipt.position);
        }
    }
}

/// Batches that were begun and have not ended.
pub(super) struct Stock(mpsc::Receiver<Batch>);

fn admin() -> Principal {
    Principal::Admin("storm".to_owned())
}
