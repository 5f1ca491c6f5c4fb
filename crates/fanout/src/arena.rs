//! The newest records, in shared segments: what is between a watcher's cursor and the head.

use std::collections::VecDeque;

use bytes::Bytes;
use taskmint_status::record::RECORD_LEN;

/// Records of one segment, 16 KiB: what is not yet a whole one is copied by each reader, and no
/// reader may hold more than a fraction of its 64 KiB in copies.
pub(crate) const SEGMENT: usize = 256;

const SEGMENT_BYTES: usize = SEGMENT * RECORD_LEN;

/// Contiguous records, the oldest forgotten once there are more than are kept.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Which run of records without a gap this is: another with every [`restart`](Self::restart).
    era: u64,
    /// Which log they are of: one may have several runs.
    log: u64,
    /// Everything up to here is forgotten.
    start: u64,
    /// The newest record.
    end: u64,
    keep: u64,
    full: VecDeque<Bytes>,
    // INVARIANT: shorter than a segment.
    tail: Vec<u8>,
}

impl Arena {
    pub(crate) fn new(position: u64, keep: u64) -> Self {
        Self {
            era: 1,
            log: 0,
            start: position,
            end: position,
            keep,
            full: VecDeque::new(),
            tail: Vec::new(),
        }
    }

    pub(crate) fn era(&self) -> u64 {
        self.era
    }

    pub(crate) fn log(&self) -> u64 {
        self.log
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Forgets everything: the next record is the one after `position`, of another log perhaps.
    pub(crate) fn restart(&mut self, log: u64, position: u64) {
        let era = self.era + 1;
        *self = Self {
            era,
            log,
            ..Self::new(position, self.keep)
        };
    }

    /// Adds whole records that follow the newest.
    pub(crate) fn append(&mut self, mut records: &[u8]) {
        while !records.is_empty() {
            let room = SEGMENT_BYTES - self.tail.len();
            let (now, later) = records.split_at(room.min(records.len()));
            self.tail.extend_from_slice(now);
            self.end += u64::try_from(now.len() / RECORD_LEN).unwrap_or(0);
            if self.tail.len() == SEGMENT_BYTES {
                // A vector of exactly this capacity next time: it becomes the segment, unmoved.
                let full = std::mem::replace(&mut self.tail, Vec::with_capacity(SEGMENT_BYTES));
                self.full.push_back(full.into());
                self.forget();
            }
            records = later;
        }
    }

    fn forget(&mut self) {
        let segment = SEGMENT as u64;
        while self.end - self.start >= self.keep.saturating_add(segment) {
            if self.full.pop_front().is_none() {
                return;
            }
            self.start += segment;
        }
    }

    /// Whether everything after `after` is still there.
    fn has(&self, era: u64, after: u64, upto: u64) -> bool {
        era == self.era && self.start <= after && after <= upto && upto <= self.end
    }

    /// The records after `after` up to `upto`: shared pieces, and a copy of what is not shared.
    pub(crate) fn slices(&self, era: u64, after: u64, upto: u64) -> Option<Vec<Bytes>> {
        let mut slices = Vec::new();
        self.each(era, after, upto, |piece| {
            slices.push(match piece {
                Piece::Shared(segment, from, to) => segment.slice(from..to),
                Piece::Copied(octets) => Bytes::copy_from_slice(octets),
            });
        })?;
        Some(slices)
    }

    /// The same as one copy at the end of `into`.
    pub(crate) fn copy(&self, era: u64, after: u64, upto: u64, into: &mut Vec<u8>) -> Option<()> {
        self.each(era, after, upto, |piece| match piece {
            Piece::Shared(segment, from, to) => {
                into.extend_from_slice(segment.get(from..to).unwrap_or_default());
            }
            Piece::Copied(octets) => into.extend_from_slice(octets),
        })
    }

    fn each(&self, era: u64, after: u64, upto: u64, mut take: impl FnMut(Piece<'_>)) -> Option<()> {
        if !self.has(era, after, upto) {
            return None;
        }
        let octets = |records: u64| usize::try_from(records).ok()?.checked_mul(RECORD_LEN);
        let (mut from, to) = (octets(after - self.start)?, octets(upto - self.start)?);
        while from < to {
            let (segment, offset) = (from / SEGMENT_BYTES, from % SEGMENT_BYTES);
            let length = (to - from).min(SEGMENT_BYTES - offset);
            match self.full.get(segment) {
                Some(shared) => take(Piece::Shared(shared, offset, offset + length)),
                None => take(Piece::Copied(self.tail.get(offset..offset + length)?)),
            }
            from += length;
        }
        Some(())
    }
}

enum Piece<'a> {
    Shared(&'a Bytes, usize, usize),
    Copied(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(sequence: u64) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[..8].copy_from_slice(&sequence.to_be_bytes());
        record
    }

    fn records(from: u64, to: u64) -> Vec<u8> {
        (from..=to).flat_map(record).collect()
    }

    #[test]
    fn what_is_forgotten_is_not_there() {
        let mut arena = Arena::new(0, 512);
        arena.append(&records(1, 512));
        assert!(arena.slices(1, 0, 512).is_some());
        arena.append(&records(513, 1024));
        assert_eq!(arena.slices(1, 0, 1024), None);
        assert!(arena.slices(1, 512, 1024).is_some());
    }

    #[test]
    fn another_era_has_nothing_of_the_one_before() {
        let mut arena = Arena::new(0, 512);
        arena.append(&records(1, 5));
        arena.restart(0, 3);
        assert_eq!((arena.era(), arena.end()), (2, 3));
        assert_eq!(arena.slices(1, 3, 3), None);
        assert_eq!(arena.slices(2, 2, 3), None);
        arena.append(&records(4, 6));
        assert_eq!(arena.slices(2, 3, 6).unwrap().concat(), records(4, 6));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_they_came_they_are_read_in_order(
            start in 0_u64..1000,
            runs in prop::collection::vec(1_u64..400, 1..12),
            cut in any::<(u16, u16)>(),
        ) {
            let mut arena = Arena::new(start, 700);
            let mut end = start;
            for run in runs {
                arena.append(&records(end + 1, end + run));
                end += run;
            }
            prop_assert_eq!(arena.end(), end);
            let kept = arena.start;
            prop_assert!(kept == start || end - kept >= 700);
            prop_assert!(end - kept < 700 + 2 * SEGMENT as u64);
            let after = kept + u64::from(cut.0) % (end - kept + 1);
            let upto = after + u64::from(cut.1) % (end - after + 1);
            let expected = records(after + 1, upto);
            prop_assert_eq!(&arena.slices(1, after, upto).unwrap().concat(), &expected);
            let mut copy = Vec::new();
            arena.copy(1, after, upto, &mut copy).unwrap();
            prop_assert_eq!(copy, expected);
            prop_assert_eq!(arena.slices(1, after, end + 1), None);
        }
    }
}
