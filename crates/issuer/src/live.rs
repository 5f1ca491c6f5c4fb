//! What is due soon, in memory, and what is being minted or ended at this moment. How many tasks are
//! live makes no difference to it: the store finds them by deadline and by holder.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_model::{Task, TaskId, Timestamp};
use taskmint_store::{Store, StoreError};
use tokio::sync::Notify;

/// How far ahead deadlines are read. Also how long one may be late whose task was written by a
/// request that was given up before it could say so.
const AHEAD: Duration = Duration::from_secs(60);

/// How many deadlines are read at once.
const SOON: usize = 8192;

/// How long a mint that nobody followed to its end is kept after its expiry: longer than any
/// receipt asks for it.
const KEPT: Duration = Duration::from_secs(3600);

/// Tasks that are due soon, and those in motion.
#[derive(Debug, Default)]
pub(crate) struct Live {
    index: Mutex<Index>,
    /// Held while deadlines are read.
    reading: tokio::sync::Mutex<()>,
    /// Told when the end of a task was written, or was not.
    settled: Notify,
}

#[derive(Debug, Default)]
struct Index {
    /// Every deadline up to `known_to`, and some after it.
    soon: BTreeSet<(Timestamp, TaskId)>,
    /// Where the tasks in it are.
    deadlines: HashMap<TaskId, Timestamp>,
    /// At 1970 until deadlines are read for the first time.
    known_to: Timestamp,
    /// While deadlines are read: whose change came meanwhile, and is newer than what is read.
    changed: Option<HashSet<TaskId>>,
    /// Tasks whose end is being written, and how often.
    ending: HashMap<TaskId, u32>,
    /// What is being recorded, by task.
    minting: HashMap<TaskId, Mints>,
}

#[derive(Debug, Default)]
struct Mints {
    last_expiry: Timestamp,
    count: u32,
}

/// A credential that is about to be recorded. Its expiry counts until it is known what came of it:
/// later than true is true as well.
#[derive(Debug)]
pub(crate) struct Minting<'l> {
    live: &'l Live,
    id: TaskId,
}

/// Tasks whose end is being written. Nothing is minted under them meanwhile: so what lasted longest
/// when the end was decided still does when it is written.
#[derive(Debug)]
pub(crate) struct Ending<'l> {
    live: &'l Live,
    ids: Vec<TaskId>,
}

impl Live {
    /// Takes in the task as it is now: an ended one is forgotten.
    pub(crate) fn note(&self, task: &Task) {
        let mut index = self.index.lock();
        index.forget(task.id);
        let at = task.times.deadline;
        let is_read = index.changed.as_mut().map(|it| it.insert(task.id));
        if !task.is_ended() && (is_read.is_some() || at <= index.known_to) {
            index.insert(at, task.id);
            index.trim();
        }
    }

    /// Forgets a task that is not there.
    pub(crate) fn forget(&self, id: TaskId) {
        self.index.lock().forget(id);
    }

    /// Something that lasts until `expiry` is about to be recorded. Waits while an end of the task
    /// is being written.
    pub(crate) async fn minting(&self, id: TaskId, expiry: Timestamp) -> Minting<'_> {
        loop {
            let settled = self.settled.notified();
            {
                let mut index = self.index.lock();
                if !index.ending.contains_key(&id) {
                    let mints = index.minting.entry(id).or_default();
                    mints.last_expiry = mints.last_expiry.max(expiry);
                    mints.count += 1;
                    return Minting { live: self, id };
                }
            }
            settled.await;
        }
    }

    /// Ends of these tasks are about to be written.
    pub(crate) fn ending(&self, ids: Vec<TaskId>) -> Ending<'_> {
        let mut index = self.index.lock();
        for id in &ids {
            *index.ending.entry(*id).or_default() += 1;
        }
        Ending { live: self, ids }
    }

    /// Forgets mints that nobody followed to their end, once their expiry tells nobody anything.
    pub(crate) fn forget_lost(&self, now: Timestamp) {
        let mut index = self.index.lock();
        index
            .minting
            .retain(|_, mints| mints.last_expiry + KEPT > now);
    }

    /// Tasks whose deadline has passed at `now`, at most `max`. Reads on from the store where what
    /// is in memory does not say.
    pub(crate) async fn due(
        &self,
        store: &dyn Store,
        now: Timestamp,
        max: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        let found = self.index.lock().due(now, max);
        if !found.is_empty() {
            return Ok(found);
        }
        if self.index.lock().known_to <= now {
            self.read(store, now).await?;
        }
        Ok(self.index.lock().due(now, max))
    }

    /// The earliest deadline that is known.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.index.lock().soon.first().map(|(at, _)| *at)
    }

    async fn read(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let _one = self.reading.lock().await;
        let until = now + AHEAD;
        self.index.lock().changed = Some(HashSet::new());
        // If this is given up, too much is remembered until the next time, and never too little.
        let read = store.due(until, SOON).await;
        let mut index = self.index.lock();
        let changed = index.changed.take().unwrap_or_default();
        let read = read?;
        // Of those at the last instant some may be missing.
        let known_to = match read.last() {
            Some((last, _)) if read.len() >= SOON => *last - Duration::from_millis(1),
            _ => until,
        };
        for (at, id) in read {
            if !changed.contains(&id) {
                index.forget(id);
                index.insert(at, id);
            }
        }
        index.known_to = known_to;
        index.trim();
        Ok(())
    }
}

impl Minting<'_> {
    /// It is on record: from now on the store tells.
    pub(crate) fn recorded(self) {
        self.settle();
    }

    /// Nothing was recorded, and nothing will be.
    pub(crate) fn failed(self) {
        self.settle();
    }

    fn settle(self) {
        let mut index = self.live.index.lock();
        if let Some(mints) = index.minting.get_mut(&self.id) {
            mints.count -= 1;
            if mints.count == 0 {
                index.minting.remove(&self.id);
            }
        }
    }
}

impl Ending<'_> {
    /// The latest expiry of what is being recorded under one of them; at 1970 if nothing is. What
    /// was on record before this began is for the store to tell.
    pub(crate) fn last_expiry(&self, id: TaskId) -> Timestamp {
        let index = self.live.index.lock();
        let mints = index.minting.get(&id);
        mints.map(|mints| mints.last_expiry).unwrap_or_default()
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut index = self.live.index.lock();
        for id in &self.ids {
            if let Some(times) = index.ending.get_mut(id) {
                *times -= 1;
                if *times == 0 {
                    index.ending.remove(id);
                }
            }
        }
        drop(index);
        self.live.settled.notify_waiters();
    }
}

impl Index {
    fn due(&self, now: Timestamp, max: usize) -> Vec<TaskId> {
        let due = self.soon.iter().take_while(|(at, _)| *at <= now);
        due.take(max).map(|(_, id)| *id).collect()
    }

    fn insert(&mut self, at: Timestamp, id: TaskId) {
        self.soon.insert((at, id));
        self.deadlines.insert(id, at);
    }

    fn forget(&mut self, id: TaskId) {
        if let Some(at) = self.deadlines.remove(&id) {
            self.soon.remove(&(at, id));
        }
    }

    /// Gives up the latest deadlines where there are too many: they are read again.
    fn trim(&mut self) {
        if self.soon.len() <= 2 * SOON || self.changed.is_some() {
            return;
        }
        while self.soon.len() > SOON
            && let Some((at, id)) = self.soon.pop_last()
        {
            self.deadlines.remove(&id);
            self.known_to = self.known_to.min(at - Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use taskmint_status::LogId;
    use taskmint_store::conformance::sample::{self, BUCKET, NOW};
    use taskmint_store::{Commits, Memory};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[tokio::test]
    async fn nothing_is_minted_under_a_task_whose_end_is_being_written() {
        let live = Arc::new(Live::default());
        let [ending, other] = [1, 2].map(|number| TaskId::from_octets([number; 16]));
        let (first, second) = (live.ending(vec![ending]), live.ending(vec![ending, other]));
        let mint = tokio::spawn({
            let live = Arc::clone(&live);
            async move { live.minting(ending, at(5)).await.failed() }
        });
        drop(first);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!mint.is_finished(), "the other end is still being written");
        assert!(live.index.lock().minting.is_empty());
        drop(second);
        mint.await.unwrap();
        let index = live.index.lock();
        assert!(index.ending.is_empty() && index.minting.is_empty());
    }

    #[tokio::test]
    async fn what_is_being_recorded_counts_until_the_store_tells() {
        let live = Live::default();
        let id = TaskId::from_octets([1; 16]);
        let first = live.minting(id, at(7)).await;
        live.minting(id, at(9)).await.failed();
        let _lost = live.minting(id, at(8)).await;
        let last = || live.ending(vec![id]).last_expiry(id);
        // The one that failed counts too: later than true is true as well.
        assert_eq!(last(), at(9));
        first.recorded();
        assert_eq!(last(), at(9), "nobody knows what came of the one");
        live.forget_lost(at(9) + KEPT - Duration::from_millis(1));
        assert_eq!(last(), at(9));
        live.forget_lost(at(9) + KEPT);
        assert_eq!(last(), at(0));
    }

    async fn store(tasks: &[Task]) -> Memory {
        let store = Memory::new(LogId([7; 8]));
        for task in tasks {
            store.commit(sample::begin(task)).await.unwrap();
        }
        store
    }

    /// Tasks whose deadlines lie this many milliseconds after now.
    fn tasks(deadlines: impl IntoIterator<Item = u64>) -> Vec<Task> {
        let deadlines = deadlines.into_iter().zip(1..);
        let task = |(after, number)| {
            let slot = taskmint_status::Slot::new(BUCKET, number).unwrap();
            let mut task = sample::task_at(slot.in_log(LogId([7; 8])), number);
            task.times.deadline = NOW + Duration::from_millis(after);
            task
        };
        deadlines.map(task).collect()
    }

    #[tokio::test]
    async fn only_what_is_due_soon_is_in_memory() {
        let far = AHEAD.as_millis() as u64 + 1;
        let tasks = tasks([far, 5, 0, 3 * far, 7]);
        let store = store(&tasks).await;
        let live = Live::default();
        assert_eq!(live.due(&store, NOW, 9).await.unwrap(), [tasks[2].id]);
        assert_eq!(live.index.lock().soon.len(), 3);
        // One that comes later than what is known of is left to the store; an earlier one is not.
        live.note(&tasks[0]);
        assert_eq!(live.index.lock().soon.len(), 3);
        live.note(&sample::ended(&tasks[2]));
        store.commit(sample::end(&tasks[2])).await.unwrap();
        assert_eq!(live.next_deadline(), Some(tasks[1].times.deadline));
        let later = NOW + Duration::from_millis(far);
        let due = live.due(&store, later, 9).await.unwrap();
        assert_eq!(due, [tasks[1].id, tasks[4].id], "what is known goes first");
        for task in [&tasks[1], &tasks[4]] {
            store.commit(sample::end(task)).await.unwrap();
            live.note(&sample::ended(task));
        }
        let due = live.due(&store, later, 9).await.unwrap();
        assert_eq!(due, [tasks[0].id]);
    }

    #[tokio::test]
    async fn a_backlog_is_read_piece_by_piece_and_nothing_of_it_is_missed() {
        let count = 2 * SOON as u64 + 100;
        // Many at one instant: a piece may end in the midst of them.
        let tasks = tasks((0..count).map(|number| number / 5000));
        let store = store(&tasks).await;
        let (live, now) = (Live::default(), NOW + Duration::from_secs(1));
        let mut ended = HashSet::new();
        loop {
            let due = live.due(&store, now, 1000).await.unwrap();
            assert!(live.index.lock().soon.len() <= 2 * SOON);
            if due.is_empty() {
                break;
            }
            for id in due {
                assert!(ended.insert(id), "{id} twice");
                let task = tasks.iter().find(|task| task.id == id).unwrap();
                store.commit(sample::end(task)).await.unwrap();
                live.note(&sample::ended(task));
            }
        }
        assert_eq!(ended.len(), tasks.len());
    }

    #[test]
    fn many_short_tasks_are_left_to_the_store() {
        let live = Live::default();
        live.index.lock().known_to = NOW + AHEAD;
        for task in tasks((0..2 * SOON as u64 + 1).rev()) {
            live.note(&task);
        }
        let index = live.index.lock();
        assert_eq!((index.soon.len(), index.deadlines.len()), (SOON, SOON));
        assert!(index.soon.iter().all(|(at, _)| *at <= index.known_to));
    }
}
