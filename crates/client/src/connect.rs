//! Channels over unix sockets and TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, OtherError};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;
use tower::service_fn;

use crate::Endpoint;

const CONNECT: Duration = Duration::from_secs(5);

/// A half-open connection is noticed after these two together.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// The service could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("can't connect to `{endpoint}`")]
pub struct ConnectError {
    /// Where.
    pub endpoint: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// One connection and no other: when it is over, calls fail.
#[derive(Debug)]
pub struct Session {
    /// Calls over it.
    pub channel: Channel,
    /// What the peer showed, as the configuration's verifier let it through, leaf first.
    pub peer: Vec<CertificateDer<'static>>,
    /// TLS exporter for the label asked for, without context (RFC 8446 section 7.5).
    pub exporter: [u8; 32],
}

/// Connects; the channel reconnects by itself when a call finds the connection gone.
///
/// # Errors
/// [`ConnectError`] when the first connection fails.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, ConnectError> {
    let tonic = settings();
    let made = match endpoint {
        Endpoint::Unix(path) => {
            let path = path.clone();
            let dial = move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            tonic.connect_with_connector(service_fn(dial)).await
        }
        Endpoint::Tls { address, config } => {
            let (address, config) = (address.clone(), with_alpn(config));
            let dial = move |_: Uri| {
                let (address, config) = (address.clone(), Arc::clone(&config));
                async move { dial_tls(&address, config).await.map(TokioIo::new) }
            };
            tonic.connect_with_connector(service_fn(dial)).await
        }
    };
    made.map_err(|error| ConnectError {
        endpoint: endpoint.to_string(),
        source: innermost(&error).unwrap_or_else(|| io::Error::other(error)),
    })
}

/// The I/O error below tonic's own, which says no more than "transport error".
fn innermost(error: &tonic::transport::Error) -> Option<io::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            let words = match io.get_ref().and_then(std::error::Error::source) {
                Some(inner) => format!("{io}: {inner}"),
                None => io.to_string(),
            };
            return Some(io::Error::new(io.kind(), words));
        }
        next = cause.source();
    }
    None
}

/// As [`connect`], on the first call.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    let tonic = settings();
    match endpoint {
        Endpoint::Unix(path) => {
            let path = path.clone();
            tonic.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
        }
        Endpoint::Tls { address, config } => {
            let (address, config) = (address.clone(), with_alpn(config));
            tonic.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let (address, config) = (address.clone(), Arc::clone(&config));
                async move { dial_tls(&address, config).await.map(TokioIo::new) }
            }))
        }
    }
}

/// Makes one TLS connection and exports keying material from it, so that what is signed inside
/// can name this very connection.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_once(
    address: &str,
    config: Arc<ClientConfig>,
    exporter_label: &[u8],
) -> Result<Session, ConnectError> {
    let failed = |source| ConnectError {
        endpoint: address.to_owned(),
        source,
    };
    let stream = tokio::time::timeout(CONNECT, dial_tls(address, with_alpn(&config)))
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    let (_, tls) = stream.get_ref();
    let peer = tls.peer_certificates().unwrap_or_default().to_vec();
    let exporter = tls
        .export_keying_material([0; 32], exporter_label, None)
        .map_err(|error| failed(io::Error::other(error)))?;
    let mut only = Some(TokioIo::new(stream));
    let dial = move |_: Uri| {
        let stream = only
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    };
    let channel = settings()
        .connect_with_connector(service_fn(dial))
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    Ok(Session {
        channel,
        peer,
        exporter,
    })
}

/// The authority is always `localhost`: a path or an address there would tell nobody anything.
fn settings() -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
}

fn with_alpn(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn dial_tls(address: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = server_name(address)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(in_words)
}

/// rustls shows what a custom verifier said in debug form; people get its words.
fn in_words(error: io::Error) -> io::Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            io::Error::new(error.kind(), Judged(Arc::clone(inner)))
        }
        _ => error,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the peer is refused")]
struct Judged(#[source] Arc<dyn std::error::Error + Send + Sync>);

/// For SNI only: SPIFFE verifiers look at the peer's id.
fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let (host, _) = address.rsplit_once(':').ok_or_else(|| {
        let text = format!("`{address}` has no port");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}
