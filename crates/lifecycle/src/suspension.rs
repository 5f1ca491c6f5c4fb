//! Suspend and resume (P5): the one state that comes back.

use std::collections::HashMap;

use taskmint_model::{Actor, State, Suspension, Task, TaskId, TaskKind, Timestamp, bounded};

use crate::{Changes, Refusal, Tree};

/// The longest reason of a suspension, in bytes.
const MAX_REASON: usize = 1024;

/// Suspends a task, and with it everything below.
///
/// Over a suspension by somebody lower, the higher one's takes its place; the reverse is refused,
/// or a holder could suspend again, pass for whoever suspended, and resume.
///
/// The bar is due for implicit tasks: their process would be given another one (P3).
///
/// # Errors
/// When the task has ended, its deadline passed, or somebody at least as high suspended it already.
pub fn suspend(tree: Tree, by: Actor, reason: String, now: Timestamp) -> Result<Changes, Refusal> {
    check_open(&tree.top, now)?;
    bounded("reason", &reason, MAX_REASON)?;
    let inherited = match &tree.top.state {
        State::Suspended { own: Some(own), .. } if !outranks(&by, &own.by, &tree.top) => {
            return Err(Refusal::AlreadySuspended { by: own.by.clone() });
        }
        State::Suspended { inherited, .. } => *inherited,
        State::Live | State::Ended { .. } => false,
    };
    let bar = bars(&tree.top);
    let own = Suspension {
        by,
        at: now,
        reason,
    };
    let state = State::Suspended {
        own: Some(own),
        inherited,
    };
    Ok(Changes {
        bar,
        ..settle(tree, state)
    })
}

/// Lifts the suspension that was placed on this very task. It stays suspended where an ancestor is,
/// and no child wakes that was suspended for itself.
///
/// # Errors
/// When the task has ended, its deadline passed, it is not suspended itself, or whoever suspended
/// it stands higher than `by`.
pub fn resume(
    tree: Tree,
    by: Actor,
    ancestors_suspended: bool,
    now: Timestamp,
) -> Result<Changes, Refusal> {
    check_open(&tree.top, now)?;
    let inherited = match &tree.top.state {
        State::Suspended {
            own: Some(own),
            inherited,
        } => {
            if !may_lift(&by, &own.by, &tree.top) {
                return Err(Refusal::SuspendedByHigher { by: own.by.clone() });
            }
            // What the task itself says is checked by version; what was read about its ancestors
            // may be older. Either keeps it asleep.
            *inherited || ancestors_suspended
        }
        State::Suspended { own: None, .. } => return Err(Refusal::SuspendedAbove),
        State::Live | State::Ended { .. } => return Err(Refusal::NotSuspended),
    };
    let lift = bars(&tree.top) && !inherited;
    let state = if inherited {
        State::Suspended {
            own: None,
            inherited,
        }
    } else {
        State::Live
    };
    Ok(Changes {
        lift,
        ..settle(tree, state)
    })
}

/// Whether an end or suspension of this task must bar its process from a new implicit one.
pub(crate) fn bars(task: &Task) -> bool {
    task.kind == TaskKind::Implicit && task.holder.process.is_some()
}

fn check_open(task: &Task, now: Timestamp) -> Result<(), Refusal> {
    if let State::Ended { at, cause, .. } = task.state {
        return Err(Refusal::TaskEnded {
            task: task.id,
            at,
            cause,
        });
    }
    if now >= task.times.deadline {
        return Err(Refusal::DeadlinePassed {
            task: task.id,
            deadline: task.times.deadline,
        });
    }
    Ok(())
}

/// Whether `by` may lift what `placed` placed on `task`: the same authority or a higher one.
fn may_lift(by: &Actor, placed: &Actor, task: &Task) -> bool {
    match (by, placed) {
        // Among ancestors the root stands highest and the parent lowest; how two in between stand
        // to each other is not known here, so they don't undo each other.
        (Actor::Ancestor(by), Actor::Ancestor(placed)) => {
            by == placed || *by == task.root || Some(*placed) == task.parent
        }
        (Actor::Node(by), Actor::Node(placed)) => by == placed,
        _ => by.rank() >= placed.rank(),
    }
}

/// Whether `by` stands strictly higher than `placed`.
fn outranks(by: &Actor, placed: &Actor, task: &Task) -> bool {
    may_lift(by, placed, task) && !may_lift(placed, by, task)
}

/// Puts the top into `state` and lets every task below follow.
fn settle(tree: Tree, state: State) -> Changes {
    let mut changes = Changes::default();
    let mut asleep = HashMap::from([(tree.top.id, is_suspended(&state))]);
    changes.turn(tree.top, state);
    let mut below = tree.below;
    below.sort_by_key(|task| task.depth);
    for task in below {
        let state = with_inherited(&task.state, parent_asleep(&task, &asleep));
        asleep.insert(task.id, is_suspended(&state));
        changes.turn(task, state);
    }
    changes
}

/// A parent that was not read with the others counts as suspended: nothing wakes by omission.
fn parent_asleep(task: &Task, asleep: &HashMap<TaskId, bool>) -> bool {
    task.parent
        .and_then(|parent| asleep.get(&parent).copied())
        .unwrap_or(true)
}

fn is_suspended(state: &State) -> bool {
    matches!(state, State::Suspended { .. })
}

fn with_inherited(state: &State, inherited: bool) -> State {
    match state {
        State::Ended { .. } => state.clone(),
        State::Live | State::Suspended { own: None, .. } if !inherited => State::Live,
        State::Live => State::Suspended {
            own: None,
            inherited,
        },
        State::Suspended { own, .. } => State::Suspended {
            own: own.clone(),
            inherited,
        },
    }
}
