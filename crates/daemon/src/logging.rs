//! Structured logs on standard error.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: one line each, coloured on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// A name that is no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no log format: write `text` or `json`")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error("`{filter}` is no log filter")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Sends logs to standard error, for the whole process, and panics with them.
///
/// `filter` is a level (`info`) or a list of them by target (`info,taskmint_issuer=debug`).
/// Colours are on only where standard error is a terminal and `NO_COLOR` is unset or empty.
///
/// # Errors
///
/// [`LoggingError::Filter`] if the filter can't be read, [`LoggingError::Twice`] the second time.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr);
    match format {
        Format::Text => {
            let ansi = colours(
                io::stderr().is_terminal(),
                std::env::var_os("NO_COLOR").as_deref(),
            );
            builder.with_ansi(ansi).finish().try_init()?;
        }
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .finish()
            .try_init()?,
    }
    // Else a panic would be the one event that is no JSON line.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(
            location,
            message = panic.payload_as_str().unwrap_or("panic"),
            panic = true
        );
    }));
    Ok(())
}

/// <https://no-color.org>: any non-empty value turns colours off.
fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_owner_wants_them() {
        let cases = [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (false, None, false),
            (false, Some(""), false),
        ];
        for (terminal, no_color, expected) in cases {
            assert_eq!(colours(terminal, no_color.map(OsStr::new)), expected);
        }
    }

    #[test]
    fn a_format_is_text_or_json() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        let error = "yaml".parse::<Format>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "`yaml` is no log format: write `text` or `json`"
        );
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let error = init(Format::Text, "taskmint=loud").expect_err("no such level");
        assert_eq!(error.to_string(), "`taskmint=loud` is no log filter");
    }
}
