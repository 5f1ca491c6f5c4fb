//! A disk that takes no more: writes fail with a reason, reading goes on, nothing of what failed
//! stays. Once it takes more, writing goes on by itself: RocksDB's own doing after a full disk, and
//! by opening it anew after any other fault.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use taskmint_model::Task;
use taskmint_status::LogId;
use taskmint_store::conformance::sample::{self, NOW};
use taskmint_store::{
    Change, Commit, CommitError, Commits, Journal, Log, Registry, StoreError, Tasks, check_audit,
};
use taskmint_store_rocksdb::{Options, RocksStore};

const FOLDER: &str = "TASKMINT_FULL_FOLDER";

fn open(folder: &Path) -> RocksStore {
    let mut options = Options::default();
    // RocksDB writes again once there is room for every table's buffer: make that little.
    options.write_buffer = 4 << 20;
    RocksStore::open(folder, LogId([7; 8]), NOW, options).unwrap()
}

/// An entry with 32 KiB of labels, and an audit record.
fn large(number: u64) -> Commit {
    let mut entry = sample::entry(number);
    entry
        .labels
        .insert("large".to_owned(), format!("{number:x}").repeat(32 << 10));
    let changes = vec![
        Change::PutEntry(Box::new(entry)),
        Change::Audit(sample::audit("put")),
    ];
    Commit {
        expect: Vec::new(),
        changes,
    }
}

/// Begins a task and writes until nothing more goes; returns the task and what was acknowledged.
async fn fill(store: &RocksStore, reason: &str) -> (Task, u64) {
    let task = sample::begun(store, 1).await;
    let mut written = 0;
    let error = loop {
        match store.commit(large(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk gets full");
    };
    assert!(
        matches!(error, CommitError::Store(StoreError::Failed(_))),
        "{error:?}"
    );
    assert!(error.to_string().contains(reason), "{error}");
    assert!(
        store.commit(sample::end(&task)).await.is_err(),
        "no room, no end"
    );
    assert_eq!(
        store.entries().await.unwrap().len() as u64,
        written,
        "reading goes on"
    );
    assert_eq!(store.entry(sample::entry_id(written)).await.unwrap(), None);
    assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task));
    assert_eq!(store.position().borrow().sequence, 0);
    (task, written)
}

/// Checks that a store opened again holds what was acknowledged and nothing else.
async fn check(folder: &Path, task: &Task, written: u64, ended: bool) {
    let store = open(folder);
    let lines = store.audit(1, usize::MAX).await.unwrap();
    assert_eq!(check_audit(None, &lines), Ok(()));
    let commits = 1 + written + u64::from(ended);
    assert_eq!(
        lines.len() as u64,
        commits,
        "one audit record for each acknowledged commit"
    );
    assert_eq!(store.entries().await.unwrap().len() as u64, written);
    assert_eq!(
        store.task(task.id).await.unwrap().unwrap().is_ended(),
        ended
    );
    store.commit(large(written)).await.unwrap();
}

#[tokio::test]
#[ignore = "started by the tests beside it, where files can't grow"]
async fn bounded() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let store = open(folder);
    let (task, written) = fill(&store, "File too large").await;
    drop(store);
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(
        Resource::Fsize,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
    check(folder, &task, written, false).await;
}

#[tokio::test]
#[ignore = "started by the tests beside it, where files can't grow at first"]
async fn bounded_for_a_while() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let store = open(folder);
    let mut writable = store.writable();
    assert!(*writable.borrow_and_update());
    let (task, written) = fill(&store, "File too large").await;
    assert!(!*writable.borrow_and_update());
    // Nobody asks for anything: it is the store that tries.
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    let current = maximum;
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
    let recovered = writable.wait_for(|writable| *writable);
    tokio::time::timeout(Duration::from_secs(60), recovered)
        .await
        .unwrap()
        .unwrap();
    store.commit(sample::end(&task)).await.unwrap();
    assert_eq!(store.position().borrow().sequence, 1);
    drop(store);
    check(folder, &task, written, true).await;
}

#[tokio::test]
#[ignore = "started by the tests beside it, on a disk of its own"]
async fn filled() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let (ballast, folder) = (
        Path::new(&folder).join("ballast"),
        Path::new(&folder).join("db"),
    );
    std::fs::write(&ballast, vec![1; 56 << 20]).unwrap();
    let store = open(&folder);
    let (task, written) = fill(&store, "No space left").await;
    std::fs::remove_file(ballast).unwrap();
    let ended = async {
        // RocksDB looks every few seconds whether there is room again.
        while store.commit(sample::end(&task)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .unwrap();
    assert_eq!(store.position().borrow().sequence, 1);
    drop(store);
    check(&folder, &task, written, true).await;
}

/// Runs one of the above below a shell script.
fn run(test: &str, command: &str, script: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(command);
    command
        .args(script)
        .arg("sh")
        .arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", test, "--nocapture"]);
    let output = command.env(FOLDER, folder.path()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(
        output.status.success() && said[0].contains("1 passed"),
        "{said:?}"
    );
}

/// What a process ignores, the program that it becomes ignores too: the write then fails with EFBIG
/// instead of killing it.
const SMALL_FILES: &[&str] = &["-c", "trap '' XFSZ; ulimit -S -f 512; exec \"$@\""];

#[test]
fn a_write_that_fails_leaves_nothing_behind() {
    run("bounded", "sh", SMALL_FILES);
}

#[test]
fn a_store_whose_files_could_not_grow_goes_on_by_itself_once_they_can() {
    run("bounded_for_a_while", "sh", SMALL_FILES);
}

#[test]
fn a_full_disk_stops_writes_until_there_is_room() {
    let mut allowed = Command::new("unshare");
    allowed.args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    if !allowed.status().is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "mounting in a user namespace must work"
        );
        let why = "this machine lets nobody mount in a user namespace";
        let test = "a_full_disk_stops_writes_until_there_is_room";
        // Past the capture of the harness, so that it is seen and counted.
        return writeln!(io::stderr(), "skipped: {test}: {why}").unwrap();
    }
    let script = format!("mount -t tmpfs -o size=64m tmpfs \"${FOLDER}\" && exec \"$@\"");
    run("filled", "unshare", &["-rm", "sh", "-c", &script]);
}
