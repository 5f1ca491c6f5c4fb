//! Trust bundles (SPIFFE_Trust_Domain_and_Bundle.md section 4).
//!
//! A bundle is what one trust domain vouches with: CA certificates for X.509-SVIDs, public keys
//! for JWT-SVIDs. An empty one is legal and means that nothing of that trust domain is valid.

mod authority;
mod document;
mod set;

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

pub use authority::{CertificateError, X509Authority};
pub use document::{Ignored, IgnoredReason, MAX_BUNDLE, MAX_KEYS, Reading};
pub use set::{BundleSet, MAX_BUNDLE_SET, MAX_TRUST_DOMAINS};

use crate::jwk::{JwkError, P256PublicKey};
use crate::{SpiffeIdError, TrustDomain};

/// How often to ask again where a bundle has no refresh hint (section 4.1.3 advises a low value).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// The trust bundle of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: BTreeMap<String, P256PublicKey>,
    sequence: u64,
    refresh_hint: Option<Duration>,
}

/// How a bundle, a bundle map or one of their keys is wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// More bytes than are worth reading.
    #[error("document has {bytes} bytes, more than {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// Not JSON, or an object with a member twice.
    #[error("bundle is not json")]
    Json(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("bundle is not an object")]
    NotAnObject,
    /// `keys` is missing or not an array.
    #[error("bundle has no array `keys`")]
    KeysMissing,
    /// More than [`MAX_KEYS`] keys.
    #[error("bundle has {count} keys, more than {MAX_KEYS}")]
    TooManyKeys {
        /// How many it has.
        count: usize,
    },
    /// `spiffe_sequence` is no integer from 0 to 2^64 - 1.
    #[error("`spiffe_sequence` is not a 64-bit unsigned integer")]
    Sequence,
    /// `spiffe_refresh_hint` is no whole number of seconds.
    #[error("`spiffe_refresh_hint` is not a whole number of seconds")]
    RefreshHint,
    /// One of `keys` is no object.
    #[error("key {index} is not an object")]
    KeyNotAnObject {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// A `jwt-svid` key that is no P-256 point, though it says so.
    #[error("key {index} is not usable")]
    Key {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        source: JwkError,
    },
    /// A `jwt-svid` key without a `kid`.
    #[error("key id is missing or empty")]
    KeyIdMissing,
    /// Two `jwt-svid` keys of one `kid`.
    #[error("key id `{0}` names two keys")]
    KeyIdTwice(String),
    /// The `x5c` of an `x509-svid` key holds no certificate.
    #[error("certificate of key {index} is not usable")]
    Certificate {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The certificate in `x5c` is of another key than its JWK.
    #[error("certificate of key {index} has another public key than its jwk")]
    KeyMismatch {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// A bundle map without an object `trust_domains`.
    #[error("bundle map has no object `trust_domains`")]
    TrustDomainsMissing,
    /// More than [`MAX_TRUST_DOMAINS`] trust domains.
    #[error("bundle map has {count} trust domains, more than {MAX_TRUST_DOMAINS}")]
    TooManyTrustDomains {
        /// How many it has.
        count: usize,
    },
    /// A key of a bundle map that is no trust domain name.
    #[error("bundle map names no trust domain: `{name}`")]
    TrustDomain {
        /// The name, cut and escaped.
        name: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// One bundle of a map is wrong; then the whole map is refused.
    #[error("bundle of `{trust_domain}` is wrong")]
    In {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        source: Box<BundleError>,
    },
}

impl Bundle {
    /// A bundle without keys, of sequence 0 and no refresh hint.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: BTreeMap::new(),
            sequence: 0,
            refresh_hint: None,
        }
    }

    /// The same bundle with this sequence number.
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// The same bundle with this refresh hint. Only whole seconds travel, so a fraction is cut
    /// off, and less than a second is no hint: consumers read 0 as "ask without pause".
    pub fn with_refresh_hint(mut self, hint: Duration) -> Self {
        self.refresh_hint = (hint.as_secs() > 0).then(|| Duration::from_secs(hint.as_secs()));
        self
    }

    /// The same bundle without a refresh hint, as bundle maps carry it.
    pub fn without_refresh_hint(mut self) -> Self {
        self.refresh_hint = None;
        self
    }

    /// Adds a CA certificate, after those there; false if the very same is already in.
    pub fn add_x509_authority(&mut self, authority: X509Authority) -> bool {
        let new = !self.x509_authorities.contains(&authority);
        if new {
            self.x509_authorities.push(authority);
        }
        new
    }

    /// Adds a JWT-SVID key.
    ///
    /// # Errors
    ///
    /// [`BundleError::KeyIdMissing`], and [`BundleError::KeyIdTwice`] even for the same key.
    pub fn add_jwt_authority(
        &mut self,
        key_id: &str,
        key: P256PublicKey,
    ) -> Result<(), BundleError> {
        if key_id.is_empty() {
            return Err(BundleError::KeyIdMissing);
        }
        if self.jwt_authorities.contains_key(key_id) {
            return Err(BundleError::KeyIdTwice(crate::json::shown(key_id)));
        }
        self.jwt_authorities.insert(key_id.to_owned(), key);
        Ok(())
    }

    /// Whose bundle it is. The name is kept beside the document, never in it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA certificates, in order of publication.
    pub fn x509_authorities(&self) -> &[X509Authority] {
        &self.x509_authorities
    }

    /// The CA certificates as the Workload API carries them: DER after DER in one text.
    pub fn x509_der(&self) -> Vec<u8> {
        self.x509_authorities
            .iter()
            .flat_map(|authority| authority.der())
            .copied()
            .collect()
    }

    /// The JWT-SVID keys by `kid`.
    pub fn jwt_authorities(&self) -> &BTreeMap<String, P256PublicKey> {
        &self.jwt_authorities
    }

    /// The JWT-SVID key of this `kid`.
    pub fn jwt_authority(&self, key_id: &str) -> Option<&P256PublicKey> {
        self.jwt_authorities.get(key_id)
    }

    /// The number that grows with every change of the contents.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often to ask for a newer one, if the publisher says.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Whether `other` says the same but for its sequence number. If not, its publisher owes it
    /// a higher number.
    pub fn same_content(&self, other: &Bundle) -> bool {
        self.trust_domain == other.trust_domain
            && self.x509_authorities == other.x509_authorities
            && self.jwt_authorities == other.jwt_authorities
            && self.refresh_hint == other.refresh_hint
    }
}

#[cfg(test)]
mod tests;
