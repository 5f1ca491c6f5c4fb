//! Why an attestation gave nothing. Every error has a stable reason, and belongs to who can act.

use std::error::Error;
use std::time::Duration;

use taskmint_model::SelectorError;
use taskmint_peer::LookError;

/// Why a workload or a node was not attested.
///
/// Either the party was *refused* ([`is_refusal`](Self::is_refusal)): something about it is wrong,
/// and no other attestor's word makes up for it. Or the attestor *failed*: it could not tell.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The peer is gone, or not who it was when it connected.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The attestor knows why not.
    #[error("{detail}")]
    Refused {
        /// Stable, upper case: `EXECUTABLE_SETUID`, `JOIN_TOKEN_UNKNOWN`.
        reason: &'static str,
        /// For the refused party: its own facts and what to do, nobody else's.
        detail: String,
    },
    /// Bytes from the other side that are not what the attestor's exchange says.
    #[error("{what} is malformed")]
    Malformed {
        /// Which bytes.
        what: &'static str,
    },
    /// More than is ever read.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Which bytes.
        what: &'static str,
        /// The bound in bytes.
        limit: usize,
    },
    /// More challenges than one attestation may take.
    #[error("more than {limit} challenges in one attestation")]
    TooManyChallenges {
        /// The bound.
        limit: usize,
    },
    /// No attestor of this name is configured.
    #[error("no attestor `{name}` is configured")]
    UnknownAttestor {
        /// What was asked for.
        name: String,
    },
    /// The other side went away in the middle of the exchange.
    #[error("the exchange ended early")]
    Interrupted,
    /// No answer in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// What the attestor depends on did not work.
    #[error("{what} is not available")]
    Unavailable {
        /// Stable, upper case: `EXECUTABLE_UNREADABLE`.
        reason: &'static str,
        /// What did not work.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An attestor made a selector that is none: a bug of the attestor.
    #[error("an attestor made an ill-formed selector")]
    Selector(#[from] SelectorError),
    /// An attestor broke its contract: a bug of the attestor.
    #[error("attestor `{attestor}` {what}")]
    Broken {
        /// Which.
        attestor: &'static str,
        /// What it did.
        what: &'static str,
    },
    /// Every attestor ran and none had anything to say.
    #[error("no attestor knows this workload")]
    NoSelectors,
}

impl AttestError {
    /// The stable reason, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Look(error) => error.reason(),
            Self::Refused { reason, .. } | Self::Unavailable { reason, .. } => reason,
            Self::Malformed { .. } => "ATTESTATION_MALFORMED",
            Self::TooLarge { .. } => "ATTESTATION_TOO_LARGE",
            Self::TooManyChallenges { .. } => "ATTESTATION_TOO_LONG",
            Self::UnknownAttestor { .. } => "ATTESTOR_UNKNOWN",
            Self::Interrupted => "ATTESTATION_INTERRUPTED",
            Self::TimedOut { .. } => "ATTESTATION_TIMED_OUT",
            Self::Selector(_) | Self::Broken { .. } => "ATTESTOR_BROKEN",
            Self::NoSelectors => "NO_SELECTORS",
        }
    }

    /// Whether something is wrong with who is attested, rather than with the attestor.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Look(LookError::Process(error)) => error.is_gone(),
            Self::Look(LookError::Credentials { .. } | LookError::Executable { .. })
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::TooManyChallenges { .. }
            | Self::UnknownAttestor { .. } => true,
            Self::Interrupted
            | Self::TimedOut { .. }
            | Self::Unavailable { .. }
            | Self::Selector(_)
            | Self::Broken { .. }
            | Self::NoSelectors => false,
        }
    }
}
