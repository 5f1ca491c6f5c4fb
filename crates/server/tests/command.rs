//! The command line of the program.

#![expect(clippy::unwrap_used, reason = "helpers fail the test they serve")]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskmint-server"));
    command.args(arguments).output().unwrap()
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    for arguments in [&["--frobnicate"][..], &["--config"], &["--set"], &["start"]] {
        let output = run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.starts_with("error: "), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for flag in ["--help", "--version"] {
        let output = run(&[flag]);
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{flag}");
        assert!(told.contains("taskmint-server"), "{told}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_wrong_configuration_exits_with_78() {
    let output = run(&["--config", "/nowhere/server.toml"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(error.contains("/nowhere/server.toml"), "{error}");
}
