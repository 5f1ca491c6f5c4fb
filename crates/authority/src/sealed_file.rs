//! A sealing key at rest that only its passphrase opens.
//!
//! ```text
//! magic (16) | version (1) | hash of the trust domain (32)
//! | memory in KiB (4) | passes (4) | lanes (4) | salt (16) | nonce (12)
//! | ChaCha20-Poly1305 of the key (32) | tag (16) | SHA-256 of everything before (32)
//! ```
//!
//! The cipher's key is Argon2id (RFC 9106) of the passphrase. Its associated data is all before the
//! cipher text, and the trust domain. The plain hashes at the start and at the end say nothing about
//! the key: they tell a file of elsewhere, and a torn one, from a wrong passphrase.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use ring::digest::{Context, SHA256, digest};
use taskmint_id::TrustDomain;
use taskmint_model::Entropy;
use taskmint_secret::{Scratch, on_secret_stack};

use crate::sealing::{SealingKey, SealingKeyError, cipher};
use crate::secret::Secret;

const MAGIC: &[u8; 16] = b"taskmint sealing";
const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const HASH_LEN: usize = 32;
const HEAD_LEN: usize = MAGIC.len() + 1 + HASH_LEN + 3 * 4 + SALT_LEN + NONCE_LEN;
const LEN: usize = HEAD_LEN + KEY_LEN + TAG_LEN + HASH_LEN;

/// What a file may ask for: whoever could write it could otherwise keep the authority from starting
/// without an error to be seen.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 10;
const MAX_LANES: u32 = 4;

/// A sealed key file that is whole; its passphrase was not asked for yet.
#[derive(Debug)]
pub struct SealedFile<'a> {
    /// All before the cipher text.
    head: &'a [u8],
    trust_domain: &'a [u8; HASH_LEN],
    cost: Cost,
    salt: &'a [u8; SALT_LEN],
    nonce: &'a [u8; NONCE_LEN],
    sealed: &'a [u8; KEY_LEN + TAG_LEN],
}

/// What a guess at the passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
}

impl Cost {
    /// RFC 9106's second choice, on one lane: a tenth of a second, once at start.
    pub(crate) const DEFAULT: Self = Self {
        memory_kib: 64 << 10,
        passes: 3,
        lanes: 1,
    };

    fn params(self) -> Option<Params> {
        let bounded = self.memory_kib <= MAX_MEMORY_KIB
            && self.passes <= MAX_PASSES
            && (1..=MAX_LANES).contains(&self.lanes)
            && self.memory_kib >= 8 * self.lanes;
        let params = || Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_LEN));
        bounded.then(params)?.ok()
    }
}

impl<'a> SealedFile<'a> {
    /// Whether a content says that it is one.
    pub fn is_one(content: &[u8]) -> bool {
        content.starts_with(MAGIC)
    }

    /// Reads all that can be read without the passphrase; any octets may come.
    ///
    /// # Errors
    /// When it is torn, of an unknown version, or asks for more work than is allowed.
    pub fn parse(content: &'a [u8]) -> Result<Self, SealingKeyError> {
        use SealingKeyError as Error;
        let rest = content.strip_prefix(MAGIC);
        let rest = rest.ok_or(Error::Shape(content.len()))?;
        let (version, rest) = rest.split_first().ok_or(Error::Torn)?;
        if *version != VERSION {
            return Err(Error::Version(*version));
        }
        let whole = content.split_last_chunk::<HASH_LEN>().ok_or(Error::Torn)?;
        if content.len() != LEN || digest(&SHA256, whole.0).as_ref() != whole.1 {
            return Err(Error::Torn);
        }
        Self::fields(content, rest).ok_or(Error::Torn)?
    }

    /// `None` when it is too short, which its length rules out.
    fn fields(content: &'a [u8], rest: &'a [u8]) -> Option<Result<Self, SealingKeyError>> {
        let (trust_domain, rest) = rest.split_first_chunk::<HASH_LEN>()?;
        let (memory_kib, rest) = number(rest)?;
        let (passes, rest) = number(rest)?;
        let (lanes, rest) = number(rest)?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let cost = Cost {
            memory_kib,
            passes,
            lanes,
        };
        if cost.params().is_none() {
            return Some(Err(SealingKeyError::Cost));
        }
        Some(Ok(Self {
            head: content.get(..HEAD_LEN)?,
            trust_domain,
            cost,
            salt,
            nonce,
            sealed: rest.first_chunk()?,
        }))
    }

    /// Whether it was sealed for this trust domain, as far as its plain part says.
    pub fn is_of(&self, trust_domain: &TrustDomain) -> bool {
        *self.trust_domain == hash(trust_domain)
    }

    /// The key in it.
    ///
    /// # Errors
    /// When it is another trust domain's, or the passphrase is missing or wrong.
    pub(crate) fn open(
        &self,
        trust_domain: &TrustDomain,
        passphrase: Option<&[u8]>,
    ) -> Result<Secret<KEY_LEN>, SealingKeyError> {
        if !self.is_of(trust_domain) {
            return Err(SealingKeyError::TrustDomain);
        }
        let passphrase = passphrase.ok_or(SealingKeyError::PassphraseNeeded)?;
        let key = stretch(passphrase, self.salt, self.cost)?;
        let bound = bound(self.head, trust_domain);
        let opened = Secret::try_make(|| {
            let mut octets = *self.sealed;
            let nonce = Nonce::assume_unique_for_key(*self.nonce);
            let opened = cipher(&key).ok_or(())?;
            let opened = opened.open_in_place(nonce, Aad::from(&bound), &mut octets);
            opened.map_err(|_| ())?.first_chunk().copied().ok_or(())
        });
        opened.map_err(|()| SealingKeyError::Passphrase)
    }
}

impl SealingKey {
    /// The content of a file that holds this key, and that only `passphrase` opens.
    ///
    /// # Errors
    /// When the passphrase is empty, or there is no memory to stretch it in.
    pub fn seal_file(
        &self,
        trust_domain: &TrustDomain,
        passphrase: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealingKeyError> {
        self.seal_at(Cost::DEFAULT, trust_domain, passphrase, entropy)
    }

    pub(crate) fn seal_at(
        &self,
        cost: Cost,
        trust_domain: &TrustDomain,
        passphrase: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealingKeyError> {
        let (salt, nonce) = (entropy.array::<SALT_LEN>(), entropy.array::<NONCE_LEN>());
        let head = [
            &MAGIC[..],
            &[VERSION],
            &hash(trust_domain),
            &cost.memory_kib.to_be_bytes(),
            &cost.passes.to_be_bytes(),
            &cost.lanes.to_be_bytes(),
            &salt,
            &nonce,
        ]
        .concat();
        let key = stretch(passphrase, &salt, cost)?;
        let bound = bound(&head, trust_domain);
        // Sealed in place: what returns from the secret stack is cipher text.
        let sealed = on_secret_stack(|| {
            let mut octets = *self.0.expose();
            let tag = cipher(&key)?.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&bound),
                &mut octets,
            );
            Some((octets, tag.ok()?))
        });
        let (octets, tag) = sealed.ok_or(SealingKeyError::Failed)?;
        let mut content = [&head[..], &octets, tag.as_ref()].concat();
        let hash = digest(&SHA256, &content);
        content.extend_from_slice(hash.as_ref());
        Ok(content)
    }

    /// Reads a key file's content: 32 octets, 64 hexadecimal digits with white space around, or
    /// what [`SealingKey::seal_file`] made. A passphrase is for the last only.
    ///
    /// # Errors
    /// When it is none of these, is torn or of elsewhere, or the passphrase is not the one; each
    /// text says what to do.
    pub fn open_file(
        content: &[u8],
        trust_domain: &TrustDomain,
        passphrase: Option<&[u8]>,
    ) -> Result<Self, SealingKeyError> {
        if SealedFile::is_one(content) {
            let file = SealedFile::parse(content)?;
            return file.open(trust_domain, passphrase).map(Self);
        }
        let key = Self::parse(content)?;
        // Whoever gives a passphrase believes that the file is of no use without it.
        if passphrase.is_some() {
            return Err(SealingKeyError::NotSealed);
        }
        Ok(key)
    }
}

/// The cipher's key, by Argon2id; its working area is locked, kept out of dumps, and wiped.
fn stretch(
    passphrase: &[u8],
    salt: &[u8; SALT_LEN],
    cost: Cost,
) -> Result<Secret<KEY_LEN>, SealingKeyError> {
    if passphrase.is_empty() {
        return Err(SealingKeyError::PassphraseEmpty);
    }
    let params = cost.params().ok_or(SealingKeyError::Cost)?;
    let mut blocks = Scratch::new(params.block_count(), Block::new())
        .map_err(|_| SealingKeyError::Memory(cost.memory_kib.div_ceil(1024)))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let key = Secret::try_make(|| {
        let mut key = [0; KEY_LEN];
        argon2
            .hash_password_into_with_memory(passphrase, salt, &mut key, &mut blocks)
            .map(|()| key)
    });
    key.map_err(|_| SealingKeyError::Failed)
}

fn bound(head: &[u8], trust_domain: &TrustDomain) -> Vec<u8> {
    [head, trust_domain.as_str().as_bytes()].concat()
}

fn hash(trust_domain: &TrustDomain) -> [u8; HASH_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(b"taskmint sealed for\0");
    context.update(trust_domain.as_str().as_bytes());
    let mut hash = [0; HASH_LEN];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn number(octets: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = octets.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taskmint_testkit::SeededEntropy;

    use super::*;

    const KEY: [u8; 32] = [0x5e; 32];
    const PASSPHRASE: &[u8] = b"correct horse battery staple";
    const CHEAP: Cost = Cost {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };
    /// Made once by this code, and opened with python's argon2-cffi and cryptography.
    const KEPT: &str = "7461736b6d696e74207365616c696e6701f3799b8ffd28b1c69952fa5f7f45d26ce54784279c\
         8686af882a7a5c70f36b62000000400000000100000001783825822a6f9e62da2190e828e4c9\
         d2532deabf88729cb43995ab5a8fe761ef484e068e1d5c77468a12596320128ca0b47d83c2a9\
         a668c748a0c97cc52583e6156224171eb9dac6507f013b551a8f3c4d414c992fe12c0e4f5f8c\
         7efafca90a3a5d732067855671620dfa07";

    fn here() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn sealed(cost: Cost) -> Vec<u8> {
        let key = SealingKey::from_bytes(&KEY);
        let entropy = SeededEntropy::new(1);
        key.seal_at(cost, &here(), PASSPHRASE, &entropy).unwrap()
    }

    fn open(content: &[u8], passphrase: Option<&[u8]>) -> Result<[u8; 32], SealingKeyError> {
        SealingKey::open_file(content, &here(), passphrase).map(|key| *key.0.expose())
    }

    /// With the hash at the end that a torn file lacks.
    fn whole(mut content: Vec<u8>) -> Vec<u8> {
        content.truncate(LEN - HASH_LEN);
        let hash = digest(&SHA256, &content);
        content.extend_from_slice(hash.as_ref());
        content
    }

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_and_no_other() {
        let content = sealed(CHEAP);
        assert_eq!(content.len(), LEN);
        assert_eq!(open(&content, Some(PASSPHRASE)), Ok(KEY));
        for wrong in [&b"correct horse battery stapl"[..], b"x", &KEY] {
            let refused = open(&content, Some(wrong));
            assert_eq!(refused, Err(SealingKeyError::Passphrase));
        }
        let missing = open(&content, None);
        assert_eq!(missing, Err(SealingKeyError::PassphraseNeeded));
        let empty = open(&content, Some(b""));
        assert_eq!(empty, Err(SealingKeyError::PassphraseEmpty));
        assert!(!content.windows(8).any(|window| window == &KEY[..8]));
    }

    #[test]
    fn an_empty_passphrase_seals_nothing() {
        let key = SealingKey::from_bytes(&KEY);
        let refused = key.seal_file(&here(), b"", &SeededEntropy::new(1));
        assert_eq!(refused, Err(SealingKeyError::PassphraseEmpty));
    }

    #[test]
    fn what_is_shipped_costs_64_mib_and_three_passes() {
        let key = SealingKey::from_bytes(&KEY);
        let content = key.seal_file(&here(), PASSPHRASE, &SeededEntropy::new(1));
        let content = content.unwrap();
        assert_eq!(SealedFile::parse(&content).unwrap().cost, Cost::DEFAULT);
        assert_eq!(open(&content, Some(PASSPHRASE)), Ok(KEY));
    }

    #[test]
    fn a_kept_file_opens_in_every_release() {
        assert_eq!(hex::encode(sealed(CHEAP)), KEPT);
        let content = hex::decode(KEPT).unwrap();
        assert_eq!(open(&content, Some(PASSPHRASE)), Ok(KEY));
    }

    #[test]
    fn a_file_of_another_trust_domain_is_named_so_before_its_passphrase_is_asked_for() {
        let there = TrustDomain::parse("example.com").unwrap();
        let content = sealed(CHEAP);
        for passphrase in [None, Some(PASSPHRASE)] {
            let refused = SealingKey::open_file(&content, &there, passphrase).err();
            assert_eq!(refused, Some(SealingKeyError::TrustDomain));
        }
        // Its plain hash replaced: the cipher still knows whose it is.
        let mut moved = content;
        moved[17..49].copy_from_slice(&hash(&there));
        let refused = SealingKey::open_file(&whole(moved), &there, Some(PASSPHRASE)).err();
        assert_eq!(refused, Some(SealingKeyError::Passphrase));
    }

    #[test]
    fn a_torn_file_is_no_wrong_passphrase() {
        let content = sealed(CHEAP);
        for len in MAGIC.len()..content.len() {
            let torn = open(&content[..len], Some(PASSPHRASE));
            assert_eq!(torn, Err(SealingKeyError::Torn), "{len}");
        }
        for len in 0..MAGIC.len() {
            let shape = open(&content[..len], Some(PASSPHRASE));
            assert_eq!(shape, Err(SealingKeyError::Shape(len)));
        }
        for at in MAGIC.len() + 1..content.len() {
            let mut torn = content.clone();
            torn[at] ^= 0x10;
            let torn = open(&torn, Some(PASSPHRASE));
            assert_eq!(torn, Err(SealingKeyError::Torn), "{at}");
        }
        let long = [&content[..], b"\n"].concat();
        assert_eq!(open(&long, Some(PASSPHRASE)), Err(SealingKeyError::Torn));
    }

    #[test]
    fn a_version_to_come_is_named() {
        for len in [17, 40, LEN] {
            let mut content = sealed(CHEAP);
            content[16] = 2;
            let refused = open(&content[..len], Some(PASSPHRASE));
            assert_eq!(refused, Err(SealingKeyError::Version(2)));
        }
    }

    #[test]
    fn more_work_than_is_allowed_is_refused_before_any_is_done() {
        let set = |at: usize, value: u32| {
            let mut content = sealed(CHEAP);
            content[at..at + 4].copy_from_slice(&value.to_be_bytes());
            open(&whole(content), Some(PASSPHRASE))
        };
        let (memory, passes, lanes) = (49, 53, 57);
        for (at, value) in [
            (memory, 0),
            (memory, 7),
            (memory, MAX_MEMORY_KIB + 1),
            (memory, u32::MAX),
            (passes, 0),
            (passes, MAX_PASSES + 1),
            (passes, u32::MAX),
            (lanes, 0),
            (lanes, MAX_LANES + 1),
            (lanes, u32::MAX),
        ] {
            assert_eq!(set(at, value), Err(SealingKeyError::Cost), "{at}: {value}");
        }
        // Other work that is allowed makes another key.
        for (at, value) in [(memory, 72), (passes, 2), (lanes, 4)] {
            assert_eq!(set(at, value), Err(SealingKeyError::Passphrase));
        }
    }

    #[test]
    fn a_key_in_the_clear_is_taken_without_a_passphrase_only() {
        let text = hex::encode(KEY);
        for content in [&KEY[..], text.as_bytes()] {
            assert_eq!(open(content, None), Ok(KEY));
            let refused = open(content, Some(PASSPHRASE));
            assert_eq!(refused, Err(SealingKeyError::NotSealed));
        }
        assert_eq!(open(b"", None), Err(SealingKeyError::Shape(0)));
        assert_eq!(open(&[7; 33], None), Err(SealingKeyError::Shape(33)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_octets_are_read_or_refused(
            octets in prop::collection::vec(any::<u8>(), 0..2 * LEN),
            head in any::<bool>(),
        ) {
            let mut content = if head { [&MAGIC[..], &[VERSION]].concat() } else { Vec::new() };
            content.extend_from_slice(&octets);
            prop_assert!(SealedFile::parse(&content).is_err());
            let exact = whole([content, vec![0; LEN]].concat());
            let parsed = SealedFile::parse(&exact);
            // Its cost is seldom one that is allowed.
            if SealedFile::is_one(&exact) && exact[16] == VERSION && parsed.is_err() {
                prop_assert_eq!(parsed.err(), Some(SealingKeyError::Cost));
            }
        }

        #[test]
        fn every_key_passphrase_and_cost_comes_back(
            key in any::<[u8; 32]>(),
            passphrase in prop::collection::vec(any::<u8>(), 1..80),
            seed in any::<u64>(),
            memory_kib in 32_u32..100,
            passes in 1_u32..3,
            lanes in 1_u32..=4,
        ) {
            let cost = Cost { memory_kib, passes, lanes };
            let sealing = SealingKey::from_bytes(&key);
            let content = sealing.seal_at(cost, &here(), &passphrase, &SeededEntropy::new(seed));
            let content = content.unwrap();
            prop_assert_eq!(SealedFile::parse(&content).unwrap().cost, cost);
            prop_assert_eq!(open(&content, Some(&passphrase)), Ok(key));
        }
    }
}
