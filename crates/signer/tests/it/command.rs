//! The command line.

use std::process::{Command, Stdio};

use crate::support::PROGRAM;

/// The exit code, and what is on standard output and standard error.
fn told(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    let wrong: [&[&str]; 5] = [
        &[],
        &["--trust-domain", "example.org"],
        &["--trust-domain", "Not A Domain", "--memory"],
        &["--trust-domain", "example.org", "--memory", "--frobnicate"],
        &["make-key", "--trust-domain", "example.org"],
    ];
    for arguments in wrong {
        let (code, out, error) = told(arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {error}");
        assert!(out.is_empty() && error.starts_with("error: "), "{error}");
    }
}

#[test]
fn a_wrong_variable_counts_as_the_command_line() {
    let output = Command::new(PROGRAM)
        .args(["--trust-domain", "example.org", "--memory"])
        .env("TASKMINT_SIGNER_JWT_CAP", "soon")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["make-key", "--help"]] {
        let (code, out, error) = told(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        assert!(out.contains("taskmint-signer") && error.is_empty(), "{out}");
    }
}
