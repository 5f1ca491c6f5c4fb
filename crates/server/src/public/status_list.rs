//! `GET /status/<log id>/<bucket>`: token status lists (draft-ietf-oauth-status-list, section 8).

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use taskmint_status::LogId;

use super::Public;
use super::problem::Problem;

const STATUS_LIST: &str = "application/statuslist+jwt";

pub(super) async fn fetch(
    State(public): State<Public>,
    Path((log, bucket)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let none = || Problem::not_found("NO_SUCH_LIST", "there is no such status list");
    let settings = public.issuer.settings();
    if settings.public_url.is_none() {
        return Err(none());
    }
    if !accepts(&headers) {
        let detail = format!("only `{STATUS_LIST}` can be had here");
        return Err(Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "NOT_ACCEPTABLE",
            detail,
        ));
    }
    let mut id = [0; 8];
    hex::decode_to_slice(&log, &mut id).map_err(|_| none())?;
    // One spelling of each address: what is signed is the address.
    let bucket: u32 = bucket
        .parse()
        .ok()
        .filter(|number: &u32| number.to_string() == bucket)
        .ok_or_else(none)?;
    let log_id = LogId(id);
    if log_id.to_string() != log {
        return Err(none());
    }
    let list = public.issuer.status_list(log_id, bucket).await?;
    let zipped = wants_gzip(&headers);
    let body = if zipped { &list.gzip } else { &list.token };
    let coding = if zipped { "-gz" } else { "" };
    let etag = format!("\"{}{coding}\"", list.tag);
    let age = public.issuer.now().since(list.at);
    let max_age = settings.status_list_ttl.saturating_sub(age).as_secs();
    let mut response = if matches(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        body.clone().into_response()
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(STATUS_LIST));
    if zipped {
        answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Wallets and pages in browsers read them too, and nothing in them is secret.
    let anybody = HeaderValue::from_static("*");
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anybody);
    cached(answer, &etag, max_age);
    Ok(response)
}

/// Says how long it may be kept, and by what it is known again.
pub(super) fn cached(headers: &mut HeaderMap, etag: &str, max_age: u64) {
    let control = format!("public, max-age={max_age}");
    for (name, value) in [
        (header::CACHE_CONTROL, control),
        (header::ETAG, etag.to_owned()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// Whether the asker has it already (RFC 9110, section 13.1.2).
pub(super) fn matches(headers: &HeaderMap, etag: &str) -> bool {
    members(headers, header::IF_NONE_MATCH)
        .any(|member| member == "*" || member.strip_prefix("W/").unwrap_or(member) == etag)
}

fn accepts(headers: &HeaderMap) -> bool {
    let mut any = false;
    for member in members(headers, header::ACCEPT) {
        any = true;
        let (kind, weight) = weighted(member);
        if weight > 0.0 && matches!(kind, STATUS_LIST | "application/*" | "*/*") {
            return true;
        }
    }
    !any
}

fn wants_gzip(headers: &HeaderMap) -> bool {
    let weight_of = |name: &str| {
        members(headers, header::ACCEPT_ENCODING)
            .map(weighted)
            .find(|(coding, _)| coding.eq_ignore_ascii_case(name))
            .map(|(_, weight)| weight)
    };
    weight_of("gzip").or_else(|| weight_of("*")).unwrap_or(0.0) > 0.0
}

fn members(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// A member and its weight; what can't be read weighs nothing.
fn weighted(member: &str) -> (&str, f32) {
    let mut parts = member.split(';').map(str::trim);
    let name = parts.next().unwrap_or("");
    let weight = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .map_or(1.0, |(_, weight)| weight.trim().parse().unwrap_or(0.0));
    (name, weight)
}
