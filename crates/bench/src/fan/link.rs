//! The connection of one watcher of a player: TCP, with TLS by rustls or bare, or a socket of this
//! machine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

/// Where a watcher connects.
#[derive(Clone, Copy)]
pub(crate) enum To<'a> {
    /// Sockets alone.
    Bare(SocketAddr),
    Tls(SocketAddr, &'a Arc<ClientConfig>),
    Unix(&'a Path),
}

/// A connection that never blocks.
pub(crate) struct Link {
    socket: Socket,
    session: Option<ClientConnection>,
    /// What the kernel has not taken yet, where there is no session that keeps it.
    unsent: Vec<u8>,
    /// The socket was not read since it was said to be readable.
    is_unread: bool,
    /// It has more to say than the kernel takes.
    is_blocked: bool,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Link {
    pub(crate) fn open(to: To<'_>) -> anyhow::Result<Self> {
        let socket = match to {
            To::Bare(address) | To::Tls(address, _) => {
                let socket = TcpStream::connect(address)?;
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                Socket::Tcp(socket)
            }
            To::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                Socket::Unix(socket)
            }
        };
        let session = match to {
            To::Tls(_, tls) => {
                let server = ServerName::try_from("server")?;
                Some(ClientConnection::new(Arc::clone(tls), server)?)
            }
            _ => None,
        };
        Ok(Self {
            socket,
            session,
            unsent: Vec::new(),
            is_unread: false,
            is_blocked: false,
        })
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether the handshake is done and all that was said is gone.
    pub(crate) fn is_through(&self) -> bool {
        match &self.session {
            Some(session) => !session.is_handshaking() && !session.wants_write(),
            None => self.unsent.is_empty(),
        }
    }

    /// Says something: at once, or when the handshake is done, or when the kernel takes more.
    pub(crate) fn say(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        match &mut self.session {
            Some(session) => session.writer().write_all(octets)?,
            None => self.unsent.extend_from_slice(octets),
        }
        self.flush()
    }

    /// Writes as much as the kernel takes.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.is_blocked = false;
        loop {
            let wrote = match &mut self.session {
                Some(session) if session.wants_write() => session.write_tls(&mut self.socket),
                None if !self.unsent.is_empty() => self.socket.write(&self.unsent),
                _ => return Ok(()),
            };
            match wrote {
                Ok(octets) if self.session.is_none() => drop(self.unsent.drain(..octets)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// There is something to read: takes it out of the kernel where it has to be decrypted.
    pub(crate) fn fill(&mut self) -> anyhow::Result<()> {
        let Some(session) = &mut self.session else {
            self.is_unread = true;
            return Ok(());
        };
        match session.read_tls(&mut self.socket) {
            Ok(0) => bail!("the server hung up"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        session.process_new_packets()?;
        self.flush()
    }

    /// A part of what came; none if that was all.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
        let read = match &mut self.session {
            Some(session) => session.reader().read(buffer),
            None if std::mem::take(&mut self.is_unread) => self.socket.read(buffer),
            None => return Ok(None),
        };
        match read {
            Ok(0) => bail!("the server hung up"),
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buf),
            Self::Unix(socket) => socket.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(buf),
            Self::Unix(socket) => socket.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
