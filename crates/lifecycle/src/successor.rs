//! Successors (P4): what lasts longer than a limit goes on under a new task, without a gap.

use std::time::Duration;

use taskmint_model::{Cause, State, Task, TaskKind, Timestamp};

use crate::lifetime::may_mint;
use crate::{Ask, Refusal};

/// How long after its end by time a node may still renew (P11): a long outage must not need hands
/// on every machine.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The earliest that an implicit task's successor is due, before its limit.
const LEAD: Duration = Duration::from_secs(3600);

/// What to ask for so that a new task follows `task` without a gap. The holder must have been
/// attested anew.
///
/// The successor gets what its entry allows then, as a first task would; entries narrow over time.
/// A node's task that ended by time is followed for [`RENEWAL_GRACE`] more; whether the node is
/// banned or suspended is not known here, and must be asked as well.
///
/// # Errors
/// When the task is explicit, suspended, past its deadline, or ended: what was ended or revoked is
/// never continued.
pub fn successor(task: &Task, now: Timestamp) -> Result<Ask, Refusal> {
    if task.kind == TaskKind::Explicit {
        return Err(Refusal::NoSuccessor(task.kind));
    }
    if !lapsed_within_grace(task, now) {
        may_mint(task, now)?;
    }
    Ok(Ask {
        kind: task.kind,
        entry: task.entry,
        spiffe_id: task.spiffe_id.clone(),
        owner: task.owner.clone(),
        purpose: task.purpose.clone(),
        authority: None,
        ttl: None,
        limit: None,
        limits: None,
        holder: task.holder.clone(),
        binding: task.binding.clone(),
        continues: Some(task.id),
    })
}

/// Whether the task nears its limit: half of its life for nodes and servers, whose SVIDs are
/// renewed then; the last quarter, an hour at most, for implicit tasks.
pub fn successor_due(task: &Task, now: Timestamp) -> bool {
    let life = task.times.limit.since(task.times.opened);
    let lead = match task.kind {
        TaskKind::Explicit => return false,
        TaskKind::Implicit => (life / 4).min(LEAD),
        TaskKind::Node | TaskKind::Server => life / 2,
    };
    may_mint(task, now).is_ok() && task.times.limit.since(now) <= lead
}

/// A node's task that nobody ended, only time: written as expired, or not written yet.
fn lapsed_within_grace(task: &Task, now: Timestamp) -> bool {
    let by_time = match &task.state {
        State::Live => true,
        State::Ended { cause, .. } => *cause == Cause::EXPIRED,
        State::Suspended { .. } => false,
    };
    let lapsed = task.times.deadline <= now && now < task.times.deadline + RENEWAL_GRACE;
    task.kind == TaskKind::Node && by_time && lapsed
}
