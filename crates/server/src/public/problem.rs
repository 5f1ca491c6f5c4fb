//! Refusals over HTTP: problem+json (RFC 9457), with a stable reason beside the words.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use taskmint_issuer::{RefusalKind, Refused};

/// The media type.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

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
        Self {
            status,
            reason,
            detail: detail.into(),
            retry_after: None,
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
        Self::new(status, refused.reason, refused.message)
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
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
