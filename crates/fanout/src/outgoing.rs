//! What one stream is about to send: a few shared pieces, never more than one message's worth.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// How much longer a watcher may take for each part of what it is sent, on top of its patience.
const PER_PART: Duration = Duration::from_secs(1);

const PART: usize = 64 << 10;

/// Pieces in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    first: Bytes,
    rest: VecDeque<Bytes>,
    octets: usize,
}

impl Outgoing {
    pub(crate) fn one(piece: impl Into<Bytes>) -> Self {
        let first = piece.into();
        Self {
            octets: first.len(),
            first,
            rest: VecDeque::new(),
        }
    }

    pub(crate) fn many(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut rest: VecDeque<_> = pieces.into_iter().collect();
        let octets = rest.iter().map(Bytes::len).sum();
        Self {
            first: rest.pop_front().unwrap_or_default(),
            rest,
            octets,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.octets == 0
    }

    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    /// How long all of it may take to leave, where `patience` is for a little.
    pub(crate) fn allowance(&self, patience: Duration) -> Duration {
        let parts = u32::try_from(self.octets / PART).unwrap_or(u32::MAX);
        patience.saturating_add(PER_PART.saturating_mul(parts))
    }

    /// The next octets: not more than `most`, and not more than the piece in front has.
    pub(crate) fn take(&mut self, most: usize) -> Bytes {
        while self.first.is_empty() {
            let Some(next) = self.rest.pop_front() else {
                return Bytes::new();
            };
            self.first = next;
        }
        let taken = self.first.split_to(most.min(self.first.len()));
        self.octets -= taken.len();
        if self.octets == 0 {
            // The bytes are shared: who has nothing to send holds none of them.
            *self = Self::default();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_in_order_and_in_any_size() {
        for size in 1..12 {
            let pieces = ["ab", "", "cdef", "g"].map(|text| Bytes::from_static(text.as_bytes()));
            let mut outgoing = Outgoing::many(pieces);
            let mut sent = Vec::new();
            while !outgoing.is_empty() {
                let piece = outgoing.take(size);
                assert!(!piece.is_empty() && piece.len() <= size);
                sent.extend(piece);
            }
            assert_eq!(sent, b"abcdefg");
            assert!(outgoing.take(size).is_empty());
        }
    }

    #[test]
    fn more_takes_longer() {
        let patience = Duration::from_secs(60);
        let small = Outgoing::one(vec![0; 100]);
        assert_eq!(small.allowance(patience), patience);
        let large = Outgoing::one(vec![0; 1 << 20]);
        assert_eq!(large.allowance(patience), patience + 16 * PER_PART);
    }
}
