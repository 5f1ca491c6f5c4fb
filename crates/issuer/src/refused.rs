//! How a use case refuses: for the caller a reason, for the operator the story.

use std::time::Duration;

use taskmint_model::{DenialId, Selectors};
use taskmint_store::{CommitError, StoreError};

/// After two changes at the same time.
const SOON: Duration = Duration::from_millis(50);

/// About as long as it takes to start a signer, or for a disk to come back.
const LATER: Duration = Duration::from_secs(1);

/// Which kind of refusal: maps to one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request can't mean anything.
    Invalid,
    /// What it names does not exist, or not for this caller.
    NotFound,
    /// Not allowed.
    Denied,
    /// Not in the state that this needs.
    State,
    /// Exists already, with other content.
    Exists,
    /// Too many, for now.
    Exhausted,
    /// Try again.
    Unavailable,
    /// A fault of ours.
    Internal,
}

/// A refusal with its stable reason. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refused {
    /// Which kind.
    pub kind: RefusalKind,
    /// Stable, such as `TASK_ENDED`.
    pub reason: &'static str,
    /// What and why, for the caller.
    pub message: String,
    /// What the caller can do; empty if nothing.
    pub fix: String,
    /// For the operator alone.
    pub detail: Vec<String>,
    /// The caller's attested facts.
    pub facts: Selectors,
    /// Asking again before is in vain; unset where nothing is known of it.
    pub retry_after: Option<Duration>,
    /// Set once kept for `explain`.
    pub id: Option<DenialId>,
}

impl Refused {
    /// A refusal with a stable reason and a message.
    pub fn new(kind: RefusalKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            fix: String::new(),
            detail: Vec::new(),
            facts: Selectors::new(),
            retry_after: None,
            id: None,
        }
    }

    /// With what the caller can do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// With what only the operator sees.
    #[must_use]
    pub fn detail(mut self, detail: Vec<String>) -> Self {
        self.detail = detail;
        self
    }

    /// With when to ask again, for people and for programs.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let wait = wait.max(Duration::from_millis(1));
        self.fix = format!("try again in {} ms", wait.as_millis());
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn no_task() -> Self {
        Self::new(
            RefusalKind::NotFound,
            "NO_SUCH_TASK",
            "no such task, or not one of yours",
        )
    }

    pub(crate) fn busy() -> Self {
        let message = "too many changes at the same time";
        Self::new(RefusalKind::Unavailable, "TRY_AGAIN", message).retry_after(SOON)
    }
}

impl From<taskmint_lifecycle::Refusal> for Refused {
    fn from(refusal: taskmint_lifecycle::Refusal) -> Self {
        use taskmint_lifecycle::Refusal as R;
        let kind = match refusal {
            R::AlreadyEnded { .. } | R::NotSuspended => RefusalKind::State,
            _ => RefusalKind::Denied,
        };
        Self::new(kind, refusal.reason(), refusal.to_string()).fix(refusal.fix())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        let message = "the store can't do this now";
        Self::new(RefusalKind::Unavailable, "STORE_FAILED", message).retry_after(LATER)
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::busy(),
            CommitError::Malformed(fault) => {
                tracing::error!(%fault, "the store refused what the rules allowed");
                Self::new(
                    RefusalKind::Internal,
                    "FAULT",
                    "a fault of ours; it is in the log",
                )
            }
            CommitError::Store(error) => error.into(),
        }
    }
}

impl From<taskmint_mint::Refusal> for Refused {
    fn from(refusal: taskmint_mint::Refusal) -> Self {
        use taskmint_mint::Refusal as R;
        let again = match &refusal {
            R::Away => Some(LATER),
            R::Busy(wait) => Some(*wait),
            _ => None,
        };
        if let Some(wait) = again {
            return Self::new(RefusalKind::Unavailable, "TRY_AGAIN", refusal.to_string())
                .retry_after(wait);
        }
        let (kind, reason) = match &refusal {
            R::Key => (RefusalKind::Invalid, "BAD_KEY"),
            R::Audience => (RefusalKind::Invalid, "BAD_AUDIENCE"),
            R::DnsName(_) => (RefusalKind::Invalid, "BAD_DNS_NAME"),
            R::Name { .. } | R::ForeignTrustDomain(_) => (RefusalKind::Denied, "BAD_NAME"),
            R::PastLimit { .. } | R::Lifetime { .. } => (RefusalKind::Denied, "BEYOND_LIMIT"),
            R::Failed(_) | R::NoActiveKey(_) => (RefusalKind::Unavailable, "AUTHORITY_FAILED"),
            _ => (RefusalKind::Internal, "AUTHORITY_REFUSED"),
        };
        if kind == RefusalKind::Internal || kind == RefusalKind::Unavailable {
            tracing::error!(%refusal, "the authority refused");
        }
        Self::new(kind, reason, refusal.to_string())
    }
}
