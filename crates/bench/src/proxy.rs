//! A relay of octets that notes when how many had passed to the client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// When so many octets had passed to the client, all connections together.
type Passed = Vec<(Instant, u64)>;

pub(crate) struct Proxy {
    address: SocketAddr,
    passed: Arc<Mutex<Passed>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// One in front of `server`.
    pub(crate) async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let passed = Arc::new(Mutex::new(Passed::new()));
        let shared = Arc::clone(&passed);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let passed = Arc::clone(&shared);
                // A connection that ends badly is the client's to notice.
                tokio::spawn(async move { relay(client, server, &passed).await.ok() });
            }
        });
        Ok(Self {
            address,
            passed,
            _task: AbortOnDropHandle::new(task),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets what passed.
    pub(crate) fn reset(&self) {
        self.passed.lock().clear();
    }

    /// What passed since, as sums.
    pub(crate) fn passed(&self) -> Passed {
        self.passed.lock().clone()
    }
}

async fn relay(
    client: TcpStream,
    server: SocketAddr,
    passed: &Mutex<Passed>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server)
            .await
            .map(drop)
    };
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from_server.read(&mut buffer).await?;
            let Some(octets) = buffer.get(..count).filter(|octets| !octets.is_empty()) else {
                return Ok(());
            };
            note(passed, count);
            to_client.write_all(octets).await?;
        }
    };
    tokio::select! {
        done = up => done,
        done = down => done,
    }
}

/// Before they are passed on: they can't have arrived earlier than now.
fn note(passed: &Mutex<Passed>, count: usize) {
    let mut passed = passed.lock();
    let before = passed.last().map_or(0, |(_, sum)| *sum);
    passed.push((Instant::now(), before + count as u64));
}
