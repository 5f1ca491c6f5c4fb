//! What is live now, in memory: deadlines, which node holds what, and how long what was minted
//! lasts. Rebuilt at start.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Task, TaskId, Timestamp};
use tokio::sync::Notify;

/// Live tasks by deadline and by node.
#[derive(Debug, Default)]
pub(crate) struct Live {
    index: Mutex<Index>,
    /// Told when the end of a task was written, or was not.
    settled: Notify,
}

#[derive(Debug, Default)]
struct Index {
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    tasks: HashMap<TaskId, Known>,
    nodes: HashMap<SpiffeId, HashSet<TaskId>>,
    /// Tasks whose end is being written, and how often.
    ending: HashMap<TaskId, u32>,
    /// Minted under tasks that are durable, but not known here yet.
    early: HashMap<TaskId, Early>,
}

#[derive(Debug)]
struct Known {
    deadline: Timestamp,
    node: Option<SpiffeId>,
    /// The latest expiry of anything minted under it; at 1970 if nothing was.
    last_expiry: Timestamp,
}

#[derive(Debug, Default)]
struct Early {
    last_expiry: Timestamp,
    mints: u32,
}

/// A credential that is about to be recorded. Its expiry counts from here on, whatever comes of it:
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
        self.note_minted(task, Timestamp::default());
    }

    /// Takes in a task under which something was minted that lasts until `expiry`.
    pub(crate) fn note_minted(&self, task: &Task, expiry: Timestamp) {
        let mut index = self.index.lock();
        let before = index.forget(task.id).max(expiry);
        if !task.is_ended() {
            index.deadlines.insert((task.times.deadline, task.id));
            let known = Known {
                deadline: task.times.deadline,
                node: task.holder.node.clone(),
                last_expiry: before,
            };
            index.tasks.insert(task.id, known);
            if let Some(node) = &task.holder.node {
                index.nodes.entry(node.clone()).or_default().insert(task.id);
            }
        }
    }

    /// Something that lasts until `expiry` is about to be recorded. Waits while an end of the task
    /// is being written.
    pub(crate) async fn minting(&self, id: TaskId, expiry: Timestamp) -> Minting<'_> {
        loop {
            let settled = self.settled.notified();
            {
                let mut index = self.index.lock();
                if !index.ending.contains_key(&id) {
                    index.raise(id, expiry);
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

    /// Tasks whose deadline has passed at `now`, at most `max`.
    pub(crate) fn due(&self, now: Timestamp, max: usize) -> Vec<TaskId> {
        let index = self.index.lock();
        index
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(max)
            .map(|(_, id)| *id)
            .collect()
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.index.lock().deadlines.first().map(|(at, _)| *at)
    }

    /// Live tasks that the node holds.
    pub(crate) fn held_by(&self, node: &SpiffeId) -> Vec<TaskId> {
        self.index
            .lock()
            .nodes
            .get(node)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// How many tasks are live.
    pub(crate) fn count(&self) -> usize {
        self.index.lock().tasks.len()
    }
}

impl Minting<'_> {
    /// Nothing was recorded. A task that has ended will not be noted again, so that what is kept
    /// for it would stay for good.
    pub(crate) fn failed(self) {
        let mut index = self.live.index.lock();
        if let Some(early) = index.early.get_mut(&self.id) {
            early.mints -= 1;
            if early.mints == 0 {
                index.early.remove(&self.id);
            }
        }
    }
}

impl Ending<'_> {
    /// The latest expiry of what was minted under one of them, if that is known.
    pub(crate) fn last_expiry(&self, id: TaskId) -> Option<Timestamp> {
        let index = self.live.index.lock();
        index.tasks.get(&id).map(|known| known.last_expiry)
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
    fn raise(&mut self, id: TaskId, expiry: Timestamp) {
        if let Some(known) = self.tasks.get_mut(&id) {
            known.last_expiry = known.last_expiry.max(expiry);
            return;
        }
        let early = self.early.entry(id).or_default();
        early.last_expiry = early.last_expiry.max(expiry);
        early.mints += 1;
    }

    /// Forgets a task; returns the latest expiry of what was minted under it.
    fn forget(&mut self, id: TaskId) -> Timestamp {
        let early = self.early.remove(&id);
        let early = early.map_or(Timestamp::default(), |early| early.last_expiry);
        let Some(Known {
            deadline,
            node,
            last_expiry,
        }) = self.tasks.remove(&id)
        else {
            return early;
        };
        self.deadlines.remove(&(deadline, id));
        if let Some(node) = node
            && let Some(held) = self.nodes.get_mut(&node)
        {
            held.remove(&id);
            if held.is_empty() {
                self.nodes.remove(&node);
            }
        }
        last_expiry.max(early)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

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
        assert!(live.index.lock().early.is_empty());
        drop(second);
        mint.await.unwrap();
        let index = live.index.lock();
        assert!(index.ending.is_empty() && index.early.is_empty());
    }

    #[tokio::test]
    async fn what_is_minted_before_a_task_is_known_counts_once_it_is() {
        let live = Live::default();
        let id = TaskId::from_octets([1; 16]);
        let _kept = live.minting(id, at(7)).await;
        live.minting(id, at(9)).await.failed();
        assert_eq!(live.ending(vec![id]).last_expiry(id), None, "not known yet");
        let mut index = live.index.lock();
        // The one that failed counts too: later than true is true as well.
        assert_eq!(index.forget(id), at(9));
        assert!(index.early.is_empty());
    }
}
