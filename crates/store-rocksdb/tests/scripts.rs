//! Random scripts, on disk and in memory: whatever is done in whichever order, no place is handed out
//! twice, and the log's sequence numbers have no gap. The store on disk is opened again in between.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use taskmint_model::{Task, Timestamp};
use taskmint_status::{ChainHash, Generation, LogId, Place, Record, Status};
use taskmint_store::conformance::sample::{self, HOUR, NOW};
use taskmint_store::{Change, Commit, Expect, Memory, Store};
use taskmint_store_rocksdb::{Options, RocksStore};

const LOG: LogId = LogId([7; 8]);

/// One step. Tasks are picked by number, modulo how many live; hours count from the floor.
#[derive(Debug, Clone)]
enum Step {
    Begin(u32),
    /// A place that nothing comes of.
    Abandon(u32),
    Suspend(usize),
    Resume(usize),
    End(usize),
    /// Several in one commit.
    EndAll,
    /// A commit that is refused after its records were counted.
    Refused(usize),
    Sweep,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (hour, pick) = (0u32..3, 0usize..16);
    prop_oneof![
        6 => hour.clone().prop_map(Step::Begin),
        2 => hour.prop_map(Step::Abandon),
        2 => pick.clone().prop_map(Step::Suspend),
        2 => pick.clone().prop_map(Step::Resume),
        3 => pick.clone().prop_map(Step::End),
        1 => Just(Step::EndAll),
        2 => pick.prop_map(Step::Refused),
        1 => Just(Step::Sweep),
        2 => Just(Step::Reopen),
    ]
}

/// What a script knows of its store.
struct Script<S> {
    store: S,
    live: Vec<Task>,
    begun: u64,
    floor: u32,
    places: BTreeSet<Place>,
    /// Every record, as it was read once it was written.
    records: Vec<Record>,
    /// Records that were accepted.
    written: u64,
}

impl<S: Store> Script<S> {
    fn new(store: S) -> Self {
        Self {
            store,
            live: Vec::new(),
            begun: 0,
            floor: HOUR,
            places: BTreeSet::new(),
            records: Vec::new(),
            written: 0,
        }
    }

    async fn play(&mut self, step: &Step) {
        match step {
            Step::Begin(hour) => {
                let place = self.place(*hour).await;
                self.begun += 1;
                let task = sample::task_at(place, self.begun);
                self.store.commit(sample::begin(&task)).await.unwrap();
                self.live.push(task);
            }
            Step::Abandon(hour) => {
                self.place(*hour).await;
            }
            Step::Suspend(of) => self.set(*of, Status::Suspended).await,
            Step::Resume(of) => self.set(*of, Status::Valid).await,
            Step::End(of) if !self.live.is_empty() => {
                let task = self.live.swap_remove(of % self.live.len());
                self.write(sample::end(&task)).await;
            }
            Step::EndAll => {
                let ends = self.live.drain(..).map(|task| sample::end(&task));
                let all = ends.reduce(|mut all, end| {
                    all.expect.extend(end.expect);
                    all.changes.extend(end.changes);
                    all
                });
                self.write(all.unwrap_or_default()).await;
            }
            Step::Refused(of) if !self.live.is_empty() => {
                let task = &self.live[of % self.live.len()];
                let mut commit = sample::end(task);
                commit.expect.push(Expect::Task(task.id, task.version + 9));
                self.store.commit(commit).await.unwrap_err();
            }
            Step::Sweep => {
                self.floor += 1;
                let (bucket, floor) = (self.floor, self.floor);
                let at = Timestamp::from_secs(u64::from(bucket + 1) * 3600);
                let changes = vec![Change::Floor { bucket, at }];
                self.live.retain(|task| task.place.bucket() >= floor);
                self.write(Commit {
                    expect: Vec::new(),
                    changes,
                })
                .await;
            }
            Step::End(_) | Step::Refused(_) | Step::Reopen => {}
        }
    }

    /// A place, which nobody had before.
    async fn place(&mut self, hour: u32) -> Place {
        let place = self.store.place(self.floor + hour).await.unwrap();
        assert!(self.places.insert(place), "{place:?} was handed out before");
        place
    }

    async fn set(&mut self, of: usize, status: Status) {
        let Some(task) = self.live.get(of % self.live.len().max(1)) else {
            return;
        };
        let changes = vec![Change::Status(sample::status(task, status))];
        self.write(Commit {
            expect: Vec::new(),
            changes,
        })
        .await;
    }

    /// Commits. What changes nothing may be refused, and then it leaves no record.
    async fn write(&mut self, commit: Commit) {
        let of_log = |change: &&Change| matches!(change, Change::Status(_) | Change::Floor { .. });
        let records = commit.changes.iter().filter(of_log).count();
        if let Ok(done) = self.store.commit(commit).await {
            self.written += u64::try_from(records).unwrap();
            assert_eq!(done.sequence, self.written);
        }
    }

    /// Reads what is new in the log: it goes on where it was.
    async fn follow(&mut self) {
        let known = self.records.len() as u64;
        let new = self.store.records(known, 1_000).await.unwrap();
        self.records.extend(new);
        let position = *self.store.position().borrow();
        assert_eq!(
            position.sequence, self.written,
            "a record too many, or lost"
        );
        assert_eq!(self.records.len() as u64, self.written);
        let mut hash = ChainHash::genesis(LOG, Generation::FIRST);
        for (number, record) in (1..).zip(&self.records) {
            assert_eq!(record.sequence, number, "a gap");
            hash = hash.then(&record.encode());
        }
        assert_eq!(position.hash, hash.0);
    }
}

/// Plays a script on a store, which `again` opens anew with so many records more: an epoch begins.
fn run<S: Store>(steps: &[Step], store: S, again: impl Fn(S) -> (S, u64)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut script = Script::new(store);
        for step in steps {
            script.play(step).await;
            if matches!(step, Step::Reopen) {
                let (store, more) = again(script.store);
                script.store = store;
                script.written += more;
            }
            script.follow().await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_place_comes_twice_and_no_number_is_left_out_on_disk(
        steps in prop::collection::vec(step(), 1..48)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let open = || RocksStore::open(folder.path(), LOG, NOW, Options::default()).unwrap();
        run(&steps, open(), |store| {
            drop(store);
            (open(), 1)
        });
    }

    #[test]
    fn no_place_comes_twice_and_no_number_is_left_out_in_memory(
        steps in prop::collection::vec(step(), 1..96)
    ) {
        run(&steps, Memory::new(LOG), |store| (store, 0));
    }
}
