//! A run of records on the wire: their octets one after the other.

use crate::record::{RECORD_LEN, Record, RecordError};

/// The most records in one delta, 256 KiB.
pub const MAX_RECORDS: usize = 4096;

/// Contiguous records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    // INVARIANT: 1 to MAX_RECORDS, sequence numbers without a gap.
    records: Vec<Record>,
}

impl Delta {
    /// # Errors
    /// [`DeltaError`] for none, too many, or a gap in their sequence numbers.
    pub fn new(records: Vec<Record>) -> Result<Self, DeltaError> {
        if records.is_empty() || records.len() > MAX_RECORDS {
            return Err(DeltaError::Length(records.len().saturating_mul(RECORD_LEN)));
        }
        let follows = |a: &Record, b: &Record| a.sequence.checked_add(1) == Some(b.sequence);
        if !records.is_sorted_by(follows) {
            return Err(DeltaError::Gap);
        }
        Ok(Self { records })
    }

    /// The records, ascending.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The octets of all records, in order: a slice of the stored log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.records.iter().flat_map(Record::encode).collect()
    }

    /// # Errors
    /// [`DeltaError`] for a length that is no number of records, a record that can't be read, or a
    /// gap.
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        let (records, rest) = bytes.as_chunks::<RECORD_LEN>();
        if !rest.is_empty() || records.len() > MAX_RECORDS {
            return Err(DeltaError::Length(bytes.len()));
        }
        Self::new(
            records
                .iter()
                .map(|record| Record::decode(record))
                .collect::<Result<_, _>>()?,
        )
    }
}

/// Not a run of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// No number of records from 1 to [`MAX_RECORDS`] has this many octets.
    #[error("delta has {0} octets, which fit no number of records")]
    Length(usize),
    /// Sequence numbers that don't follow each other.
    #[error("delta has a gap")]
    Gap,
    /// A record that can't be read.
    #[error("delta has a malformed record")]
    Record(#[from] RecordError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::WallTime;
    use crate::record::Change;

    fn records(from: u64, count: usize) -> Vec<Record> {
        let record = |sequence| Record {
            sequence,
            epoch: 1,
            time: WallTime(2),
            change: Change::Epoch,
        };
        (from..).take(count).map(record).collect()
    }

    #[test]
    fn a_delta_is_the_octets_of_its_records() {
        let delta = Delta::new(records(7, 3)).unwrap();
        let bytes = delta.encode();
        assert_eq!(bytes.len(), 3 * RECORD_LEN);
        assert_eq!(Delta::decode(&bytes), Ok(delta));
    }

    #[test]
    fn gaps_torn_records_and_too_many_are_refused() {
        let mut gap = records(7, 3);
        gap.remove(1);
        assert_eq!(Delta::new(gap), Err(DeltaError::Gap));
        let mut reversed = records(7, 2);
        reversed.reverse();
        assert_eq!(Delta::new(reversed), Err(DeltaError::Gap));
        assert_eq!(Delta::decode(&[]), Err(DeltaError::Length(0)));
        let bytes = Delta::new(records(7, 3)).unwrap().encode();
        assert_eq!(Delta::decode(&bytes[1..]), Err(DeltaError::Length(191)));
        let many = vec![0; (MAX_RECORDS + 1) * RECORD_LEN];
        assert_eq!(Delta::decode(&many), Err(DeltaError::Length(many.len())));
        assert_eq!(
            Delta::decode(&[0; 64]),
            Err(DeltaError::Record(RecordError::Version(0)))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..260)) {
            if let Ok(read) = Delta::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
