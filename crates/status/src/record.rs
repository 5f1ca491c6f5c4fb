//! The log's records: 64 octets each, chained by hash from the first (protocol P15).
//!
//! ```text
//!  0  version 1        4  epoch u32        24  bucket u32       40  task id (16)
//!  1  kind             8  sequence u64     28  index u40        56  zeros (8)
//!  2  cause           16  time u64, ms     33  zeros (7)
//!  3  zero
//! ```
//!
//! What a kind doesn't use is zero. A kind that the reader doesn't know is refused, because it may
//! say that something ended; a cause that it doesn't know is kept, because it only says why.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::clock::WallTime;
use crate::octets::{Reader, Truncated, Writer, u40};
use crate::place::{Generation, LogId, Slot};

/// Octets in a record.
pub const RECORD_LEN: usize = 64;

const VERSION: u8 = 1;
const LINK_TAG: &[u8; 16] = b"taskmint link v1";
const SEED_TAG: &[u8; 16] = b"taskmint seed v1";

/// Why a task ended: a stable code, never zero, and its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cause(u8);

impl Cause {
    /// The holder said that it is done.
    pub const COMPLETED: Self = Self(1);
    /// The holder said that it failed.
    pub const FAILED: Self = Self(2);
    /// The holder or an ancestor's called it off.
    pub const CANCELLED: Self = Self(3);
    /// An operator ended it.
    pub const REVOKED: Self = Self(4);
    /// Its deadline passed.
    pub const EXPIRED: Self = Self(5);
    /// The process that held it is gone.
    pub const HOLDER_DIED: Self = Self(6);
    /// Its node's lease lapsed.
    pub const NODE_LOST: Self = Self(7);
    /// Its node was evicted or banned.
    pub const EVICTED: Self = Self(8);
    /// A task above it ended.
    pub const PARENT_ENDED: Self = Self(9);
    /// A successor took its place.
    pub const SUPERSEDED: Self = Self(10);
    /// The server was restored from a backup (protocol P14).
    pub const RESTORED: Self = Self(11);
    /// Its registration entry was removed.
    pub const ENTRY_REMOVED: Self = Self(12);

    const NAMES: [(Self, &'static str); 12] = [
        (Self::COMPLETED, "completed"),
        (Self::FAILED, "failed"),
        (Self::CANCELLED, "cancelled"),
        (Self::REVOKED, "revoked"),
        (Self::EXPIRED, "expired"),
        (Self::HOLDER_DIED, "holder_died"),
        (Self::NODE_LOST, "node_lost"),
        (Self::EVICTED, "evicted"),
        (Self::PARENT_ENDED, "parent_ended"),
        (Self::SUPERSEDED, "superseded"),
        (Self::RESTORED, "restored"),
        (Self::ENTRY_REMOVED, "entry_removed"),
    ];

    /// `None` for zero, which stands for no cause.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        (code != 0).then_some(Self(code))
    }

    /// The cause of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(cause, _)| *cause)
    }

    /// The stable code.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }

    /// The stable name; `unknown` for a code of a later version.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(cause, _)| *cause == self)
            .map_or("unknown", |(_, name)| name)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({} {})", self.0, self.name())
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A task ended, for good.
    End {
        /// Its place.
        slot: Slot,
        /// Its id.
        task: [u8; 16],
        /// Why.
        cause: Cause,
    },
    /// A task is not to be accepted for now.
    Suspend {
        /// Its place.
        slot: Slot,
        /// Its id.
        task: [u8; 16],
    },
    /// A suspended task is accepted again.
    Resume {
        /// Its place.
        slot: Slot,
        /// Its id.
        task: [u8; 16],
    },
    /// Every bucket below this one is over, and refused from here on (protocol P16).
    Floor {
        /// The lowest bucket that still counts.
        bucket: u32,
    },
    /// The record's epoch begins: writers of an earlier one are fenced off.
    Epoch,
}

/// One change of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its position: 1 for the first, never restarting, without a gap.
    pub sequence: u64,
    /// The fencing epoch of its writer.
    pub epoch: u32,
    /// When the server wrote it.
    pub time: WallTime,
    /// What it says.
    pub change: Change,
}

impl Record {
    /// The record's octets: what is stored, chained and sent.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let (kind, cause, bucket, index, task) = match self.change {
            Change::End { slot, task, cause } => (1, cause.0, slot.bucket(), slot.index(), task),
            Change::Suspend { slot, task } => (2, 0, slot.bucket(), slot.index(), task),
            Change::Resume { slot, task } => (3, 0, slot.bucket(), slot.index(), task),
            Change::Floor { bucket } => (4, 0, bucket, 0, [0; 16]),
            Change::Epoch => (5, 0, 0, 0, [0; 16]),
        };
        Writer::new()
            .put(&[VERSION, kind, cause, 0])
            .put(&self.epoch.to_be_bytes())
            .put(&self.sequence.to_be_bytes())
            .put(&self.time.0.to_be_bytes())
            .put(&bucket.to_be_bytes())
            .put(&u40(index))
            .put(&[0; 7])
            .put(&task)
            .put(&[0; 8])
            .done()
    }

    /// # Errors
    /// [`RecordError`] for another length, version or kind, and for anything that is not zero where
    /// the layout has zeros.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() != RECORD_LEN {
            return Err(RecordError::Length(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let [version, kind, cause, _] = reader.array()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let epoch = reader.u32()?;
        let sequence = reader.u64()?;
        let time = WallTime(reader.u64()?);
        let (bucket, index) = (reader.u32()?, reader.u40()?);
        reader.array::<7>()?;
        let task = reader.array()?;
        let slot = Slot::new(bucket, index).map_err(|_| RecordError::NotZero)?;
        let change = match kind {
            1 => {
                let cause = Cause::from_code(cause).ok_or(RecordError::NoCause)?;
                Change::End { slot, task, cause }
            }
            2 => Change::Suspend { slot, task },
            3 => Change::Resume { slot, task },
            4 => Change::Floor { bucket },
            5 => Change::Epoch,
            other => return Err(RecordError::Kind(other)),
        };
        let record = Self {
            sequence,
            epoch,
            time,
            change,
        };
        // What a kind doesn't use is zero: one record has one encoding.
        if record.encode() != bytes {
            return Err(RecordError::NotZero);
        }
        Ok(record)
    }
}

/// The hash over a log up to a position.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The hash before the first record. It binds the chain to its log.
    #[must_use]
    pub fn genesis(log: LogId, generation: Generation) -> Self {
        let hash = Sha256::new_with_prefix(SEED_TAG).chain_update(log.0);
        Self(hash.chain_update([generation.get()]).finalize().into())
    }

    /// The hash once this record is appended: SHA-256 over tag, hash before and record.
    #[must_use]
    pub fn then(self, record: &[u8; RECORD_LEN]) -> Self {
        let hash = Sha256::new_with_prefix(LINK_TAG).chain_update(self.0);
        Self(hash.chain_update(record).finalize().into())
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainHash(")?;
        self.0
            .iter()
            .take(4)
            .try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("..)")
    }
}

/// Not a log record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not 64 octets.
    #[error("log record has {0} octets, not 64")]
    Length(usize),
    /// Another version.
    #[error("log record version {0} is unknown")]
    Version(u8),
    /// A kind of another version.
    #[error("log record kind {0} is unknown")]
    Kind(u8),
    /// An end without a cause.
    #[error("log record ends a task without a cause")]
    NoCause,
    /// Something where the layout has zeros.
    #[error("log record has a value where its kind has none")]
    NotZero,
}

impl From<Truncated> for RecordError {
    fn from(_: Truncated) -> Self {
        Self::Length(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::MAX_INDEX;

    fn changes() -> impl Strategy<Value = Change> {
        let slot = (any::<u32>(), 0..=MAX_INDEX).prop_map(|(b, i)| Slot::new(b, i).unwrap());
        (slot, any::<[u8; 16]>(), 1_u8.., 0..5).prop_map(|(slot, task, cause, kind)| match kind {
            0 => Change::End {
                slot,
                task,
                cause: Cause(cause),
            },
            1 => Change::Suspend { slot, task },
            2 => Change::Resume { slot, task },
            3 => Change::Floor {
                bucket: slot.bucket(),
            },
            _ => Change::Epoch,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_record_comes_back(sequence: u64, epoch: u32, time: u64, change in changes()) {
            let record = Record { sequence, epoch, time: WallTime(time), change };
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn one_record_has_one_encoding(change in changes(), at in 0..RECORD_LEN, to: u8) {
            let mut bytes = Record { sequence: 1, epoch: 1, time: WallTime(9), change }.encode();
            bytes[at] = to;
            if let Ok(read) = Record::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(read) = Record::decode(&bytes) {
                prop_assert_eq!(read.encode().to_vec(), bytes);
            }
        }
    }

    #[test]
    fn causes_have_stable_codes_and_names() {
        for (at, (cause, name)) in Cause::NAMES.iter().enumerate() {
            assert_eq!(usize::from(cause.code()), at + 1);
            assert_eq!(Cause::from_name(name), Some(*cause));
            assert_eq!(cause.name(), *name);
        }
        assert_eq!(Cause::from_code(0), None);
        assert_eq!(Cause::from_code(200).unwrap().name(), "unknown");
        assert_eq!(Cause::from_name("unknown"), None);
    }

    #[test]
    fn malformed_records_are_refused_each_for_its_reason() {
        let slot = Slot::new(7, 8).unwrap();
        let change = Change::End {
            slot,
            task: [1; 16],
            cause: Cause::REVOKED,
        };
        let good = Record {
            sequence: 1,
            epoch: 1,
            time: WallTime(9),
            change,
        }
        .encode();
        let edited = |at: usize, to: u8| {
            let mut bad = good;
            bad[at] = to;
            Record::decode(&bad)
        };
        assert_eq!(edited(0, 2), Err(RecordError::Version(2)));
        assert_eq!(edited(1, 0), Err(RecordError::Kind(0)));
        assert_eq!(edited(1, 6), Err(RecordError::Kind(6)));
        assert_eq!(edited(2, 0), Err(RecordError::NoCause));
        assert_eq!(
            edited(1, 2),
            Err(RecordError::NotZero),
            "a suspension has no cause"
        );
        for at in [3, 33, 39, 56, 63] {
            assert_eq!(edited(at, 1), Err(RecordError::NotZero), "octet {at}");
        }
        assert_eq!(Record::decode(&good[..63]), Err(RecordError::Length(63)));
    }

    #[test]
    fn chains_of_two_logs_differ_from_the_seed_on() {
        let log = LogId([1; 8]);
        let first = ChainHash::genesis(log, Generation::FIRST);
        assert_ne!(first, ChainHash::genesis(log, Generation::new(2).unwrap()));
        assert_ne!(first, ChainHash::genesis(LogId([2; 8]), Generation::FIRST));
        assert_ne!(first.then(&[0; 64]), first.then(&[1; 64]));
    }
}
