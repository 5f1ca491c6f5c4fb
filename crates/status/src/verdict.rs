//! What a verifier answers for a place, and why it says no.

use std::fmt;

use crate::clock::Now;
use crate::map::Status;
use crate::place::Place;
use crate::watcher::Freshness;

/// Why a place is refused. Names are stable: they reach callers and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The task has ended.
    TaskEnded,
    /// The task is suspended.
    TaskSuspended,
    /// The place's hour is over for everyone.
    BelowFloor,
    /// The place's hour lies further ahead than any limit.
    BeyondLimit,
    /// The place is of another log: one replaced by a restore, or another trust domain's.
    OtherLog,
    /// No statuses have been received yet.
    NotSynced,
    /// The nonce of this connection has not been answered yet.
    NonceUnanswered,
    /// The newest head is older than allowed.
    Stale,
    /// The wall clock jumped against the boot clock, or the server's against both.
    ClockJumped,
    /// The clocks have run side by side for too long without a new nonce.
    DriftUsed,
    /// The log was seen to contradict itself.
    Forked,
}

impl Refusal {
    /// The stable name.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TaskEnded => "TASK_ENDED",
            Self::TaskSuspended => "TASK_SUSPENDED",
            Self::BelowFloor => "BUCKET_BELOW_FLOOR",
            Self::BeyondLimit => "BUCKET_BEYOND_LIMIT",
            Self::OtherLog => "LOG_UNKNOWN",
            Self::NotSynced => "STATUS_NOT_SYNCED",
            Self::NonceUnanswered => "STATUS_NONCE_UNANSWERED",
            Self::Stale => "STATUS_STALE",
            Self::ClockJumped => "CLOCK_JUMPED",
            Self::DriftUsed => "CLOCK_DRIFT_USED",
            Self::Forked => "LOG_FORKED",
        }
    }

    /// Whether it is said of this place. The others are said of the verifier: it can believe
    /// nothing now, of whatever task.
    #[must_use]
    pub fn is_about_place(self) -> bool {
        match self {
            Self::TaskEnded
            | Self::TaskSuspended
            | Self::BelowFloor
            | Self::BeyondLimit
            | Self::OtherLog => true,
            Self::NotSynced
            | Self::NonceUnanswered
            | Self::Stale
            | Self::ClockJumped
            | Self::DriftUsed
            | Self::Forked => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TaskEnded => "the task has ended",
            Self::TaskSuspended => "the task is suspended",
            Self::BelowFloor => "the credential's hour is over",
            Self::BeyondLimit => "the credential's hour lies too far ahead",
            Self::OtherLog => "the credential's status is kept in another log",
            Self::NotSynced => "no statuses have been received yet",
            Self::NonceUnanswered => "the server has not answered this connection's nonce yet",
            Self::Stale => "nothing fresh has been heard from the server",
            Self::ClockJumped => "a clock jumped, and the server has not been asked again yet",
            Self::DriftUsed => "the clocks need a new comparison with the server",
            Self::Forked => "the revocation log contradicts itself",
        })
    }
}

/// The answer for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Not ended, not suspended, and fresh enough to say so.
    Valid,
    /// No.
    Refused(Refusal),
}

/// What the statuses say, then whether they may be believed.
///
/// What is final comes first, because staleness doesn't make it less true: an ended task gets that
/// answer even from a verifier that is cut off.
pub(crate) fn decide(
    found: Result<Status, Refusal>,
    place: Place,
    freshness: &Freshness,
    now: Now,
) -> Verdict {
    let status = match found {
        Err(refusal) => return Verdict::Refused(refusal),
        Ok(Status::Ended) => return Verdict::Refused(Refusal::TaskEnded),
        Ok(status) => status,
    };
    if let Err(refusal) = freshness.check(now) {
        return Verdict::Refused(refusal);
    }
    if place.bucket() > freshness.furthest_bucket(now) {
        return Verdict::Refused(Refusal::BeyondLimit);
    }
    match status {
        Status::Valid => Verdict::Valid,
        Status::Suspended => Verdict::Refused(Refusal::TaskSuspended),
        Status::Ended => Verdict::Refused(Refusal::TaskEnded),
    }
}
