//! The signed checkpoint: a digest for each bucket of the exact maps at a position (protocol P16).
//!
//! ```text
//!   0  tag "taskmint ckpt v1"       32  sequence u64              88  signer instance (16)
//!  16  log id (8)                   40  log hash (32)            104  signer counter u64
//!  24  generation                   72  floor bucket u32         112  signer chain hash (32)
//!  25  zero                         76  zeros (4)                144  for each bucket, ascending:
//!  26  number of buckets u16        80  server time u64, ms           bucket u32, chunks u32,
//!  28  epoch u32                                                      map digest (32)
//! ```
//!
//! The log's hash can't be recomputed from maps: without these digests a relay could attach forged
//! maps to a genuine head. The maps travel beside it, packed. A bucket at or above the floor that
//! is not listed is all valid.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::clock::WallTime;
use crate::head::{HeadKeys, KeyId, SIGNATURE_LEN, SignerChain, signature_parts, signer_chain};
use crate::map::{CHUNK_STATUSES, MapError, StatusMap};
use crate::octets::{Reader, Truncated, Writer};
use crate::place::{Generation, LogId, MAX_INDEX};
use crate::record::ChainHash;

/// The most buckets in a checkpoint: 721 can be live, the rest is room for a floor that lags.
pub const MAX_BUCKETS: usize = 2048;

/// The most chunks of all buckets together, 256 MiB of maps.
pub const MAX_CHUNKS: u64 = 65_536;

const TAG: &[u8; 16] = b"taskmint ckpt v1";
const PREFIX_LEN: usize = 144;
const ENTRY_LEN: usize = 40;
const MAX_LEN: usize = PREFIX_LEN + MAX_BUCKETS * ENTRY_LEN;

/// One bucket's map, by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketDigest {
    /// Hours since 1970.
    pub bucket: u32,
    /// Chunks of the map in which something is not valid.
    pub chunks: u32,
    /// [`StatusMap::digest`].
    pub digest: [u8; 32],
}

impl BucketDigest {
    /// `None` for a map in which everything is valid: it is left out.
    #[must_use]
    pub fn of(bucket: u32, map: &StatusMap) -> Option<Self> {
        let chunks = map.chunks().len() as u32;
        (chunks > 0).then(|| Self {
            bucket,
            chunks,
            digest: map.digest(),
        })
    }
}

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// The fencing epoch of the writer.
    pub epoch: u32,
    /// The position that the maps stand for.
    pub sequence: u64,
    /// The hash over all records up to there.
    pub log_hash: ChainHash,
    /// Buckets below it are refused.
    pub floor: u32,
    /// The server's clock when it was signed.
    pub time: WallTime,
    /// The signer's journal after this signature's entry.
    pub signer: SignerChain,
    /// Ascending, none below the floor, none all valid.
    pub buckets: Vec<BucketDigest>,
}

impl Checkpoint {
    /// The octets to sign.
    ///
    /// # Errors
    /// [`CheckpointError`] when the buckets are out of order, empty or too many.
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        self.checked()?;
        let count = u16::try_from(self.buckets.len()).map_err(|_| CheckpointError::TooLarge)?;
        let prefix: [u8; PREFIX_LEN] = Writer::new()
            .put(TAG)
            .put(&self.log.0)
            .put(&[self.generation.get(), 0])
            .put(&count.to_be_bytes())
            .put(&self.epoch.to_be_bytes())
            .put(&self.sequence.to_be_bytes())
            .put(&self.log_hash.0)
            .put(&self.floor.to_be_bytes())
            .put(&[0; 4])
            .put(&self.time.0.to_be_bytes())
            .put(&self.signer.instance)
            .put(&self.signer.counter.to_be_bytes())
            .put(&self.signer.hash)
            .done();
        let mut bytes = Vec::with_capacity(PREFIX_LEN + self.buckets.len() * ENTRY_LEN);
        bytes.extend_from_slice(&prefix);
        for entry in &self.buckets {
            bytes.extend_from_slice(&entry.bucket.to_be_bytes());
            bytes.extend_from_slice(&entry.chunks.to_be_bytes());
            bytes.extend_from_slice(&entry.digest);
        }
        Ok(bytes)
    }

    /// Reads a checkpoint without asking who signed it: a verifier uses [`SignedCheckpoint::open`].
    ///
    /// # Errors
    /// [`CheckpointError`] for another length or tag, something where the layout has zeros, and
    /// buckets out of order, empty or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MAX_LEN {
            return Err(CheckpointError::TooLarge);
        }
        let mut reader = Reader::new(bytes);
        if reader.array::<16>()? != *TAG {
            return Err(CheckpointError::Tag);
        }
        let log = LogId(reader.array()?);
        let generation = Generation::new(reader.u8()?).ok_or(CheckpointError::NoGeneration)?;
        let zero = reader.u8()?;
        let count = usize::from(reader.u16()?);
        let epoch = reader.u32()?;
        let sequence = reader.u64()?;
        let log_hash = ChainHash(reader.array()?);
        let floor = reader.u32()?;
        if zero != 0 || reader.array()? != [0; 4] {
            return Err(CheckpointError::NotZero);
        }
        let time = WallTime(reader.u64()?);
        let signer = signer_chain(&mut reader)?;
        if bytes.len() != PREFIX_LEN + count * ENTRY_LEN {
            return Err(CheckpointError::Length(bytes.len()));
        }
        let buckets = (0..count)
            .map(|_| entry(&mut reader))
            .collect::<Result<_, _>>()?;
        let checkpoint = Self {
            log,
            generation,
            epoch,
            sequence,
            log_hash,
            floor,
            time,
            signer,
            buckets,
        };
        checkpoint.checked()?;
        Ok(checkpoint)
    }

    /// SHA-256 over the encoded octets: what names a checkpoint where maps are cached and shared.
    ///
    /// # Errors
    /// As [`Checkpoint::encode`].
    pub fn digest(&self) -> Result<[u8; 32], CheckpointError> {
        Ok(Sha256::digest(self.encode()?).into())
    }

    /// Unpacks the maps that travelled beside the checkpoint and holds each against its digest.
    ///
    /// # Errors
    /// [`CheckpointError::Map`] when one is missing, too many, malformed or not the one signed.
    pub fn unpack(&self, maps: &[PackedMap]) -> Result<BTreeMap<u32, StatusMap>, CheckpointError> {
        if maps.len() != self.buckets.len() {
            return Err(CheckpointError::MapCount);
        }
        let pairs = self.buckets.iter().zip(maps);
        pairs
            .map(|(entry, packed)| Ok((entry.bucket, unpack_one(entry, packed)?)))
            .collect()
    }

    fn checked(&self) -> Result<(), CheckpointError> {
        if self.buckets.len() > MAX_BUCKETS {
            return Err(CheckpointError::TooLarge);
        }
        let ascending = self.buckets.is_sorted_by(|a, b| a.bucket < b.bucket);
        let above = self
            .buckets
            .first()
            .is_none_or(|first| first.bucket >= self.floor);
        if !ascending || !above {
            return Err(CheckpointError::Order);
        }
        let last_chunk = (MAX_INDEX / CHUNK_STATUSES) as u32;
        if self
            .buckets
            .iter()
            .any(|entry| !(1..=last_chunk + 1).contains(&entry.chunks))
        {
            return Err(CheckpointError::Chunks);
        }
        if self
            .buckets
            .iter()
            .map(|entry| u64::from(entry.chunks))
            .sum::<u64>()
            > MAX_CHUNKS
        {
            return Err(CheckpointError::TooLarge);
        }
        Ok(())
    }
}

fn entry(reader: &mut Reader<'_>) -> Result<BucketDigest, Truncated> {
    Ok(BucketDigest {
        bucket: reader.u32()?,
        chunks: reader.u32()?,
        digest: reader.array()?,
    })
}

fn unpack_one(entry: &BucketDigest, packed: &PackedMap) -> Result<StatusMap, CheckpointError> {
    let bucket = entry.bucket;
    if packed.bucket != bucket {
        return Err(CheckpointError::MapCount);
    }
    let map = StatusMap::unpack(&packed.bytes, entry.chunks)
        .map_err(|source| CheckpointError::Map { bucket, source })?;
    if map.digest() != entry.digest {
        return Err(CheckpointError::Digest { bucket });
    }
    Ok(map)
}

/// A bucket's map beside a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedMap {
    /// Hours since 1970.
    pub bucket: u32,
    /// [`StatusMap::pack`].
    pub bytes: Vec<u8>,
}

/// A checkpoint as it travels: opaque octets, their signature and the key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What [`Checkpoint::encode`] made.
    pub bytes: Vec<u8>,
    /// ES256 over `bytes`: r, then s.
    pub signature: [u8; SIGNATURE_LEN],
    /// Whose signature it is.
    pub key: KeyId,
}

impl SignedCheckpoint {
    /// Takes the parts off the wire.
    ///
    /// # Errors
    /// [`CheckpointError::TooLarge`] for more octets than any checkpoint has,
    /// [`CheckpointError::Signature`] when signature or key has another length.
    pub fn from_parts(
        bytes: Vec<u8>,
        signature: &[u8],
        key: &[u8],
    ) -> Result<Self, CheckpointError> {
        if bytes.len() > MAX_LEN {
            return Err(CheckpointError::TooLarge);
        }
        let (signature, key) = signature_parts(signature, key).ok_or(CheckpointError::Signature)?;
        Ok(Self {
            bytes,
            signature,
            key,
        })
    }

    /// The octets that the signature is over.
    #[must_use]
    pub fn signing_input(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks the signature, then reads the checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Signature`] when no key of `keys` signed it, else as
    /// [`Checkpoint::decode`].
    pub fn open(&self, keys: &dyn HeadKeys) -> Result<TrustedCheckpoint, CheckpointError> {
        if self.bytes.len() > MAX_LEN {
            return Err(CheckpointError::TooLarge);
        }
        if !keys.verify(&self.key, &self.bytes, &self.signature) {
            return Err(CheckpointError::Signature);
        }
        Checkpoint::decode(&self.bytes).map(TrustedCheckpoint)
    }
}

/// A checkpoint whose signature was checked: only [`SignedCheckpoint::open`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedCheckpoint(Checkpoint);

impl TrustedCheckpoint {
    /// What it says.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0
    }
}

/// Not a checkpoint, nobody's who may sign one, or not with these maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not as many octets as its buckets need.
    #[error("checkpoint has {0} octets, which fit no number of buckets")]
    Length(usize),
    /// Over [`MAX_BUCKETS`] or [`MAX_CHUNKS`].
    #[error("checkpoint is too large")]
    TooLarge,
    /// Something else that was signed.
    #[error("checkpoint does not begin with its tag")]
    Tag,
    /// Generation zero.
    #[error("checkpoint names no log generation")]
    NoGeneration,
    /// Something where the layout has zeros.
    #[error("checkpoint has a value where it has none")]
    NotZero,
    /// Buckets not ascending, or below the floor.
    #[error("checkpoint has a bucket out of order or below the floor")]
    Order,
    /// A bucket without chunks, or with more than indices reach.
    #[error("checkpoint has a bucket with an impossible number of chunks")]
    Chunks,
    /// The signature is no known head key's.
    #[error("checkpoint is signed by no known head key")]
    Signature,
    /// Other maps than the buckets listed.
    #[error("checkpoint comes with other buckets' maps")]
    MapCount,
    /// A map that can't be read.
    #[error("map of bucket {bucket} is malformed")]
    Map {
        /// Whose map it is.
        bucket: u32,
        /// What is wrong with it.
        source: MapError,
    },
    /// A map that is not the one signed.
    #[error("map of bucket {bucket} does not match its signed digest")]
    Digest {
        /// Whose map it is.
        bucket: u32,
    },
}

impl From<Truncated> for CheckpointError {
    fn from(_: Truncated) -> Self {
        Self::Length(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::map::Status;

    fn map(ended: &[u64]) -> StatusMap {
        let mut map = StatusMap::new();
        for index in ended {
            map.set(*index, Status::Ended).unwrap();
        }
        map
    }

    fn checkpoint(maps: &[(u32, StatusMap)]) -> Checkpoint {
        Checkpoint {
            log: LogId([1; 8]),
            generation: Generation::FIRST,
            epoch: 2,
            sequence: 3,
            log_hash: ChainHash([4; 32]),
            floor: 100,
            time: WallTime(5),
            signer: SignerChain {
                instance: [6; 16],
                counter: 7,
                hash: [8; 32],
            },
            buckets: maps
                .iter()
                .filter_map(|(b, map)| BucketDigest::of(*b, map))
                .collect(),
        }
    }

    fn packed(maps: &[(u32, StatusMap)]) -> Vec<PackedMap> {
        maps.iter()
            .map(|(bucket, map)| PackedMap {
                bucket: *bucket,
                bytes: map.pack(),
            })
            .collect()
    }

    #[test]
    fn a_checkpoint_comes_back_with_its_maps() {
        let maps = [(100, map(&[1])), (102, map(&[5, 40_000]))];
        let checkpoint = checkpoint(&maps);
        assert_eq!(
            Checkpoint::decode(&checkpoint.encode().unwrap()),
            Ok(checkpoint.clone())
        );
        assert_eq!(checkpoint.unpack(&packed(&maps)), Ok(BTreeMap::from(maps)));
    }

    #[test]
    fn other_maps_than_the_signed_ones_are_refused() {
        let maps = [(100, map(&[1])), (102, map(&[5]))];
        let checkpoint = checkpoint(&maps);
        let forged = packed(&[(100, map(&[2])), (102, map(&[5]))]);
        assert_eq!(
            checkpoint.unpack(&forged),
            Err(CheckpointError::Digest { bucket: 100 })
        );
        let grown = packed(&[(100, map(&[1, 40_000])), (102, map(&[5]))]);
        let source = MapError::Count;
        assert_eq!(
            checkpoint.unpack(&grown),
            Err(CheckpointError::Map {
                bucket: 100,
                source
            })
        );
        assert_eq!(
            checkpoint.unpack(&packed(&maps[..1])),
            Err(CheckpointError::MapCount)
        );
        let swapped = packed(&[maps[1].clone(), maps[0].clone()]);
        assert_eq!(checkpoint.unpack(&swapped), Err(CheckpointError::MapCount));
    }

    #[test]
    fn malformed_checkpoints_are_refused_each_for_its_reason() {
        let good = checkpoint(&[(100, map(&[1])), (102, map(&[5]))])
            .encode()
            .unwrap();
        let edited = |at: usize, to: u8| {
            let mut bad = good.clone();
            bad[at] = to;
            Checkpoint::decode(&bad)
        };
        assert_eq!(edited(0, b'T'), Err(CheckpointError::Tag));
        assert_eq!(edited(24, 0), Err(CheckpointError::NoGeneration));
        assert_eq!(edited(25, 1), Err(CheckpointError::NotZero));
        assert_eq!(edited(79, 1), Err(CheckpointError::NotZero));
        assert_eq!(edited(27, 3), Err(CheckpointError::Length(good.len())));
        assert_eq!(
            edited(147, 102),
            Err(CheckpointError::Order),
            "twice the same"
        );
        assert_eq!(
            edited(75, 101),
            Err(CheckpointError::Order),
            "below the floor"
        );
        assert_eq!(edited(151, 0), Err(CheckpointError::Chunks));
        assert_eq!(edited(148, 0xff), Err(CheckpointError::Chunks));
        assert_eq!(edited(149, 0xff), Err(CheckpointError::TooLarge));
        assert_eq!(
            Checkpoint::decode(&vec![0; MAX_LEN + 1]),
            Err(CheckpointError::TooLarge)
        );
        assert_eq!(
            Checkpoint::decode(&good[..99]),
            Err(CheckpointError::Length(0))
        );
    }

    #[test]
    fn an_all_valid_map_is_left_out() {
        assert_eq!(BucketDigest::of(100, &StatusMap::new()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn one_checkpoint_has_one_encoding(at in 16_usize..224, to: u8) {
            let mut bytes = checkpoint(&[(100, map(&[1])), (102, map(&[5]))]).encode().unwrap();
            bytes[at] = to;
            if let Ok(read) = Checkpoint::decode(&bytes) {
                prop_assert_eq!(read.encode(), Ok(bytes));
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), tagged: bool) {
            if tagged {
                bytes.splice(0..bytes.len().min(16), *TAG);
            }
            if let Ok(read) = Checkpoint::decode(&bytes) {
                prop_assert_eq!(read.encode(), Ok(bytes));
            }
        }
    }
}
