//! The files that are shipped.

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::*;
use crate::overrides::variable_name;
use crate::schema::{Schema, gather};
use crate::{AgentConfig, Key};

pub(super) const SERVER_FULL: &str = include_str!("../../../../config/server.full.toml");
const AGENT_FULL: &str = include_str!("../../../../config/agent.full.toml");
const SERVER: &str = include_str!("../../../../config/server.toml");
const AGENT: &str = include_str!("../../../../config/agent.toml");
const SIGNER: &str = include_str!("../../../../config/systemd/taskmint-signer.service");
const SIGNER_SOCKET: &str = include_str!("../../../../config/systemd/taskmint-signer.socket");
const USERS: &str = include_str!("../../../../config/sysusers.d/taskmint.conf");
const FOLDERS: &str = include_str!("../../../../config/tmpfiles.d/taskmint.conf");

const UNITS: [&str; 2] = [
    include_str!("../../../../config/systemd/taskmint-server.service"),
    include_str!("../../../../config/systemd/taskmint-agent.service"),
];

fn as_a_service() -> Overrides {
    environment(&[(
        "CREDENTIALS_DIRECTORY",
        "/run/credentials/taskmint-server.service",
    )])
}

#[test]
fn the_smallest_files_work() {
    // In an operator's shell, where nothing of the service is set.
    let server = ServerConfig::parse(SERVER, "server.toml", &Overrides::none()).expect("right");
    let socket = server.signer.socket.expect("the signer's");
    assert_eq!(socket, Path::new("/run/taskmint-signer/socket"));
    let by_hand = SERVER.replace(
        "[signer]\nsocket = \"/run/taskmint-signer/socket\"",
        "[keys]\nsealing_key_file = \"/etc/taskmint/sealing-key\"",
    );
    let by_hand = ServerConfig::parse(&by_hand, "server.toml", &Overrides::none());
    assert_eq!(by_hand.expect("right by hand too").signer.socket, None);
    let agent = AgentConfig::check(AGENT, "agent.toml", &Overrides::none()).expect("right");
    assert!(agent.warnings.is_empty());
}

#[test]
fn the_full_files_work_as_they_are() {
    ServerConfig::parse(SERVER_FULL, "server.full.toml", &as_a_service()).expect("right");
    AgentConfig::parse(AGENT_FULL, "agent.full.toml", &Overrides::none()).expect("right");
}

#[test]
fn the_full_files_have_every_key_and_no_other() {
    assert_eq!(written(SERVER_FULL), known(&ServerConfig::keys()));
    assert_eq!(written(AGENT_FULL), known(&AgentConfig::keys()));
}

#[test]
fn the_full_files_show_the_defaults() {
    compare_defaults::<ServerConfig>(SERVER_FULL);
    compare_defaults::<AgentConfig>(AGENT_FULL);
}

#[test]
fn the_full_files_explain_every_key() {
    for text in [SERVER_FULL, AGENT_FULL] {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let is_key = line.contains(" = ") && !line.starts_with("# ");
            let is_explained = index > 0 && lines[index - 1].starts_with("# ");
            assert!(!is_key || is_explained, "line {}: {line}", index + 1);
        }
    }
}

#[test]
fn no_two_keys_share_an_environment_variable() {
    for (prefix, keys) in [
        (ServerConfig::PREFIX, ServerConfig::keys()),
        (AgentConfig::PREFIX, AgentConfig::keys()),
    ] {
        let settable = keys.iter().filter(|key| !key.path.contains("[]"));
        let mut names = BTreeSet::new();
        for key in settable {
            let name = variable_name(prefix, &key.path);
            assert!(
                !crate::overrides::is_foreign(prefix, &name),
                "{name} is never read"
            );
            assert!(names.insert(name), "{}", key.path);
        }
    }
}

#[test]
fn the_units_do_not_restart_what_a_restart_can_not_cure() {
    for unit in UNITS {
        assert!(
            unit.lines()
                .any(|line| line == "RestartPreventExitStatus=64 78")
        );
        assert!(unit.lines().any(|line| line == "LimitCORE=0"));
        assert!(unit.lines().any(|line| line == "NoNewPrivileges=yes"));
    }
}

#[test]
fn the_units_hand_over_the_credentials_that_are_looked_for() {
    let [server, agent] = UNITS;
    assert!(SIGNER.contains("LoadCredential=taskmint-sealing-key:"));
    assert!(!server.contains("sealing-key"), "it is the signer's alone");
    let socket = "TASKMINT_SERVER_SIGNER_SOCKET=/run/taskmint-signer/socket\n";
    assert!(server.contains(socket));
    assert!(agent.contains("LoadCredential=taskmint-join-string\n"));
}

#[test]
fn every_user_of_the_units_is_made() {
    let users: BTreeSet<&str> = columns(USERS).map(|line| line[1]).collect();
    for unit in [UNITS[0], UNITS[1], SIGNER, SIGNER_SOCKET] {
        let mut named = 0;
        for key in ["User", "Group", "SocketUser", "SocketGroup"] {
            for user in values(unit, key) {
                assert!(users.contains(user), "nobody makes `{user}`");
                named += 1;
            }
        }
        assert_eq!(named, 2, "a user and a group");
    }
    for line in columns(FOLDERS) {
        assert!(line[3] == "root" || users.contains(line[3]), "{line:?}");
    }
}

#[test]
fn the_folders_that_units_find_are_made_for_their_users() {
    // Opened before the service manager makes a state folder.
    let journal = values(SIGNER, "StandardOutput").next().expect("a journal");
    let journal = journal.strip_prefix("append:").expect("for appending");
    let state = journal.strip_suffix("/journal").expect("in a folder");
    assert_eq!(owner_of(state), values(SIGNER, "User").next());
    // Left out where it is missing, and then nothing can be written to it.
    let [server, _] = UNITS;
    let backups = values(server, "ReadWritePaths").next().expect("backups");
    let backups = backups.strip_prefix('-').expect("may be missing");
    assert_eq!(owner_of(backups), values(server, "User").next());
}

#[test]
fn no_unit_is_given_up_after_a_few_starts() {
    for unit in [UNITS[0], UNITS[1], SIGNER] {
        assert_eq!(values(unit, "StartLimitIntervalSec").next(), Some("0"));
        assert!(values(unit, "RestartSec").next().is_some());
    }
    let limit = values(SIGNER_SOCKET, "TriggerLimitIntervalSec").next();
    assert_eq!(limit, Some("0"));
}

#[test]
fn the_units_leave_the_calls_that_are_needed() {
    let filter = values(SIGNER, "SystemCallFilter").next().expect("a filter");
    for call in ["@system-service", "memfd_secret", "seccomp"] {
        let is_left = filter.split_whitespace().any(|word| word == call);
        assert!(is_left, "the signer calls {call}");
    }
    // It would take `openat2` away, by which an executable is looked at.
    let [_, agent] = UNITS;
    assert_eq!(values(agent, "RestrictSUIDSGID").next(), None);
    // Hashing a passphrase locks 64 MiB, beside the keys.
    assert_eq!(values(SIGNER, "LimitMEMLOCK").next(), Some("128M"));
}

/// What a unit sets this key to, line by line.
fn values<'a>(unit: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let key = format!("{key}=");
    unit.lines()
        .filter_map(move |line| line.strip_prefix(key.as_str()))
}

/// The columns of the lines that are no comments.
fn columns(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
}

/// Whose folder tmpfiles.d makes at this path.
fn owner_of(path: &str) -> Option<&'static str> {
    columns(FOLDERS)
        .find(|line| line[0] == "d" && line[1] == path)
        .map(|line| line[3])
}

/// The file with the keys behind a single `#` switched on.
fn uncommented(text: &str) -> String {
    let is_off = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let lines = text
        .lines()
        .map(|line| if is_off(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn known(keys: &[Key]) -> BTreeSet<String> {
    keys.iter().map(|key| key.path.clone()).collect()
}

fn written(text: &str) -> BTreeSet<String> {
    let text = uncommented(text);
    let document = DeTable::parse(&text).expect("TOML");
    let mut paths = BTreeSet::new();
    walk(document.get_ref(), "", &mut paths);
    paths
}

fn walk(table: &DeTable<'_>, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => walk(table, &format!("{path}."), paths),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for table in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    walk(table, &format!("{path}[]."), paths);
                }
            }
            _ => {
                paths.insert(path);
            }
        }
    }
}

fn compare_defaults<T: Schema>(text: &str) {
    let text = uncommented(text);
    let gathered = gather::<T>(&text, "full", &Overrides::none()).1;
    let unset = gather::<T>("", "empty", &Overrides::none()).1;
    for key in unset.keys.iter().filter(|key| key.default.is_some()) {
        let setting = gathered
            .settings
            .iter()
            .find(|setting| setting.key == key.path);
        let setting = setting.unwrap_or_else(|| panic!("{} is not in the file", key.path));
        assert_eq!(setting.value, key.default, "{}", key.path);
    }
}
