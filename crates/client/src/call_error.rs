//! A failed call, as people read it.

use std::fmt;
use std::time::Duration;

use taskmint_model::DenialId;
use tonic::{Code, Status};

use crate::words::with_causes;

/// Why a call failed. Where the peer is ours and denied it, the reason, what to do and the id of
/// the denial are read back out of the status.
#[derive(Clone, Debug)]
pub struct CallError {
    /// gRPC code.
    pub code: Code,
    /// Stable reason, such as `TASK_ENDED`; none for a peer that is not ours.
    pub reason: Option<String>,
    /// What failed.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
    /// For `taskmint explain`.
    pub denial: Option<DenialId>,
    /// What the peer attested about the caller.
    pub facts: Option<String>,
    /// How long the peer asks to wait before the same call is made again.
    pub retry_after: Option<Duration>,
}

impl CallError {
    /// Whether the same call may succeed later: the peer was away or overloaded.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
        )
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let retry_after = taskmint_wire::retry_after_of(&status);
        let (reason, mut metadata) = taskmint_wire::denial_of(&status).unzip();
        let mut take = |name: &str| metadata.as_mut().and_then(|metadata| metadata.remove(name));
        let (fix, denial, facts) = (take("fix"), take("denial_id"), take("facts"));
        let mut message = status.message().to_owned();
        // The message says it all in one line, for peers that read nothing else.
        let suffixes = [
            denial.as_ref().map(|id| format!(" (denial {id})")),
            fix.as_ref().map(|fix| format!("; {fix}")),
        ];
        for suffix in suffixes.into_iter().flatten() {
            if let Some(rest) = message.strip_suffix(&suffix) {
                message = rest.to_owned();
            }
        }
        let rest = reason
            .as_ref()
            .and_then(|reason| message.strip_prefix(reason)?.strip_prefix(": "));
        if let Some(rest) = rest {
            message = rest.to_owned();
        }
        Self {
            code: status.code(),
            reason,
            message: with_causes(message, &status),
            fix,
            denial: denial.and_then(|id| id.parse().ok()),
            facts,
            retry_after,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{} [{reason}]", self.message)?,
            None if self.message.is_empty() => f.write_str(self.code.description())?,
            None => write!(f, "{} [{:?}]", self.message, self.code)?,
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        match &self.denial {
            Some(id) => write!(f, " (denial {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests {
    use taskmint_wire::Denied;

    use super::*;

    #[test]
    fn a_denial_is_taken_apart_and_told_once() {
        let id: DenialId = "0198c0de-0000-7000-8000-000000000000".parse().unwrap();
        let denied = Denied::new(Code::PermissionDenied, "TASK_ENDED", "task has ended")
            .fix("begin a new one")
            .id(id);
        let error = CallError::from(Status::from(denied));
        assert_eq!(error.message, "task has ended");
        assert_eq!(error.denial, Some(id));
        assert_eq!(
            error.to_string(),
            format!("task has ended [TASK_ENDED]; begin a new one (denial {id})")
        );
        assert!(!error.is_transient());
        assert_eq!(error.retry_after, None);
    }

    #[test]
    fn when_to_ask_again_is_kept() {
        let wait = Duration::from_millis(40);
        let denied = Denied::new(Code::ResourceExhausted, "RATE_LIMITED", "too many calls");
        let error = CallError::from(Status::from(denied.retry_after(wait)));
        assert_eq!(error.retry_after, Some(wait));
    }

    #[test]
    fn a_status_of_another_peer_keeps_its_words() {
        let error = CallError::from(Status::unavailable("gone"));
        assert_eq!(
            (error.reason.as_deref(), error.is_transient()),
            (None, true)
        );
        assert_eq!(error.to_string(), "gone [Unavailable]");
    }
}
