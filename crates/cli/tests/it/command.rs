//! Commands of people who run something within a task: processes, sockets, exit codes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use taskmint_client::Endpoint;
use taskmint_model::SystemEntropy;
use taskmint_verifier::Trust;
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};

use crate::dev::Dev;

#[test]
fn the_exit_status_of_a_command_is_passed_through_and_tells_how_its_task_ended() {
    let dev = Dev::start(&[]);
    let table = [
        ("exit 0", 0, "completed"),
        ("exit 7", 7, "failed"),
        ("kill -KILL $$", 137, "failed"),
    ];
    for (script, code, cause) in table {
        let run = [
            "run",
            "--purpose",
            script,
            "--scope",
            "a",
            "--",
            "sh",
            "-c",
            script,
        ];
        assert_eq!(dev.output(&run).status.code(), Some(code), "{script}");
        let task = dev.task(script);
        assert_eq!(
            (&task["state"], &task["ending"]["cause"]),
            (&"ended".into(), &cause.into())
        );
        assert_eq!(
            (&task["binding"], &task["scopes"][0]),
            (&"tree".into(), &"a".into())
        );
    }
}

#[test]
fn a_command_that_can_not_be_run_begins_no_task() {
    let dev = Dev::start(&[]);
    let table = [
        (vec!["run", "--", "/no/such/command"], 127),
        (vec!["run", "--", "/"], 126),
        (
            vec![
                "run",
                "--spiffe-id",
                "spiffe://dev.taskmint/nobody",
                "--",
                "true",
            ],
            125,
        ),
        (
            vec!["run", "--task-socket", "/no/such.sock", "--", "true"],
            125,
        ),
        (vec!["run", "--ttl", "10", "--", "true"], 64),
    ];
    for (arguments, code) in table {
        assert_eq!(
            dev.output(&arguments).status.code(),
            Some(code),
            "{arguments:?}"
        );
    }
    assert_eq!(
        dev.json(&["task", "list", "--admin", "--ended"]),
        Value::Array(Vec::new())
    );
}

#[test]
fn a_denied_command_does_not_run_and_the_denial_explains_itself() {
    let dev = Dev::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("ran");
    let witness = witness.to_str().unwrap();
    let id = "spiffe://dev.taskmint/nobody";
    let output = dev.output(&[
        "-o",
        "json",
        "run",
        "--spiffe-id",
        id,
        "--",
        "touch",
        witness,
    ]);
    assert!(!Path::new(witness).exists());
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "NO_MATCHING_ENTRY");
    // What was attested is the command, and not `taskmint`.
    let story = dev.json(&["explain", error["error"]["denial_id"].as_str().unwrap()]);
    let selectors = story["selectors"].to_string();
    assert!(
        selectors.contains("unix:path:") && !selectors.contains("taskmint"),
        "{selectors}"
    );
}

#[test]
fn signals_reach_the_command() {
    let dev = Dev::start(&[]);
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let mut run = dev.command(&["run", "--", "sh", "-c", script]);
    let mut run = run.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    run.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    kill(
        Pid::from_raw(i32::try_from(run.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
}

#[test]
fn a_run_within_a_task_begins_below_it() {
    let dev = Dev::start(&[]);
    let taskmint = env!("CARGO_BIN_EXE_taskmint");
    let inner = format!("{taskmint} run --purpose inner -- {taskmint} task show -o json");
    let output = dev.output(&[
        "run",
        "--purpose",
        "outer",
        "--scope",
        "a",
        "--",
        "sh",
        "-c",
        &inner,
    ]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outer = dev.task("outer");
    assert_eq!(
        (&shown["parent_id"], &shown["depth"]),
        (&outer["id"], &1.into())
    );
    assert_eq!(shown["id"], dev.task("inner")["id"]);
}

#[test]
fn what_a_command_fetched_is_refused_after_it_ended() {
    let dev = Dev::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (path, svid) = (
        folder.path().to_str().unwrap(),
        folder.path().join("svid.0.pem"),
    );
    let (taskmint, svid) = (env!("CARGO_BIN_EXE_taskmint"), svid.to_str().unwrap());
    let script = format!(
        "{taskmint} svid fetch x509 --write {path} && {taskmint} svid verify {svid} --status -o json"
    );
    let output = dev.output(&["run", "--", "sh", "-c", &script]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"status\": \"live\""));
    let refused = dev.output(&["-o", "json", "svid", "verify", svid, "--status"]);
    assert_eq!(refused.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "TASK_ENDED");
    // By its signature and date alone it would go on.
    assert!(dev.output(&["svid", "verify", svid]).status.success());
}

#[test]
fn dev_serves_any_client_of_the_callers_uid_and_leaves_nothing() {
    let dev = Dev::start(&[]);
    let bundle = dev.variable("TASKMINT_TRUST_BUNDLE").to_owned();
    let folder = Path::new(&bundle).parent().unwrap().to_owned();
    let read = taskmint_id::TrustDomain::parse("dev.taskmint").unwrap();
    let read = taskmint_id::Bundle::parse(read, &std::fs::read(&bundle).unwrap()).unwrap();
    assert_eq!(read.x509_authorities().len(), 1);
    let svids = dev.json(&["svid", "fetch", "x509"]);
    let id = svids[0]["spiffe_id"].as_str().unwrap();
    assert!(id.starts_with("spiffe://dev.taskmint/user/"), "{id}");
    assert_eq!(dev.json(&["audit", "verify"])["verified"], true);
    assert_eq!(dev.stop(), Some(0));
    assert!(!folder.exists());
}

#[test]
fn dev_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let arguments = [
        "--dir",
        folder.path().to_str().unwrap(),
        "--trust-domain",
        "kept.example",
    ];
    let first = Dev::start(&arguments);
    let entries = first.json(&["entry", "list"]);
    let bundle = std::fs::read(first.variable("TASKMINT_TRUST_BUNDLE")).unwrap();
    assert_eq!(first.stop(), Some(0));
    let second = Dev::start(&arguments);
    assert_eq!(second.json(&["entry", "list"]), entries);
    assert_eq!(
        std::fs::read(second.variable("TASKMINT_TRUST_BUNDLE")).unwrap(),
        bundle
    );
    assert_eq!(second.output(&["run", "--", "true"]).status.code(), Some(0));
    // Both starts of the signer are in one journal, and all that they signed is on record.
    let journal = folder.path().join("server/signer-journal");
    let journal = journal.to_str().unwrap();
    let audit = second.json(&["authority", "audit", "--journal", journal]);
    assert_eq!(audit["agrees"], true, "{audit}");
    assert_eq!(audit["signers"].as_array().unwrap().len(), 2);
    // One whose first signer lost its end, which the newest head knows nothing of.
    let written = std::fs::read(journal).unwrap();
    let entries: Vec<_> = written.chunks(88).collect();
    let of_first = entries
        .iter()
        .take_while(|entry| entry[..16] == entries[0][..16]);
    let of_first = of_first.count();
    let cut = folder.path().join("cut");
    let kept = [&entries[..of_first / 2], &entries[of_first..]].concat();
    std::fs::write(&cut, kept.concat()).unwrap();
    let cut = cut.to_str().unwrap();
    let audit = second.output(&["authority", "audit", "--journal", cut, "-o", "json"]);
    assert_eq!(audit.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let named = said["cut_off"][0].as_str().unwrap();
    let numbers = format!("number {}, ", of_first / 2);
    assert!(named.contains(&numbers), "{said}");
    assert_eq!(said["set_back"], Value::Null, "{said}");
    // One that was set back to before the newest head.
    let written = std::fs::read(journal).unwrap();
    let short = folder.path().join("short");
    std::fs::write(&short, &written[..88 * 4]).unwrap();
    let audit = second.output(&["authority", "audit", "--journal", short.to_str().unwrap()]);
    assert_eq!(audit.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&audit.stderr).contains("disagree"));
}

#[test]
fn entries_can_be_shown_and_created_again() {
    let (one, other) = (Dev::start(&[]), Dev::start(&[]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("entries.json");
    let create = [
        "entry",
        "create",
        "--spiffe-id",
        "/a",
        "--selector",
        "unix:uid:77",
        "--x509-ttl",
        "5m",
    ];
    assert_eq!(one.json(&create)["x509_ttl_ms"], 300_000);
    std::fs::write(&file, one.output(&["entry", "list", "-o", "json"]).stdout).unwrap();
    let created = other.output(&[
        "entry",
        "create",
        "--file",
        file.to_str().unwrap(),
        "-o",
        "json",
    ]);
    // The entry of `dev` is there already, the other one is new.
    assert_eq!(created.status.code(), Some(1));
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    assert_eq!(
        (&created[0]["reason"], &created[1]["reason"]),
        (&"ENTRY_EXISTS".into(), &Value::Null)
    );
    let id = created[1]["id"].as_str().unwrap();
    assert_eq!(
        other.json(&["entry", "update", id, "--owner", "ann"])["revision"],
        2
    );
    assert_eq!(other.json(&["entry", "delete", id])["tasks_ended"], 0);
    assert_eq!(other.output(&["entry", "show", id]).status.code(), Some(3));
}

#[test]
fn a_held_task_is_suspended_resumed_and_revoked_by_an_operator() {
    let dev = Dev::start(&[]);
    let mut begin = dev.command(&["task", "begin", "--purpose", "held", "-o", "json"]);
    let mut begin = begin
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let held = || dev.json(&["task", "list", "--admin"]);
    while held().as_array().unwrap().is_empty() {
        let over = begin.try_wait().unwrap().is_some() || Instant::now() > deadline;
        if over {
            drop(begin.kill());
            panic!("no task began: {:?}", begin.wait_with_output().unwrap());
        }
    }
    let id = dev.task("held")["id"].as_str().unwrap().to_owned();
    let task = |verb: &str| dev.json(&["task", verb, "--admin", &id]);
    assert_eq!(task("suspend")["state"], "suspended");
    assert_eq!(task("resume")["state"], "live");
    assert_eq!(task("tree")[0]["id"], id.as_str());
    assert_eq!(task("revoke")["task"]["ending"]["cause"], "revoked");
    // Who held it is told, and stays no longer.
    let output = begin.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let last = output
        .stderr
        .split(|octet| *octet == b'\n')
        .rfind(|line| !line.is_empty());
    let error: Value = serde_json::from_slice(last.unwrap()).unwrap();
    assert_eq!(error["error"]["reason"], "TASK_ENDED");
}

#[test]
fn an_end_is_waited_for_until_the_agent_has_heard_of_it() {
    let dev = Dev::start(&[]);
    // As an operator.
    let mut held = dev.command(&["run", "--purpose", "held", "--", "sleep", "60"]);
    let mut held = held.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let listed = || dev.json(&["task", "list", "--admin"]);
    while listed().as_array().unwrap().is_empty() {
        assert!(held.try_wait().unwrap().is_none() && Instant::now() < deadline);
    }
    let id = dev.task("held")["id"].as_str().unwrap().to_owned();
    let refused = dev.output(&["task", "revoke", "--timeout", "3s", &id]);
    assert_eq!(refused.status.code(), Some(64), "a timeout of no wait");
    let ended = dev.json(&["task", "revoke", &id, "--wait", "--timeout", "20s"]);
    let receipt = &ended["receipt"];
    assert_eq!(
        (&receipt["final"], &receipt["not_yet_count"]),
        (&true.into(), &0.into())
    );
    let agent = receipt["applied"][0]["spiffe_id"].as_str().unwrap();
    assert!(agent.contains("/taskmint/node/"), "{agent}");
    assert!(receipt["dead_everywhere_by_ms"].as_u64() > receipt["ended_at_ms"].as_u64());
    drop(held.kill());
    held.wait().unwrap();

    // As the holder, from within the task.
    let complete = format!(
        "{} task complete --wait -o json",
        env!("CARGO_BIN_EXE_taskmint")
    );
    let run = dev.output(&["run", "--purpose", "own", "--", "sh", "-c", &complete]);
    let ended: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    assert_eq!(ended["receipt"]["not_yet_count"], 0, "{ended}");
    assert_eq!(dev.task("own")["ending"]["cause"], "completed");

    let watchers = dev.json(&["watchers"]);
    let watcher = &watchers["watchers"][0];
    assert_eq!(
        (&watcher["lag"], &watcher["waited_for"]),
        (&0.into(), &true.into())
    );
}

#[test]
fn who_applied_an_end_behind_the_agent_is_printed_by_whose_word() {
    let dev = Dev::start(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _in_it = runtime.enter();
    let _watches = ["verifier-1", "verifier-2"].map(|name| {
        let socket = |name| PathBuf::from(dev.variable(name).strip_prefix("unix:").unwrap());
        let source = Source::Relay(socket("TASKMINT_REVOCATION_SOCKET"));
        let mut options = Options::new("dev.taskmint".parse().unwrap(), source, name);
        let workload = Endpoint::Unix(socket("SPIFFE_ENDPOINT_SOCKET"));
        options.bundles = Bundles::WorkloadApi(workload);
        let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
        let trust = Trust::new(Default::default());
        let watch = Watch::start(options, trust, clocks, entropy).unwrap();
        let synced = tokio::time::timeout(Duration::from_secs(30), watch.synced());
        runtime.block_on(synced).unwrap();
        watch
    });
    let behind = |watchers: &Value| {
        let all = watchers["watchers"].as_array().unwrap();
        all.iter().filter(|one| !one["relay"].is_null()).count()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while behind(&dev.json(&["watchers"])) < 2 {
        assert!(Instant::now() < deadline, "the server is told of both");
    }

    let complete = format!(
        "{} task complete --wait -o json",
        env!("CARGO_BIN_EXE_taskmint")
    );
    let run = dev.output(&["run", "--purpose", "own", "--", "sh", "-c", &complete]);
    let ended: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    let receipt = &ended["receipt"];
    let node = &receipt["applied"][0]["spiffe_id"];
    assert!(
        node.as_str().unwrap().contains("/taskmint/node/"),
        "{ended}"
    );
    let mut names = Vec::new();
    for hearer in receipt["applied_by_relay"].as_array().unwrap() {
        assert_eq!(&hearer["relay"], node, "{ended}");
        names.push(hearer["name"].as_str().unwrap());
    }
    names.sort_unstable();
    assert_eq!(names, ["verifier-1", "verifier-2"]);
    assert_eq!(receipt["not_yet_count"], 0);
    let said = String::from_utf8_lossy(&run.stderr);
    let counted = "heard by 3 of 3 (2 by their relay's word)";
    assert!(said.contains(counted), "{said}");
}
