//! A service with ten thousand peers, as `crates/verifier/examples/service.rs` shows one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use taskmint_model::{SystemClock, Timestamp};
use taskmint_verifier::connections::Connections;
use taskmint_verifier::tls::{self, Clients, Identity, authorize, read_verified};
use taskmint_verifier::{PeerSvid, StatusCheck, Trust};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::PATIENCE;
use crate::fan::now;

/// How many have been closed, and when the last of them was.
#[derive(Default)]
pub(super) struct Tally {
    closed: AtomicUsize,
    last: AtomicU64,
}

impl Tally {
    pub(super) fn note(&self) {
        self.last.fetch_max(now(), Ordering::Relaxed);
        self.closed.fetch_add(1, Ordering::Release);
    }

    /// Waits for so many since the last time; when the last was, in nanoseconds of the monotonic
    /// clock. It looks now and then: nobody who closes has to wake it.
    pub(super) async fn last(&self, count: usize) -> anyhow::Result<u64> {
        let all = async {
            while self.closed.load(Ordering::Acquire) < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let all = tokio::time::timeout(PATIENCE, all).await;
        all.context("they are not closed")?;
        self.closed.store(0, Ordering::Relaxed);
        Ok(self.last.swap(0, Ordering::Relaxed))
    }
}

/// Waits until so many are registered.
pub(super) async fn registered(connections: &Connections, count: usize) -> anyhow::Result<()> {
    let all = async {
        while connections.len() != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all = tokio::time::timeout(PATIENCE, all).await;
    all.with_context(|| format!("{} instead of {count} are open", connections.len()))
}

/// Who accepts TLS connections, and reads from each until it breaks off.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    inner: Arc<Inner>,
    _accepting: AbortOnDropHandle<()>,
}

struct Inner {
    acceptor: TlsAcceptor,
    connections: Connections,
    tally: Tally,
    /// When certificates of this task count as expired: earlier than they say.
    sooner: Mutex<Option<(PeerSvid, Timestamp)>>,
}

impl Service {
    pub(super) async fn start(
        identity: &Identity,
        trust: &Trust,
        status: Arc<dyn StatusCheck>,
        connections: Connections,
    ) -> anyhow::Result<Self> {
        let (clock, clients) = (Arc::new(SystemClock), Clients::Required);
        let anyone = authorize::anyone();
        let config = tls::server_config(identity, trust, clock, clients, anyone, Some(status))?;
        let inner = Arc::new(Inner {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            connections,
            tally: Tally::default(),
            sooner: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, own) = (listener.local_addr()?, Arc::clone(&inner));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&own).serve(stream));
            }
        });
        Ok(Self {
            address,
            inner,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    /// From here on, this peer's certificate ends then.
    pub(super) fn expire(&self, peer: &PeerSvid, at: Timestamp) {
        *self.inner.sooner.lock() = Some((peer.clone(), at));
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, stream: TcpStream) -> anyhow::Result<()> {
        let stream = self.acceptor.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let leaf = chain.and_then(<[_]>::first).context("no certificate")?;
        let mut peer = read_verified(leaf)?;
        if let Some((sooner, at)) = &*self.sooner.lock()
            && sooner.binding == peer.binding
        {
            peer.not_after = *at;
        }
        let mut stream = self.connections.register(&peer).guard(stream);
        if let Err(error) = stream.read_u8().await
            && error.kind() == std::io::ErrorKind::ConnectionAborted
        {
            self.tally.note();
        }
        Ok(())
    }
}
