//! Unix sockets: who connects is looked at when the connection is accepted, and the connection
//! closes when that process is gone, even if an heir holds the descriptor (P1).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use taskmint_h2_authority::AuthorityStream;
use taskmint_peer::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::agent::Agent;
use crate::caller::{Connection, Scope};
use crate::limits::Slot;
use crate::metrics::Metrics;

/// Where accepted connections of one service go.
pub(crate) type Incoming = mpsc::Sender<io::Result<Accepted>>;

/// How long to wait when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(50);

/// How long who connects may take to begin: to hold a connection is to hold a slot.
const SILENCE: Duration = Duration::from_secs(10);

/// What begins an HTTP/2 connection (RFC 9113, section 3.4): until it is there, the server can't
/// say goodbye either.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// An accepted connection: over once its peer is gone.
pub(crate) struct Accepted {
    stream: AuthorityStream<UnixStream>,
    connection: Connection,
    over: BoxFuture<'static, ()>,
    is_over: bool,
    /// Over, too, if nothing was said by then.
    silence: Option<BoxFuture<'static, ()>>,
    heard: usize,
    socket: &'static str,
    metrics: Arc<Metrics>,
    _slot: Slot,
}

/// Why a socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on `{path}`", path = .path.display())]
pub struct ListenError {
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Who may connect to a listener.
#[derive(Clone)]
pub(crate) struct Door {
    /// For the metrics.
    pub(crate) socket: &'static str,
    pub(crate) scope: Scope,
    /// None: everybody.
    pub(crate) only_uid: Option<u32>,
    /// The listener ends with it.
    pub(crate) open: CancellationToken,
    /// Connections end with it.
    pub(crate) linger: CancellationToken,
}

/// Listens on a path, with a socket that every user may connect to. A socket that nobody listens on
/// any more is replaced.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let bound = || {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        // To connect is to write; who it is, the peer's credentials say.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        Ok(listener)
    };
    bound().map_err(|source| ListenError {
        path: path.to_owned(),
        source,
    })
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        )),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another agent listens there",
            )),
            Err(_) => fs::remove_file(path),
        },
    }
}

/// Accepts until the door closes.
pub(crate) async fn accept(
    agent: Arc<Agent>,
    listener: UnixListener,
    door: Door,
    incoming: Incoming,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.open.cancelled() => return,
            () = agent.shutdown.requested() => return,
            () = incoming.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, socket = door.socket, "can't accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(accepted) = admit(&agent, stream, &door)
            && incoming.send(Ok(accepted)).await.is_err()
        {
            return;
        }
    }
}

fn admit(agent: &Agent, stream: UnixStream, door: &Door) -> Option<Accepted> {
    // Any error is a denial; there is nothing yet that could carry a reason.
    let peer = Peer::of(&stream)
        .inspect_err(|error| tracing::warn!(%error, socket = door.socket, "a peer is refused"))
        .ok()?;
    let (uid, process) = (peer.uid(), peer.process());
    if door.only_uid.is_some_and(|only| only != uid) {
        tracing::warn!(%process, uid, socket = door.socket, "this socket is another user's");
        return None;
    }
    let Some(slot) = agent.slots.take(uid) else {
        tracing::warn!(%process, uid, socket = door.socket, "too many connections");
        return None;
    };
    agent.metrics.connection(door.socket, 1);
    let (held, linger) = (peer.held().clone(), door.linger.clone());
    let over = async move {
        tokio::select! {
            exited = held.exited() => {
                if let Err(error) = exited {
                    // A peer that can't be watched counts as gone.
                    tracing::error!(%error, process = %held.process(), "a peer can't be watched");
                }
            }
            () = linger.cancelled() => {}
        }
    };
    let stop = agent.shutdown.requested();
    let silence = async move {
        tokio::select! {
            () = tokio::time::sleep(SILENCE) => {}
            () = stop => {}
        }
    };
    Some(Accepted {
        stream: AuthorityStream::new(stream),
        connection: Connection {
            peer,
            scope: door.scope,
        },
        over: Box::pin(over),
        is_over: false,
        silence: Some(Box::pin(silence)),
        heard: 0,
        socket: door.socket,
        metrics: Arc::clone(&agent.metrics),
        _slot: slot,
    })
}

impl Accepted {
    fn poll_over(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.is_over && self.over.as_mut().poll(context).is_ready() {
            self.is_over = true;
        }
        if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            self.is_over = true;
        }
        if self.is_over {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.metrics.connection(self.socket, -1);
    }
}

impl Connected for Accepted {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // HTTP/2 always waits to read, so this is what hears the exit.
        this.poll_over(context)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buf);
        this.heard += buf.filled().len() - before;
        if this.heard >= PREFACE {
            this.silence = None;
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_over(context)?;
        Pin::new(&mut this.stream).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_over(context)?;
        Pin::new(&mut this.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
