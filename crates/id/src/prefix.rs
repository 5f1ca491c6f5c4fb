//! Path prefixes, by which administrators are granted a part of a trust domain.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::SpiffeIdError;
use crate::spiffe_id::check_path;

/// A path and everything below it: `/team` covers `/team` and `/team/a`, never `/teammates`.
///
/// `/` covers every path, the reserved ones included; whoever grants by prefix looks at
/// [`SpiffeId::kind`](crate::SpiffeId::kind) too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    /// Reads `/`, or a path as in a SPIFFE id. The empty text is refused: a grant of everything
    /// is to be spelled out.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`], the variants that speak of the path.
    pub fn parse(path: &str) -> Result<Self, SpiffeIdError> {
        match path {
            "" => Err(SpiffeIdError::PathNotAbsolute),
            "/" => Ok(Self::everything()),
            _ => {
                check_path(path)?;
                Ok(Self(Arc::from(path)))
            }
        }
    }

    /// The prefix `/`, which covers every path.
    pub fn everything() -> Self {
        // Kept without its slash, so that "below" is always "followed by a slash".
        Self(Arc::from(""))
    }

    /// Whether `path` (as [`SpiffeId::path`](crate::SpiffeId::path) gives it) is this or below.
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether all that `other` covers is covered by this one.
    pub fn contains(&self, other: &PathPrefix) -> bool {
        self.covers(&other.0)
    }

    /// The prefix as it is written.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPrefix({})", self.as_str())
    }
}

impl FromStr for PathPrefix {
    type Err = SpiffeIdError;

    fn from_str(path: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(path)
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = SpiffeIdError;

    fn try_from(path: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&path)
    }
}

impl Serialize for PathPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        let team = PathPrefix::parse("/team").unwrap();
        for (path, covered) in [
            ("/team", true),
            ("/team/a", true),
            ("/teammates", false),
            ("/Team", false),
            ("", false),
        ] {
            assert_eq!(team.covers(path), covered, "{path}");
        }
        assert!(PathPrefix::everything().covers("") && PathPrefix::everything().covers("/team"));
        assert!(
            PathPrefix::everything().contains(&team) && !team.contains(&PathPrefix::everything())
        );
        assert!(team.contains(&PathPrefix::parse("/team/a").unwrap()));
    }

    #[test]
    fn a_prefix_is_spelled_in_one_way_only() {
        assert_eq!(PathPrefix::parse("/").unwrap().to_string(), "/");
        assert_eq!(PathPrefix::parse("/a/b").unwrap().to_string(), "/a/b");
        assert_eq!(PathPrefix::parse(""), Err(SpiffeIdError::PathNotAbsolute));
        assert_eq!(PathPrefix::parse("/a/"), Err(SpiffeIdError::TrailingSlash));
        assert_eq!(PathPrefix::parse("/a/../b"), Err(SpiffeIdError::DotSegment));
    }
}
