//! Commands of operators.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::dev::Dev;

/// Signed by a signer that went on for longer than this, and on no record, is an alarm.
const MEANWHILE: Duration = Duration::from_secs(10);

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn an_operator_looks_around() {
    let dev = Dev::start(&[]);
    let status = dev.json(&["status"]);
    assert_eq!(status["trust_domain"], "dev.taskmint");
    assert_eq!(status["nodes_connected"], 1);
    let nodes = dev.json(&["node", "list"]);
    let node = text(&nodes[0]["id"]);
    assert_eq!(dev.json(&["node", "show", node])["id"], node);
    assert!(
        !dev.json(&["watchers"])["watchers"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(dev.json(&["bar", "list"]), serde_json::json!([]));
    let pem = dev.output(&["bundle", "show", "--format", "pem"]).stdout;
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let bundle = dev.output(&["bundle", "show"]).stdout;
    let bundle: Value = serde_json::from_slice(&bundle).unwrap();
    assert_eq!(bundle["keys"].as_array().unwrap().len(), 2);
    let script = dev.output(&["completions", "bash"]).stdout;
    assert!(String::from_utf8(script).unwrap().contains("_taskmint()"));
}

#[test]
fn a_join_token_that_is_deleted_is_gone() {
    let dev = Dev::start(&[]);
    let made = dev.json(&["token", "create", "--node", "n7", "--ttl", "5m"]);
    assert!(text(&made["join_string"]).len() > 40);
    let waiting = || {
        let tokens = dev.json(&["token", "list"]);
        let tokens = tokens.as_array().unwrap().clone();
        tokens
            .into_iter()
            .find(|token| text(&token["node"]).ends_with("n7"))
    };
    let token = waiting().expect("it is listed");
    assert!(
        dev.output(&["token", "delete", text(&token["id"])])
            .status
            .success()
    );
    assert!(waiting().is_none());
}

#[test]
fn a_node_is_kept_out_until_it_is_let_in_again() {
    let dev = Dev::start(&[]);
    let nodes = dev.json(&["node", "list"]);
    let node = text(&nodes[0]["id"]);
    let change = |verb: &str| dev.json(&["node", verb, node]);
    assert_eq!(change("ban")["node"]["state"], "banned");
    let run = dev.output(&["run", "--", "true"]);
    assert!(!run.status.success(), "a banned node has a task");
    assert_ne!(change("unban")["node"]["state"], "banned");
}

#[test]
fn an_authority_is_prepared_and_given_up() {
    let dev = Dev::start(&[]);
    let made = dev.json(&["authority", "prepare", "jwt"]);
    let id = text(&made["id"]);
    let state = || {
        let all = dev.json(&["authority", "list"]);
        let mut all = all.as_array().unwrap().iter();
        all.find(|one| one["id"] == id)
            .map(|one| one["state"].clone())
    };
    assert_eq!(state().unwrap(), "prepared");
    assert!(dev.output(&["authority", "retire", id]).status.success());
    assert_ne!(state(), Some("prepared".into()));
}

#[test]
fn what_becomes_of_tasks_is_watched() {
    let dev = Dev::start(&[]);
    let mut watch = dev.command(&["task", "watch", "--admin", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // Until it is heard: a watch begins with what happens from then on.
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.by_ref().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    let heard = (0..50).find_map(|_| {
        let extended = dev.output(&["run", "--purpose", "watched", "--", "true"]);
        assert!(extended.status.success());
        told.recv_timeout(Duration::from_millis(500)).ok()
    });
    let event: Value = serde_json::from_str(&heard.expect("an event")).unwrap();
    assert!(event.is_object(), "{event}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn a_task_is_extended_and_failed_by_who_runs_in_it() {
    let dev = Dev::start(&[]);
    let program = env!("CARGO_BIN_EXE_taskmint");
    let within = |purpose: &str, arguments: &[&str]| {
        let run = ["run", "--purpose", purpose, "--ttl", "5m", "--", program];
        dev.output(&[&run[..], arguments].concat())
    };
    let extended = within(
        "extended",
        &["task", "extend", "--ttl", "20m", "-o", "json"],
    );
    assert!(extended.status.success(), "{extended:?}");
    let task: Value = serde_json::from_slice(&extended.stdout).unwrap();
    let lives = task["deadline_ms"].as_i64().unwrap() - task["opened_ms"].as_i64().unwrap();
    assert!((1_195_000..1_210_000).contains(&lives), "{task}");
    within("failed", &["task", "fail", "--reason", "it had to"]);
    assert_eq!(dev.task("failed")["ending"]["cause"], "failed");
}

/// Restoring an older store takes records away, and leaves the journal: the same as signatures for
/// which there never was a record.
#[test]
fn what_was_signed_without_a_record_is_named() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let at = |path: &str| folder.path().join(path).to_str().unwrap().to_owned();
    let start = || Dev::start(&["--dir", folder.path().to_str().unwrap()]);
    let (store, journal) = (at("server/store"), at("server/signer-journal"));
    let dev = start();
    dev.json(&["backup", &at("copy")]);
    dev.json(&["svid", "fetch", "x509", "--write", &at("svid")]);
    let shown = dev.json(&["svid", "show", &at("svid/svid.0.pem")]);
    let serial = text(&shown["serial"]).to_owned();
    let audit = dev.json(&["authority", "audit", "--journal", &journal]);
    assert_eq!(audit["agrees"], true, "{audit}");
    std::thread::sleep(MEANWHILE + Duration::from_secs(2));
    assert_eq!(dev.stop(), Some(0));
    std::fs::rename(&store, at("lost")).unwrap();
    let restored = crate::dev::taskmint()
        .args(["restore", &at("copy"), &store, "--above", "6"])
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    let said = String::from_utf8_lossy(&restored.stdout);
    assert!(
        said.contains('7'),
        "a generation above the lost one's: {said}"
    );
    let dev = start();
    let audit = dev.output(&["authority", "audit", "--journal", &journal, "-o", "json"]);
    assert_eq!(audit.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!(said["agrees"], false);
    let named = said["without_record"].as_array().unwrap();
    assert!(
        named.iter().any(|name| text(name).contains(&serial)),
        "{serial} is not among {named:?}"
    );
}
