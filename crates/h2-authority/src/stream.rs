//! The wrapped connection.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Violation;
use crate::rewriter::{Rewriter, Step};

/// An accepted connection whose invalid `:authority` headers are replaced on the way in.
///
/// Payload passes in the buffer of whoever reads; what the adapter itself holds is at most one
/// header block coming in, one going out, and the rest of the one read in which it ended.
pub struct AuthorityStream<T> {
    io: T,
    rewriter: Rewriter,
    /// What a read brought beyond a header block, not looked at yet.
    ahead: BytesMut,
    broken: Option<Violation>,
}

impl<T> AuthorityStream<T> {
    /// Wraps a connection from which nothing has been read yet.
    pub fn new(io: T) -> Self {
        Self {
            io,
            rewriter: Rewriter::new(),
            ahead: BytesMut::new(),
            broken: None,
        }
    }

    /// The wrapped connection, for example to ask for the peer's credentials.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Moves what is ready into `buf`, which has room; says whether there was anything.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let out = self.rewriter.out();
            if !out.is_empty() {
                let (part, _) = out.split_at(out.len().min(buf.remaining()));
                buf.put_slice(part);
                let n = part.len();
                self.rewriter.delivered(n);
                continue;
            }
            if self.ahead.is_empty() || self.broken.is_some() {
                break;
            }
            let (window, _) = self.ahead.split_at(self.ahead.len().min(buf.remaining()));
            match self.rewriter.step(window) {
                Ok(Step::Pass(n)) => {
                    let (passing, _) = window.split_at(n);
                    buf.put_slice(passing);
                    self.ahead.advance(n);
                }
                Ok(Step::Take(n)) => self.ahead.advance(n),
                Err(violation) => self.broken = Some(violation),
            }
        }
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        buf.filled().len() > before
    }

    /// Looks at what was just read into `buf` after its first `start` bytes, and leaves there what
    /// passes. Call it only when nothing waits to be delivered.
    fn sift(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let mut end = start;
        while let Some(rest @ [_, ..]) = buf.filled().get(end..) {
            match self.rewriter.step(rest) {
                Ok(Step::Pass(n)) => end += n,
                Ok(Step::Take(n)) => {
                    let (_, ahead) = rest.split_at(n);
                    self.ahead.extend_from_slice(ahead);
                    break;
                }
                Err(violation) => {
                    self.broken = Some(violation);
                    break;
                }
            }
        }
        buf.set_filled(end);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AuthorityStream<T> {
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] with a [`Violation`] inside, at this and every later call;
    /// [`io::ErrorKind::UnexpectedEof`] if the client leaves inside a header block or a frame's
    /// header; else what the wrapped connection says.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.deliver(buf) {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = this.broken {
                return Poll::Ready(Err(violation.into()));
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() == start {
                // Left out, a request cut short would look like a client that has hung up.
                let cut = this.rewriter.is_holding();
                let end = if cut {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(())
                };
                return Poll::Ready(end);
            }
            this.sift(buf, start);
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AuthorityStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<T: fmt::Debug> fmt::Debug for AuthorityStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityStream")
            .field("io", &self.io)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
