//! HTTP for those who don't watch: CRLs, status lists, the check endpoint, introspection.
//!
//! Whoever asks learns of credentials that he names, and of nothing else. A request is bounded
//! before it is read: 64 KiB of body, ten seconds, so many from one address.

mod callers;
mod check;
mod crl;
mod files;
mod form;
mod introspect;
mod listener;
mod openapi;
mod problem;
mod status_list;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use rustls::ServerConfig as TlsConfig;
use taskmint_config::{PublicSecurity, ServerConfig};
use taskmint_daemon::Tasks;
use taskmint_issuer::Issuer;
use taskmint_model::Clock;
use taskmint_verifier::tls::{self, Clients};
use tokio::net::TcpListener;

use crate::identity::OwnIdentity;
use callers::Callers;
use files::Files;
use listener::Peer;
use problem::Problem;

/// The most octets of a request's body.
const MAX_BODY: usize = 64 << 10;

/// Addresses above this many are looked through for old ones.
const MANY: usize = 10_000;

/// Every path, as the OpenAPI document names them.
pub(crate) const PATHS: [&str; 7] = [
    "/crl/{file}",
    "/status/{log}/{bucket}",
    "/check",
    "/check/{serial}",
    "/introspect",
    "/introspect/batch",
    "/openapi.json",
];

/// What every request needs.
#[derive(Clone)]
pub(crate) struct Public {
    issuer: Arc<Issuer>,
    callers: Arc<Callers>,
    rates: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

/// Starts serving on a listener that is bound already.
pub(crate) fn start(
    tasks: &Tasks,
    listener: TcpListener,
    config: &ServerConfig,
    issuer: &Arc<Issuer>,
    own: &OwnIdentity,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<()> {
    let public = Public::new(Arc::clone(issuer), config)?;
    let router = public.router();
    let tls = match &config.public.security {
        Some(PublicSecurity::Tls {
            cert_file,
            key_file,
        }) => {
            let files = Files::read(cert_file, key_file).context("the public listener")?;
            let mut reloads = tasks.reload().subscribe();
            let (keep, stop) = (Arc::clone(&files), tasks.shutdown().requested());
            tasks.spawn("public-cert", async move {
                tokio::select! {
                    () = keep.follow(&mut reloads) => {}
                    () = stop => {}
                }
                Ok::<_, std::io::Error>(())
            });
            let asks_for_svids = !config.public.introspect_ids.is_empty();
            Some(tls_config(files, own, clock, asks_for_svids)?)
        }
        Some(PublicSecurity::PlainHttp) | None => None,
    };
    let stop = tasks.shutdown().token();
    tasks.spawn("public", listener::serve(listener, tls, router, stop));
    Ok(())
}

/// A certificate that the world knows on our side; an SVID on the client's, if it has one.
fn tls_config(
    files: Arc<Files>,
    own: &OwnIdentity,
    clock: &Arc<dyn Clock>,
    asks_for_svids: bool,
) -> anyhow::Result<Arc<TlsConfig>> {
    let mut config = if asks_for_svids {
        let (anybody, clock) = (tls::authorize::anyone(), Arc::clone(clock));
        let clients = Clients::Optional;
        tls::server_config(&own.identity, &own.trust, clock, clients, anybody, None)?
    } else {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        TlsConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&files) as _)
    };
    config.cert_resolver = files;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Public {
    pub(crate) fn new(issuer: Arc<Issuer>, config: &ServerConfig) -> anyhow::Result<Self> {
        let one = NonZeroU32::MIN;
        let rate = config.public.per_client;
        let quota = Quota::per_second(NonZeroU32::new(rate.per_second).unwrap_or(one))
            .allow_burst(NonZeroU32::new(rate.burst).unwrap_or(one));
        Ok(Self {
            issuer,
            callers: Arc::new(Callers::new(&config.public)?),
            rates: Arc::new(DefaultKeyedRateLimiter::keyed(quota)),
        })
    }

    /// All routes, at the root and, where `public_url` has a path, below that too: some proxies
    /// hand it on and some do not.
    pub(crate) fn router(&self) -> Router {
        let [crls, lists, check, checks, introspect, batch, openapi] = PATHS;
        let routes = Router::new()
            .route(crls, get(crl::fetch))
            .route(lists, get(status_list::fetch))
            .route(check, get(check::by_header).post(check::by_header))
            .route(checks, get(check::by_path).post(check::by_path))
            .route(introspect, post(introspect::one))
            .route(batch, post(introspect::many))
            .route(openapi, get(openapi::document))
            .with_state(self.clone());
        let url = self.issuer.settings().public_url.as_deref().unwrap_or("");
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let routes = match rest.split_once('/') {
            Some((_, path)) => Router::new()
                .nest(&format!("/{path}"), routes.clone())
                .merge(routes),
            None => routes,
        };
        routes
            .fallback(async || Problem::not_found("NO_SUCH_PATH", "there is nothing here"))
            .method_not_allowed_fallback(async || {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                Problem::new(status, "METHOD_NOT_ALLOWED", "not with this method")
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(self.clone(), admit))
    }
}

/// Before anything is read: whether this address may ask at all.
async fn admit(State(public): State<Public>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    if let Some(address) = peer.map(|peer| peer.address) {
        if public.rates.len() > MANY {
            public.rates.retain_recent();
        }
        if let Err(not) = public.rates.check_key(&address) {
            let wait = not.wait_time_from(DefaultClock::default().now());
            return Problem::too_many(wait).into_response();
        }
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
