//! `taskmint dev` for a test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// `taskmint dev`, and what it exported.
pub(crate) struct Dev {
    pub(crate) process: Child,
    variables: Vec<(String, String)>,
}

impl Dev {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut process = taskmint()
            .arg("dev")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // To its end, which comes once everything is ready.
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let read = |line: String| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        let variables = lines.map(|line| read(line.unwrap()).expect("only exports"));
        Self {
            variables: variables.collect(),
            process,
        }
    }

    pub(crate) fn variable(&self, name: &str) -> &str {
        let found = self.variables.iter().find(|(own, _)| own == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = taskmint();
        command.args(arguments).envs(self.variables.iter().cloned());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(&[arguments, &["-o", "json"]].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The only task with this purpose, as the server knows it.
    pub(crate) fn task(&self, purpose: &str) -> Value {
        let tasks = self.json(&["task", "list", "--admin", "--ended"]);
        let mut found = tasks
            .as_array()
            .unwrap()
            .iter()
            .filter(|task| task["purpose"] == purpose);
        let task = found
            .next()
            .unwrap_or_else(|| panic!("no task for `{purpose}`"));
        assert!(found.next().is_none());
        task.clone()
    }

    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal();
        self.process.wait().unwrap().code()
    }

    pub(crate) fn signal(&self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal();
            self.process.wait().unwrap();
        }
    }
}

/// Without the sockets of whoever runs the tests.
pub(crate) fn taskmint() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskmint"));
    for name in [
        "SPIFFE_ENDPOINT_SOCKET",
        "TASKMINT_TASK_SOCKET",
        "TASKMINT_REVOCATION_SOCKET",
        "TASKMINT_ADMIN_SOCKET",
        "TASKMINT_TRUST_BUNDLE",
    ] {
        command.env_remove(name);
    }
    command
}
