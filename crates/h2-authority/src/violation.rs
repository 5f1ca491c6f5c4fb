//! Why a client's connection is ended.

use std::io;

use crate::{MAX_BLOCK, MAX_CONTINUATIONS, MAX_FIELDS, MAX_FRAME, MAX_LIST};

/// What a client did that ends its connection.
///
/// It reaches the server as the source of an [`io::Error`] of kind
/// [`io::ErrorKind::InvalidData`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A HEADERS or CONTINUATION frame is longer than [`MAX_FRAME`].
    #[error("a frame of a header block is longer than {MAX_FRAME} bytes")]
    FrameTooLong,
    /// A header block is longer than [`MAX_BLOCK`], over all its frames.
    #[error("a header block is longer than {MAX_BLOCK} bytes")]
    BlockTooLong,
    /// A header block has more CONTINUATION frames than [`MAX_CONTINUATIONS`].
    #[error("a header block has more than {MAX_CONTINUATIONS} continuation frames")]
    TooManyContinuations,
    /// A header block has more fields than [`MAX_FIELDS`].
    #[error("a header block has more than {MAX_FIELDS} fields")]
    TooManyFields,
    /// A header list is longer than [`MAX_LIST`] once decoded.
    #[error("a header list is longer than {MAX_LIST} bytes")]
    ListTooLong,
    /// Another frame, or one of another stream, came before a header block was complete
    /// (RFC 9113, 6.10).
    #[error("a header block is interrupted by another frame")]
    Interrupted,
    /// A CONTINUATION frame continues nothing (RFC 9113, 6.10).
    #[error("a continuation frame follows no header block")]
    StrayContinuation,
    /// A client sent PUSH_PROMISE (RFC 9113, 8.4).
    #[error("a client can't push")]
    Push,
    /// The padding or the priority field of a HEADERS frame exceeds its payload (RFC 9113, 6.2).
    #[error("the padding or priority of a headers frame exceeds its payload")]
    Padding,
    /// A header block can't be decoded (RFC 7541).
    #[error("a header block is not valid HPACK")]
    Hpack,
}

impl From<Violation> for io::Error {
    fn from(violation: Violation) -> Self {
        Self::new(io::ErrorKind::InvalidData, violation)
    }
}
