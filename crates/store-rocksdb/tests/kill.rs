//! kill -9 at random moments: what was acknowledged is there, nothing is there twice (contract
//! line 2). A store without its write-ahead log must fail this, or the test proves nothing.
//!
//! `TASKMINT_KILL_ROUNDS` says how often (5 unless set).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use taskmint_status::{
    ChainHash, Change as LogChange, Generation, LogId, Place, Record, Slot, Status,
};
use taskmint_store::conformance::sample::{self, BUCKET, NOW};
use taskmint_store::{Change, Commits, Expect, Journal, Log, Store, TaskQuery, Tasks, check_audit};
use taskmint_store_rocksdb::{Options, RocksStore};

const FOLDER: &str = "TASKMINT_KILL_FOLDER";
const ROUND: &str = "TASKMINT_KILL_ROUND";
const UNSYNCED: &str = "TASKMINT_KILL_UNSYNCED";
const LOG: LogId = LogId([0x4b; 8]);
const WORKERS: u64 = 24;

fn open(folder: &Path, options: Options) -> RocksStore {
    RocksStore::open(folder, LOG, NOW, options).unwrap()
}

/// What the process that is killed does: begins, mints and ends, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests beside it, to be killed"]
async fn victim() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let mut options = Options::default();
    if std::env::var_os(UNSYNCED).is_some() {
        options = options.unsynced();
    }
    let store = Arc::new(open(Path::new(&folder), options));
    say("open");
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let store = Arc::clone(&store);
        let first = round * 1_000_000_000 + worker * 1_000_000;
        workers.spawn(async move {
            for number in first.. {
                live(&*store, number).await;
            }
        });
    }
    workers.join_all().await;
}

/// One task's life, said aloud.
async fn live<S: Store>(store: &S, number: u64) {
    let task = sample::task_in(store, BUCKET + number as u32 % 2, number).await;
    let at = format!("{number} {} {}", task.place.bucket(), task.place.index());
    say(&format!("place {at}"));
    let mut begin = sample::begin(&task);
    begin
        .changes
        .push(Change::Issue(sample::issuance(task.place, number)));
    store.commit(begin).await.unwrap();
    say(&format!("begin {at}"));
    if number.is_multiple_of(4) {
        return;
    }
    let mut mint = taskmint_store::Commit::default();
    mint.expect.push(Expect::LiveTask(task.id, NOW));
    mint.changes.push(Change::Issue(sample::issuance(
        task.place,
        number + (1 << 40),
    )));
    store.commit(mint).await.unwrap();
    say(&format!("mint {at}"));
    let sequence = store.commit(sample::end(&task)).await.unwrap().sequence;
    say(&format!("end {at} {sequence}"));
}

fn say(fact: &str) {
    std::io::stdout()
        .lock()
        .write_all(format!("\n{fact}\n").as_bytes())
        .unwrap();
}

/// What was acknowledged, over all rounds.
#[derive(Default)]
struct Facts {
    begun: BTreeMap<u64, Place>,
    minted: BTreeMap<u64, Place>,
    ended: BTreeMap<u64, (Place, u64)>,
    places: BTreeSet<Place>,
    log: Vec<Record>,
}

impl Facts {
    /// Takes in one line; a line that was cut off by the kill says nothing.
    fn hear(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let [number, bucket, index, ..] = numbers[..] else {
            return Ok(());
        };
        let place = Place::new(LOG, bucket as u32, index).unwrap();
        match verb {
            "place" if !self.places.insert(place) => Err(format!("{place} was handed out twice")),
            "begin" => {
                self.begun.insert(number, place);
                Ok(())
            }
            "mint" => {
                self.minted.insert(number, place);
                Ok(())
            }
            "end" => {
                self.ended.insert(number, (place, numbers[3]));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The oracle: compares what was acknowledged with what is stored.
    async fn check(&mut self, store: &RocksStore) -> Result<(), String> {
        self.check_log(store).await?;
        self.check_tasks(store).await?;
        for (number, (place, sequence)) in &self.ended {
            let record = sequence
                .checked_sub(1)
                .and_then(|at| self.log.get(at as usize));
            let said = record.map(|record| record.change);
            if !matches!(said, Some(LogChange::End { slot, .. }) if slot == place.slot()) {
                return Err(format!(
                    "the end of {number} is not at {sequence}: {said:?}"
                ));
            }
        }
        let audit = store.audit(1, usize::MAX).await.unwrap();
        check_audit(None, &audit).map_err(|at| format!("audit record {at} does not follow"))?;
        for bucket in [BUCKET, BUCKET + 1] {
            let place = store.place(bucket).await.unwrap();
            if !self.places.insert(place) {
                return Err(format!("{place} is handed out again"));
            }
        }
        Ok(())
    }

    async fn check_log(&mut self, store: &RocksStore) -> Result<(), String> {
        let position = *store.position().borrow();
        let records = store.records(0, usize::MAX).await.unwrap();
        let mut hash = ChainHash::genesis(LOG, Generation::FIRST);
        for (at, record) in records.iter().enumerate() {
            if record.sequence != at as u64 + 1 {
                return Err(format!(
                    "record {} is where {} should be",
                    record.sequence,
                    at + 1
                ));
            }
            hash = hash.then(&record.encode());
        }
        if hash.0 != position.hash || records.len() as u64 != position.sequence {
            return Err("the log does not hash to its position".to_owned());
        }
        if !records.starts_with(&self.log) {
            return Err("a sequence number was used again".to_owned());
        }
        self.log = records;
        Ok(())
    }

    async fn check_tasks(&self, store: &RocksStore) -> Result<(), String> {
        let mut stored = BTreeMap::new();
        let mut query = TaskQuery::default();
        loop {
            let page = store.tasks(&query).await.unwrap();
            stored.extend(page.items.into_iter().map(|task| (task.place, task)));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        let maps = store.snapshot().await.unwrap().maps;
        let status = |slot: Slot| {
            maps.get(&slot.bucket())
                .map_or(Status::Valid, |map| map.get(slot.index()))
        };
        for task in stored.values() {
            let ended = status(task.place.slot()) == Status::Ended;
            if ended != task.is_ended() {
                return Err(format!("half a commit: {} is {:?}", task.place, task.state));
            }
            let minted = store.issuances(task.place, 9).await.unwrap().len();
            if minted == 0 {
                return Err(format!(
                    "half a commit: {} began without its issuance",
                    task.place
                ));
            }
        }
        for (number, place) in &self.begun {
            if stored
                .get(place)
                .is_none_or(|task| task.id != sample::task_id(*number))
            {
                return Err(format!("the acknowledged begin of {number} is lost"));
            }
        }
        for (number, place) in &self.minted {
            if store.issuances(*place, 9).await.unwrap().len() != 2 {
                return Err(format!("an acknowledged issuance of {number} is lost"));
            }
        }
        for (number, (place, _)) in &self.ended {
            if status(place.slot()) != Status::Ended || !stored[place].is_ended() {
                return Err(format!("the acknowledged end of {number} reads live"));
            }
        }
        Ok(())
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Starts the victim, kills it after a number of lines, and hears what it said.
fn kill_after(
    lines: usize,
    folder: &Path,
    round: u64,
    synced: bool,
    facts: &mut Facts,
) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "victim", "--nocapture"]);
    command.env(FOLDER, folder).env(ROUND, round.to_string());
    if !synced {
        command.env(UNSYNCED, "1");
    }
    let mut victim = command.stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(victim.stdout.take().unwrap());
    let (mut heard, mut wrong) = (0, Ok(()));
    if lines == 0 {
        victim.kill().unwrap();
    }
    for line in said.lines() {
        let Ok(line) = line else { break };
        wrong = wrong.and(facts.hear(&line));
        heard += 1;
        if heard == lines {
            victim.kill().unwrap();
        }
    }
    let status = victim.wait().unwrap();
    assert!(
        !status.success() && status.code().is_none(),
        "killed, not finished: {status}"
    );
    Ok(())
}

async fn rounds(synced: bool, count: u64) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut facts = Facts::default();
    for round in 1..=count {
        // Every fifth kill comes before or while the store opens.
        let lines = if round % 5 == 4 {
            random() % 3
        } else {
            random() % 4000
        };
        let at = |why: String| format!("round {round}, killed after {lines} lines: {why}");
        let lines = usize::try_from(lines).unwrap();
        kill_after(lines, folder.path(), round, synced, &mut facts).map_err(at)?;
        let store = open(folder.path(), Options::default());
        facts.check(&store).await.map_err(at)?;
    }
    Ok(facts.ended.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_used_twice() {
    let count = std::env::var("TASKMINT_KILL_ROUNDS").map_or(5, |count| count.parse().unwrap());
    let ended = rounds(true, count).await.unwrap();
    assert!(ended > 0, "no end was acknowledged: nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_notices_a_store_that_answers_before_it_writes() {
    let noticed = rounds(false, 20).await;
    assert!(noticed.is_err(), "{noticed:?}");
}
