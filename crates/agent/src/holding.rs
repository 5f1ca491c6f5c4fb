//! The tasks of this node, in memory: by id, by holder, and what was bound to whom.
//!
//! The server is the truth; this is what it has said, plus what only the node can know: which
//! holders live, who began what, and whose folder a socket is.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use taskmint_model::{
    Actor, Binding, Cause, Clock, EndTrace, EntryId, Process, State, Task, TaskId, TaskKind,
    Timestamp,
};
use taskmint_peer::{HeldProcess, Liveness, ProcessError};
use tokio::sync::broadcast;

use crate::topics::{Topic, Topics};
use crate::visibility::{Reach, Step, seen};

/// Ended tasks that are kept so that people can still ask for them.
const KEPT_ENDED: usize = 4_096;

/// The most tasks on the way from one to its root.
const MAX_DEPTH: usize = 256;

/// All tasks of this node.
pub(crate) struct Holding {
    state: Mutex<Inner>,
    topics: Topics,
    changes: broadcast::Sender<TaskId>,
    liveness: Liveness,
    clock: Arc<dyn Clock>,
}

/// One task and what only this node knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// As the server last said.
    pub(crate) task: Arc<Task>,
    /// Who began it here, where that is known.
    pub(crate) beginner: Option<HeldProcess>,
    /// Whose folder its sockets are in.
    pub(crate) folder: Option<u32>,
    /// Place in the order of begin: a successor takes its predecessor's (P7).
    pub(crate) order: Order,
    /// The holder is gone; the server may not know yet.
    pub(crate) dying: bool,
    /// In which session it was learnt.
    session: u64,
}

/// When a task began, and of those that began in the same millisecond, which was heard of first.
pub(crate) type Order = (Timestamp, u64);

/// Who began a task, and whose folder it has, where this node knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// Who asked for it.
    pub(crate) beginner: Option<HeldProcess>,
    /// Whose folder its sockets are in.
    pub(crate) folder: Option<u32>,
}

/// What became of a task that was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// Known already, or older than what is known.
    Nothing,
    /// New or changed.
    Changed,
    /// Changed, and over.
    Ended,
    /// New, and its holder is gone already.
    HolderGone,
}

/// A task whose holder died.
#[derive(Debug, Clone)]
pub(crate) struct Orphan {
    pub(crate) id: TaskId,
    /// Somebody other than the holder who may still say how it ended.
    pub(crate) beginner: Option<HeldProcess>,
}

/// What a look at the server's list found (P12).
#[derive(Debug, Default)]
pub(crate) struct Reconciled {
    /// Live tasks whose holder lives, or which have none.
    pub(crate) adopted: Vec<TaskId>,
    /// Tasks that were here and are no longer there.
    pub(crate) dropped: Vec<TaskId>,
}

#[derive(Default)]
struct Inner {
    tasks: HashMap<TaskId, Held>,
    by_holder: HashMap<Process, BTreeSet<TaskId>>,
    implicit: HashMap<(EntryId, Process), TaskId>,
    marks: HashMap<Process, Mark>,
    /// Holders that the kernel would not let us watch.
    unwatched: HashSet<Process>,
    /// From the server, and since its last list.
    bars: HashMap<(EntryId, Process), TaskId>,
    new_bars: HashMap<(EntryId, Process), TaskId>,
    ended: VecDeque<TaskId>,
    heard: u64,
    session: u64,
}

/// What is remembered of a process for as long as it lives.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// An explicit task is or was bound to it, or to an ancestor that it once had.
    bound: bool,
    /// Somebody else bound it.
    confined: bool,
}

impl Holding {
    pub(crate) fn new(clock: Arc<dyn Clock>, liveness: Liveness) -> Self {
        Self {
            state: Mutex::default(),
            topics: Topics::default(),
            changes: broadcast::channel(4096).0,
            liveness,
            clock,
        }
    }

    pub(crate) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Every task that changes.
    pub(crate) fn changes(&self) -> broadcast::Receiver<TaskId> {
        self.changes.subscribe()
    }

    /// A session begins: whatever is learnt from here on is newer than its list.
    pub(crate) fn begin_session(&self) {
        self.state.lock().session += 1;
    }

    /// Takes in what the server said of a task. Older versions than the known one say nothing, and
    /// nothing brings an ended task back.
    pub(crate) fn learn(&self, task: Task, origin: Origin) -> Learnt {
        let holder_gone = !task.is_ended() && self.watch_holder(&task);
        let mut inner = self.state.lock();
        let learnt = inner.learn(task.clone(), origin);
        let learnt = match learnt {
            Learnt::Changed if holder_gone => {
                inner
                    .tasks
                    .entry(task.id)
                    .and_modify(|held| held.dying = true);
                Learnt::HolderGone
            }
            other => other,
        };
        drop(inner);
        if learnt != Learnt::Nothing {
            self.announce(&task);
        }
        learnt
    }

    /// A holder has died: its tasks are hidden at once and handed back to be ended.
    pub(crate) fn died(&self, process: Process) -> Vec<Orphan> {
        let mut inner = self.state.lock();
        let inner = &mut *inner;
        inner.marks.remove(&process);
        inner.new_bars.retain(|(_, barred), _| *barred != process);
        let ids = inner.by_holder.get(&process).cloned().unwrap_or_default();
        let mut orphans = Vec::new();
        for id in ids {
            let Some(held) = inner.tasks.get_mut(&id) else {
                continue;
            };
            held.dying = true;
            let beginner = held.beginner.clone().filter(|by| by.process() != process);
            orphans.push((Arc::clone(&held.task), Orphan { id, beginner }));
        }
        let announce = |(task, orphan): (Arc<Task>, Orphan)| {
            self.announce(&task);
            orphan
        };
        orphans.into_iter().map(announce).collect()
    }

    /// Compares with the server's list: what holders live, what is gone (P12).
    pub(crate) fn reconcile(&self, listed: Vec<Task>) -> Reconciled {
        let session = self.state.lock().session;
        let ids: HashSet<_> = listed.iter().map(|task| task.id).collect();
        let mut reconciled = Reconciled::default();
        for task in listed {
            let id = task.id;
            self.learn(task, Origin::default());
            let inner = self.state.lock();
            if inner
                .tasks
                .get(&id)
                .is_some_and(|held| !held.dying && !held.task.is_ended())
            {
                reconciled.adopted.push(id);
            }
        }
        let mut gone = Vec::new();
        for held in self.state.lock().tasks.values() {
            // What was learnt in this session may be newer than the list.
            if !held.task.is_ended() && held.session < session && !ids.contains(&held.task.id) {
                gone.push(Arc::clone(&held.task));
            }
        }
        for task in gone {
            reconciled.dropped.push(task.id);
            self.learn(self.lost(&task), Origin::default());
        }
        reconciled
    }

    /// Replaces the bars (P3).
    pub(crate) fn set_bars(&self, bars: impl IntoIterator<Item = (EntryId, Process, TaskId)>) {
        let mut inner = self.state.lock();
        inner.bars = bars
            .into_iter()
            .map(|(entry, process, task)| ((entry, process), task))
            .collect();
        inner.new_bars.clear();
    }

    /// The task whose end bars `entry` for a process with these ancestors, itself first.
    pub(crate) fn barred(&self, entry: EntryId, ancestry: &[Process]) -> Option<TaskId> {
        let inner = self.state.lock();
        ancestry.iter().find_map(|process| {
            let key = (entry, *process);
            inner
                .bars
                .get(&key)
                .or_else(|| inner.new_bars.get(&key))
                .copied()
        })
    }

    /// Whether an explicit task is or was bound to the process or an ancestor: then it gets no
    /// implicit one (P3). Remembered for the process itself, whose ancestors may leave.
    pub(crate) fn is_or_was_bound(&self, ancestry: &[Process]) -> bool {
        let mut inner = self.state.lock();
        let of = |process: &Process| inner.marks.get(process).is_some_and(|mark| mark.bound);
        let bound = ancestry.iter().any(of);
        if let (true, Some(own)) = (bound, ancestry.first())
            && !of(own)
            // Forgotten when it dies; where that can't be watched, not remembered at all.
            && self.watch(*own) == Life::Watched
        {
            inner.marks.entry(*own).or_default().bound = true;
        }
        bound
    }

    /// Explicit tasks that a process with these ancestors sees, in order of begin (P1). Suspended
    /// ones are among them.
    pub(crate) fn seen(&self, ancestry: &[Process]) -> Vec<Held> {
        let inner = self.state.lock();
        let steps = ancestry.iter().map(|process| inner.step(process));
        let mut held: Vec<Held> = seen(steps)
            .iter()
            .filter_map(|id| inner.tasks.get(id).cloned())
            .collect();
        held.sort_by_key(|held| held.order);
        held
    }

    /// The live or suspended implicit task of an entry and a process.
    pub(crate) fn implicit(&self, entry: EntryId, process: Process) -> Option<Held> {
        let inner = self.state.lock();
        let held = inner.tasks.get(inner.implicit.get(&(entry, process))?)?;
        (!held.dying && !held.task.is_ended()).then(|| held.clone())
    }

    /// One task, also for a while after its end.
    pub(crate) fn get(&self, id: TaskId) -> Option<Held> {
        self.state.lock().tasks.get(&id).cloned()
    }

    /// All tasks, ended ones for a while too.
    pub(crate) fn all(&self) -> Vec<Held> {
        self.state.lock().tasks.values().cloned().collect()
    }

    /// How many tasks have not ended.
    pub(crate) fn len(&self) -> usize {
        let inner = self.state.lock();
        inner.tasks.len() - inner.ended.len()
    }

    /// A task and those above it, nearest first, as far as this node knows them.
    pub(crate) fn upwards(&self, id: TaskId) -> Vec<Held> {
        let inner = self.state.lock();
        let mut above = Vec::new();
        let mut next = Some(id);
        while let Some(held) = next.and_then(|id| inner.tasks.get(&id)) {
            next = held.task.parent;
            above.push(held.clone());
            if above.len() == MAX_DEPTH {
                break;
            }
        }
        above
    }

    /// Holders of live tasks that are not watched: the kernel refused, once. Tries again, and
    /// hands back the tasks of those that are gone.
    pub(crate) fn watch_again(&self) -> Vec<Orphan> {
        let unwatched = std::mem::take(&mut self.state.lock().unwatched);
        let mut orphans = Vec::new();
        for process in unwatched {
            match self.watch(process) {
                Life::Watched => {}
                Life::Gone => orphans.extend(self.died(process)),
                Life::Unknown => drop(self.state.lock().unwatched.insert(process)),
            }
        }
        orphans
    }

    /// Watches the holder; true if it is known to be gone.
    fn watch_holder(&self, task: &Task) -> bool {
        let Some(process) = task.holder.process else {
            return false;
        };
        let inner = self.state.lock();
        let watched = inner.by_holder.get(&process).and_then(|ids| ids.first());
        if let Some(other) = watched.and_then(|id| inner.tasks.get(id)) {
            return other.dying;
        }
        drop(inner);
        let life = self.watch(process);
        if life == Life::Unknown {
            self.state.lock().unwatched.insert(process);
        }
        life == Life::Gone
    }

    fn watch(&self, process: Process) -> Life {
        let held = match HeldProcess::adopt(process) {
            Ok(held) => held,
            Err(ProcessError::Gone(_)) => return Life::Gone,
            // Nothing follows about its life, and a task is never ended for this.
            Err(error) => {
                tracing::error!(%process, %error, "a holder can't be watched");
                return Life::Unknown;
            }
        };
        match self.liveness.watch(held) {
            Ok(_) => Life::Watched,
            Err(error) => {
                tracing::error!(%process, %error, "a holder can't be watched");
                Life::Unknown
            }
        }
    }

    /// What a task looks like that the server no longer lists, until it says more.
    fn lost(&self, task: &Task) -> Task {
        let at = self.clock.now();
        let state = State::Ended {
            at,
            cause: Cause::NODE_LOST,
            by: Actor::Issuer,
            trace: EndTrace::default(),
        };
        Task {
            state,
            version: task.version + 1,
            ..task.clone()
        }
    }

    fn announce(&self, task: &Task) {
        self.topics.announce(Topic::Task(task.id));
        if let Some(process) = task.holder.process {
            self.topics.announce(Topic::Process(process));
        }
        // Nobody watches: nobody needs to be told.
        let _unheard = self.changes.send(task.id);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Watched,
    Gone,
    Unknown,
}

impl Inner {
    fn learn(&mut self, task: Task, origin: Origin) -> Learnt {
        let known = self.tasks.get_mut(&task.id);
        if let Some(known) = known {
            if origin.beginner.is_some() {
                known.beginner = origin.beginner;
            }
            if origin.folder.is_some() {
                known.folder = origin.folder;
            }
            known.session = self.session;
            let over = known.task.is_ended();
            if task.version <= known.task.version || (over && !task.is_ended()) {
                return Learnt::Nothing;
            }
            known.task = Arc::new(task.clone());
            if over {
                return Learnt::Changed;
            }
        } else {
            let order = self.order_of(&task);
            let held = Held {
                task: Arc::new(task.clone()),
                beginner: origin.beginner,
                folder: origin.folder,
                order,
                dying: false,
                session: self.session,
            };
            self.tasks.insert(task.id, held);
        }
        if task.is_ended() {
            self.end(&task);
            return Learnt::Ended;
        }
        self.index(&task);
        Learnt::Changed
    }

    fn order_of(&mut self, task: &Task) -> Order {
        self.heard += 1;
        let before = task.continues.and_then(|id| self.tasks.get(&id));
        before.map_or((task.times.opened, self.heard), |before| before.order)
    }

    fn index(&mut self, task: &Task) {
        let Some(process) = task.holder.process else {
            return;
        };
        self.by_holder.entry(process).or_default().insert(task.id);
        if is_bound(task) {
            self.marks.entry(process).or_default().bound = true;
        }
        if let (TaskKind::Implicit, Some(entry)) = (task.kind, task.entry) {
            self.implicit.insert((entry, process), task.id);
            if task.state.name() == "suspended" {
                self.new_bars.insert((entry, process), task.id);
            } else if self.new_bars.get(&(entry, process)) == Some(&task.id) {
                self.new_bars.remove(&(entry, process));
            }
        }
    }

    fn end(&mut self, task: &Task) {
        if let Some(process) = task.holder.process {
            if let Some(ids) = self.by_holder.get_mut(&process) {
                ids.remove(&task.id);
                if ids.is_empty() {
                    self.by_holder.remove(&process);
                }
            }
            if let Some(entry) = task.entry
                && self.implicit.get(&(entry, process)) == Some(&task.id)
            {
                self.implicit.remove(&(entry, process));
                if !is_mishap(&task.state) {
                    self.new_bars.insert((entry, process), task.id);
                }
            }
            let begun_by_itself = self.tasks.get(&task.id).is_some_and(|held| {
                held.beginner
                    .as_ref()
                    .is_some_and(|by| by.process() == process)
            });
            if is_bound(task) && !begun_by_itself {
                self.marks
                    .entry(process)
                    .and_modify(|mark| mark.confined = true);
            }
        }
        self.ended.push_back(task.id);
        if self.ended.len() > KEPT_ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.tasks.remove(&oldest);
        }
    }

    fn step(&self, process: &Process) -> Step {
        let ids = self.by_holder.get(process).into_iter().flatten();
        let held = ids.filter_map(|id| self.tasks.get(id));
        let bound = held
            .filter(|held| is_bound(&held.task) && !held.dying)
            .map(|held| {
                let tree = held.task.binding == Binding::Tree;
                (
                    held.task.id,
                    if tree { Reach::Tree } else { Reach::Process },
                )
            });
        let confined = self.marks.get(process).is_some_and(|mark| mark.confined);
        Step {
            bound: bound.collect(),
            confined,
        }
    }
}

/// Whether the task is explicit and bound to its holder's process.
fn is_bound(task: &Task) -> bool {
    task.kind == TaskKind::Explicit && matches!(task.binding, Binding::Process | Binding::Tree)
}

/// Ends after which a new implicit task may begin: nobody decided them against the process.
fn is_mishap(state: &State) -> bool {
    let State::Ended { cause, .. } = state else {
        return false;
    };
    [
        Cause::EXPIRED,
        Cause::SUPERSEDED,
        Cause::NODE_LOST,
        Cause::RESTORED,
        Cause::HOLDER_DIED,
        Cause::ENTRY_REMOVED,
    ]
    .contains(cause)
}

#[cfg(test)]
mod tests;
