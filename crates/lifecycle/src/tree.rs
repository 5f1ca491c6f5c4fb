//! A task with everything below it, and what a rule did to them.

use std::mem;

use taskmint_model::{Cause, State, Task, TaskId};
use taskmint_status::{Place, Status};

/// A task and all its descendants that have not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The task acted on.
    pub top: Task,
    /// All below it that have not ended, in any order.
    pub below: Vec<Task>,
}

/// What must be stored, all of it together or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "a change that is not stored has not happened"]
pub struct Changes {
    /// Each changed task as it is now, with the version that it must still have in the store.
    pub tasks: Vec<(Task, u64)>,
    /// Changes of status bits, for the revocation log: one for each task whose status changed.
    pub statuses: Vec<TaskStatus>,
    /// Whether the top's process must be barred from new implicit tasks (P3).
    pub bar: bool,
    /// Whether a bar that this task's suspension placed is to be lifted: it is live again.
    pub lift: bool,
}

/// A change of one task's status bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskStatus {
    /// Where.
    pub place: Place,
    /// Whose.
    pub task: TaskId,
    /// To what.
    pub status: Status,
    /// Why it ended; none while it has not.
    pub cause: Option<Cause>,
}

impl Changes {
    /// Writes into the ends where in the revocation log they are.
    pub fn committed_at(&mut self, position: u64) {
        for (task, _) in &mut self.tasks {
            if let State::Ended { trace, .. } = &mut task.state {
                trace.position = Some(position);
            }
        }
    }

    /// Stores `task` one version on.
    pub(crate) fn put(&mut self, mut task: Task) {
        let expected = task.version;
        task.version += 1;
        self.tasks.push((task, expected));
    }

    /// Moves `task` into `state`, with a status change where verifiers must hear of it.
    pub(crate) fn turn(&mut self, mut task: Task, state: State) {
        if task.state == state {
            return;
        }
        let before = mem::replace(&mut task.state, state);
        let (status, cause) = status_of(&task.state);
        if status != status_of(&before).0 {
            self.statuses.push(TaskStatus {
                place: task.place,
                task: task.id,
                status,
                cause,
            });
        }
        self.put(task);
    }
}

fn status_of(state: &State) -> (Status, Option<Cause>) {
    match state {
        State::Live => (Status::Valid, None),
        State::Suspended { .. } => (Status::Suspended, None),
        State::Ended { cause, .. } => (Status::Ended, Some(*cause)),
    }
}
