//! Accepted connections: the TLS handshake, bounded in time, and who is at the other end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use taskmint_verifier::{PeerSvid, tls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::admin_access::AdminUid;

/// How long a peer may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes run at the same time: each costs a signature.
const HANDSHAKES: usize = 256;

/// Label of the exporter that x509pop signs over (P10).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-taskmint-attest";

/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// The client's SVID, if it showed one; it was valid at the handshake.
    pub(crate) peer: Option<Arc<PeerSvid>>,
    /// Binds what is signed inside to this connection.
    pub(crate) exporter: [u8; 32],
}

/// A connection with what is known of its peer.
pub(crate) struct Accepted<S, P> {
    stream: S,
    peer: P,
}

/// A connection after its handshake.
pub(crate) type Secured = Accepted<TlsStream<TcpStream>, Connection>;

/// Accepts connections and hands them on after their handshakes, which run side by side.
pub(crate) fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<Secured>> + Send + use<> {
    let (ready, accepted) = mpsc::channel(64);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                () = ready.closed() => return,
            };
            let Ok((stream, _)) = stream else {
                // Out of descriptors, most likely: wait for some to come back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                let accepted = tokio::time::timeout(HANDSHAKE, handshake(acceptor, stream)).await;
                drop(slot);
                match accepted {
                    Ok(Ok(accepted)) => drop(ready.send(Ok(accepted)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "handshake failed"),
                    Err(_) => tracing::debug!("handshake timed out"),
                }
            });
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(accepted)
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Secured> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let (_, session) = stream.get_ref();
    let exporter = session
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(io::Error::other)?;
    let peer = session.peer_certificates().and_then(|chain| chain.first());
    let peer = peer
        .map(|leaf| tls::read_verified(leaf))
        .transpose()
        .map_err(io::Error::other)?;
    Ok(Accepted {
        stream,
        peer: Connection {
            peer: peer.map(Arc::new),
            exporter,
        },
    })
}

/// Accepts connections on the admin socket from these uids; others are hung up on.
pub(crate) fn accept_admins(
    listener: UnixListener,
    allowed: Vec<u32>,
) -> impl Stream<Item = io::Result<Accepted<UnixStream, AdminUid>>> + Send {
    futures::stream::unfold((listener, allowed), |(listener, allowed)| async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            match stream.peer_cred().map(|peer| peer.uid()) {
                Ok(uid) if allowed.contains(&uid) => {
                    let accepted = Accepted {
                        stream,
                        peer: AdminUid(uid),
                    };
                    return Some((Ok(accepted), (listener, allowed)));
                }
                Ok(uid) => tracing::warn!(uid, "refused on the admin socket: uid is not allowed"),
                Err(error) => tracing::warn!(%error, "refused on the admin socket"),
            }
        }
    })
}

impl<S, P: Clone + Send + Sync + 'static> Connected for Accepted<S, P> {
    type ConnectInfo = P;
    fn connect_info(&self) -> P {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Accepted<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Accepted<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
