//! Trust domain names (SPIFFE-ID.md section 2.1).

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::{SpiffeId, SpiffeIdError};

/// Longest trust domain name, in bytes: RFC 3986's limit for a host.
pub const MAX_TRUST_DOMAIN: usize = 255;

/// The name of a trust domain, such as `example.org`: 1 to 255 bytes of `a-z 0-9 . - _`.
///
/// It is compared byte by byte. Upper case is refused rather than folded: folding would let a
/// name in an access list and the name in a map key drift apart. Nothing is special about names
/// that look like an IP address or like bad DNS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a bare name: no scheme, no path.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`], the variants that speak of the trust domain.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        check(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name, without `spiffe://`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own id, `spiffe://<name>`, which its authorities carry.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::root(self)
    }
}

/// Whether `name` is a trust domain name, and if not, how it is wrong.
fn check(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::TrustDomainMissing);
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(SpiffeIdError::TrustDomainTooLong { bytes: name.len() });
    }
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            b'A'..=b'Z' => return Err(SpiffeIdError::TrustDomainUpperCase { byte }),
            b'%' => return Err(SpiffeIdError::TrustDomainPercent),
            _ => return Err(SpiffeIdError::TrustDomainCharacter { byte }),
        }
    }
    Ok(())
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(name: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&name)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
