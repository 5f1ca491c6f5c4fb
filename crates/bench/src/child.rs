//! A binary of ours as a child of this process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::PATIENCE;

/// What a daemon of ours logs once every condition of its readiness is met.
const READY: &str = "\"message\":\"ready\"";

/// A daemon; killed when dropped.
pub(crate) struct Daemon(Child);

/// A binary beside our own, if it is there.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

impl Daemon {
    /// Starts it, and waits until it says that it is ready; how long that took.
    pub(crate) fn start(program: &Path, config: &Path) -> anyhow::Result<(Self, Duration)> {
        let begun = Instant::now();
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(config)
            .args(["-s", "log.format=json"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut daemon = Self(command.spawn().context("cannot start it")?);
        let stderr = daemon.0.stderr.take().context("no standard error")?;
        let (sender, ready) = mpsc::channel();
        // Goes on after that: nobody else empties the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let said = if line.contains(READY) {
                    Ok(Instant::now())
                } else {
                    Err(line)
                };
                drop(sender.send(said));
            }
        });
        let mut last = String::new();
        loop {
            let said = ready.recv_timeout(PATIENCE);
            match said.with_context(|| format!("it is not ready: {last}"))? {
                Ok(at) => return Ok((daemon, at - begun)),
                Err(line) => last = line,
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Stops it in good order.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How long a process takes that does nothing: `--version`.
pub(crate) fn nothing(program: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.status().context("cannot start it")?;
    Ok(begun.elapsed())
}
