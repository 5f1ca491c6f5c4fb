//! A client's side of HTTP/2, written apart from the crate under test: an encoder that uses all
//! of HPACK, and a reader of frames that accepts nothing but what the adapter promises to write.

use std::collections::VecDeque;

pub(super) type Field = (Vec<u8>, Vec<u8>);

/// The entries of the static table used here (RFC 7541, appendix A).
const STATIC: &[(usize, &str, &str)] = &[
    (1, ":authority", ""),
    (2, ":method", "GET"),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (7, ":scheme", "https"),
    (23, "authorization", ""),
    (31, "content-type", ""),
    (58, "user-agent", ""),
];
const STATIC_LEN: usize = 61;

/// How to write a field; what can't be (not in the table) is written in full.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) indexed: bool,
    pub(super) name_indexed: bool,
    pub(super) kind: Kind,
    pub(super) huffman: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Incremental,
    Without,
    Never,
}

/// An HPACK encoder with a dynamic table of its own.
pub(super) struct Encoder {
    table: VecDeque<Field>,
    max: usize,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            max: 4096,
        }
    }

    pub(super) fn resize(&mut self, max: usize, out: &mut Vec<u8>) {
        self.max = max;
        self.evict();
        integer(out, 0x20, 5, max);
    }

    pub(super) fn field(&mut self, (name, value): &Field, how: How, out: &mut Vec<u8>) {
        if how.indexed
            && let Some(index) = self.find(|n, v| n == name && v == value)
        {
            return integer(out, 0x80, 7, index);
        }
        let index = self
            .find(|n, _| n == name)
            .filter(|_| how.name_indexed)
            .unwrap_or(0);
        match how.kind {
            Kind::Incremental => integer(out, 0x40, 6, index),
            Kind::Without => integer(out, 0, 4, index),
            Kind::Never => integer(out, 0x10, 4, index),
        }
        if index == 0 {
            string(out, name, how.huffman);
        }
        string(out, value, how.huffman);
        if matches!(how.kind, Kind::Incremental) {
            self.table.push_front((name.clone(), value.clone()));
            self.evict();
        }
    }

    fn find(&self, fits: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
        // The newest entries first, so that the dynamic table is used wherever it can be.
        let dynamic = self
            .table
            .iter()
            .position(|(n, v)| fits(n, v))
            .map(|i| STATIC_LEN + 1 + i);
        let fixed = STATIC
            .iter()
            .find(|(_, n, v)| fits(n.as_bytes(), v.as_bytes()));
        dynamic.or(fixed.map(|(index, ..)| *index))
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<Field>| -> usize {
            table.iter().map(|(n, v)| n.len() + v.len() + 32).sum()
        };
        while size(&self.table) > self.max {
            self.table.pop_back();
        }
    }
}

pub(super) fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        out.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    out.push(rest as u8);
}

fn string(out: &mut Vec<u8>, bytes: &[u8], huffman: bool) {
    if !huffman {
        integer(out, 0, 7, bytes.len());
        return out.extend(bytes);
    }
    let mut coded = Vec::new();
    httlib_huffman::encode(bytes, &mut coded).unwrap();
    integer(out, 0x80, 7, coded.len());
    out.extend(coded);
}

pub(super) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// What a server finds on the wire.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Headers {
        stream: u32,
        end_stream: bool,
        priority: Option<[u8; 5]>,
        list: Vec<Field>,
    },
    Other {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
}

/// Reads what the adapter wrote after the preface. Panics on anything that it must not write:
/// padding, frames over 16,384, broken blocks, anything but plain literals without indexing.
pub(super) fn read_events(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (kind, mut flags, stream, mut payload) = read_frame(&mut bytes);
        if kind != 1 {
            events.push(Event::Other {
                kind,
                flags,
                stream,
                payload,
            });
            continue;
        }
        assert_eq!(flags & !0x25, 0, "flags other than the three kept");
        let end_stream = flags & 1 != 0;
        let priority = (flags & 0x20 != 0).then(|| payload.drain(..5).collect::<Vec<_>>());
        while flags & 4 == 0 {
            let (kind, more, same, part) = read_frame(&mut bytes);
            assert_eq!((kind, same), (9, stream));
            flags = more;
            payload.extend(part);
        }
        let priority = priority.map(|field| field.try_into().unwrap());
        let list = read_literals(&payload);
        events.push(Event::Headers {
            stream,
            end_stream,
            priority,
            list,
        });
    }
    events
}

fn read_frame(bytes: &mut &[u8]) -> (u8, u8, u32, Vec<u8>) {
    let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
    assert!(len <= 16_384);
    let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
    let frame = (bytes[3], bytes[4], stream, bytes[9..9 + len].to_vec());
    *bytes = &bytes[9 + len..];
    frame
}

fn read_literals(mut block: &[u8]) -> Vec<Field> {
    let mut list = Vec::new();
    while !block.is_empty() {
        assert_eq!(block[0], 0, "a literal without indexing and with its name");
        block = &block[1..];
        let name = read_string(&mut block);
        list.push((name, read_string(&mut block)));
    }
    list
}

fn read_string(block: &mut &[u8]) -> Vec<u8> {
    assert!(block[0] < 128, "no huffman");
    let mut len = block[0] as usize;
    let mut used = 1;
    if len == 127 {
        loop {
            let byte = block[used];
            len += ((byte & 127) as usize) << (7 * (used - 1));
            used += 1;
            if byte < 128 {
                break;
            }
        }
    }
    let string = block[used..used + len].to_vec();
    *block = &block[used + len..];
    string
}
