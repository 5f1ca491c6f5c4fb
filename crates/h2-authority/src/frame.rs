//! Frame headers of HTTP/2 (RFC 9113, 4.1), as far as header blocks need them.

/// The longest frame of a header block, in bytes of payload: the default, and the least possible,
/// of `SETTINGS_MAX_FRAME_SIZE`. Longer ones are refused, and none longer is written.
pub const MAX_FRAME: usize = 16_384;

/// What a client sends first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header.
pub(crate) const HEAD: usize = 9;

pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PUSH_PROMISE: u8 = 0x5;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITY: u8 = 0x20;

/// A frame header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Length of the payload in bytes, below 2^24.
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// Stream identifier; its reserved bit is dropped.
    pub(crate) stream: u32,
}

impl Head {
    pub(crate) fn parse([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEAD]) -> Self {
        Self {
            len: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    /// Whether the frame has a part of a header block in it.
    pub(crate) fn carries_block(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION | PUSH_PROMISE)
    }
}

/// Appends the header of a frame with `len` bytes of payload, at most [`MAX_FRAME`].
pub(crate) fn write_head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let [.., l0, l1, l2] = len.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}
