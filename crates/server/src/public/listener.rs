//! The public listener: bounded connections, each with time limits of its own, drained at the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig as TlsConfig;
use taskmint_verifier::{PeerSvid, tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::problem::Problem;

/// The most connections at the same time.
const CONNECTIONS: usize = 4096;

/// How long a peer may take for its handshake, and for the head of a request: so long also an idle
/// connection is kept.
const HEAD: Duration = Duration::from_secs(10);

/// How long a request may take, its body and our answer included.
const REQUEST: Duration = Duration::from_secs(10);

/// How much of a head is read.
const MAX_HEAD: usize = 32 << 10;

/// Who asks; in the extensions of each request.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// From where.
    pub(crate) address: IpAddr,
    /// The SVID that it showed, valid at the handshake.
    pub(crate) svid: Option<Arc<PeerSvid>>,
}

/// Serves until the stop, and then finishes what is in hand.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<TlsConfig>>,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let free = Arc::clone(&slots).acquire_owned();
        let accepted = tokio::select! {
            accepted = async {
                let slot = free.await;
                (slot, listener.accept().await)
            } => accepted,
            () = stop.cancelled() => break,
        };
        while open.try_join_next().is_some() {}
        let (Ok(slot), Ok((stream, address))) = accepted else {
            // Out of descriptors, most likely: wait for some to come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        open.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(stream, address, acceptor, router, stop).await {
                tracing::debug!(%error, %address, "a public connection failed");
            }
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
    Ok(())
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut peer = Peer {
        address: address.ip().to_canonical(),
        svid: None,
    };
    let Some(acceptor) = acceptor else {
        return requests(stream, peer, router, stop).await;
    };
    let stream = tokio::time::timeout(HEAD, acceptor.accept(stream)).await??;
    let leaf = stream.get_ref().1.peer_certificates();
    if let Some(leaf) = leaf.and_then(|chain| chain.first()) {
        let svid = tls::read_verified(leaf).map_err(io::Error::other)?;
        peer.svid = Some(Arc::new(svid));
    }
    requests(stream, peer, router, stop).await
}

async fn requests<S>(
    stream: S,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        answer(request.map(Body::new), peer.clone(), router.clone())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    served.map_err(io::Error::other)
}

async fn answer(
    mut request: Request<Body>,
    peer: Peer,
    router: Router,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(peer);
    match tokio::time::timeout(REQUEST, router.oneshot(request)).await {
        Ok(answered) => answered,
        Err(_) => {
            let late = Problem::new(StatusCode::REQUEST_TIMEOUT, "TOO_LATE", "it took too long");
            Ok(late.into_response())
        }
    }
}
