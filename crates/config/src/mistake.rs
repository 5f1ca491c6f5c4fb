//! What is wrong, where, and what to write instead.

use std::fmt;
use std::sync::Arc;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file.
    File {
        /// The file's name, as it was given.
        source: Arc<str>,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// In an environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// In a flag `--set key=value`.
    Flag {
        /// The key.
        key: String,
    },
    /// Nowhere: the default holds.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                source,
                line,
                column,
            } => write!(f, "{source}:{line}:{column}"),
            Self::Environment { variable } => write!(f, "environment variable `{variable}`"),
            Self::Flag { key } => write!(f, "flag `--set {key}`"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One mistake, or one warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// The key it is about, dotted; empty where the file is no TOML.
    pub key: String,
    /// What is wrong and what to write instead.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// All mistakes of one configuration, in the order of the file; never empty.
///
/// Displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    /// What must be corrected.
    pub mistakes: Vec<Mistake>,
    /// What would work, but is perhaps not meant.
    pub warnings: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}
