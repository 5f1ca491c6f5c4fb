//! Exact two-bit maps of one bucket's statuses, in chunks of 4 KiB.
//!
//! Index 0 is in the two lowest bits of the first octet, as in an IETF Token Status List of two
//! bits. A chunk holds 16,384 statuses and is what a store keeps under (bucket, chunk). A chunk in
//! which everything is valid is no part of the map, so that equal maps have equal bytes.

mod bits;
mod pack;
mod served;
mod set;

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub use pack::{PackedChunk, pack};
pub use served::ServedMap;

use crate::octets::Truncated;
use crate::place::MAX_INDEX;

/// Octets in a chunk.
pub const CHUNK_LEN: usize = 4096;

/// Statuses in a chunk.
pub const CHUNK_STATUSES: u64 = 16_384;

/// The low bit of each status of a word.
const LOW_BITS: u64 = 0x5555_5555_5555_5555;

const CHUNK_TAG: &[u8; 16] = b"taskmint chnk v1";
const MAP_TAG: &[u8; 16] = b"taskmint bmap v1";

/// What two bits say. The fourth value, 3, is refused wherever maps are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// Neither ended nor suspended.
    Valid = 0,
    /// Over, for good.
    Ended = 1,
    /// Not to be accepted until it is resumed.
    Suspended = 2,
}

impl Status {
    /// `None` for bits that say nothing, 3.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Valid),
            1 => Some(Self::Ended),
            2 => Some(Self::Suspended),
            _ => None,
        }
    }

    /// The two bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// The chunk that an index lies in, and its position there.
///
/// # Errors
/// [`MapError::Index`] when `index` is over 40 bits.
pub fn chunk_of(index: u64) -> Result<(u32, u16), MapError> {
    if index > MAX_INDEX {
        return Err(MapError::Index(index));
    }
    let chunk = u32::try_from(index / CHUNK_STATUSES).map_err(|_| MapError::Index(index))?;
    Ok((chunk, (index % CHUNK_STATUSES) as u16))
}

/// 16,384 statuses in 4 KiB, shared by its clones until one of them changes.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk(Arc<[u8; CHUNK_LEN]>);

impl Default for Chunk {
    fn default() -> Self {
        Self(Arc::new([0; CHUNK_LEN]))
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let others = self
            .words()
            .map(|word| ((word | word >> 1) & LOW_BITS).count_ones());
        write!(f, "Chunk({} not valid)", others.sum::<u32>())
    }
}

impl Chunk {
    /// Reads a chunk as a store keeps it.
    ///
    /// # Errors
    /// [`MapError::Length`] unless it has 4,096 octets, [`MapError::Reserved`] for a status of 3.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MapError> {
        let bytes: [u8; CHUNK_LEN] = bytes
            .try_into()
            .map_err(|_| MapError::Length(bytes.len()))?;
        Self(Arc::new(bytes)).checked()
    }

    /// The octets, as a store keeps them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; CHUNK_LEN] {
        &self.0
    }

    /// The status at a position from [`chunk_of`]; ended for a position outside of the chunk.
    #[must_use]
    pub fn get(&self, position: u16) -> Status {
        let octet = self.0.get(usize::from(position / 4));
        let bits = octet.map(|octet| octet >> (position % 4 * 2) & 3);
        bits.and_then(Status::from_bits).unwrap_or(Status::Ended)
    }

    /// Sets the status at a position from [`chunk_of`], and returns what was there.
    pub fn set(&mut self, position: u16, status: Status) -> Status {
        let before = self.get(position);
        if let Some(octet) = Arc::make_mut(&mut self.0).get_mut(usize::from(position / 4)) {
            let shift = position % 4 * 2;
            *octet = *octet & !(3 << shift) | status.bits() << shift;
        }
        before
    }

    /// Whether nothing in it is ended or suspended.
    #[must_use]
    pub fn is_all_valid(&self) -> bool {
        self.words().all(|word| word == 0)
    }

    /// Its part of the map's digest: stores may keep it, since only changed chunks need it anew.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(CHUNK_TAG)
            .chain_update(self.0.as_slice())
            .finalize()
            .into()
    }

    fn checked(self) -> Result<Self, MapError> {
        // All of them, since a check that stops early is the slower one.
        let threes = self
            .words()
            .fold(0, |threes, word| threes | word & word >> 1);
        if threes & LOW_BITS != 0 {
            return Err(MapError::Reserved);
        }
        Ok(self)
    }

    /// Its statuses, 32 a word.
    pub(crate) fn words(&self) -> impl DoubleEndedIterator<Item = u64> {
        let (words, _) = self.0.as_chunks::<8>();
        words.iter().map(|octets| u64::from_le_bytes(*octets))
    }

    fn keeps_ends_of(&self, earlier: &Self) -> bool {
        // The low bit alone means ended, since 3 is refused.
        Arc::ptr_eq(&self.0, &earlier.0)
            || self
                .words()
                .zip(earlier.words())
                .all(|(now, then)| then & LOW_BITS & !now == 0)
    }
}

/// The digest of a map, by the numbers and digests of its chunks, ascending.
#[must_use]
pub fn digest(chunks: impl IntoIterator<Item = (u32, [u8; 32])>) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(MAP_TAG);
    for (number, digest) in chunks {
        hash.update(number.to_be_bytes());
        hash.update(digest);
    }
    hash.finalize().into()
}

/// The statuses of one bucket; valid where nothing else was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusMap {
    // INVARIANT: no chunk is all valid.
    chunks: BTreeMap<u32, Chunk>,
}

impl StatusMap {
    /// A map in which everything is valid.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A map of a store's chunks, in any order; all-valid ones are left out.
    #[must_use]
    pub fn from_chunks(chunks: impl IntoIterator<Item = (u32, Chunk)>) -> Self {
        let chunks = chunks
            .into_iter()
            .filter(|(_, chunk)| !chunk.is_all_valid())
            .collect();
        Self { chunks }
    }

    /// The status at an index; ended for one over 40 bits, where nothing can be placed.
    #[must_use]
    pub fn get(&self, index: u64) -> Status {
        let Ok((chunk, position)) = chunk_of(index) else {
            return Status::Ended;
        };
        self.chunks
            .get(&chunk)
            .map_or(Status::Valid, |chunk| chunk.get(position))
    }

    /// Sets the status at an index, and returns what was there.
    ///
    /// # Errors
    /// [`MapError::Index`] when `index` is over 40 bits.
    pub fn set(&mut self, index: u64, status: Status) -> Result<Status, MapError> {
        let (number, position) = chunk_of(index)?;
        if status == Status::Valid {
            let Some(chunk) = self.chunks.get_mut(&number) else {
                return Ok(Status::Valid);
            };
            let before = chunk.set(position, status);
            if chunk.is_all_valid() {
                self.chunks.remove(&number);
            }
            return Ok(before);
        }
        Ok(self.chunks.entry(number).or_default().set(position, status))
    }

    /// Whether nothing is ended or suspended.
    #[must_use]
    pub fn is_all_valid(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunks in which something is not valid, ascending.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = (u32, &Chunk)> {
        self.chunks.iter().map(|(number, chunk)| (*number, chunk))
    }

    /// SHA-256 over a tag and, for each chunk that is not all valid, its number and digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        digest(
            self.chunks
                .iter()
                .map(|(number, chunk)| (*number, chunk.digest())),
        )
    }

    /// Whether everything that `earlier` says is ended is ended here too: ends are final.
    #[must_use]
    pub fn keeps_ends_of(&self, earlier: &Self) -> bool {
        let all_valid = Chunk::default();
        earlier.chunks.iter().all(|(number, then)| {
            self.chunks
                .get(number)
                .unwrap_or(&all_valid)
                .keeps_ends_of(then)
        })
    }
}

/// Not a map, or no such place in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The index is over 40 bits.
    #[error("index {0} is over 40 bits")]
    Index(u64),
    /// A chunk that is not 4,096 octets long.
    #[error("chunk has {0} octets, not 4096")]
    Length(usize),
    /// A status of 3.
    #[error("status 3 is reserved")]
    Reserved,
    /// Another version of the packed form.
    #[error("packed map version {0} is unknown")]
    Version(u8),
    /// Another number of chunks than was announced.
    #[error("packed map has another number of chunks")]
    Count,
    /// Chunks not ascending, or beyond the last index.
    #[error("packed map has a chunk out of order")]
    Order,
    /// A chunk that should have been left out.
    #[error("packed map has an all-valid chunk")]
    AllValid,
    /// A form that is unknown, or something that goes over the end of its chunk.
    #[error("packed map has a malformed chunk")]
    Packing,
    /// The input ends inside the map.
    #[error("packed map is cut short")]
    Truncated,
    /// Octets after the last chunk.
    #[error("packed map has trailing octets")]
    Trailing,
}

impl From<Truncated> for MapError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statuses() -> impl Strategy<Value = Vec<(u64, Status)>> {
        let status = prop_oneof![
            Just(Status::Valid),
            Just(Status::Ended),
            Just(Status::Suspended)
        ];
        let index = prop_oneof![0..200_000_u64, 0..=MAX_INDEX];
        proptest::collection::vec((index, status), 0..200)
    }

    fn filled(sets: &[(u64, Status)]) -> StatusMap {
        let mut map = StatusMap::new();
        for (index, status) in sets {
            map.set(*index, *status).unwrap();
        }
        map
    }

    #[test]
    fn index_zero_is_in_the_lowest_bits_as_in_a_token_status_list() {
        let mut chunk = Chunk::default();
        chunk.set(0, Status::Ended);
        chunk.set(1, Status::Suspended);
        chunk.set(3, Status::Ended);
        chunk.set(16_383, Status::Suspended);
        assert_eq!(chunk.as_bytes()[0], 0b0100_1001);
        assert_eq!(chunk.as_bytes()[CHUNK_LEN - 1], 0b1000_0000);
    }

    #[test]
    fn status_three_is_refused() {
        let mut bytes = [0; CHUNK_LEN];
        bytes[17] = 0b0011_0000;
        assert_eq!(Chunk::from_bytes(&bytes), Err(MapError::Reserved));
        bytes[17] = 0b0110_0110;
        assert!(Chunk::from_bytes(&bytes).is_ok());
        assert_eq!(Chunk::from_bytes(&bytes[1..]), Err(MapError::Length(4095)));
        assert_eq!(Status::from_bits(3), None);
    }

    #[test]
    fn a_map_that_was_resumed_equals_one_never_touched() {
        let mut map = filled(&[(70_000, Status::Suspended)]);
        assert_eq!(map.set(70_000, Status::Valid), Ok(Status::Suspended));
        assert_eq!(map, StatusMap::new());
        assert_eq!(map.digest(), StatusMap::new().digest());
        assert_eq!(map.pack(), StatusMap::new().pack());
    }

    #[test]
    fn an_index_over_forty_bits_is_never_valid() {
        let mut map = StatusMap::new();
        assert_eq!(map.get(MAX_INDEX), Status::Valid);
        assert_eq!(map.get(MAX_INDEX + 1), Status::Ended);
        assert_eq!(
            map.set(MAX_INDEX + 1, Status::Ended),
            Err(MapError::Index(MAX_INDEX + 1))
        );
    }

    #[test]
    fn an_end_that_came_back_is_seen() {
        let then = filled(&[
            (3, Status::Ended),
            (40_000, Status::Ended),
            (5, Status::Suspended),
        ]);
        let mut now = filled(&[
            (3, Status::Ended),
            (40_000, Status::Ended),
            (9, Status::Ended),
        ]);
        assert!(now.keeps_ends_of(&then));
        now.set(40_000, Status::Suspended).unwrap();
        assert!(!now.keeps_ends_of(&then));
        now.set(40_000, Status::Valid).unwrap();
        assert!(!now.keeps_ends_of(&then));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_map_says_what_was_set_last(sets in statuses()) {
            let map = filled(&sets);
            let last: BTreeMap<u64, Status> = sets.into_iter().collect();
            for (index, status) in &last {
                prop_assert_eq!(map.get(*index), *status);
            }
        }

        #[test]
        fn equal_maps_have_equal_digests_whatever_the_order(sets in statuses()) {
            let last: BTreeMap<u64, Status> = sets.iter().copied().collect();
            let sorted: Vec<_> = last.into_iter().rev().collect();
            prop_assert_eq!(filled(&sets).digest(), filled(&sorted).digest());
        }
    }
}
