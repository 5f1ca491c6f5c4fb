//! Header blocks: decoded from what the client wrote, written anew for the server.

use std::borrow::Cow;

use http::uri::Authority;
use loona_hpack::Decoder;

use crate::Violation;

/// What stands in `:authority` where the client's is not valid.
pub const PLACEHOLDER: &str = "localhost";

/// The most fields in one header block. Decoding one costs far more than its bytes suggest (the
/// decoder builds its Huffman table for each string), so the number is bounded apart from the size.
pub const MAX_FIELDS: usize = 128;

/// The longest header list in bytes, counted as RFC 9113 does (6.5.2): names, values and 32 a field.
pub const MAX_LIST: usize = 64 * 1024;

/// The largest dynamic table a client may use, in bytes: the default of
/// `SETTINGS_HEADER_TABLE_SIZE`.
pub const MAX_TABLE: usize = 4096;

/// What RFC 7541 (4.1) adds to the size of each field.
const FIELD_OVERHEAD: usize = 32;

/// Turns the client's header blocks into ones of literals only.
///
/// One per connection, as its dynamic table is the connection's.
pub(crate) struct Translator {
    decoder: Decoder<'static>,
    written: Vec<u8>,
}

impl Translator {
    pub(crate) fn new() -> Self {
        let mut decoder = Decoder::new();
        // Without it the decoder takes any size the client likes.
        decoder.set_max_allowed_table_size(MAX_TABLE);
        Self {
            decoder,
            written: Vec::new(),
        }
    }

    /// The fields of `block` as literals without indexing; at most [`MAX_LIST`] bytes.
    ///
    /// # Errors
    ///
    /// After one, the dynamic table no longer agrees with the client's: stop using it.
    pub(crate) fn translate(&mut self, block: &[u8]) -> Result<&[u8], Violation> {
        // The decoder can't be stopped on its way, so the fields are counted ahead.
        if count_fields(block)? > MAX_FIELDS {
            return Err(Violation::TooManyFields);
        }
        let written = &mut self.written;
        written.clear();
        let mut size = 0_usize;
        self.decoder
            .decode_with_cb(block, |name, value| {
                size += name.len() + value.len() + FIELD_OVERHEAD;
                if size <= MAX_LIST {
                    write_field(written, &name, &judged(&name, value));
                }
            })
            .map_err(|_| Violation::Hpack)?;
        if size > MAX_LIST {
            return Err(Violation::ListTooLong);
        }
        Ok(&self.written)
    }

    /// Gives back memory that a large block has left behind.
    pub(crate) fn shrink(&mut self, capacity: usize) {
        self.written.clear();
        self.written.shrink_to(capacity);
    }
}

/// The value of a field, or [`PLACEHOLDER`] for an `:authority` that is none.
fn judged<'a>(name: &[u8], value: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    if name == b":authority" && Authority::try_from(&*value).is_err() {
        return Cow::Borrowed(PLACEHOLDER.as_bytes());
    }
    value
}

/// Appends a literal without indexing, name and value in plain (RFC 7541, 6.2.2).
fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    write_string(out, name);
    write_string(out, value);
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len @ ..0x7f) => out.push(len),
        _ => {
            out.push(0x7f);
            let mut rest = bytes.len() - 0x7f;
            while rest >= 0x80 {
                out.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(bytes);
}

/// How many fields `block` has, read by its lengths alone.
fn count_fields(block: &[u8]) -> Result<usize, Violation> {
    let mut rest = block;
    let mut fields = 0;
    while let Some(&first) = rest.first() {
        let (index, prefix) = match first {
            0x80.. => (read_integer(&mut rest, 7)?, 7),
            0x40.. => (read_integer(&mut rest, 6)?, 6),
            0x20.. => (read_integer(&mut rest, 5)?, 5),
            _ => (read_integer(&mut rest, 4)?, 4),
        };
        fields += usize::from(prefix != 5); // 5: a new table size, not a field
        if matches!(prefix, 4 | 6) {
            if index == 0 {
                skip_string(&mut rest)?;
            }
            skip_string(&mut rest)?;
        }
    }
    Ok(fields)
}

fn skip_string(rest: &mut &[u8]) -> Result<(), Violation> {
    let len = read_integer(rest, 7)?;
    *rest = rest.get(len..).ok_or(Violation::Hpack)?;
    Ok(())
}

/// Reads an integer with a prefix of so many bits (RFC 7541, 5.1), below 2^28 plus the prefix.
fn read_integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Violation> {
    let mask = (1_usize << prefix) - 1;
    let (&first, mut tail) = rest.split_first().ok_or(Violation::Hpack)?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = tail.split_first().ok_or(Violation::Hpack)?;
            tail = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                *rest = tail;
                return Ok(value);
            }
        }
        return Err(Violation::Hpack);
    }
    *rest = tail;
    Ok(value)
}
