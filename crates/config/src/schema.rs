//! From text to a whole configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::mistake::{Mistake, Mistakes};
use crate::overrides::Overrides;
use crate::reader::Reader;
use crate::sheet::{Gathered, Key, Setting, Sheet};

/// Longest configuration that is read, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

/// A configuration without mistakes, and what `config check` and `config show` want to know.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    /// The configuration.
    pub config: T,
    /// What works, but is perhaps not meant.
    pub warnings: Vec<Mistake>,
    /// Every key's value and origin, in reading order.
    pub settings: Vec<Setting>,
}

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It can be read, but not used.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// What knows its own keys.
pub(crate) trait Schema: Sized {
    /// How its environment variables begin.
    const PREFIX: &'static str;

    /// Reads it; none only if a mistake was reported.
    fn read(reader: &mut Reader<'_, '_>) -> Option<Self>;
}

pub(crate) fn check<T: Schema>(
    text: &str,
    source: &str,
    overrides: &Overrides,
) -> Result<Checked<T>, Mistakes> {
    let (
        config,
        Gathered {
            problems, settings, ..
        },
    ) = gather::<T>(text, source, overrides);
    match config {
        Some(config) if problems.mistakes.is_empty() => Ok(Checked {
            config,
            warnings: problems.warnings,
            settings,
        }),
        _ => Err(problems),
    }
}

pub(crate) fn load<T: Schema>(path: &Path, overrides: &Overrides) -> Result<Checked<T>, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    // One byte more than allowed, so that too long shows.
    let limit = u64::try_from(MAX_TEXT).map_or(u64::MAX, |limit| limit + 1);
    let file = File::open(path).map_err(failed)?;
    file.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(check(&text, &path.display().to_string(), overrides)?)
}

/// Every key that the schema knows, in reading order.
pub(crate) fn keys<T: Schema>() -> Vec<Key> {
    gather::<T>("", "", &Overrides::none()).1.keys
}

pub(crate) fn gather<T: Schema>(
    text: &str,
    source: &str,
    overrides: &Overrides,
) -> (Option<T>, Gathered) {
    let mut sheet = Sheet::new(T::PREFIX, text, source, overrides);
    if text.len() > MAX_TEXT {
        let place = sheet.place(0..0);
        sheet.mistake(place, "", format!("longer than {MAX_TEXT} bytes"));
        return (None, sheet.finish());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = sheet.place(error.span().unwrap_or(0..0));
        sheet.mistake(place, "", format!("not TOML: {}", error.message()));
    }
    let mut reader = Reader::root(&mut sheet, document.get_ref());
    let config = T::read(&mut reader);
    reader.close();
    (config, sheet.finish())
}
