//! The command's process: held at its first instruction, then let go, then reaped.
//!
//! It is traced from before `execve`, which stops it once the new program is in place. So the agent
//! sees the program that will run, and not one line of it has run. Should this process die
//! meanwhile, the kernel kills the command.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A command whose program is loaded and has not run yet. Dropped, it is killed.
pub(super) struct Held(Option<Running>);

/// A command that runs.
pub(super) struct Running {
    child: Child,
    pid: Pid,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    Exited(u8),
    /// By a signal.
    Signaled(i32),
}

/// Why a command does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// There is none of that name.
    #[error("there is no command `{0}`")]
    NoCommand(String),
    /// It is there, but can't be executed.
    #[error("`{0}` can't be executed")]
    NotExecutable(String, #[source] io::Error),
    /// It can't be held at its first instruction, or can't be started for want of something.
    #[error(
        "the command can't be started and held until its task has begun (is ptrace forbidden here?)"
    )]
    Held(#[source] io::Error),
}

impl Held {
    /// Starts a command; it will run with `mask` for its signal mask. Only the thread that started
    /// it can let it go.
    pub(super) fn start(command: &[OsString], mask: &SigSet) -> Result<Self, StartError> {
        let [program, arguments @ ..] = command else {
            return Err(StartError::NoCommand(String::new()));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        let trace = || ptrace::traceme().map_err(io::Error::from);
        #[expect(unsafe_code, reason = "only a fork can ask to be traced before execve")]
        // SAFETY: one system call without memory of its own: sound between fork and execve.
        unsafe {
            command.pre_exec(trace)
        };
        // Signals are still blocked in the child: one that came before `execve` would stop it where
        // nobody waits for that.
        let child = command
            .spawn()
            .map_err(|error| not_started(program, error))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let held = Self(Some(Running { child, pid }));
        held.wait_loaded(mask).map_err(StartError::Held)?;
        Ok(held)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, |running| running.child.id())
    }

    /// Lets it run.
    pub(super) fn release(mut self) -> nix::Result<Running> {
        let running = self.0.take().ok_or(Errno::ESRCH)?;
        if let Err(error) = ptrace::detach(running.pid, None) {
            self.0 = Some(running);
            return Err(error);
        }
        Ok(running)
    }

    /// Ends it before it ran.
    pub(super) fn kill(self) {
        drop(self);
    }

    fn wait_loaded(&self, mask: &SigSet) -> io::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap_or(i32::MAX));
        match waitpid(pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            other => return Err(io::Error::other(format!("unexpected: {other:?}"))),
        }
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        set_mask(pid, mask)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut running) = self.0.take() {
            // Gone already is as good; and then there is nothing to wait for but itself.
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}

impl Running {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Takes the process off the table: it has ended.
    pub(super) fn reap(mut self) {
        drop(self.child.wait());
    }
}

impl Ended {
    /// For the audit log.
    pub(super) fn words(self) -> String {
        match self {
            Self::Exited(code) => format!("exit status {code}"),
            Self::Signaled(signal) => match Signal::try_from(signal) {
                Ok(signal) => format!("killed by {signal}"),
                Err(_) => format!("killed by signal {signal}"),
            },
        }
    }
}

/// The signal mask that a stopped process will run with.
fn set_mask(pid: Pid, mask: &SigSet) -> io::Result<()> {
    // The kernel's own set has 64 bits, the C library's has 1024.
    let mut bits: u64 = 0;
    for signal in mask.iter() {
        bits |= 1 << (signal as u32 - 1);
    }
    #[expect(unsafe_code, reason = "no crate wraps this request")]
    // SAFETY: the request reads eight octets at the address, and `bits` has as many.
    let outcome = unsafe {
        libc::ptrace(
            PTRACE_SETSIGMASK,
            pid.as_raw(),
            size_of_val(&bits),
            &raw const bits,
        )
    };
    if outcome == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `linux/ptrace.h`; since Linux 3.11.
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

fn not_started(program: &OsString, error: io::Error) -> StartError {
    let shown = program.to_string_lossy().into_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => StartError::NoCommand(shown),
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EPERM) => {
            StartError::Held(error)
        }
        _ => StartError::NotExecutable(shown, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_command_is_loaded_and_has_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("ran");
        let command = ["touch".into(), witness.clone().into_os_string()];
        let held = Held::start(&command, &SigSet::empty()).unwrap();
        let exe = std::fs::read_link(format!("/proc/{}/exe", held.pid())).unwrap();
        let name = exe.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name.contains("touch") || name.contains("coreutils") || name.contains("busybox"),
            "{name}"
        );
        assert!(!witness.exists());
        let mut running = held.release().unwrap();
        assert!(running.child.wait().unwrap().success());
        assert!(witness.exists());
    }

    #[test]
    fn a_command_that_is_not_let_go_never_runs() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("ran");
        let held =
            Held::start(&["touch".into(), witness.clone().into()], &SigSet::empty()).unwrap();
        let pid = held.pid();
        held.kill();
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(!witness.exists());
    }

    #[test]
    fn a_command_runs_with_the_mask_that_the_caller_had() {
        let folder = tempfile::tempdir().unwrap();
        let status = folder.path().join("status");
        // Without a shell, which would begin with a mask of its own.
        let command = [
            "cp".into(),
            "/proc/self/status".into(),
            status.clone().into(),
        ];
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGUSR2);
        let mut running = Held::start(&command, &mask).unwrap().release().unwrap();
        running.child.wait().unwrap();
        let text = std::fs::read_to_string(status).unwrap();
        assert!(text.contains("SigBlk:\t0000000000000800\n"), "{text}");
    }
}
