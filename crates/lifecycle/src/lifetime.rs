//! Whether anything may be minted under a task, and for how long.

use std::time::Duration;

use taskmint_model::{State, Task, Timestamp};

use crate::Refusal;

/// The most that a credential is backdated: the signer refuses more than 60 s off its clock (P23),
/// and cutting off milliseconds takes up to one second more.
pub const MAX_BACKDATE: Duration = Duration::from_secs(59);

/// From when to when a credential counts, both on whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// First second at which it counts, backdated for clock skew (P33).
    pub not_before: Timestamp,
    /// Last second at which it counts.
    pub not_after: Timestamp,
}

/// Whether a task is live: only then may anything be minted, extended or delegated under it.
///
/// # Errors
/// When it has ended, is suspended (itself or by a task above), or its deadline passed.
pub fn may_mint(task: &Task, now: Timestamp) -> Result<(), Refusal> {
    match &task.state {
        State::Ended { at, cause, .. } => Err(Refusal::TaskEnded {
            task: task.id,
            at: *at,
            cause: *cause,
        }),
        State::Suspended { .. } => Err(Refusal::TaskSuspended { task: task.id }),
        State::Live if now >= task.times.deadline => Err(Refusal::DeadlinePassed {
            task: task.id,
            deadline: task.times.deadline,
        }),
        State::Live => Ok(()),
    }
}

/// The lifetime of a credential: to the earliest of the task's deadline (which lies within its
/// parent's), `ttl` from now, and `cap` from its first second (contract line 1).
///
/// # Errors
/// As [`may_mint`], and when less than a whole second would be left.
pub fn lifetime(
    task: &Task,
    ttl: Duration,
    cap: Duration,
    backdate: Duration,
    now: Timestamp,
) -> Result<Lifetime, Refusal> {
    may_mint(task, now)?;
    let not_before = (now - backdate.min(MAX_BACKDATE)).floor_to_second();
    // The cap counts from the first second, backdating included: so the signer counts it (P23).
    let not_after = (now + ttl)
        .min(not_before + cap)
        .min(task.times.deadline)
        .floor_to_second();
    if not_after > now {
        return Ok(Lifetime {
            not_before,
            not_after,
        });
    }
    if task.times.deadline.floor_to_second() <= now {
        return Err(Refusal::DeadlineNear {
            deadline: task.times.deadline,
        });
    }
    Err(Refusal::NoTime)
}
