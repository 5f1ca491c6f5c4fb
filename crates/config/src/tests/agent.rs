use std::path::{Path, PathBuf};

use super::*;
use crate::{AgentConfig, NodeAttestor, SecretSource};

const PIN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn mistakes(text: &str) -> String {
    AgentConfig::parse(text, "a", &Overrides::none())
        .expect_err("a mistake")
        .to_string()
}

#[test]
fn every_mistake_says_where_and_what_to_write() {
    let cases = [
        (
            "workload_sock = \"/a\"",
            "a:1:1: unknown key `workload_sock`: did you mean `workload_socket`?",
        ),
        (
            "join_string = \"tm1.secret\"",
            "a:1:1: unknown key `join_string`: did you mean `join_string_file`?",
        ),
        (
            "join_string_file = \"tm1.secret\"",
            "a:1:20: `join_string_file`: write an absolute path such as `\"/etc/taskmint/join-string\"`, or `\"-\"` for standard input",
        ),
        (
            "task_socket = \"/run/taskmint/workload.sock\"",
            "a:1:15: `task_socket`: the same path as `workload_socket`: write another",
        ),
        (
            "node_attestor.key_file = \"/k\"",
            "a:1:26: `node_attestor.key_file`: only for `kind = \"x509pop\"`: remove it, or set that kind",
        ),
        (
            "server.address = \"example.org\"",
            "a:1:18: `server.address`: `example.org` is none: write a host and port such as `\"taskmint.example.org:8441\"`",
        ),
        (
            "server.root_sha256 = \"beef\"",
            "a:1:22: `server.root_sha256`: `beef` is none: write a SHA-256 in 64 hexadecimal digits",
        ),
        (
            "[limits]\nmax_connections = 5",
            "a:1:2: `limits.max_connections_per_uid`: more than `max_connections`, which is 5: write at most that",
        ),
        (
            "limits.max_calls_per_connection = 2",
            "a:1:35: `limits.max_calls_per_connection`: 2 is out of range: write 8 to 65536",
        ),
        (
            "limits.max_watches = 3",
            "a:1:1: `limits.max_watches_per_uid`: more than `max_watches`, which is 3: write at most that",
        ),
        (
            "limits.max_begins = 0",
            "a:1:21: `limits.max_begins`: 0 is out of range: write 1 to 65536",
        ),
        (
            "revocation.drift_allowance = \"5s\"",
            "a:1:30: `revocation.drift_allowance`: \"5s\" is out of range: write \"10ms\" to \"2s\"",
        ),
        (
            "workload_attestors.unix.max_sha256_bytes = -1",
            "a:1:44: `workload_attestors.unix.max_sha256_bytes`: `-1` does not fit: write a whole number such as `1000`",
        ),
    ];
    for (text, expected) in cases {
        let found = mistakes(text);
        assert!(
            found.lines().any(|line| line == expected),
            "for {text}:\n{found}"
        );
        assert!(!found.contains("secret"), "{found}");
    }
}

#[test]
fn a_socket_path_that_the_kernel_refuses_is_refused_here() {
    let long = format!("/{}", "x".repeat(107));
    let found = mistakes(&format!("workload_socket = \"{long}\""));
    assert!(
        found.contains("108 bytes are too long for a unix socket"),
        "{found}"
    );
    // Alone it would fit, but the task's own folder and socket come after it.
    let found = mistakes(&format!("task_socket_dir = \"/{}\"", "x".repeat(70)));
    assert!(found.contains("too long for a unix socket"), "{found}");
}

#[test]
fn the_first_contact_is_told_wholly_by_a_join_string_or_wholly_here() {
    let pinned = format!("server.root_sha256 = \"{PIN}\"\n");
    let found = mistakes(&format!("{pinned}join_string_file = \"/j\""));
    assert!(found.contains("contradicts `join_string_file`"), "{found}");

    let found = mistakes(&pinned);
    assert!(found.contains("`server.root_sha256`: without a join string there is no join token"));
    assert!(found.contains("`server.address`: missing"), "{found}");
    assert!(found.contains("`trust_domain`: missing"), "{found}");

    let config = AgentConfig::parse(
        &format!(
            "{pinned}server.address = \"[::1]:8441\"\ntrust_domain = \"example.org\"\n\
             [node_attestor]\nkind = \"x509pop\"\ncertificate_file = \"/c\"\nkey_file = \"/k\"\n"
        ),
        "a",
        &environment(&[("CREDENTIALS_DIRECTORY", "/run/credentials/x")]),
    );
    let config = config.expect("right");
    assert_eq!(config.join_string_file, None);
    assert_eq!(
        config.server.address.expect("given").to_string(),
        "[::1]:8441"
    );
    assert!(matches!(config.node_attestor, NodeAttestor::X509Pop { .. }));
}

#[test]
fn x509pop_names_what_it_lacks() {
    let found = mistakes("node_attestor.kind = \"x509pop\"");
    assert_eq!(found.lines().count(), 2, "{found}");
    assert!(found.contains("`node_attestor.certificate_file`: missing"));
    assert!(found.contains("`node_attestor.key_file`: missing"));
}

#[test]
fn a_join_string_is_needed_only_once_so_its_absence_is_a_warning() {
    let checked = AgentConfig::check("", "a", &Overrides::none()).expect("right");
    let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    assert!(matches!(&*warnings, [one] if one.starts_with("a:1:1: `join_string_file`: unset")));

    let overrides = environment(&[("CREDENTIALS_DIRECTORY", "/run/credentials/x")]);
    let checked = AgentConfig::check("", "a", &overrides).expect("right");
    assert!(checked.warnings.is_empty());
    let file = checked
        .config
        .join_string_file
        .expect("from the credentials");
    let credential = PathBuf::from("/run/credentials/x/taskmint-join-string");
    assert_eq!(file, SecretSource::File(credential));

    // What is written counts before a credential, and a flag before what is written.
    let credentials = ("CREDENTIALS_DIRECTORY".into(), "/run/credentials/x".into());
    let overrides = Overrides::new([credentials], ["join_string_file=-".to_owned()]);
    let config = AgentConfig::parse("join_string_file = \"/j\"", "a", &overrides).expect("right");
    assert_eq!(config.join_string_file, Some(SecretSource::StandardInput));
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = AgentConfig::parse("", "a", &Overrides::none()).expect("right");
    assert_eq!(
        config.sockets.workload,
        Path::new("/run/taskmint/workload.sock")
    );
    assert!(config.http_listen.ip().is_loopback());
    assert!(config.workload_attestors.unix.discover_path);
    assert_eq!(config.node_attestor, NodeAttestor::JoinToken);
}
