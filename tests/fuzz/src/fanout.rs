//! What watchers send to the fan-out.

use prost::Message as _;
use taskmint_fanout::{Decoder, Malformed};
use taskmint_wire::revocation::WatchRequest;

/// As for those who speak for themselves.
const MOST: usize = 8 << 10;

/// However the octets are cut, they read the same, and what was read is written the same way.
pub fn watch_requests(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for size in [1, 7, 64] {
        assert_eq!(read(data, size), whole);
    }
    let (messages, end) = whole;
    let again: Vec<_> = messages.iter().flat_map(framed).collect();
    let (read_again, ended) = read(&again, 64);
    assert_eq!((read_again, ended), (messages, Ok(())));
    if let Err(Malformed::TooLong { octets, most }) = end {
        assert!(octets > most);
    }
}

fn read(data: &[u8], size: usize) -> (Vec<WatchRequest>, Result<(), Malformed>) {
    let mut decoder = Decoder::new(MOST);
    let mut messages = Vec::new();
    for piece in data.chunks(size) {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(malformed) => return (messages, Err(malformed)),
            }
        }
    }
    (messages, decoder.end())
}

fn framed(message: &WatchRequest) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], &body].concat()
}
