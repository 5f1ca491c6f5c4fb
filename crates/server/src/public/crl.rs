//! `GET /crl/<key id>.crl`.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::{Public, status_list};

/// RFC 2585.
const PKIX_CRL: &str = "application/pkix-crl";

pub(super) async fn fetch(
    State(public): State<Public>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let none = || Problem::not_found("NO_SUCH_LIST", "there is no such revocation list");
    let key_id = file.strip_suffix(".crl").ok_or_else(none)?;
    let lists = public.issuer.crls().borrow().clone();
    let list = lists.iter().find(|list| list.key_id == key_id);
    let Some(list) = list else {
        if lists.is_empty() {
            return Err(too_old());
        }
        return Err(none());
    };
    let now = public.issuer.now();
    if list.next_update <= now {
        return Err(too_old());
    }
    let settings = public.issuer.settings();
    // What a cache holds longer is missed by those behind it.
    let fresh = (list.made_at + settings.crl_interval).since(now);
    let max_age = fresh
        .as_secs()
        .max(1)
        .min(list.next_update.since(now).as_secs());
    let etag = format!("\"{}\"", list.tag);
    let mut response = if status_list::matches(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        list.der.clone().into_response()
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(PKIX_CRL));
    status_list::cached(answer, &etag, max_age);
    Ok(response)
}

/// Better none than one that ran out: both make a consumer refuse, and this one says why.
fn too_old() -> Problem {
    let detail = "no revocation list could be made lately; it is in the log";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "LIST_NOT_READY", detail)
}
