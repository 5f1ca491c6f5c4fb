//! What a task may ask for.

use std::collections::BTreeSet;

use crate::text::{TextError, bounded};

/// What a task may ask for: scopes it may act in, audiences it may get tokens for.
///
/// Empty means nothing, never everything: an entry lists what it allows. The item `*` stands for
/// every scope or every audience.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Authority {
    /// Names of what the task may do, as its resources understand them (`payments:read`).
    pub scopes: BTreeSet<String>,
    /// Audiences of JWT-SVIDs it may fetch.
    pub audiences: BTreeSet<String>,
}

impl Authority {
    /// Stands for every scope or every audience.
    pub const ANY: &str = "*";
    /// The most scopes, and the most audiences.
    pub const MAX_ITEMS: usize = 64;
    /// The longest scope or audience, in bytes.
    pub const MAX_ITEM: usize = 512;

    /// Whether everything in here is also in `wider`.
    pub fn is_within(&self, wider: &Self) -> bool {
        self.first_beyond(wider).is_none()
    }

    /// Whether a token for `audience` may be asked for.
    pub fn allows_audience(&self, audience: &str) -> bool {
        self.audiences.contains(audience) || self.audiences.contains(Self::ANY)
    }

    /// What both have.
    pub fn common(&self, other: &Self) -> Self {
        let common = |mine: &BTreeSet<String>, theirs: &BTreeSet<String>| match (
            mine.contains(Self::ANY),
            theirs.contains(Self::ANY),
        ) {
            (true, _) => theirs.clone(),
            (false, true) => mine.clone(),
            (false, false) => mine & theirs,
        };
        Self {
            scopes: common(&self.scopes, &other.scopes),
            audiences: common(&self.audiences, &other.audiences),
        }
    }

    /// The first thing in here that `wider` lacks, named as `scope x` or `audience y`.
    pub fn first_beyond(&self, wider: &Self) -> Option<String> {
        let beyond = |name: &str, mine: &BTreeSet<String>, theirs: &BTreeSet<String>| {
            let missing = || {
                mine.difference(theirs)
                    .next()
                    .map(|item| format!("{name} `{item}`"))
            };
            if theirs.contains(Self::ANY) {
                None
            } else {
                missing()
            }
        };
        beyond("scope", &self.scopes, &wider.scopes)
            .or_else(|| beyond("audience", &self.audiences, &wider.audiences))
    }

    /// Checks counts and texts.
    ///
    /// # Errors
    /// Names the first item that is too long, empty or unprintable, or the list that is too long.
    pub fn validate(&self) -> Result<(), TextError> {
        for (name, list) in [("scope", &self.scopes), ("audience", &self.audiences)] {
            if list.len() > Self::MAX_ITEMS {
                return Err(TextError::TooMany {
                    name,
                    max: Self::MAX_ITEMS,
                });
            }
            for item in list {
                if item.is_empty() {
                    return Err(TextError::Empty { name });
                }
                bounded(name, item, Self::MAX_ITEM)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audiences(items: &[&str]) -> Authority {
        let audiences = items.iter().map(|item| (*item).to_owned()).collect();
        Authority {
            scopes: BTreeSet::new(),
            audiences,
        }
    }

    #[test]
    fn any_is_the_widest_and_nothing_the_narrowest() {
        let (any, one, none) = (audiences(&["*"]), audiences(&["a"]), audiences(&[]));
        assert!(one.is_within(&any) && none.is_within(&one) && any.is_within(&any));
        assert!(!any.is_within(&one) && !one.is_within(&none));
        assert_eq!(any.first_beyond(&one).unwrap(), "audience `*`");
        assert_eq!(
            (any.common(&one), one.common(&any)),
            (one.clone(), one.clone())
        );
        assert_eq!(one.common(&none), none);
    }
}
