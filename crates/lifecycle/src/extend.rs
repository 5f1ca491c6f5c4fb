//! Extend: a deadline moves out.

use taskmint_model::{Task, Timestamp};

use crate::Refusal;
use crate::lifetime::may_mint;

/// Moves the deadline of `task` out. `ancestors` are all tasks above it, in any order.
///
/// A deadline never moves in: the children's would have to follow, and whoever wants to stop
/// sooner can end the task.
///
/// # Errors
/// When the task or one above it is not live, or the deadline would lie before the present one,
/// past the limit, or past the deadline of a task above.
pub fn extend(
    task: &Task,
    ancestors: &[Task],
    deadline: Timestamp,
    now: Timestamp,
) -> Result<Task, Refusal> {
    may_mint(task, now)?;
    if deadline < task.times.deadline {
        let (asked, deadline) = (deadline, task.times.deadline);
        return Err(Refusal::DeadlineEarlier { asked, deadline });
    }
    if deadline > task.times.limit {
        return Err(Refusal::BeyondLimit {
            asked: deadline,
            latest: task.times.limit,
        });
    }
    let mut above = task.parent;
    // A chain is as long as the task is deep: ids that went in a circle would not end the walk.
    for _ in 0..task.depth {
        let Some(missing) = above else { break };
        let ancestor = ancestors.iter().find(|task| task.id == missing);
        let ancestor = ancestor.ok_or(Refusal::TreeChanged { missing })?;
        may_mint(ancestor, now)?;
        if deadline > ancestor.times.deadline {
            let latest = ancestor.times.deadline;
            return Err(Refusal::BeyondParent {
                asked: deadline,
                latest,
            });
        }
        above = ancestor.parent;
    }
    if let Some(missing) = above {
        return Err(Refusal::TreeChanged { missing });
    }
    let mut task = task.clone();
    task.version += 1;
    task.times.deadline = deadline;
    Ok(task)
}
