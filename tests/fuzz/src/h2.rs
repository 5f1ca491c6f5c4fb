//! What a client on a unix socket may send.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use taskmint_h2_authority::{AuthorityStream, Violation};
use tokio::io::{AsyncRead, ReadBuf};

/// However the bytes are cut, the server reads the same; and what it reads needs no change.
pub fn h2_authority(data: &[u8]) {
    let (read, end) = adapt(data, usize::MAX, 1 << 17);
    for (size, room) in [(1, 7), (23, 1), (100, 64)] {
        assert_eq!(adapt(data, size, room), (read.clone(), end));
    }
    let (again, end) = adapt(&read, usize::MAX, 1 << 17);
    match end {
        // Literals are longer than what they were decoded from.
        End::Broken(Violation::BlockTooLong) => assert!(read.starts_with(&again)),
        end => assert_eq!((again, end), (read, End::Clean)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Clean,
    Cut,
    Broken(Violation),
}

/// What is read of `data` in reads of `room`, if it comes in pieces of `size`.
fn adapt(data: &[u8], size: usize, room: usize) -> (Vec<u8>, End) {
    let mut stream = pin!(AuthorityStream::new(Pieces { data, size }));
    let mut cx = Context::from_waker(Waker::noop());
    let mut space = vec![0; room];
    let mut read = Vec::new();
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match stream.as_mut().poll_read(&mut cx, &mut buf) {
            Poll::Pending => panic!("not ready, though its source always is"),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (read, End::Clean),
            Poll::Ready(Ok(())) => read.extend(buf.filled()),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return (read, End::Cut);
            }
            Poll::Ready(Err(error)) => {
                let violation = error.get_ref().and_then(|source| source.downcast_ref());
                return (read, End::Broken(*violation.expect("a violation")));
            }
        }
    }
}

struct Pieces<'a> {
    data: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.size.min(self.data.len()).min(buf.remaining());
        let (piece, rest) = self.data.split_at(n);
        buf.put_slice(piece);
        self.data = rest;
        Poll::Ready(Ok(()))
    }
}
