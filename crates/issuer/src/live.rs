//! What is live now, in memory: deadlines, and which node holds what. Rebuilt at start.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Task, TaskId, Timestamp};

/// Live tasks by deadline and by node.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    tasks: HashMap<TaskId, (Timestamp, Option<SpiffeId>)>,
    nodes: HashMap<SpiffeId, HashSet<TaskId>>,
}

impl Live {
    /// Takes in the task as it is now: an ended one is forgotten.
    pub(crate) fn note(&self, task: &Task) {
        let mut index = self.0.lock();
        index.forget(task.id);
        if !task.is_ended() {
            index.deadlines.insert((task.times.deadline, task.id));
            index
                .tasks
                .insert(task.id, (task.times.deadline, task.holder.node.clone()));
            if let Some(node) = &task.holder.node {
                index.nodes.entry(node.clone()).or_default().insert(task.id);
            }
        }
    }

    /// Tasks whose deadline has passed at `now`, at most `max`.
    pub(crate) fn due(&self, now: Timestamp, max: usize) -> Vec<TaskId> {
        let index = self.0.lock();
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
        self.0.lock().deadlines.first().map(|(at, _)| *at)
    }

    /// Live tasks that the node holds.
    pub(crate) fn held_by(&self, node: &SpiffeId) -> Vec<TaskId> {
        self.0
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
        self.0.lock().tasks.len()
    }
}

impl Index {
    fn forget(&mut self, id: TaskId) {
        let Some((deadline, node)) = self.tasks.remove(&id) else {
            return;
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
    }
}
