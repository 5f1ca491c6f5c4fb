//! Telling a program that its files have changed. That this failed is said, and the files stay.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use taskmint_client::Backoff;
use taskmint_model::SystemEntropy;
use tokio::process::Command;

use crate::output::note;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pauses before what failed is told again. A program that is not there yet reads the files when it
/// starts; one whose configuration is wrong would hold on to lists that are old.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whom to tell, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Tell {
    pub(super) command: Vec<String>,
    pub(super) process: Option<(PathBuf, Signal)>,
}

/// A signal by its name, with or without `SIG`.
pub(super) fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    format!("SIG{name}")
        .parse()
        .map_err(|_| format!("`{text}` is no signal"))
}

impl Tell {
    /// Signals the process and runs the command; says what came of it, and whether all went well.
    async fn tell(&self) -> (String, bool) {
        let mut told = Vec::new();
        if let Some((file, signal)) = &self.process {
            told.push(outcome(signal.as_str(), send(file, *signal)));
        }
        if let Some((program, arguments)) = self.command.split_first() {
            told.push(outcome(program, run(program, arguments).await));
        }
        let (words, good): (Vec<_>, Vec<_>) = told.into_iter().unzip();
        (words.join(", "), good.into_iter().all(|good| good))
    }
}

/// Tells, and remembers when that failed.
#[derive(Debug)]
pub(super) struct Teller {
    tell: Tell,
    backoff: Backoff,
    has_told: bool,
    is_overdue: bool,
}

impl Teller {
    pub(super) fn new(tell: Tell) -> Self {
        Self {
            tell,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            has_told: false,
            is_overdue: false,
        }
    }

    /// Tells, and says what came of it.
    pub(super) async fn tell(&mut self) -> String {
        let (said, heard) = self.tell.tell().await;
        (self.has_told, self.is_overdue) = (true, !heard);
        if heard {
            self.backoff.reset();
        }
        said
    }

    /// Whether it was ever tried.
    pub(super) fn has_told(&self) -> bool {
        self.has_told
    }

    /// Returns when it is time to tell again what failed; never, if nothing did.
    pub(super) async fn overdue(&mut self) {
        if !self.is_overdue {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.backoff.next(&SystemEntropy)).await;
    }
}

fn outcome(what: &str, outcome: Result<(), String>) -> (String, bool) {
    match outcome {
        Ok(()) => (what.to_owned(), true),
        Err(why) => {
            note(format_args!("{what}: {why}"));
            (format!("{what} failed"), false)
        }
    }
}

fn send(file: &Path, signal: Signal) -> Result<(), String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("cannot read `{}`: {error}", file.display()))?;
    let process = text.trim().parse().ok().filter(|pid: &i32| *pid > 1);
    let process =
        process.ok_or_else(|| format!("there is no process id in `{}`", file.display()))?;
    kill(Pid::from_raw(process), signal).map_err(|error| format!("process {process}: {error}"))
}

async fn run(program: &str, arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    // Standard output is what this process says itself.
    command.stdout(Stdio::from(std::io::stderr()));
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "took longer than {} s, and was killed",
            PATIENCE.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(signal("HUP"), Ok(Signal::SIGHUP));
        assert_eq!(signal("sigusr1"), Ok(Signal::SIGUSR1));
        assert!(signal("9").is_err());
        assert!(signal("SIGSIGHUP").is_err());
    }

    #[tokio::test]
    async fn what_can_not_be_told_is_said_and_is_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        for text in ["", "x", "0", "-1", "1"] {
            std::fs::write(&file, text).unwrap();
            assert!(send(&file, Signal::SIGHUP).is_err(), "`{text}`");
        }
        let command = |words: &[&str]| Tell {
            command: words.iter().map(ToString::to_string).collect(),
            process: None,
        };
        let told = |text: &str, good| (text.to_owned(), good);
        assert_eq!(command(&["true"]).tell().await, told("true", true));
        assert_eq!(
            command(&["false"]).tell().await,
            told("false failed", false)
        );
        assert_eq!(
            command(&["/no/such"]).tell().await,
            told("/no/such failed", false)
        );
        assert_eq!(command(&[]).tell().await, told("", true));
    }

    #[tokio::test]
    async fn what_failed_is_told_again_until_it_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("there").display().to_string();
        let mut teller = Teller::new(Tell {
            command: vec!["test".to_owned(), "-e".to_owned(), file.clone()],
            process: None,
        });
        assert!(!teller.has_told());
        assert_eq!(teller.tell().await, "test failed");
        teller.overdue().await;
        std::fs::write(file, "").unwrap();
        assert_eq!(teller.tell().await, "test");
        assert!(teller.has_told() && !teller.is_overdue);
    }
}
