//! Why a rule said no, for programs and for people.

use taskmint_id::SpiffeId;
use taskmint_model::{Actor, Cause, TaskId, TaskKind, TextError, Timestamp};

/// Why a rule said no. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The task, or the one it should hang below, has ended.
    #[error("task `{task}` ended at {at} ({cause})")]
    TaskEnded {
        /// Which task.
        task: TaskId,
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// The task, or one above it, is suspended.
    #[error("task `{task}` is suspended")]
    TaskSuspended {
        /// Which task.
        task: TaskId,
    },
    /// The deadline is over, though the end may not be written yet.
    #[error("the deadline of task `{task}` passed at {deadline}")]
    DeadlinePassed {
        /// Which task.
        task: TaskId,
        /// When it passed.
        deadline: Timestamp,
    },
    /// A second end. With the same cause it is a retry, and the first stands.
    #[error("the task ended already, at {at} ({cause})")]
    AlreadyEnded {
        /// Why it ended.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
    /// Ended as expired while its deadline lies ahead: that would dodge the bar of P3.
    #[error("the task does not expire before {deadline}")]
    NotYetExpired {
        /// Its deadline.
        deadline: Timestamp,
    },
    /// Suspended already, by somebody at least as high.
    #[error("the task is suspended already, by {by}")]
    AlreadySuspended {
        /// By whom.
        by: Actor,
    },
    /// There is nothing to resume.
    #[error("the task is not suspended")]
    NotSuspended,
    /// Nobody suspended the task itself; a task above it is suspended.
    #[error("the task is suspended because one above it is")]
    SuspendedAbove,
    /// Whoever suspended it stands higher (P5).
    #[error("the task was suspended by {by}")]
    SuspendedByHigher {
        /// By whom.
        by: Actor,
    },
    /// More authority than the entry or the parent has.
    #[error("{what} is beyond the authority of {whose}")]
    BeyondAuthority {
        /// The first scope or audience too many.
        what: String,
        /// `the entry`, `the parent task` or `a node or server`.
        whose: &'static str,
    },
    /// Past the task's limit, or a limit past the latest allowed.
    #[error("{asked} lies past the limit, {latest}")]
    BeyondLimit {
        /// The instant asked for.
        asked: Timestamp,
        /// The latest one allowed.
        latest: Timestamp,
    },
    /// Past the deadline of a task above.
    #[error("{asked} lies past the deadline of the task above, {latest}")]
    BeyondParent {
        /// The instant asked for.
        asked: Timestamp,
        /// The deadline above.
        latest: Timestamp,
    },
    /// An extension that would shorten.
    #[error("{asked} lies before the deadline, {deadline}: a deadline only moves out")]
    DeadlineEarlier {
        /// The instant asked for.
        asked: Timestamp,
        /// The deadline.
        deadline: Timestamp,
    },
    /// A lifetime of nothing.
    #[error("a lifetime must be at least a millisecond")]
    NoTime,
    /// Less than a whole second is left, and credentials are dated in seconds.
    #[error("the deadline {deadline} is too near for a credential")]
    DeadlineNear {
        /// The deadline.
        deadline: Timestamp,
    },
    /// The parent has as many live children as it may, or more were asked for than allowed.
    #[error("at most {max} live children are allowed")]
    TooManyChildren {
        /// The bound.
        max: u32,
    },
    /// Delegation may go no deeper, or deeper was asked for than allowed.
    #[error("delegation may go {max} levels deeper")]
    TooDeep {
        /// The bound.
        max: u8,
    },
    /// Nothing allows the task: no entry, or it is gone.
    #[error("no registration entry allows this task")]
    EntryMissing,
    /// The entry's time is over.
    #[error("the registration entry expired at {at}")]
    EntryExpired {
        /// When.
        at: Timestamp,
    },
    /// The entry allows no implicit tasks.
    #[error("the registration entry allows no implicit tasks")]
    ImplicitNotAllowed,
    /// The identity is not the one that the entry, or the parent, carries.
    #[error("spiffe id `{0}` is not the one that the task may carry")]
    SpiffeIdMismatch(SpiffeId),
    /// A reserved name for a workload, or an ordinary one for a node or server (P9).
    #[error("spiffe id `{id}` is no name for {kind} tasks")]
    SpiffeIdKind {
        /// The name.
        id: SpiffeId,
        /// `explicit`, `implicit`, `node` or `server`.
        kind: &'static str,
    },
    /// Node and server tasks neither are nor have children, implicit ones are none.
    #[error("{child} tasks can't hang below {parent} tasks")]
    DelegationNotAllowed {
        /// Kind of the parent.
        parent: &'static str,
        /// Kind of the child.
        child: &'static str,
    },
    /// Bound to a process, but no process holds it.
    #[error("a task bound to a process needs one that holds it")]
    HolderMissing,
    /// Tasks of this kind have no successors (P4).
    #[error("{} tasks have no successors", .0.name())]
    NoSuccessor(TaskKind),
    /// The place is not in the bucket of the limit.
    #[error("the place is in bucket {got}, the limit in bucket {expected}")]
    WrongBucket {
        /// The limit's hour.
        expected: u32,
        /// The place's.
        got: u32,
    },
    /// A task above is not among those that were read.
    #[error("task `{missing}` was not read with the others of its tree")]
    TreeChanged {
        /// Which task.
        missing: TaskId,
    },
    /// A text that is too long or unprintable.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl Refusal {
    /// The stable reason: what programs match on.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TaskEnded { .. } => "TASK_ENDED",
            Self::TaskSuspended { .. } => "TASK_SUSPENDED",
            Self::DeadlinePassed { .. } => "DEADLINE_PASSED",
            Self::AlreadyEnded { .. } => "ALREADY_ENDED",
            Self::NotYetExpired { .. } => "NOT_YET_EXPIRED",
            Self::AlreadySuspended { .. } => "ALREADY_SUSPENDED",
            Self::NotSuspended => "NOT_SUSPENDED",
            Self::SuspendedAbove => "SUSPENDED_ABOVE",
            Self::SuspendedByHigher { .. } => "SUSPENDED_BY_HIGHER",
            Self::BeyondAuthority { .. } => "BEYOND_AUTHORITY",
            Self::BeyondLimit { .. } => "BEYOND_LIMIT",
            Self::BeyondParent { .. } => "BEYOND_PARENT",
            Self::DeadlineEarlier { .. } => "DEADLINE_EARLIER",
            Self::NoTime => "NO_TIME",
            Self::DeadlineNear { .. } => "DEADLINE_NEAR",
            Self::TooManyChildren { .. } => "TOO_MANY_CHILDREN",
            Self::TooDeep { .. } => "TOO_DEEP",
            Self::EntryMissing => "ENTRY_MISSING",
            Self::EntryExpired { .. } => "ENTRY_EXPIRED",
            Self::ImplicitNotAllowed => "IMPLICIT_NOT_ALLOWED",
            Self::SpiffeIdMismatch(_) => "SPIFFE_ID_MISMATCH",
            Self::SpiffeIdKind { .. } => "SPIFFE_ID_KIND",
            Self::DelegationNotAllowed { .. } => "DELEGATION_NOT_ALLOWED",
            Self::HolderMissing => "HOLDER_MISSING",
            Self::NoSuccessor(_) => "NO_SUCCESSOR",
            Self::WrongBucket { .. } => "WRONG_BUCKET",
            Self::TreeChanged { .. } => "TREE_CHANGED",
            Self::Text(_) => "TEXT_REFUSED",
        }
    }

    /// What the caller can do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::TaskEnded { .. } | Self::DeadlinePassed { .. } | Self::AlreadyEnded { .. } => {
                "ends are final: begin a new task".to_owned()
            }
            Self::TaskSuspended { .. } => {
                "wait until whoever suspended it, or somebody above, resumes it".to_owned()
            }
            Self::NotYetExpired { deadline } => {
                format!("wait until {deadline}, or end it with another cause")
            }
            Self::AlreadySuspended { .. } | Self::NotSuspended => "nothing to do".to_owned(),
            Self::SuspendedAbove => "resume the suspended task above it".to_owned(),
            Self::SuspendedByHigher { by } => format!("ask {by}, or somebody above, to resume it"),
            Self::BeyondAuthority { whose, .. } => format!(
                "ask for no more than {whose} has, or have the entry's scopes and audiences widened"
            ),
            Self::BeyondLimit { latest, .. } | Self::BeyondParent { latest, .. } => {
                format!("ask for no later than {latest}, or begin a new task")
            }
            Self::DeadlineEarlier { .. } => {
                "ask for a later deadline; to stop sooner, end the task".to_owned()
            }
            Self::NoTime => "ask for a longer time, or leave it out".to_owned(),
            Self::DeadlineNear { .. } => "extend the task first, or begin a new one".to_owned(),
            Self::TooManyChildren { .. } => {
                "end a child first, or have the entry's max_children raised".to_owned()
            }
            Self::TooDeep { .. } => {
                "delegate from a task nearer to the root, or have the entry's max_depth raised"
                    .to_owned()
            }
            Self::EntryMissing => "have a registration entry created for it".to_owned(),
            Self::EntryExpired { .. } => "have the registration entry renewed".to_owned(),
            Self::ImplicitNotAllowed => {
                "begin a task explicitly, or have `implicit` set on the entry".to_owned()
            }
            Self::SpiffeIdMismatch(_) => "ask for the identity of the entry".to_owned(),
            Self::SpiffeIdKind { .. } => {
                "names below /taskmint/ belong to nodes and servers, all others to workloads"
                    .to_owned()
            }
            Self::DelegationNotAllowed { .. } => {
                "delegate explicitly, from a workload's task".to_owned()
            }
            Self::HolderMissing => "name the process that holds the task".to_owned(),
            Self::NoSuccessor(_) => "begin a new task".to_owned(),
            Self::WrongBucket { .. } | Self::TreeChanged { .. } => "try again".to_owned(),
            Self::Text(_) => "shorten it and leave out control characters".to_owned(),
        }
    }
}
