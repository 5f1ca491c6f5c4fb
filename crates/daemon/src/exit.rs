//! Exit codes, and the failure that carries one.
//!
//! The numbers follow `sysexits.h` where it has a fitting one, so that a service manager can tell
//! what a restart may cure (1, 70, 75) from what it can't (64, 78).

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Stopped as asked, everything drained.
pub const OK: u8 = 0;
/// Failed; the log says why. A restart may help.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 64;
/// A task panicked: a fault of ours.
pub const PANICKED: u8 = 70;
/// Stopped as asked, but before all work in hand was finished.
pub const NOT_DRAINED: u8 = 75;
/// The configuration was wrong; nothing was started.
pub const CONFIG: u8 = 78;

/// Says what is wrong with the command line, or the help that was asked for; with which code to exit.
pub fn told(error: &clap::Error) -> ExitCode {
    // Nobody to tell if it can't be printed; the exit code still does.
    drop(error.print());
    ExitCode::from(if error.use_stderr() { USAGE } else { OK })
}

/// Why a process ends, with the exit code that says so.
///
/// Not an [`Error`] itself, so that `?` turns every error into one with the code [`FAILED`].
pub struct Failure {
    code: u8,
    source: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// A failure with an exit code of the caller's choice.
    pub fn new(code: u8, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            code,
            source: source.into(),
        }
    }

    /// A plain failure: exit code [`FAILED`].
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FAILED, source)
    }

    /// A wrong command line: exit code [`USAGE`].
    pub fn usage(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(USAGE, source)
    }

    /// A wrong configuration: exit code [`CONFIG`].
    pub fn config(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(CONFIG, source)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The error behind it.
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.source.as_ref()
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(source: E) -> Self {
        Self::failed(source)
    }
}

/// The whole chain, outermost first: `cannot listen: address in use`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("code", &self.code)
            .field("source", &self.source)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_shows_its_whole_chain() {
        let failure = Failure::from(Outer(std::io::Error::other("address in use")));
        assert_eq!(failure.to_string(), "cannot listen: address in use");
        assert_eq!(failure.code(), FAILED);
    }

    #[test]
    fn a_configuration_failure_has_a_code_of_its_own() {
        assert_eq!(Failure::config("unknown key").code(), 78);
        assert_eq!(Failure::usage("unknown flag").code(), 64);
    }
}
