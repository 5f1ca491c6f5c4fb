//! `GET /openapi.json`: what can be asked here, for machines.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The document; `docs/openapi.yaml` says the same.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, DOCUMENT).into_response()
}
