//! `POST /introspect` (RFC 7662), for JWT-SVIDs, and many of them at once.
//!
//! Whatever does not count is `{"active": false}`, for whatever reason: it says nothing else.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use taskmint_id::BundleSet;
use taskmint_id::jws::{MAX_TOKEN, UnverifiedToken};
use taskmint_verifier::{VerifiedToken, verify_jwt};

use super::Public;
use super::form;
use super::listener::Peer;
use super::problem::Problem;

/// The most tokens of one request.
const MAX_TOKENS: usize = 100;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

type Who = Option<Extension<Peer>>;
type Body = Result<Bytes, axum::extract::rejection::BytesRejection>;

pub(super) async fn one(
    State(public): State<Public>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = admitted(&public, who, &headers, body, FORM).await?;
    let token = form::value(&body, "token").map_err(|_| malformed())?;
    let token = token.filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Problem::bad("TOKEN_MISSING", "there is no token"))?;
    Ok(answer(&introspect(&public, &token).await?))
}

pub(super) async fn many(
    State(public): State<Public>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = admitted(&public, who, &headers, body, JSON).await?;
    let asked: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
    let tokens = asked.get("tokens").and_then(Value::as_array);
    let tokens = tokens.ok_or_else(malformed)?;
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        let detail = format!("one request may hold 1 to {MAX_TOKENS} tokens");
        return Err(Problem::bad("BAD_COUNT", detail));
    }
    let mut results = Vec::with_capacity(tokens.len());
    for token in tokens {
        let token = token.as_str().ok_or_else(malformed)?;
        results.push(introspect(&public, token).await?);
    }
    Ok(answer(&json!({ "results": results })))
}

async fn admitted(
    public: &Public,
    who: Who,
    headers: &HeaderMap,
    body: Body,
    kind: &str,
) -> Result<Bytes, Problem> {
    let peer = who.as_ref().map(|Extension(peer)| peer);
    public.callers.admit(&public.issuer, peer, headers).await?;
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if !given.is_some_and(|given| given.eq_ignore_ascii_case(kind)) {
        let detail = format!("the body must be `{kind}`");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "BAD_MEDIA_TYPE", detail));
    }
    body.map_err(|rejected| {
        if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = "the body is longer than 64 KiB";
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LONG", detail);
        }
        malformed()
    })
}

async fn introspect(public: &Public, token: &str) -> Result<Value, Problem> {
    let inactive = || json!({ "active": false });
    let Some(token) = verified(public, token) else {
        return Ok(inactive());
    };
    let Some(binding) = &token.binding else {
        return Ok(inactive());
    };
    let task = public.issuer.live_task(binding).await?;
    let Some(task) = task.filter(|task| task.spiffe_id == token.spiffe_id) else {
        return Ok(inactive());
    };
    let scope: Vec<&str> = task.authority.scopes.iter().map(String::as_str).collect();
    let mut claims = json!({
        "active": true,
        "token_type": "JWT-SVID",
        "client_id": task.spiffe_id.as_str(),
        "scope": scope.join(" "),
        "task": {
            "id": task.id.to_string(),
            "root": task.root.to_string(),
            "owner": task.owner,
        },
    });
    for name in ["sub", "aud", "exp", "iat", "nbf", "jti", "iss"] {
        if let (Some(value), Some(into)) = (token.claims.get(name), claims.as_object_mut()) {
            into.insert(name.to_owned(), value.clone());
        }
    }
    Ok(claims)
}

/// A token that this trust domain signed and that has not expired, for whatever audience: whoever
/// introspects compares that.
fn verified(public: &Public, token: &str) -> Option<VerifiedToken> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let audience = UnverifiedToken::parse(token).ok()?.claims.audience;
    let bundle = public.issuer.bundle().borrow().clone();
    let bundles = BundleSet::from_iter([(*bundle).clone()]);
    let now = public.issuer.now();
    verify_jwt(token, audience.first()?, &bundles, now, Duration::ZERO).ok()
}

fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
}

fn malformed() -> Problem {
    Problem::bad("BAD_BODY", "the body can't be read")
}
