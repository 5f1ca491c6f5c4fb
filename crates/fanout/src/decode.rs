//! What watchers send: gRPC's prefix, then protobuf, however it is cut.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use taskmint_wire::Denied;
use taskmint_wire::revocation::WatchRequest;
use tonic::{Code, Status};

const PREFIX: usize = 5;

/// Puts messages together from octets as they come.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    most: usize,
}

/// Octets that are no message. The stream they came on is to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Compression was never agreed upon.
    #[error("messages are not to be compressed")]
    Compressed,
    /// Longer than its sender may.
    #[error("a message has {octets} octets; {most} are the most")]
    TooLong {
        /// As announced.
        octets: usize,
        /// As allowed.
        most: usize,
    },
    /// Not protobuf, or not of this type.
    #[error("a message can't be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    /// The stream ended within a message.
    #[error("the last message is torn")]
    Torn,
}

impl Decoder {
    /// A decoder that has seen nothing, and takes messages of up to `most` octets.
    pub fn new(most: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            most,
        }
    }

    /// Takes messages of another length from here on.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Takes in what came. What is whole is to be fetched before more is taken in: then no more
    /// than one message is ever held.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next whole message, if it is there.
    ///
    /// # Errors
    /// [`Malformed`], as soon as it can be told; there is then no next one.
    pub fn next_message(&mut self) -> Result<Option<WatchRequest>, Malformed> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(Malformed::Compressed);
        }
        let octets = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if octets > self.most {
            let most = self.most;
            return Err(Malformed::TooLong { octets, most });
        }
        if self.buffer.len() - PREFIX < octets {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message: Bytes = self.buffer.split_to(octets).freeze();
        if self.buffer.is_empty() {
            // Watchers are silent most of the time: none keeps room for what it may say.
            self.buffer = BytesMut::new();
        }
        Ok(Some(WatchRequest::decode(message)?))
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// [`Malformed::Torn`] within a message.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(Malformed::Torn),
        }
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        let (code, reason) = match malformed {
            Malformed::Compressed => (Code::Unimplemented, "COMPRESSED"),
            Malformed::TooLong { .. } => (Code::ResourceExhausted, "MESSAGE_TOO_LONG"),
            Malformed::Unreadable(_) | Malformed::Torn => (Code::InvalidArgument, "MALFORMED"),
        };
        Denied::new(code, reason, malformed.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taskmint_wire::revocation::watch_request::Message as Said;
    use taskmint_wire::revocation::{Acknowledge, Nonce};

    use super::*;

    fn acknowledge(sequence: u64) -> WatchRequest {
        let said = Acknowledge {
            sequence,
            ..Default::default()
        };
        WatchRequest {
            message: Some(Said::Acknowledge(said)),
        }
    }

    fn framed(message: &WatchRequest) -> Vec<u8> {
        let body = message.encode_to_vec();
        let mut octets = vec![0];
        octets.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        octets.extend(body);
        octets
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_it_is_cut_it_reads_the_same(
            sequences in prop::collection::vec(any::<u64>(), 1..8),
            cut in 1_usize..40,
        ) {
            let messages: Vec<_> = sequences.into_iter().map(acknowledge).collect();
            let octets: Vec<_> = messages.iter().flat_map(framed).collect();
            let mut decoder = Decoder::new(100);
            let mut read = Vec::new();
            for piece in octets.chunks(cut) {
                decoder.push(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
            prop_assert_eq!(decoder.end(), Ok(()));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_first_five_octets() {
        let mut decoder = Decoder::new(64);
        decoder.push(&[0, 0, 0, 0, 65]);
        let refused = decoder.next_message();
        assert_eq!(
            refused,
            Err(Malformed::TooLong {
                octets: 65,
                most: 64
            })
        );
    }

    #[test]
    fn compressed_torn_and_foreign_octets_are_refused() {
        let mut decoder = Decoder::new(64);
        decoder.push(&[1, 0, 0, 0, 0]);
        assert_eq!(decoder.next_message(), Err(Malformed::Compressed));

        let mut decoder = Decoder::new(64);
        let nonce = Nonce {
            nonce: Bytes::from_static(&[7; 16]),
        };
        let octets = framed(&WatchRequest {
            message: Some(Said::Nonce(nonce)),
        });
        decoder.push(&octets[..octets.len() - 1]);
        assert_eq!(decoder.next_message(), Ok(None));
        assert_eq!(decoder.end(), Err(Malformed::Torn));

        let mut decoder = Decoder::new(64);
        decoder.push(&[0, 0, 0, 0, 2, 0xff, 0xff]);
        assert!(matches!(
            decoder.next_message(),
            Err(Malformed::Unreadable(_))
        ));
    }
}
