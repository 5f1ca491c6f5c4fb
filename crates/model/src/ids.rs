//! Typed UUIDv7 ids: a task id can't be passed where an entry id goes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use uuid::Uuid;

use crate::{Entropy, Timestamp};

/// What an [`Id`] names.
pub trait Kind: 'static {
    /// The word that error texts use.
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $alias:ident = $marker:ident, $name:literal;)*) => { $(
        #[doc = concat!("Marks ids of ", $name, "s.")]
        #[derive(Debug, Clone, Copy)]
        pub enum $marker {}
        impl Kind for $marker { const NAME: &'static str = $name; }
        $(#[$doc])*
        pub type $alias = Id<$marker>;
    )* };
}

kinds! {
    /// Names a task. Holding one grants nothing.
    TaskId = TaskKind, "task";
    /// Names a registration entry.
    EntryId = EntryKind, "entry";
    /// Names a denial, for `explain`.
    DenialId = DenialKind, "denial";
    /// Names a request, so that a retry is recognised (P6).
    RequestId = RequestKind, "request";
    /// Names an authority key.
    AuthorityId = AuthorityKind, "authority";
    /// Names an audit record.
    AuditId = AuditKind, "audit record";
}

/// A UUIDv7 that names one kind of thing (RFC 9562, section 5.7).
pub struct Id<K>(Uuid, PhantomData<fn() -> K>);

/// Text or octets that are no id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind} id: expected a UUID such as 0198c0de-0000-7000-8000-000000000000")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

impl<K: Kind> Id<K> {
    /// A new id: ordered by `now`, unguessable by `entropy`.
    pub fn new(now: Timestamp, entropy: &dyn Entropy) -> Self {
        let random: [u8; 10] = entropy.array();
        let builder = uuid::Builder::from_unix_timestamp_millis(now.millis(), &random);
        Self(builder.into_uuid(), PhantomData)
    }

    /// From the sixteen octets that [`Self::octets`] gave.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(octets), PhantomData)
    }

    /// The sixteen octets, big-endian.
    pub const fn octets(&self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl<K: Kind> TryFrom<&[u8]> for Id<K> {
    type Error = IdError;
    fn try_from(octets: &[u8]) -> Result<Self, IdError> {
        match <[u8; 16]>::try_from(octets) {
            Ok(octets) => Ok(Self::from_octets(octets)),
            Err(_) => Err(IdError {
                kind: K::NAME,
                text: format!("{} octets", octets.len()),
            }),
        }
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        // Only the canonical form: an id that could be written in several ways makes audits lie.
        let refused = || IdError {
            kind: K::NAME,
            text: text.chars().take(48).collect(),
        };
        let parsed = Uuid::try_parse(text).map_err(|_| refused())?;
        if parsed.as_hyphenated().to_string() != text {
            return Err(refused());
        }
        Ok(Self(parsed, PhantomData))
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEntropy;

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let early = TaskId::new(Timestamp::from_secs(1), &SystemEntropy);
        let late = TaskId::new(Timestamp::from_secs(2), &SystemEntropy);
        assert!(early < late);
    }

    #[test]
    fn only_the_canonical_text_is_read() {
        let id = TaskId::new(Timestamp::from_secs(1), &SystemEntropy);
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<TaskId>().is_err());
        assert!(id.to_string().replace('-', "").parse::<TaskId>().is_err());
        assert!("".parse::<TaskId>().is_err());
    }
}
