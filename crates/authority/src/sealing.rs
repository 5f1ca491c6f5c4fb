//! Keys at rest: opaque blobs that only the sealing key opens (P25).
//!
//! ```text
//! version (1) | nonce (12) | ChaCha20-Poly1305 of [ secret (32) | from (u64) | to (u64) ] | tag (16)
//! ```
//!
//! The associated data names the trust domain, the key and what it is for, so a blob that was moved
//! to another row, another use or another trust domain does not open.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use taskmint_id::TrustDomain;
use taskmint_mint::{KeyKind, Refusal};
use taskmint_model::{AuthorityId, Entropy, Timestamp};
use taskmint_secret::on_secret_stack;

use crate::secret::Secret;

const VERSION: u8 = 1;
const CONTENT_LEN: usize = 32 + 8 + 8;
const TAG_LEN: usize = 16;

/// The key that seals all others: 32 octets from the operator's credentials folder or key file.
pub struct SealingKey(pub(crate) Secret<32>);

/// Why a key file's content can't be used. Nothing of it is repeated: it may nearly be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealingKeyError {
    /// Neither a key nor a sealed file.
    #[error(
        "a sealing key is 32 octets, 64 hexadecimal digits, or a sealed key file; this has {0} \
         octets"
    )]
    Shape(usize),
    /// A sealed file that was cut or changed.
    #[error("the sealed key file is torn; copy it again, or restore it from a backup")]
    Torn,
    /// A sealed file of a release to come.
    #[error("the sealed key file is of version {0}; use the release that made it, or a newer one")]
    Version(u8),
    /// A sealed file of elsewhere.
    #[error(
        "the sealed key file belongs to another trust domain; give this one's, or correct the \
         trust domain that is configured"
    )]
    TrustDomain,
    /// A sealed file whose passphrase would take too long to try.
    #[error(
        "the sealed key file asks for more than 1 GiB, 10 passes or 4 lanes to try its passphrase; \
         seal the key again"
    )]
    Cost,
    /// A sealed file, and no passphrase.
    #[error("the sealing key is sealed; give its passphrase, too")]
    PassphraseNeeded,
    /// No passphrase at all.
    #[error("the passphrase is empty; check the file that it was read from")]
    PassphraseEmpty,
    /// A sealed file of another passphrase.
    #[error(
        "wrong passphrase; check it for white space at its end, and that it is this file's. It \
         can't be recovered"
    )]
    Passphrase,
    /// A passphrase, and a file that is not sealed.
    #[error("a passphrase is given, but the sealing key is not sealed; seal it, or give none")]
    NotSealed,
    /// The passphrase could not be tried.
    #[error("trying the passphrase takes {0} MiB of memory, which the kernel did not give")]
    Memory(u32),
    /// The crypto libraries refused.
    #[error("the key can't be sealed or opened, for no reason that the crypto library gave")]
    Failed,
}

/// What a blob holds.
pub(crate) struct Content {
    pub(crate) secret: Secret<32>,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

/// What a blob is bound to.
pub(crate) struct Label<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) id: AuthorityId,
    pub(crate) kind: KeyKind,
}

impl SealingKey {
    /// From its octets; the caller wipes its own copy.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Secret::filled(|key| key.copy_from_slice(bytes)))
    }

    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(Secret::filled(|key| entropy.fill(key)))
    }

    /// Reads a key file's content: 32 octets, or 64 hexadecimal digits and white space around.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(content: &[u8]) -> Result<Self, SealingKeyError> {
        if let Ok(bytes) = content.try_into() {
            return Ok(Self::from_bytes(bytes));
        }
        let mut result = Ok(());
        let key = Secret::filled(|key| result = hex::decode_to_slice(content.trim_ascii(), key));
        match result {
            Ok(()) => Ok(Self(key)),
            Err(_) => Err(SealingKeyError::Shape(content.len())),
        }
    }

    pub(crate) fn seal(
        &self,
        label: &Label<'_>,
        content: &Content,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, Refusal> {
        let nonce: [u8; NONCE_LEN] = entropy.array();
        let label = label.octets();
        // Sealed in place: what returns from the secret stack is cipher text.
        let sealed = on_secret_stack(|| {
            let mut octets = content.octets();
            let tag = cipher(&self.0)?.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&label),
                &mut octets,
            );
            Some((octets, tag.ok()?))
        });
        let (octets, tag) = sealed.ok_or_else(|| Refusal::Failed("sealing a key".to_owned()))?;
        Ok([&[VERSION][..], &nonce, &octets, tag.as_ref()].concat())
    }

    pub(crate) fn open(&self, label: &Label<'_>, blob: &[u8]) -> Result<Content, Refusal> {
        let torn = Refusal::Sealed("the blob is torn".into());
        let (version, rest) = blob.split_first().ok_or(torn.clone())?;
        if *version != VERSION {
            return Err(Refusal::Sealed("the blob is of an unknown version".into()));
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(torn.clone())?;
        let sealed: &[u8; CONTENT_LEN + TAG_LEN] = sealed.try_into().map_err(|_| torn)?;
        let label = label.octets();
        let mut times = (Timestamp::default(), Timestamp::default());
        let secret = Secret::try_make(|| {
            let (secret, from, to) = self.unsealed(&label, *nonce, *sealed).ok_or(())?;
            times = (from, to);
            Ok(secret)
        });
        let refused = "wrong sealing key, or a blob of another key or trust domain";
        let secret = secret.map_err(|()| Refusal::Sealed(refused.into()))?;
        let (from, to) = times;
        Ok(Content { secret, from, to })
    }

    /// On the secret stack only.
    fn unsealed(
        &self,
        label: &[u8],
        nonce: [u8; NONCE_LEN],
        mut octets: [u8; CONTENT_LEN + TAG_LEN],
    ) -> Option<([u8; 32], Timestamp, Timestamp)> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = cipher(&self.0)?.open_in_place(nonce, Aad::from(label), &mut octets);
        let (secret, rest) = opened.ok()?.split_first_chunk::<32>()?;
        let (from, to) = rest.split_first_chunk::<8>()?;
        Some((*secret, time(from), time(to.first_chunk()?)))
    }
}

/// The cipher under a key. On the secret stack only.
pub(crate) fn cipher(key: &Secret<32>) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key.expose())
        .ok()
        .map(LessSafeKey::new)
}

impl Content {
    /// On the secret stack only.
    fn octets(&self) -> [u8; CONTENT_LEN] {
        let mut octets = [0; CONTENT_LEN];
        let parts = self.secret.expose().iter().copied();
        let times = [self.from, self.to].map(|at| at.millis().to_be_bytes());
        octets
            .iter_mut()
            .zip(parts.chain(times.into_iter().flatten()))
            .for_each(|(to, from)| *to = from);
        octets
    }
}

fn time(octets: &[u8; 8]) -> Timestamp {
    Timestamp::from_millis(u64::from_be_bytes(*octets))
}

impl Label<'_> {
    fn octets(&self) -> Vec<u8> {
        let kind = match self.kind {
            KeyKind::Ca { .. } => 1,
            KeyKind::Jwt => 2,
            KeyKind::Log { .. } => 3,
            KeyKind::Grant => 4,
        };
        let name = self.trust_domain.as_str().as_bytes();
        [
            &b"taskmint sealed key\0"[..],
            &[VERSION, kind],
            &self.id.octets(),
            name,
        ]
        .concat()
    }
}
