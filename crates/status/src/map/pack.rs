//! Maps for the wire: few octets, read in a millisecond or two for each million of ends.
//!
//! ```text
//! version 2, number of chunks u32; then bits, the lowest of each octet first, to a whole octet:
//! for each chunk, ascending:
//!   gamma   its number less the one before (before the first: less minus one)
//!   set     of the ended positions
//!   1 bit   whether there are suspended ones, then their set
//! set:
//!   1       gamma n >= 1, n gaps with k = bits in 77 (32768 - n) / (320 n): ended are few
//!   0 00    value, rest (1 bit each), gamma n + 1, k (4 bits), n gaps: `value` is listed, the other
//!           one lies between, `rest` behind the last
//!   0 01    the first run's value, gamma n, k of runs of 0 and of 1 (4 bits each), n - 1 lengths,
//!           each less one; the last run fills up
//!   0 10    16,384 bits
//! ```
//!
//! Numbers as two bits of form are written lowest bit first. Gamma is Elias's: as many zeros as the
//! number has bits below its highest, a one, those bits. Gaps and lengths are Golomb's and Rice's:
//! what is above `k` bits in zeros, a one, the `k` bits. For positions that are ended by chance they
//! cost at most 4 % more than entropy demands.
//!
//! Version 1 is read for as long as there may be servers that write it: the number of each chunk in
//! four octets, then runs that fill 4,096 octets.

use std::sync::Arc;

use super::bits::{BitReader, BitWriter};
use super::set::{self, NOTHING, Words};
use super::{CHUNK_LEN, CHUNK_STATUSES, Chunk, LOW_BITS, MapError, StatusMap};
use crate::octets::Reader;
use crate::place::MAX_INDEX;

const RUNS_VERSION: u8 = 1;
const VERSION: u8 = 2;

/// The high bit of a version 1 control octet announces zeros instead of literal octets.
const ZEROS: u8 = 0x80;

/// A chunk as it goes into a packed map: a server keeps these while a chunk doesn't change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedChunk(BitWriter);

/// The map for the wire, of its chunks that are not all valid, by ascending number.
#[must_use]
pub fn pack<'a>(chunks: impl ExactSizeIterator<Item = (u32, &'a PackedChunk)>) -> Vec<u8> {
    let mut packed = vec![VERSION];
    packed.extend_from_slice(&(chunks.len() as u32).to_be_bytes());
    let mut bits = BitWriter::default();
    let mut next = 0;
    for (number, chunk) in chunks {
        bits.put_gamma(number.saturating_sub(next) + 1);
        bits.append(&chunk.0);
        next = number + 1;
    }
    bits.finish(&mut packed);
    packed
}

impl Chunk {
    /// Its part of the packed map.
    #[must_use]
    pub fn pack(&self) -> PackedChunk {
        let mut ended = NOTHING;
        let mut suspended = NOTHING;
        for ((ended, suspended), word) in ended.iter_mut().zip(&mut suspended).zip(self.words()) {
            (*ended, *suspended) = (word & LOW_BITS, word >> 1 & LOW_BITS);
        }
        let mut bits = BitWriter::default();
        set::pack(&ended, &mut bits);
        let some = suspended != NOTHING;
        bits.put(u64::from(some), 1);
        if some {
            set::pack(&suspended, &mut bits);
        }
        PackedChunk(bits)
    }

    fn unpack(bits: &mut BitReader<'_>) -> Result<Self, MapError> {
        let mut words = set::unpack(bits)?;
        if bits.flag()? {
            let suspended = set::unpack(bits)?;
            for (word, suspended) in words.iter_mut().zip(suspended) {
                if *word & suspended != 0 {
                    return Err(MapError::Reserved);
                }
                *word |= suspended << 1;
            }
        }
        if words == NOTHING {
            return Err(MapError::AllValid);
        }
        Ok(Self::of(&words))
    }

    fn of(words: &Words) -> Self {
        let mut bytes = [0; CHUNK_LEN];
        let (octets, _) = bytes.as_chunks_mut::<8>();
        for (octets, word) in octets.iter_mut().zip(words) {
            *octets = word.to_le_bytes();
        }
        Self(Arc::new(bytes))
    }

    fn unpack_runs(reader: &mut Reader<'_>) -> Result<Self, MapError> {
        let mut bytes = [0; CHUNK_LEN];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let control = reader.u8()?;
            let len = usize::from(control & !ZEROS) + 1;
            let (part, later) = rest.split_at_mut_checked(len).ok_or(MapError::Packing)?;
            if control & ZEROS == 0 {
                part.copy_from_slice(reader.slice(len)?);
            }
            rest = later;
        }
        let chunk = Self(Arc::new(bytes)).checked()?;
        if chunk.is_all_valid() {
            return Err(MapError::AllValid);
        }
        Ok(chunk)
    }
}

impl StatusMap {
    /// The map for the wire, in the newest form.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let packed: Vec<_> = self
            .chunks()
            .map(|(number, chunk)| (number, chunk.pack()))
            .collect();
        pack(packed.iter().map(|(number, chunk)| (*number, chunk)))
    }

    /// Reads a packed map of exactly `chunks` chunks.
    ///
    /// The number comes from a signed checkpoint, so that a relay's few octets can't claim gigabytes.
    ///
    /// # Errors
    /// [`MapError`] for an unknown version, another number of chunks, chunks out of order, all valid
    /// or beyond the last index, what goes over a chunk's end, a status of 3, and trailing octets.
    pub fn unpack(packed: &[u8], chunks: u32) -> Result<Self, MapError> {
        let mut reader = Reader::new(packed);
        let version = reader.u8()?;
        if !(RUNS_VERSION..=VERSION).contains(&version) {
            return Err(MapError::Version(version));
        }
        if reader.u32()? != chunks {
            return Err(MapError::Count);
        }
        match version {
            RUNS_VERSION => Self::unpack_runs(reader, chunks),
            _ => Self::unpack_bits(reader.rest(), chunks),
        }
    }

    fn unpack_bits(packed: &[u8], chunks: u32) -> Result<Self, MapError> {
        let mut bits = BitReader::new(packed);
        let mut map = Self::new();
        let mut next = 0;
        for _ in 0..chunks {
            let number = u64::from(bits.take_gamma()?) - 1 + next;
            map.chunks
                .insert(chunk_number(number)?, Chunk::unpack(&mut bits)?);
            next = number + 1;
        }
        if bits.is_finished() {
            Ok(map)
        } else {
            Err(MapError::Trailing)
        }
    }

    fn unpack_runs(mut reader: Reader<'_>, chunks: u32) -> Result<Self, MapError> {
        let mut map = Self::new();
        let mut next = 0;
        for _ in 0..chunks {
            let number = u64::from(reader.u32()?);
            if number < next {
                return Err(MapError::Order);
            }
            map.chunks
                .insert(chunk_number(number)?, Chunk::unpack_runs(&mut reader)?);
            next = number + 1;
        }
        if reader.is_empty() {
            Ok(map)
        } else {
            Err(MapError::Trailing)
        }
    }
}

fn chunk_number(number: u64) -> Result<u32, MapError> {
    if number > MAX_INDEX / CHUNK_STATUSES {
        return Err(MapError::Order);
    }
    u32::try_from(number).map_err(|_| MapError::Order)
}

#[cfg(test)]
mod tests;
