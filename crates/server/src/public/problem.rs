//! Refusals over HTTP: problem+json (RFC 9457), with a stable reason beside the words.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use taskmint_issuer::{RefusalKind, Refused};

/// The media type.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// When to ask again, where nothing better is known: whatever is away is looked for at least as often.
const LATER: Duration = Duration::from_secs(1);

/// Why a request was refused.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        let busy = status == StatusCode::SERVICE_UNAVAILABLE;
        Self {
            status,
            reason,
            detail: detail.into(),
            retry_after: busy.then_some(LATER),
            challenge: None,
        }
    }

    pub(crate) fn bad(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }

    pub(crate) fn not_found(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason, detail)
    }

    pub(crate) fn too_many(wait: Duration) -> Self {
        let detail = "too many requests in too short a time";
        Self {
            retry_after: Some(wait),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", detail)
        }
    }

    /// With how a caller could say who it is.
    pub(crate) fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Denied => StatusCode::FORBIDDEN,
            RefusalKind::State => StatusCode::GONE,
            RefusalKind::Exists => StatusCode::CONFLICT,
            RefusalKind::Exhausted | RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Internal => {
                tracing::error!(error = %refused, "a public request failed");
                let detail = "a fault of ours; it is in the log";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "FAULT", detail);
            }
        };
        let problem = Self::new(status, refused.reason, refused.message);
        Self {
            retry_after: refused.retry_after.or(problem.retry_after),
            ..problem
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds(wait).into());
        }
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Whole seconds, as `Retry-After` has them (RFC 9110, 10.2.3): never too few, and at least one.
fn seconds(wait: Duration) -> u64 {
    let more = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(more).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_come_back_is_told_when() {
        let told = |problem: Problem| {
            let response = problem.into_response();
            let told = response.headers().get(header::RETRY_AFTER);
            told.map(|told| told.to_str().unwrap().to_owned())
        };
        let busy = |kind| Refused::new(kind, "TRY_AGAIN", "busy");
        let wait = Duration::from_millis(1_001);
        let refused = busy(RefusalKind::Exhausted).retry_after(wait);
        assert_eq!(told(refused.into()).as_deref(), Some("2"));
        assert_eq!(told(Problem::too_many(wait)).as_deref(), Some("2"));
        assert_eq!(
            told(busy(RefusalKind::Unavailable).into()).as_deref(),
            Some("1")
        );
        assert_eq!(told(busy(RefusalKind::Denied).into()), None);
    }
}
