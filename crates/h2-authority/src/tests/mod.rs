//! The adapter against an encoder and a reader of its own, and against every bound.

mod bounds;
mod encoder;
mod lists;
mod server;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::AuthorityStream;
use crate::frame::PREFACE;

/// A connection that gives its bytes in pieces, and is not ready before each of them.
struct Pieces {
    bytes: Vec<u8>,
    sizes: Vec<usize>,
    turn: usize,
    ready: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if !self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        let n = size.min(self.bytes.len()).min(buf.remaining());
        let piece: Vec<u8> = self.bytes.drain(..n).collect();
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

/// What the server reads of `bytes`, in reads of `read`, if they come in pieces of `sizes`.
fn adapt(bytes: &[u8], sizes: &[usize], read: usize) -> (Vec<u8>, io::Result<()>) {
    let pieces = Pieces {
        bytes: bytes.to_vec(),
        sizes: sizes.to_vec(),
        turn: 0,
        ready: true,
    };
    let mut stream = AuthorityStream::new(pieces);
    let mut got = Vec::new();
    let mut buf = vec![0; read];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let end = runtime.block_on(async {
        loop {
            match stream.read(&mut buf).await {
                Ok(0) => return Ok(()),
                Ok(n) => got.extend(&buf[..n]),
                Err(error) => return Err(error),
            }
        }
    });
    (got, end)
}

/// Like [`adapt`] after the preface, all at once.
fn adapt_frames(frames: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let (got, end) = adapt(&[PREFACE, frames].concat(), &[usize::MAX], 1 << 20);
    (got.strip_prefix(PREFACE).unwrap().to_vec(), end)
}
