//! Who did what, and what was refused to whom.

use std::borrow::Cow;
use std::fmt;

use taskmint_id::SpiffeId;

use crate::{DenialId, Selectors, TaskId, Timestamp};

/// One line of the audit log: with every change, hash-chained, in the same write (P32).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When.
    pub at: Timestamp,
    /// Who acted: a SPIFFE ID, `uid:1000` or `issuer`.
    pub who: String,
    /// On whose behalf; empty if nobody's.
    pub owner: String,
    /// Under which task.
    pub task: Option<TaskId>,
    /// What was done: `task.begin`, `entry.delete`.
    pub action: Cow<'static, str>,
    /// To what.
    pub resource: String,
    /// With which outcome.
    pub decision: Decision,
    /// The stable reason; empty where allowed needs none.
    pub reason: Cow<'static, str>,
}

/// Outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It was done.
    Allowed,
    /// It was refused.
    Denied,
}

/// A stable reason, such as `TASK_ENDED`: what programs match on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Reason(pub &'static str);

/// The whole story of one refusal, kept so that `explain` can tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the caller was given.
    pub id: DenialId,
    /// When.
    pub at: Timestamp,
    /// Where: the node whose agent asked, if one did.
    pub node: Option<SpiffeId>,
    /// Who asked: a SPIFFE ID, `uid:1000`, a process.
    pub who: String,
    /// What was asked: `task.begin`.
    pub action: String,
    /// The stable reason.
    pub reason: String,
    /// What was refused, for the caller.
    pub message: String,
    /// What to do about it.
    pub fix: String,
    /// The caller's attested facts.
    pub selectors: Selectors,
    /// For the operator alone: rules that were considered and why each did not apply.
    pub detail: Vec<String>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
