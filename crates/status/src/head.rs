//! The signed head: everything up to a position, vouched for at an instant (protocol P15).
//!
//! ```text
//!   0  tag "taskmint head v1"       72  floor bucket u32          144  nonce (16)
//!  16  log id (8)                   76  max_age u32, ms           160  previous log id (8)
//!  24  generation                   80  server time u64, ms       168  previous generation
//!  25  flags: 1 nonce, 2 previous   88  signer instance (16)      169  zeros (7)
//!  26  largest limit u16, hours    104  signer counter u64
//!  28  epoch u32                   112  signer chain hash (32)
//!  32  sequence u64
//!  40  log hash (32)                                              176 octets
//! ```
//!
//! These octets are what is signed and what travels; nobody on the way takes them apart.

use std::fmt;

use crate::clock::{Millis, WallTime};
use crate::octets::{Reader, Truncated, Writer};
use crate::place::{Generation, LogId, MAX_LIMIT_HOURS};
use crate::record::ChainHash;

/// Octets in a head.
pub const HEAD_LEN: usize = 176;

/// Octets in a signature: ES256, r and s with 32 each.
pub const SIGNATURE_LEN: usize = 64;

const HAS_NONCE: u8 = 1;
const HAS_PREVIOUS: u8 = 2;

/// Names a head key: SHA-256 over its SPKI in DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId(")?;
        self.0
            .iter()
            .take(4)
            .try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("..)")
    }
}

/// The keys that may sign heads and checkpoints: those certified for it by a current CA, and no
/// others. Implemented by whoever holds the certificates and the cryptography.
pub trait HeadKeys {
    /// Whether `key` is one of them and `signature` (ES256, r then s) is its own over `message`.
    fn verify(&self, key: &KeyId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool;
}

/// Where the signer's journal stands: evidence kept outside of the server (protocol P24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SignerChain {
    /// A random id for each start of the signer.
    pub instance: [u8; 16],
    /// Signatures made by this instance.
    pub counter: u64,
    /// The journal's chain hash at that count.
    pub hash: [u8; 32],
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// The log that this one replaced, where a restore made it (protocol P14).
    pub previous: Option<(LogId, Generation)>,
    /// The fencing epoch of the writer.
    pub epoch: u32,
    /// The newest record's sequence number; 0 before the first.
    pub sequence: u64,
    /// The hash over all records up to there.
    pub log_hash: ChainHash,
    /// The floor at that position: buckets below it are refused.
    pub floor: u32,
    /// The latest that a limit can lie ahead, in hours: 1 to [`MAX_LIMIT_HOURS`].
    pub largest_limit_hours: u16,
    /// How old a head may be and still count; not zero. A verifier may be stricter.
    pub max_age: Millis,
    /// The server's clock when it was signed. Never goes back within an epoch.
    pub time: WallTime,
    /// The signer's journal after this signature's entry.
    pub signer: SignerChain,
    /// The nonce that it answers.
    pub nonce: Option<[u8; 16]>,
}

impl Head {
    /// What its octets begin with.
    pub(crate) const TAG: &[u8; 16] = b"taskmint head v1";

    /// The octets to sign.
    ///
    /// # Errors
    /// [`HeadError::Value`] when a field is outside of what its doc allows.
    pub fn encode(&self) -> Result<[u8; HEAD_LEN], HeadError> {
        self.checked()?;
        let (previous_log, previous_generation) = self
            .previous
            .map_or(([0; 8], 0), |(log, generation)| (log.0, generation.get()));
        let nonce_flag = if self.nonce.is_some() { HAS_NONCE } else { 0 };
        let previous_flag = if self.previous.is_some() {
            HAS_PREVIOUS
        } else {
            0
        };
        Ok(Writer::new()
            .put(Self::TAG)
            .put(&self.log.0)
            .put(&[self.generation.get(), nonce_flag | previous_flag])
            .put(&self.largest_limit_hours.to_be_bytes())
            .put(&self.epoch.to_be_bytes())
            .put(&self.sequence.to_be_bytes())
            .put(&self.log_hash.0)
            .put(&self.floor.to_be_bytes())
            .put(&self.max_age.0.to_be_bytes())
            .put(&self.time.0.to_be_bytes())
            .put(&self.signer.instance)
            .put(&self.signer.counter.to_be_bytes())
            .put(&self.signer.hash)
            .put(&self.nonce.unwrap_or_default())
            .put(&previous_log)
            .put(&[previous_generation])
            .done())
    }

    /// Reads a head without asking who signed it: a verifier uses [`SignedHead::open`].
    ///
    /// # Errors
    /// [`HeadError`] for another length or tag, and for a field outside of what its doc allows.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() != HEAD_LEN {
            return Err(HeadError::Length(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        if reader.array::<16>()? != *Self::TAG {
            return Err(HeadError::Tag);
        }
        let log = LogId(reader.array()?);
        let generation = Generation::new(reader.u8()?).ok_or(HeadError::Value("generation"))?;
        let flags = reader.u8()?;
        let largest_limit_hours = reader.u16()?;
        let epoch = reader.u32()?;
        let sequence = reader.u64()?;
        let log_hash = ChainHash(reader.array()?);
        let floor = reader.u32()?;
        let max_age = Millis(reader.u32()?);
        let time = WallTime(reader.u64()?);
        let signer = signer_chain(&mut reader)?;
        let nonce = reader.array()?;
        let previous_log = LogId(reader.array()?);
        let previous = Generation::new(reader.u8()?).map(|generation| (previous_log, generation));
        let nonce = (flags & HAS_NONCE != 0).then_some(nonce);
        let head = Self {
            log,
            generation,
            previous,
            epoch,
            sequence,
            log_hash,
            floor,
            largest_limit_hours,
            max_age,
            time,
            signer,
            nonce,
        };
        // Unknown flags, and values without their flag, show as other octets.
        if head.encode()? != bytes {
            return Err(HeadError::Value("flags"));
        }
        Ok(head)
    }

    fn checked(&self) -> Result<(), HeadError> {
        if self.max_age.0 == 0 {
            return Err(HeadError::Value("max_age"));
        }
        if !(1..=MAX_LIMIT_HOURS).contains(&self.largest_limit_hours) {
            return Err(HeadError::Value("largest_limit_hours"));
        }
        let old = |(log, generation)| log != self.log && generation < self.generation;
        if !self.previous.is_none_or(old) {
            return Err(HeadError::Value("previous"));
        }
        Ok(())
    }
}

pub(crate) fn signer_chain(reader: &mut Reader<'_>) -> Result<SignerChain, Truncated> {
    Ok(SignerChain {
        instance: reader.array()?,
        counter: reader.u64()?,
        hash: reader.array()?,
    })
}

/// A head as it travels: opaque octets, their signature and the key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// What [`Head::encode`] made.
    pub bytes: Vec<u8>,
    /// ES256 over `bytes`: r, then s.
    pub signature: [u8; SIGNATURE_LEN],
    /// Whose signature it is.
    pub key: KeyId,
}

impl SignedHead {
    /// Takes the parts off the wire.
    ///
    /// # Errors
    /// [`HeadError::Length`] when one of them has another length.
    pub fn from_parts(bytes: Vec<u8>, signature: &[u8], key: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() != HEAD_LEN {
            return Err(HeadError::Length(bytes.len()));
        }
        let (signature, key) = signature_parts(signature, key).ok_or(HeadError::Signature)?;
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

    /// Checks the signature, then reads the head.
    ///
    /// # Errors
    /// [`HeadError::Signature`] when no key of `keys` signed it, else as [`Head::decode`].
    pub fn open(&self, keys: &dyn HeadKeys) -> Result<TrustedHead, HeadError> {
        if self.bytes.len() != HEAD_LEN {
            return Err(HeadError::Length(self.bytes.len()));
        }
        if !keys.verify(&self.key, &self.bytes, &self.signature) {
            return Err(HeadError::Signature);
        }
        Head::decode(&self.bytes).map(TrustedHead)
    }
}

pub(crate) fn signature_parts(
    signature: &[u8],
    key: &[u8],
) -> Option<([u8; SIGNATURE_LEN], KeyId)> {
    Some((signature.try_into().ok()?, KeyId(key.try_into().ok()?)))
}

/// A head whose signature was checked: only [`SignedHead::open`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedHead(Head);

impl TrustedHead {
    /// What it says.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.0
    }
}

/// Not a head, or nobody's who may sign one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not 176 octets.
    #[error("head has {0} octets, not 176")]
    Length(usize),
    /// Something else that was signed.
    #[error("head does not begin with its tag")]
    Tag,
    /// A field outside of what it allows.
    #[error("head field `{0}` is out of range")]
    Value(&'static str),
    /// The signature is no known head key's.
    #[error("head is signed by no known head key")]
    Signature,
}

impl From<Truncated> for HeadError {
    fn from(_: Truncated) -> Self {
        Self::Length(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            log: LogId([1; 8]),
            generation: Generation::new(2).unwrap(),
            previous: Some((LogId([2; 8]), Generation::FIRST)),
            epoch: 3,
            sequence: 4,
            log_hash: ChainHash([5; 32]),
            floor: 6,
            largest_limit_hours: 24,
            max_age: Millis(30_000),
            time: WallTime(7),
            signer: SignerChain {
                instance: [8; 16],
                counter: 9,
                hash: [10; 32],
            },
            nonce: Some([11; 16]),
        }
    }

    struct Nobody;

    impl HeadKeys for Nobody {
        fn verify(&self, _: &KeyId, _: &[u8], _: &[u8; SIGNATURE_LEN]) -> bool {
            false
        }
    }

    #[test]
    fn every_kind_of_head_comes_back() {
        for (nonce, previous) in [(None, None), (Some([0; 16]), None), (None, head().previous)] {
            let head = Head {
                nonce,
                previous,
                ..head()
            };
            assert_eq!(Head::decode(&head.encode().unwrap()), Ok(head));
        }
    }

    #[test]
    fn malformed_heads_are_refused_each_for_its_reason() {
        let good = head().encode().unwrap();
        let edited = |at: usize, to: u8| {
            let mut bad = good;
            bad[at] = to;
            Head::decode(&bad)
        };
        assert_eq!(Head::decode(&good[..175]), Err(HeadError::Length(175)));
        assert_eq!(edited(9, b'H'), Err(HeadError::Tag));
        assert_eq!(edited(24, 0), Err(HeadError::Value("generation")));
        assert_eq!(
            edited(24, 1),
            Err(HeadError::Value("previous")),
            "no newer than what it replaced"
        );
        for flags in [0, 1, 2, 7] {
            assert_eq!(
                edited(25, flags),
                Err(HeadError::Value("flags")),
                "flags {flags}"
            );
        }
        assert_eq!(edited(26, 3), Err(HeadError::Value("largest_limit_hours")));
        assert_eq!(edited(175, 1), Err(HeadError::Value("flags")));
        let immortal = Head {
            max_age: Millis(0),
            ..head()
        };
        assert_eq!(immortal.encode(), Err(HeadError::Value("max_age")));
        let own = Head {
            previous: Some((head().log, Generation::FIRST)),
            ..head()
        };
        assert_eq!(own.encode(), Err(HeadError::Value("previous")));
    }

    #[test]
    fn a_head_that_no_key_signed_is_not_read() {
        let bytes = head().encode().unwrap().to_vec();
        let signed = SignedHead {
            bytes,
            signature: [0; 64],
            key: KeyId([0; 32]),
        };
        assert_eq!(signed.open(&Nobody), Err(HeadError::Signature));
    }

    #[test]
    fn parts_of_other_lengths_are_refused() {
        let bytes = head().encode().unwrap().to_vec();
        assert!(SignedHead::from_parts(bytes.clone(), &[0; 64], &[0; 32]).is_ok());
        assert_eq!(
            SignedHead::from_parts(bytes.clone(), &[0; 63], &[0; 32]),
            Err(HeadError::Signature)
        );
        assert_eq!(
            SignedHead::from_parts(bytes, &[0; 64], &[0; 31]),
            Err(HeadError::Signature)
        );
        assert_eq!(
            SignedHead::from_parts(vec![], &[0; 64], &[0; 32]),
            Err(HeadError::Length(0))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn one_head_has_one_encoding(at in 16..HEAD_LEN, to: u8) {
            let mut bytes = head().encode().unwrap();
            bytes[at] = to;
            if let Ok(read) = Head::decode(&bytes) {
                prop_assert_eq!(read.encode(), Ok(bytes));
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), HEAD_LEN..=HEAD_LEN), tagged: bool) {
            if tagged {
                bytes[..16].copy_from_slice(Head::TAG);
            }
            if let Ok(read) = Head::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap().to_vec(), bytes);
            }
        }
    }
}
