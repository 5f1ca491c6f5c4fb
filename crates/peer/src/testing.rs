//! Real processes that play a part in tests. Feature `testing`; never in a binary.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};

use crate::facts::ProcessFacts;
use crate::held::HeldProcess;

/// How long a state may take to come about before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listening unix socket in a folder of its own, gone when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    folder: PathBuf,
    path: PathBuf,
}

/// A child process, killed and reaped when dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    program: PathBuf,
    output: Mutex<Option<BufReader<std::process::ChildStdout>>>,
}

impl Socket {
    /// Listens. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// As `bind`.
    pub fn bind() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("taskmint-peer-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        let path = folder.join("s");
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            folder,
            path,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection.
    ///
    /// # Errors
    /// As `accept`.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "a test's socket folder stays");
        }
    }
}

impl Actor {
    /// A process that does nothing.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn sleeping() -> io::Result<Self> {
        Self::spawn(sleep_of(&find("sleep")?))
    }

    /// A process that has connected to `socket` and then does nothing.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn connected(socket: &Socket) -> io::Result<Self> {
        Self::spawn_connected(socket, sleep_of(&find("sleep")?))
    }

    /// The copy of `sleep` at `program`, running after it has connected.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn copy_connected(socket: &Socket, program: &Path) -> io::Result<Self> {
        Self::spawn_connected(socket, sleep_of(program))
    }

    /// A process that has taken supplementary groups and then connected. Needs root.
    ///
    /// # Errors
    /// As `spawn`.
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    pub fn connected_with_groups(socket: &Socket, groups: &[u32]) -> io::Result<Self> {
        let groups: Vec<_> = groups
            .iter()
            .copied()
            .map(nix::unistd::Gid::from_raw)
            .collect();
        let mut command = sleep_of(&find("sleep")?);
        // SAFETY: a system call only, on memory that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(nix::unistd::setgroups(&groups)?));
        }
        Self::spawn_connected(socket, command)
    }

    /// A process that has connected and then taken another uid and gid. Needs root.
    ///
    /// # Errors
    /// As `spawn`.
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    pub fn connected_then_as(socket: &Socket, uid: u32, gid: u32) -> io::Result<Self> {
        let mut command = sleep_of(&find("sleep")?);
        connect_before_exec(&mut command, socket);
        let (uid, gid) = (
            nix::unistd::Uid::from_raw(uid),
            nix::unistd::Gid::from_raw(gid),
        );
        // SAFETY: system calls only; nothing of the parent's memory is relied on.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setresgid(gid, gid, gid)?;
                nix::unistd::setresuid(uid, uid, uid)?;
                Ok(())
            });
        }
        Self::spawn(command)
    }

    /// A shell that has connected and then runs `script`; the connection is open in it.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn script_connected(socket: &Socket, script: &str) -> io::Result<Self> {
        let mut command = Command::new(find("sh")?);
        command.args(["-c", script]);
        Self::spawn_connected(socket, command)
    }

    /// `command`, after it has connected.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn spawn_connected(socket: &Socket, mut command: Command) -> io::Result<Self> {
        connect_before_exec(&mut command, socket);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> io::Result<Self> {
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = Mutex::new(child.stdout.take().map(BufReader::new));
        Ok(Self {
            child,
            program,
            output,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that it was started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Lets a script go on that waits at `read go`.
    ///
    /// # Errors
    /// If it has exited.
    pub fn proceed(&mut self) -> io::Result<()> {
        let input = self.child.stdin.as_mut();
        input.ok_or(io::ErrorKind::BrokenPipe)?.write_all(b"go\n")
    }

    /// The next line that it prints, without its end.
    ///
    /// # Errors
    /// If it prints none.
    pub fn line(&self) -> io::Result<String> {
        let mut line = String::new();
        let mut output = self.output.lock();
        output
            .as_mut()
            .ok_or(io::ErrorKind::BrokenPipe)?
            .read_line(&mut line)?;
        if line.is_empty() {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(line.trim().into())
        }
    }

    /// Waits until its facts are as wanted.
    ///
    /// # Panics
    /// If it exits, or they are not for 20 seconds.
    pub fn until(&self, wanted: impl Fn(&ProcessFacts) -> bool) {
        until(self.pid(), wanted);
    }

    /// Kills and reaps it.
    ///
    /// # Errors
    /// As `kill` and `wait`.
    pub fn end(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Kills it and leaves a zombie.
    ///
    /// # Errors
    /// As `kill`.
    pub fn kill_without_reaping(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Kills a process that is not a child of this one.
    ///
    /// # Errors
    /// As `pidfd_send_signal`.
    pub fn kill_stranger(held: &HeldProcess) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(held, Signal::KILL)?)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::debug!(%error, "a test's child stays");
        }
    }
}

/// Waits until the facts of a process are as wanted.
///
/// # Panics
/// If it exits, or they are not for 20 seconds.
#[expect(clippy::panic, reason = "a test fails here")]
pub fn until(pid: u32, wanted: impl Fn(&ProcessFacts) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match HeldProcess::open(pid).and_then(|held| held.facts()) {
            Ok(facts) if wanted(&facts) => return,
            Ok(facts) if Instant::now() > deadline => panic!("still {facts:?}"),
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Says that a test did not run, past the test harness's capture, so that it is seen and counted.
pub fn skip(test: &str, why: &str) {
    if let Err(error) = writeln!(io::stderr(), "skipped: {test}: {why}") {
        tracing::debug!(%error, "can't say that a test is skipped");
    }
}

/// Whether a test must be skipped because it does not run as root.
pub fn needs_root(test: &str) -> bool {
    let needs = !rustix::process::geteuid().is_root();
    if needs {
        skip(test, "needs root");
    }
    needs
}

/// Raises this process's limit of open files to at least `files`.
///
/// # Errors
/// If the hard limit is lower.
pub fn raise_file_limit(files: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(files),
            maximum: limit.maximum,
        },
    )?)
}

/// A program in `PATH`, with all links resolved.
///
/// # Errors
/// If there is none of that name.
pub fn find(program: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no `{program}` in PATH")))?
        .canonicalize()
}

/// `sleep` for longer than any test; named so, because it may be one of many in one binary.
fn sleep_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg0("sleep").arg("1000");
    command
}

#[expect(unsafe_code, reason = "runs between fork and exec")]
fn connect_before_exec(command: &mut Command, socket: &Socket) {
    let path = socket.path().to_owned();
    // SAFETY: system calls only; the closure's own copy of the path is all it reads.
    unsafe {
        command.pre_exec(move || {
            let stream = StdUnixStream::connect(&path)?;
            rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::empty())?;
            std::mem::forget(stream);
            Ok(())
        });
    }
}
