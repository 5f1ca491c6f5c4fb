//! Messages on the wire, encoded once: gRPC's prefix, then protobuf.

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use taskmint_model::Timestamp;
use taskmint_status::record::RECORD_LEN;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_response::Frame;

/// The key that signed, and the certificate that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Another whenever the certificate is another; never 0.
    pub revision: u64,
    /// DER.
    pub certificate: Bytes,
}

/// A signed head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The position that it vouches for.
    pub sequence: u64,
    /// Its time.
    pub at: Timestamp,
    /// Canonical bytes.
    pub body: Bytes,
    /// Signature over them.
    pub signature: Bytes,
    /// Whose.
    pub key: Key,
}

/// A checkpoint, ready for the wire; clones share its bytes.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Its position.
    pub sequence: u64,
    pub(crate) revision: u64,
    pub(crate) frame: Bytes,
}

impl Checkpoint {
    /// Encodes one, once for all watchers. `revision` is that of its key.
    pub fn new(sequence: u64, revision: u64, checkpoint: wire::Checkpoint) -> Self {
        let frame = Frame::Checkpoint(checkpoint);
        let mut into = Vec::new();
        put(&mut into, frame, false);
        Self {
            sequence,
            revision,
            frame: into.into(),
        }
    }

    /// How many octets it has on the wire.
    pub fn octets(&self) -> usize {
        self.frame.len()
    }
}

/// Adds a head; with its certificate where the stream has not named that yet.
pub(crate) fn put_head(into: &mut Vec<u8>, head: &Head, certified: bool, prompt: bool) {
    let certificate = certified.then(|| head.key.certificate.clone());
    let frame = Frame::Head(wire::Head {
        body: head.body.clone(),
        signature: head.signature.clone(),
        key_certificate: certificate.unwrap_or_default(),
    });
    put(into, frame, prompt);
}

/// Adds all of a delta but the records themselves, which are to follow: they come last, so that
/// they can be shared.
pub(crate) fn put_delta_header(into: &mut Vec<u8>, first: u64, last: u64) {
    let octets = (last + 1 - first) * RECORD_LEN as u64;
    let fields = 1 + encoded_len_varint(first) + 1 + encoded_len_varint(last);
    let delta = fields as u64 + 1 + encoded_len_varint(octets) as u64 + octets;
    let response = 1 + encoded_len_varint(delta) as u64 + delta;
    into.put_u8(0);
    into.put_u32(u32::try_from(response).unwrap_or(u32::MAX));
    encode_key(2, WireType::LengthDelimited, into);
    encode_varint(delta, into);
    encode_key(2, WireType::Varint, into);
    encode_varint(first, into);
    encode_key(3, WireType::Varint, into);
    encode_varint(last, into);
    encode_key(1, WireType::LengthDelimited, into);
    encode_varint(octets, into);
}

fn put(into: &mut Vec<u8>, frame: Frame, prompt: bool) {
    let response = wire::WatchResponse {
        frame: Some(frame),
        prompt,
    };
    let length = response.encoded_len();
    into.reserve(5 + length);
    into.put_u8(0);
    // gRPC has 32 bits for it; a checkpoint of 4 GiB would be refused by every client anyhow.
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    response.encode_raw(into);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(mut octets: &[u8]) -> wire::WatchResponse {
        let (prefix, rest) = octets.split_at(5);
        assert_eq!(prefix[0], 0, "not compressed");
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
        assert_eq!(length as usize, rest.len());
        octets = rest;
        wire::WatchResponse::decode(octets).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_delta_written_by_hand_reads_like_any_other(first in 1_u64..u64::MAX / 2, more in 0_u64..4096) {
            let last = first + more;
            let records = vec![7; usize::try_from(more + 1).unwrap() * RECORD_LEN];
            let mut octets = Vec::new();
            put_delta_header(&mut octets, first, last);
            octets.extend_from_slice(&records);
            let Some(Frame::Delta(delta)) = read(&octets).frame else {
                panic!("a delta");
            };
            prop_assert_eq!((delta.first, delta.last), (first, last));
            prop_assert_eq!(delta.records, records);
        }
    }

    #[test]
    fn a_head_names_its_key_where_asked_to() {
        let head = Head {
            sequence: 4,
            at: Timestamp::from_millis(9),
            body: Bytes::from_static(b"body"),
            signature: Bytes::from_static(b"signature"),
            key: Key {
                revision: 1,
                certificate: Bytes::from_static(b"certificate"),
            },
        };
        for (certified, prompt) in [(false, true), (true, false)] {
            let mut octets = Vec::new();
            put_head(&mut octets, &head, certified, prompt);
            let response = read(&octets);
            assert_eq!(response.prompt, prompt);
            let Some(Frame::Head(sent)) = response.frame else {
                panic!("a head");
            };
            assert_eq!((&sent.body, &sent.signature), (&head.body, &head.signature));
            assert_eq!(!sent.key_certificate.is_empty(), certified);
        }
    }
}
