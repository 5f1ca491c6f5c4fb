//! Selectors: attested facts about a node or a workload, in the form that entries name them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::text::{TextError, bounded};

/// The longest selector, in bytes.
const MAX_SELECTOR: usize = 1024;

/// The most selectors of one entry or one attestation.
pub(crate) const MAX_SELECTORS: usize = 256;

/// One attested fact: `kind:value`, where kind is the attestor's name (`unix:uid:1000`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: Box<str>,
    value: Box<str>,
}

/// A set of selectors. An entry matches a caller whose set contains the entry's.
pub type Selectors = BTreeSet<Selector>;

/// Why a selector was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No colon between kind and value.
    #[error("selector `{0}` has no kind: expected kind:value, such as unix:uid:1000")]
    NoKind(String),
    /// Kind is not lower-case letters, digits, `_` and `-`.
    #[error("selector kind `{0}` may hold only a-z, 0-9, `_` and `-`")]
    Kind(String),
    /// Nothing after the colon.
    #[error("selector of kind `{0}` has no value")]
    NoValue(String),
    /// Too long or with control characters.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl Selector {
    /// A selector of `kind` (the attestor's name) with `value`.
    ///
    /// # Errors
    /// Refuses an ill-formed kind, an empty or an unprintable value, and more than 1,024 bytes.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if kind.is_empty() || kind.len() > 64 || !kind.bytes().all(plain) {
            return Err(SelectorError::Kind(kind.chars().take(64).collect()));
        }
        if value.is_empty() {
            return Err(SelectorError::NoValue(kind.to_owned()));
        }
        bounded("selector", value, MAX_SELECTOR)?;
        Ok(Self {
            kind: kind.into(),
            value: value.into(),
        })
    }

    /// The attestor that vouches for it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The fact itself.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text.split_once(':') {
            Some((kind, value)) => Self::new(kind, value),
            None => Err(SelectorError::NoKind(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_written_back(text in "\\PC{0,80}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string(), text);
            }
        }
    }

    #[test]
    fn bad_selectors_say_why() {
        for (text, why) in [
            ("uid", "has no kind"),
            ("Unix:uid:1", "may hold only"),
            (":x", "may hold only"),
            ("unix:", "has no value"),
            ("unix:a\nb", "control character"),
        ] {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
