//! Frames: a big-endian u32 with the length of what follows, and one message.

use std::io::{self, Read, Write};

use super::MAX_FRAME;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side is gone, or the frame is torn.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Longer than any frame may be; nothing of it was read.
    #[error("a frame of {0} octets is longer than {MAX_FRAME}")]
    TooLong(usize),
}

/// Reads one frame into `buffer`, whose content is replaced. False at the end of the stream.
///
/// # Errors
/// When the frame is torn or too long.
pub fn read_frame(from: &mut impl Read, buffer: &mut Vec<u8>) -> Result<bool, FrameError> {
    let mut length = [0; 4];
    if !fill(from, &mut length)? {
        return Ok(false);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    buffer.clear();
    // Grows as octets come: a length alone costs nothing.
    let read = from.take(length as u64).read_to_end(buffer)?;
    if read < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(true)
}

/// Fills `into`; false if the stream ends before its first octet.
fn fill(from: &mut impl Read, into: &mut [u8; 4]) -> io::Result<bool> {
    let mut first = [0];
    loop {
        match from.read(&mut first) {
            Ok(0) => return Ok(false),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (head, rest) = into.split_at_mut(1);
    head.copy_from_slice(&first);
    from.read_exact(rest)?;
    Ok(true)
}

/// Writes one frame.
///
/// # Errors
/// When the message is too long, or the other side is gone.
pub fn write_frame(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    // In one write: it is one frame to whoever reads.
    let length = length_of(message)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"))?;
    to.write_all(&[&length, message].concat())
}

/// What stands before a message; none if it is too long for a frame.
pub(crate) fn length_of(message: &[u8]) -> Option<[u8; 4]> {
    let length = u32::try_from(message.len()).ok()?;
    (message.len() <= MAX_FRAME).then(|| length.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_the_stream_ends_between_them() {
        let mut stream = Vec::new();
        for message in [&b"one"[..], b"", b"three"] {
            write_frame(&mut stream, message).unwrap();
        }
        let mut from = stream.as_slice();
        let mut buffer = Vec::new();
        for message in [&b"one"[..], b"", b"three"] {
            assert!(read_frame(&mut from, &mut buffer).unwrap());
            assert_eq!(buffer, message);
        }
        assert!(!read_frame(&mut from, &mut buffer).unwrap());
    }

    #[test]
    fn a_torn_frame_is_an_error_wherever_it_is_torn() {
        let mut stream = Vec::new();
        write_frame(&mut stream, b"message").unwrap();
        for len in 1..stream.len() {
            let torn = read_frame(&mut &stream[..len], &mut Vec::new());
            assert!(matches!(torn, Err(FrameError::Io(_))), "{len}: {torn:?}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_read() {
        let stream = [&u32::MAX.to_be_bytes()[..], b"x"].concat();
        let mut from = stream.as_slice();
        let refused = read_frame(&mut from, &mut Vec::new());
        assert!(matches!(refused, Err(FrameError::TooLong(_))));
        assert_eq!(from, b"x");
    }
}
