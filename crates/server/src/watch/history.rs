//! What the log's hash was at each of the latest positions: a watcher that comes back from another
//! history is known by it, wherever the log stands by now (protocol P15).

use std::collections::VecDeque;

use taskmint_status::{ChainHash, Record};

/// Positions that are remembered, 2 MiB at most. One further behind begins with a checkpoint, or with
/// records that don't hash to what it has.
const MOST: usize = 65_536;

/// The hashes from a position on.
#[derive(Debug)]
pub(super) struct History {
    /// Where the first of them stands.
    first: u64,
    /// Never empty.
    hashes: VecDeque<ChainHash>,
}

impl History {
    /// Nothing is known before this position.
    pub(super) fn new(sequence: u64, hash: ChainHash) -> Self {
        Self {
            first: sequence,
            hashes: VecDeque::from([hash]),
        }
    }

    /// Where it ends.
    pub(super) fn position(&self) -> u64 {
        self.first + (self.hashes.len() as u64).saturating_sub(1)
    }

    /// Goes on with the records that follow; those that do not are passed over.
    pub(super) fn append(&mut self, records: &[Record]) {
        for record in records {
            let Some(last) = self.hashes.back() else {
                return;
            };
            if record.sequence != self.position() + 1 {
                continue;
            }
            self.hashes.push_back(last.then(&record.encode()));
            if self.hashes.len() > MOST {
                self.hashes.pop_front();
                self.first += 1;
            }
        }
    }

    /// Whether the log is known to have had another hash there.
    pub(super) fn contradicts(&self, sequence: u64, hash: &[u8]) -> bool {
        let at = sequence.checked_sub(self.first);
        let known = at.and_then(|at| self.hashes.get(usize::try_from(at).ok()?));
        known.is_some_and(|known| known.0[..] != *hash)
    }
}

#[cfg(test)]
mod tests {
    use taskmint_status::{Change, Generation, LogId, WallTime};

    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            epoch: 1,
            time: WallTime(sequence),
            change: Change::Epoch,
        }
    }

    #[test]
    fn each_position_since_the_start_has_its_hash_and_none_before() {
        let start = ChainHash::genesis(LogId([1; 8]), Generation::FIRST);
        let mut history = History::new(10, start);
        history.append(&[record(11), record(12)]);
        // Again, and with a gap: neither changes anything.
        history.append(&[record(12), record(14)]);
        let next = start.then(&record(11).encode());
        assert_eq!(history.position(), 12);
        assert!(!history.contradicts(10, &start.0));
        assert!(!history.contradicts(11, &next.0));
        assert!(history.contradicts(11, &start.0));
        for unknown in [9, 13] {
            assert!(!history.contradicts(unknown, &[7; 32]), "{unknown}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = ChainHash([0; 32]);
        let mut history = History::new(0, start);
        let last = MOST as u64 + 100;
        let records: Vec<_> = (1..=last).map(record).collect();
        history.append(&records);
        assert_eq!((history.hashes.len(), history.position()), (MOST, last));
        assert!(!history.contradicts(100, &[7; 32]));
        assert!(history.contradicts(last, &[7; 32]));
        assert!(history.contradicts(last - MOST as u64 + 1, &[7; 32]));
    }
}
