//! TLS at the listener: its configuration, and who a peer is after its handshake.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::settings::SEND_BUFFER;

/// Who a peer is.
type Identify<P> = Arc<dyn Fn(&ServerConnection) -> io::Result<P> + Send + Sync>;

/// What the kernel may hold of what a watcher has not taken; it doubles this.
const KERNEL_BUFFER: usize = 32 << 10;

/// A TLS configuration, and how a peer is told by its handshake.
pub struct Tls<P> {
    acceptor: TlsAcceptor,
    identify: Identify<P>,
}

impl<P> Tls<P> {
    /// Serves with `config`, made to speak HTTP/2 alone and to resume no session: a resumed one
    /// skips the judgement of the peer (P20), and each ticket is one more record for ten thousand
    /// peers that come back.
    pub fn new(
        mut config: ServerConfig,
        identify: impl Fn(&ServerConnection) -> io::Result<P> + Send + Sync + 'static,
    ) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            identify: Arc::new(identify),
        }
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, P)> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, KERNEL_BUFFER)?;
        let bounded = |session: &mut ServerConnection| {
            session.set_buffer_limit(Some(SEND_BUFFER));
        };
        let stream = self.acceptor.accept_with(stream, bounded).await?;
        let peer = (self.identify)(stream.get_ref().1)?;
        Ok((stream, peer))
    }
}

impl<P> Clone for Tls<P> {
    fn clone(&self) -> Self {
        Self {
            acceptor: self.acceptor.clone(),
            identify: Arc::clone(&self.identify),
        }
    }
}

impl<P> fmt::Debug for Tls<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
