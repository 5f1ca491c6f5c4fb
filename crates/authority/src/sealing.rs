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
use zeroize::Zeroizing;

use crate::secret::Secret;

const VERSION: u8 = 1;
const CONTENT_LEN: usize = 32 + 8 + 8;
const TAG_LEN: usize = 16;
const BLOB_LEN: usize = 1 + NONCE_LEN + CONTENT_LEN + TAG_LEN;

/// The key that seals all others: 32 octets from the operator's credentials folder or key file.
pub struct SealingKey(Secret<32>);

/// Bytes that are no sealing key. They are not repeated: they may nearly be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealing key is 32 octets, or 64 hexadecimal digits; this has {0} octets")]
pub struct SealingKeyError(pub usize);

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
            Err(_) => Err(SealingKeyError(content.len())),
        }
    }

    pub(crate) fn seal(
        &self,
        label: &Label<'_>,
        content: &Content,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, Refusal> {
        let failed = || Refusal::Failed("sealing a key".to_owned());
        let nonce: [u8; NONCE_LEN] = entropy.array();
        // Sealed in place: the secret's copy in this buffer becomes cipher text.
        let mut buffer = Zeroizing::new(Vec::with_capacity(CONTENT_LEN));
        buffer.extend_from_slice(content.secret.expose());
        buffer.extend_from_slice(&content.from.millis().to_be_bytes());
        buffer.extend_from_slice(&content.to.millis().to_be_bytes());
        let tag = self
            .cipher()
            .ok_or_else(failed)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(label.octets()),
                &mut buffer,
            )
            .map_err(|_| failed())?;
        Ok([&[VERSION][..], &nonce, &buffer, tag.as_ref()].concat())
    }

    pub(crate) fn open(&self, label: &Label<'_>, blob: &[u8]) -> Result<Content, Refusal> {
        let torn = Refusal::Sealed("the blob is torn");
        let (version, rest) = blob.split_first().ok_or(torn.clone())?;
        if *version != VERSION {
            return Err(Refusal::Sealed("the blob is of an unknown version"));
        }
        if blob.len() != BLOB_LEN {
            return Err(torn);
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(torn.clone())?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let refused =
            Refusal::Sealed("wrong sealing key, or a blob of another key or trust domain");
        let content = self
            .cipher()
            .ok_or(refused.clone())?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(label.octets()),
                &mut buffer,
            )
            .map_err(|_| refused)?;
        Content::read(content).ok_or(torn)
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, self.0.expose())
            .ok()
            .map(LessSafeKey::new)
    }
}

impl Content {
    fn read(octets: &[u8]) -> Option<Self> {
        let (secret, rest) = octets.split_first_chunk::<32>()?;
        let (from, to) = rest.split_first_chunk::<8>()?;
        Some(Self {
            secret: Secret::filled(|into| into.copy_from_slice(secret)),
            from: Timestamp::from_millis(u64::from_be_bytes(*from)),
            to: Timestamp::from_millis(u64::from_be_bytes(to.try_into().ok()?)),
        })
    }
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
