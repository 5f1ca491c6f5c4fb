//! How a denial travels: a gRPC status with `google.rpc.ErrorInfo` (contract line 11), and
//! `google.rpc.RetryInfo` where it is known when asking again may help.

use std::collections::HashMap;
use std::time::Duration;

use taskmint_model::{DenialId, Selectors};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our stable reasons in `ErrorInfo`.
pub const DENIAL_DOMAIN: &str = "taskmint";

/// A denial as the caller sees it: a stable reason, its own attested facts, what to do, an id.
#[derive(Debug, Clone)]
pub struct Denied {
    /// gRPC code.
    pub code: Code,
    /// Stable reason, such as `TASK_ENDED`.
    pub reason: String,
    /// What was refused and why, for people.
    pub message: String,
    /// What the caller can do; empty if nothing.
    pub fix: String,
    /// For `taskmint explain`; none where nothing was kept.
    pub id: Option<DenialId>,
    /// The caller's own attested facts.
    pub facts: Selectors,
    /// Asking again before is in vain; unset where nothing is known of it.
    pub retry_after: Option<Duration>,
}

impl Denied {
    /// A denial with a reason and a message.
    pub fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            fix: String::new(),
            id: None,
            facts: Selectors::new(),
            retry_after: None,
        }
    }

    /// With what the caller can do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// With the id that finds the whole story.
    #[must_use]
    pub fn id(mut self, id: DenialId) -> Self {
        self.id = Some(id);
        self
    }

    /// With the caller's own attested facts.
    #[must_use]
    pub fn facts(mut self, facts: Selectors) -> Self {
        self.facts = facts;
        self
    }

    /// With when to ask again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let mut metadata = HashMap::new();
        let mut text = denied.message;
        if !denied.fix.is_empty() {
            text = format!("{text}; {}", denied.fix);
            metadata.insert("fix".to_owned(), denied.fix);
        }
        if let Some(id) = denied.id {
            text = format!("{text} (denial {id})");
            metadata.insert("denial_id".to_owned(), id.to_string());
        }
        if !denied.facts.is_empty() {
            // Bounded: details travel in a header, and peers cap those at 8 KiB.
            let facts: Vec<_> = denied.facts.iter().map(ToString::to_string).collect();
            let mut facts = facts.join(", ");
            let end = (0..=facts.len().min(2048))
                .rev()
                .find(|i| facts.is_char_boundary(*i));
            facts.truncate(end.unwrap_or(0));
            metadata.insert("facts".to_owned(), facts);
        }
        let mut details = ErrorDetails::with_error_info(&denied.reason, DENIAL_DOMAIN, metadata);
        if let Some(wait) = denied.retry_after {
            details.set_retry_info(Some(wait));
        }
        Status::with_error_details(denied.code, format!("{}: {text}", denied.reason), details)
    }
}

/// Reads back what [`Denied`] wrote: reason and metadata (`fix`, `denial_id`, `facts`).
pub fn denial_of(status: &Status) -> Option<(String, HashMap<String, String>)> {
    let details = status.get_error_details();
    let info = details.error_info()?;
    (info.domain == DENIAL_DOMAIN).then(|| (info.reason.clone(), info.metadata.clone()))
}

/// How long the peer asks to wait before the same call is made again (`google.rpc.RetryInfo`).
pub fn retry_after_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_survives_the_wire() {
        let id: DenialId = "0198c0de-0000-7000-8000-000000000000".parse().unwrap();
        let denied = Denied::new(Code::PermissionDenied, "TASK_ENDED", "task has ended")
            .fix("begin a new one")
            .id(id);
        let status = Status::from(denied);
        let (reason, metadata) = denial_of(&status).unwrap();
        assert_eq!(reason, "TASK_ENDED");
        assert_eq!(metadata["denial_id"], id.to_string());
        assert_eq!(metadata["fix"], "begin a new one");
        assert!(status.message().contains("TASK_ENDED: task has ended"));
        assert_eq!(retry_after_of(&status), None);
    }

    #[test]
    fn when_to_ask_again_is_in_the_details() {
        let wait = Duration::from_millis(1_250);
        let denied = Denied::new(Code::ResourceExhausted, "RATE_LIMITED", "too many calls");
        let status = Status::from(denied.retry_after(wait));
        // What travels are the encoded details alone.
        let details = status.details().to_vec().into();
        let status = Status::with_details(status.code(), status.message(), details);
        assert_eq!(retry_after_of(&status), Some(wait));
        assert_eq!(denial_of(&status).unwrap().0, "RATE_LIMITED");
    }
}
