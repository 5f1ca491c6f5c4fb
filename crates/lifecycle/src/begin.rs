//! Begin and delegate: a task comes to be.

use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_model::{
    Authority, Binding, Entry, EntryId, Holder, Limits, State, Task, TaskId, TaskKind, TaskTimes,
    Timestamp,
};
use taskmint_status::Place;

use crate::Refusal;
use crate::plan::Plan;

/// What holds in a trust domain where nothing narrower is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// From begin to deadline of an explicit task.
    pub task_ttl: Duration,
    /// The most from begin to limit of a workload's task (P4).
    pub max_limit: Duration,
    /// From begin to limit of a node's or server's task.
    pub node_limit: Duration,
}

/// What is asked for at begin: everything but the id and the place, which are found for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What kind of holder it has.
    pub kind: TaskKind,
    /// The entry that allows it; none for nodes, servers, and children under the parent's own
    /// identity.
    pub entry: Option<EntryId>,
    /// The identity it is to carry.
    pub spiffe_id: SpiffeId,
    /// On whose behalf; empty means the parent's owner, or the entry's.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// What it may ask for; none means all that entry and parent both have.
    pub authority: Option<Authority>,
    /// From now until the deadline.
    pub ttl: Option<Duration>,
    /// From now until the limit; none means the most that is allowed.
    pub limit: Option<Duration>,
    /// How many children and how deep; none means the most that is allowed.
    pub limits: Option<Limits>,
    /// Who holds it.
    pub holder: Holder,
    /// Who sees it.
    pub binding: Binding,
    /// The task that it follows without a gap (P4).
    pub continues: Option<TaskId>,
}

/// A task that has begun, with what else changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a task that is not stored has not begun"]
pub struct Begun {
    /// The new task, at version 1; its grant is still empty.
    pub task: Task,
    /// The parent, one version on, with one live child more.
    pub parent: Option<Task>,
}

impl Default for Defaults {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            task_ttl: hour,
            max_limit: hour * 24,
            node_limit: hour * 24,
        }
    }
}

/// When a task asked for now would end and be limited: the limit picks the bucket in which its
/// place is reserved. Refuses all that [`begin`] would, so no place is reserved in vain.
///
/// # Errors
/// As [`begin`].
pub fn times(
    ask: &Ask,
    entry: Option<&Entry>,
    parent: Option<&Task>,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<TaskTimes, Refusal> {
    Plan::new(ask, entry, parent, defaults, now).map(|plan| plan.times)
}

/// Begins a task, below `parent` if there is one.
///
/// `now` must be the instant that [`times`] was asked with, or the place may lie in another bucket.
///
/// # Errors
/// When the entry or the parent does not allow what is asked for, in any dimension; when the parent
/// is not live; when the place is in another bucket than the limit.
pub fn begin(
    ask: Ask,
    entry: Option<&Entry>,
    parent: Option<&Task>,
    id: TaskId,
    place: Place,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<Begun, Refusal> {
    let Plan {
        times,
        authority,
        limits,
        owner,
    } = Plan::new(&ask, entry, parent, defaults, now)?;
    let (expected, got) = (times.limit.hour(), place.bucket());
    if expected != got {
        return Err(Refusal::WrongBucket { expected, got });
    }
    let task = Task {
        id,
        version: 1,
        root: parent.map_or(id, |parent| parent.root),
        parent: parent.map(|parent| parent.id),
        depth: parent.map_or(0, |parent| parent.depth.saturating_add(1)),
        continues: ask.continues,
        place,
        kind: ask.kind,
        entry: ask.entry.or_else(|| parent.and_then(|parent| parent.entry)),
        spiffe_id: ask.spiffe_id,
        owner,
        purpose: ask.purpose,
        authority,
        times,
        limits,
        children: 0,
        holder: ask.holder,
        binding: ask.binding,
        state: State::Live,
        grant: Vec::new(),
    };
    let parent = parent.map(|parent| Task {
        version: parent.version + 1,
        children: parent.children + 1,
        ..parent.clone()
    });
    Ok(Begun { task, parent })
}
