//! The whole shell in a process of its own, with real signals and a real notification socket.
//!
//! Without the test harness, because the child is this same executable, started again.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of it is test code, though built without the harness"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use taskmint_daemon::{Failure, Tasks, exit, logging};

const ROLE: &str = "TASKMINT_DAEMON_TEST_ROLE";

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return child(role);
    }
    let cases: [(&str, fn()); 5] = [
        (
            "a_stop_signal_drains_and_exits_well",
            a_stop_signal_drains_and_exits_well,
        ),
        ("a_second_stop_signal_is_hard", a_second_stop_signal_is_hard),
        (
            "a_panic_ends_the_process_with_its_code",
            a_panic_ends_the_process_with_its_code,
        ),
        (
            "a_wrong_configuration_has_its_own_code",
            a_wrong_configuration_has_its_own_code,
        ),
        (
            "as_many_files_may_be_open_as_the_hard_limit_allows",
            as_many_files_may_be_open_as_the_hard_limit_allows,
        ),
    ];
    for (name, case) in cases {
        case();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// Says what happens on standard output, one line each, so that the parent waits for states.
fn child(role: String) -> ExitCode {
    taskmint_daemon::run("child", |tasks: Tasks| async move {
        if role == "limited" {
            let limit = getrlimit(Resource::Nofile);
            assert_eq!(limit.current, limit.maximum);
            return Ok(());
        }
        if role == "misconfigured" {
            return Err(Failure::config("x.toml:3:1: unknown key `a`"));
        }
        logging::init(logging::Format::Json, "info").map_err(Failure::usage)?;
        let mut reloads = tasks.reload().subscribe();
        tasks.readiness().condition("child").set(true);
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_once("worker", async move {
            let guard = shutdown.guard();
            say("up")?;
            reloads.next().await;
            say("reloaded")?;
            if role == "panicking" {
                panic!("by order");
            }
            shutdown.requested().await;
            say("stopping")?;
            if role == "stubborn" {
                shutdown.forced().await;
            }
            drop(guard);
            Ok::<(), io::Error>(())
        });
        Ok(())
    })
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

struct Running {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
    notified: UnixDatagram,
    _folder: tempfile::TempDir,
}

fn as_many_files_may_be_open_as_the_hard_limit_allows() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$0\""]);
    command.arg(std::env::current_exe().expect("own path"));
    let ended = command.env(ROLE, "limited").status().expect("a child");
    assert_eq!(ended.code(), Some(i32::from(exit::OK)));
}

impl Running {
    fn start(role: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("notify");
        let notified = UnixDatagram::bind(&socket).expect("a socket");
        notified
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .env(ROLE, role)
            .env("NOTIFY_SOCKET", &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            child,
            lines,
            notified,
            _folder: folder,
        }
    }

    fn expect_line(&mut self, expected: &str) {
        assert_eq!(self.lines.next().expect("a line").expect("text"), expected);
    }

    fn expect_notification(&self, expected: &str) {
        let mut buffer = [0; 256];
        let length = self.notified.recv(&mut buffer).expect("a notification");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.lines().any(|line| line == expected), "{text:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child lives");
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut log)
            .expect("text");
        (self.child.wait().expect("ended").code(), log)
    }
}

fn a_stop_signal_drains_and_exits_well() {
    let mut running = Running::start("obedient");
    running.expect_line("up");
    running.expect_notification("READY=1");
    running.signal(Signal::HUP);
    running.expect_line("reloaded");
    running.signal(Signal::TERM);
    running.expect_notification("STOPPING=1");
    running.expect_line("stopping");
    let (code, log) = running.end();
    assert_eq!(code, Some(i32::from(exit::OK)), "{log}");
    assert!(
        log.lines().all(|line| line.starts_with('{')),
        "not JSON: {log}"
    );
}

fn a_second_stop_signal_is_hard() {
    let mut running = Running::start("stubborn");
    running.expect_line("up");
    running.signal(Signal::HUP);
    running.expect_line("reloaded");
    running.signal(Signal::INT);
    running.expect_line("stopping");
    running.signal(Signal::TERM);
    let (code, log) = running.end();
    assert_eq!(code, Some(i32::from(exit::NOT_DRAINED)), "{log}");
}

fn a_panic_ends_the_process_with_its_code() {
    let mut running = Running::start("panicking");
    running.expect_line("up");
    running.signal(Signal::HUP);
    running.expect_line("reloaded");
    let (code, log) = running.end();
    assert_eq!(code, Some(i32::from(exit::PANICKED)), "{log}");
    assert!(log.contains("task `worker` panicked: by order"), "{log}");
}

fn a_wrong_configuration_has_its_own_code() {
    let (code, log) = Running::start("misconfigured").end();
    assert_eq!(code, Some(i32::from(exit::CONFIG)));
    assert_eq!(log, "child: x.toml:3:1: unknown key `a`\n");
}
