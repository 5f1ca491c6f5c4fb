//! End: complete, fail, cancel, revoke, expire. One path, and nothing comes back on it.

use taskmint_model::{Actor, Cause, EndTrace, State, Task, Timestamp};

use crate::suspension::bars;
use crate::{Changes, Refusal, Tree};

/// Ends a task and, as [`Cause::PARENT_ENDED`], everything below it. `parent` is the task above, if
/// there is one: it has one live child less.
///
/// # Errors
/// [`Refusal::AlreadyEnded`] on a second end; with the same cause it may be a retry.
/// [`Refusal::NotYetExpired`] for an expiry ahead of the deadline.
pub fn end(
    tree: Tree,
    parent: Option<&Task>,
    cause: Cause,
    by: Actor,
    now: Timestamp,
) -> Result<Changes, Refusal> {
    let Tree { top, below } = tree;
    if let State::Ended { at, cause, .. } = top.state {
        return Err(Refusal::AlreadyEnded { cause, at });
    }
    let deadline = top.times.deadline;
    if cause == Cause::EXPIRED && now < deadline {
        return Err(Refusal::NotYetExpired { deadline });
    }
    let mut changes = Changes {
        bar: bar_due(&top, cause),
        ..Changes::default()
    };
    if let Some(missing) = top.parent {
        let found = parent.filter(|parent| parent.id == missing);
        let mut parent = found.ok_or(Refusal::TreeChanged { missing })?.clone();
        parent.children = parent.children.saturating_sub(1);
        changes.put(parent);
    }
    let open = below.into_iter().filter(|task| !task.is_ended());
    changes.end(top, cause, &by, now);
    open.for_each(|task| changes.end(task, Cause::PARENT_ENDED, &by, now));
    Ok(changes)
}

impl Changes {
    fn end(&mut self, task: Task, cause: Cause, by: &Actor, at: Timestamp) {
        let state = State::Ended {
            at,
            cause,
            by: by.clone(),
            trace: EndTrace::default(),
        };
        self.turn(
            Task {
                children: 0,
                ..task
            },
            state,
        );
    }
}

/// P3: an implicit task that somebody ended, or that was suspended when something else ended it,
/// must not be followed by another at the next retry.
fn bar_due(top: &Task, cause: Cause) -> bool {
    let suspended = matches!(top.state, State::Suspended { .. });
    let moot = cause == Cause::HOLDER_DIED || cause == Cause::ENTRY_REMOVED;
    bars(top) && !moot && (suspended || !is_mishap(cause))
}

/// Ends that nobody decided upon against the holder. A bar after one of them would keep honest
/// workloads out when their node is back, or the server is restored, until somebody lifts it (P12).
fn is_mishap(cause: Cause) -> bool {
    [
        Cause::EXPIRED,
        Cause::SUPERSEDED,
        Cause::NODE_LOST,
        Cause::RESTORED,
    ]
    .contains(&cause)
}
