//! What stands between a credential that is well signed and a yes: the status of its task.

use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_status::TaskBinding;

/// Why a credential's status is no yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// A stable name, such as `TASK_ENDED` or `STATUS_STALE`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Nothing can be known now, of whatever credential: asked again later, the answer may be yes.
    pub unavailable: bool,
}

/// What stands between a credential and a yes.
///
/// Asked on each handshake and each request, by many threads: an implementation answers from
/// memory, without waiting.
pub trait StatusCheck: Send + Sync + 'static {
    /// Whether the task behind a credential may act now.
    ///
    /// # Errors
    /// Why not. What can't be known is refused, too.
    fn check(&self, binding: &TaskBinding) -> Result<(), Refused>;

    /// Whose credentials must name a task at all.
    fn policy(&self) -> Policy {
        Policy::Everyone
    }
}

/// Whose credentials must name a task, and so have a status to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Everyone's. A credential without a task is refused, whoever issued it.
    #[default]
    Everyone,
    /// Those of this trust domain. Others' logs are not followed here: their credentials count by
    /// signature and lifetime alone, whatever task they name.
    OwnTrustDomain(TrustDomain),
    /// Nobody's: a credential that names no task counts until it expires. For services that move
    /// over from an issuer without tasks.
    Nobody,
}

impl Refused {
    /// A reason and its words.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            unavailable: false,
        }
    }

    /// The same where nothing can be known now, of whatever credential.
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            unavailable: true,
            ..Self::new(reason, message)
        }
    }
}

/// Asks for the status of a verified credential, by the checker's own [`Policy`].
///
/// # Errors
/// Why the credential is refused; `TASK_MISSING` where it names no task and must.
pub fn judge(
    status: &dyn StatusCheck,
    spiffe_id: &SpiffeId,
    binding: Option<&TaskBinding>,
) -> Result<(), Refused> {
    let must = match status.policy() {
        Policy::Everyone => true,
        Policy::OwnTrustDomain(own) if own != *spiffe_id.trust_domain() => return Ok(()),
        Policy::OwnTrustDomain(_) => true,
        Policy::Nobody => false,
    };
    match binding {
        Some(binding) => status.check(binding),
        None if must => Err(Refused::new("TASK_MISSING", "the credential names no task")),
        None => Ok(()),
    }
}
