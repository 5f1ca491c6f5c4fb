//! Where a status is kept: (log id, bucket, index), protocol P13.

use std::fmt;
use std::num::NonZeroU8;

use crate::clock::WallTime;

/// Milliseconds in a bucket.
pub const HOUR_MS: u64 = 3_600_000;

/// The largest index: indices are written in 40 bits.
pub const MAX_INDEX: u64 = (1 << 40) - 1;

/// The latest that a limit can lie ahead, in hours (30 days, protocol P4).
pub const MAX_LIMIT_HOURS: u16 = 720;

/// Names one revocation log. A restore starts another (protocol P14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 8]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// Counts the logs of a trust domain: the first is 1, each restore takes the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU8);

impl Generation {
    /// The generation of a trust domain that was never restored.
    pub const FIRST: Self = Self(NonZeroU8::MIN);

    /// `None` for zero, which no log has.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        NonZeroU8::new(number).map(Self)
    }

    /// The number, 1 to 255.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0.get()
    }

    /// What a restore moves to; `None` after 255.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bucket and an index that fits 40 bits: a place within a log that is known from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    bucket: u32,
    index: u64,
}

impl Slot {
    /// # Errors
    /// [`PlaceError::Index`] when `index` is over [`MAX_INDEX`].
    pub fn new(bucket: u32, index: u64) -> Result<Self, PlaceError> {
        if index > MAX_INDEX {
            return Err(PlaceError::Index(index));
        }
        Ok(Self { bucket, index })
    }

    /// Hours since 1970.
    #[must_use]
    pub fn bucket(self) -> u32 {
        self.bucket
    }

    /// Dense within the bucket, at most [`MAX_INDEX`].
    #[must_use]
    pub fn index(self) -> u64 {
        self.index
    }

    /// This slot in `log`.
    #[must_use]
    pub fn in_log(self, log: LogId) -> Place {
        Place { log, slot: self }
    }
}

/// A status place: what every credential of a task carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    log: LogId,
    slot: Slot,
}

impl Place {
    /// # Errors
    /// [`PlaceError::Index`] when `index` is over [`MAX_INDEX`].
    pub fn new(log: LogId, bucket: u32, index: u64) -> Result<Self, PlaceError> {
        Ok(Slot::new(bucket, index)?.in_log(log))
    }

    /// The log that the place belongs to.
    #[must_use]
    pub fn log(self) -> LogId {
        self.log
    }

    /// Bucket and index.
    #[must_use]
    pub fn slot(self) -> Slot {
        self.slot
    }

    /// Hours since 1970.
    #[must_use]
    pub fn bucket(self) -> u32 {
        self.slot.bucket
    }

    /// Dense within the bucket.
    #[must_use]
    pub fn index(self) -> u64 {
        self.slot.index
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.log, self.slot.bucket, self.slot.index)
    }
}

/// The bucket that a task with this limit belongs to: the hour in which the limit lies.
///
/// # Errors
/// [`PlaceError::Limit`] when the hour doesn't fit 32 bits.
pub fn bucket_of(limit: WallTime) -> Result<u32, PlaceError> {
    u32::try_from(limit.0 / HOUR_MS).map_err(|_| PlaceError::Limit(limit))
}

/// The first instant of a bucket.
#[must_use]
pub fn bucket_start(bucket: u32) -> WallTime {
    WallTime(u64::from(bucket) * HOUR_MS)
}

/// The first instant after a bucket: nothing placed in it is valid from here on.
#[must_use]
pub fn bucket_end(bucket: u32) -> WallTime {
    WallTime((u64::from(bucket) + 1) * HOUR_MS)
}

/// No such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The index needs more than 40 bits.
    #[error("index {0} is over 40 bits")]
    Index(u64),
    /// The limit's hour needs more than 32 bits.
    #[error("limit {0} is over the last bucket")]
    Limit(WallTime),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lies_in_its_bucket_and_an_hour_begins_the_next() {
        let bucket = 495_000;
        assert_eq!(bucket_of(bucket_start(bucket)), Ok(bucket));
        assert_eq!(bucket_of(WallTime(bucket_end(bucket).0 - 1)), Ok(bucket));
        assert_eq!(bucket_of(bucket_end(bucket)), Ok(bucket + 1));
        assert_eq!(bucket_end(u32::MAX).0, (1 << 32) * HOUR_MS);
    }

    #[test]
    fn a_limit_beyond_the_last_bucket_is_refused() {
        let late = bucket_end(u32::MAX);
        assert_eq!(bucket_of(late), Err(PlaceError::Limit(late)));
        assert_eq!(bucket_of(WallTime(late.0 - 1)), Ok(u32::MAX));
    }

    #[test]
    fn an_index_over_forty_bits_is_refused() {
        assert!(Slot::new(1, MAX_INDEX).is_ok());
        assert_eq!(
            Slot::new(1, MAX_INDEX + 1),
            Err(PlaceError::Index(MAX_INDEX + 1))
        );
    }

    #[test]
    fn generations_start_at_one_and_stop_at_255() {
        assert_eq!(Generation::new(0), None);
        assert_eq!(Generation::FIRST.next(), Generation::new(2));
        assert_eq!(Generation::new(255).and_then(Generation::next), None);
    }
}
