//! `/live`, `/ready` and `/metrics`.
//!
//! Nothing here tells tasks or identities apart, but what it counts is nobody else's business:
//! bind it to loopback unless a scraper sits elsewhere.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Readiness, Shutdown};

/// What OpenMetrics 1.0 calls itself; Prometheus reads it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// A router with the three endpoints; `metrics` renders OpenMetrics text for each scrape.
///
/// `/live` answers 200 while the runtime turns. `/ready` answers 200 `ready`, or 503 with one line
/// for each condition that is not met and a second's `Retry-After`.
pub fn router(
    readiness: Readiness,
    metrics: impl Fn() -> String + Send + Sync + 'static,
) -> Router {
    let metrics: Metrics = Arc::new(metrics);
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

/// Serves the router until the stop is *forced*: while the process drains, `/ready` says so.
/// Spawn it with [`crate::Tasks::spawn_support`].
///
/// # Errors
///
/// As [`axum::serve()`] does.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.forced())
        .await
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    if readiness.is_ready() {
        return "ready\n".into_response();
    }
    let missing = readiness
        .missing()
        .into_iter()
        .map(|name| format!("waiting for {name}\n"));
    let missing: String = missing.collect();
    let later = [(RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, later, missing).into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, OPENMETRICS)], metrics())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn ready_names_what_it_waits_for() {
        let readiness = Readiness::new();
        let (store, signer) = (readiness.condition("store"), readiness.condition("signer"));
        let router = router(readiness.clone(), String::new);
        let waiting = "waiting for signer\nwaiting for store\n".to_owned();
        assert_eq!(
            ask(&router, "/ready").await,
            (StatusCode::SERVICE_UNAVAILABLE, waiting)
        );
        let request = Request::get("/ready")
            .body(Body::empty())
            .expect("a request");
        let response = router.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        store.set(true);
        signer.set(true);
        assert_eq!(
            ask(&router, "/ready").await,
            (StatusCode::OK, "ready\n".to_owned())
        );
        readiness.stop();
        assert_eq!(
            ask(&router, "/ready").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            ask(&router, "/live").await,
            (StatusCode::OK, "live\n".to_owned())
        );
    }

    #[tokio::test]
    async fn metrics_are_rendered_for_each_scrape() {
        let scrapes = std::sync::atomic::AtomicU32::new(0);
        let router = router(Readiness::new(), move || {
            let count = scrapes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            format!("scrapes {count}\n# EOF\n")
        });
        assert_eq!(ask(&router, "/metrics").await.1, "scrapes 0\n# EOF\n");
        assert_eq!(ask(&router, "/metrics").await.1, "scrapes 1\n# EOF\n");
        assert_eq!(ask(&router, "/other").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_draining_process_still_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = Shutdown::new();
        let router = router(Readiness::new(), String::new);
        let serving = tokio::spawn(serve(listener, router, shutdown.clone()));
        shutdown.request();
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
        shutdown.force();
        serving.await.expect("no panic").expect("a clean end");
    }
}
