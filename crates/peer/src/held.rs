//! A process that is held: a pidfd and the name of what it refers to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ProcessRef;
use crate::boot::boot_id;
use crate::error::ProcessError;
use crate::facts::{ExecutableError, OpenExecutable, ProcessFacts};
use crate::procfs::ProcDir;

/// A process by its pidfd. Clones share the descriptor and its one registration with epoll.
#[derive(Clone)]
pub struct HeldProcess(Arc<Held>);

struct Held {
    process: ProcessRef,
    pidfd: Arc<OwnedFd>,
    watch: OnceLock<AsyncFd<Arc<OwnedFd>>>,
    registering: Mutex<()>,
}

impl HeldProcess {
    /// Holds the process that has `pid` now.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if there is none.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        Self::from_pidfd(pid, open_pidfd(pid)?)
    }

    /// The same, with its parent's pid at that moment.
    pub(crate) fn open_with_parent(pid: u32) -> Result<(Self, u32), ProcessError> {
        Self::hold(pid, open_pidfd(pid)?)
    }

    /// Holds the process that `process` names, if it still lives: a later process with its pid
    /// started at another time or in another boot.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if it has exited; any other error leaves that open.
    pub fn adopt(process: ProcessRef) -> Result<Self, ProcessError> {
        if process.boot_id != own_boot_id(process.pid)? {
            return Err(ProcessError::Gone(process.pid));
        }
        let held = Self::open(process.pid)?;
        if held.process() == process {
            Ok(held)
        } else {
            Err(ProcessError::Gone(process.pid))
        }
    }

    /// Takes a pidfd of the process that has `pid`.
    pub(crate) fn from_pidfd(pid: u32, pidfd: OwnedFd) -> Result<Self, ProcessError> {
        Self::hold(pid, pidfd).map(|(held, _)| held)
    }

    fn hold(pid: u32, pidfd: OwnedFd) -> Result<(Self, u32), ProcessError> {
        let boot_id = own_boot_id(pid)?;
        let dir = ProcDir::open(pid)?;
        if !is_alive(pidfd.as_fd()) {
            return Err(ProcessError::Gone(pid));
        }
        // Still alive after the folder was opened, so the pid was its own all the time and the
        // folder is of the same process as the pidfd.
        let stat = dir.stat()?;
        let process = ProcessRef {
            pid,
            start_time: stat.start_time,
            boot_id,
        };
        let held = Self(Arc::new(Held {
            process,
            pidfd: Arc::new(pidfd),
            watch: OnceLock::new(),
            registering: Mutex::new(()),
        }));
        Ok((held, stat.parent))
    }

    /// Which process it is.
    pub fn process(&self) -> ProcessRef {
        self.0.process
    }

    /// Its pid, which is its own only while it lives.
    pub fn pid(&self) -> u32 {
        self.0.process.pid
    }

    /// Whether it has not exited. A zombie has.
    pub fn is_alive(&self) -> bool {
        is_alive(self.0.pidfd.as_fd())
    }

    /// Returns once it has exited. Any number of callers may wait; dropping the future is fine.
    ///
    /// The first call registers the pidfd with the runtime it runs on; later ones must run on
    /// the same.
    ///
    /// # Errors
    /// If the pidfd can't be registered, or the runtime is shutting down.
    pub async fn exited(&self) -> io::Result<()> {
        let watch = self.register()?;
        loop {
            let mut ready = watch.readable().await?;
            if !self.is_alive() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Facts of this process, of no heir of its pid.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if it exits before all is read.
    pub fn facts(&self) -> Result<ProcessFacts, ProcessError> {
        let facts = ProcessFacts::read(&self.folder()?, self.process())?;
        self.still(facts)
    }

    /// Opens the file that it runs.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if it has exited; `Ok(Err(..))` if it lives and its executable
    /// can't be opened.
    pub fn executable(&self) -> Result<Result<OpenExecutable, ExecutableError>, ProcessError> {
        let executable = OpenExecutable::open(&self.folder()?);
        self.still(executable)
    }

    /// Its parent's pid now; 0 where the parent is outside this pid namespace.
    pub(crate) fn parent(&self) -> Result<u32, ProcessError> {
        let stat = self.folder()?.stat()?;
        self.still(stat.parent)
    }

    /// Registers the pidfd with the runtime, once. Panics outside a runtime, as all of tokio does.
    #[expect(unsafe_code, reason = "tokio registers descriptors by number")]
    pub(crate) fn register(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        let held = &*self.0;
        let _one_at_a_time = held.registering.lock();
        if let Some(watch) = held.watch.get() {
            return Ok(watch);
        }
        let pidfd = Arc::clone(&held.pidfd);
        // SAFETY: the registration owns a share of the descriptor, which is never exchanged and
        // is closed only after the registration is gone.
        let watch = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(held.watch.get_or_init(|| watch))
    }

    /// Its folder: opened while it lived, so it is no heir's.
    fn folder(&self) -> Result<ProcDir, ProcessError> {
        let folder = ProcDir::open(self.pid())?;
        self.still(folder)
    }

    /// `value`, if the process lives after it was read.
    fn still<T>(&self, value: T) -> Result<T, ProcessError> {
        if self.is_alive() {
            Ok(value)
        } else {
            Err(ProcessError::Gone(self.pid()))
        }
    }
}

impl AsFd for HeldProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

impl fmt::Debug for HeldProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldProcess({})", self.process())
    }
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, ProcessError> {
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(ProcessError::Gone(pid))?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        // INVAL and NOENT: the number is a thread's by now, so no longer that process's.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Err(ProcessError::Gone(pid)),
        Err(errno) => Err(ProcessError::Unreadable {
            pid,
            what: "pidfd",
            source: errno.into(),
        }),
    }
}

fn own_boot_id(pid: u32) -> Result<[u8; 16], ProcessError> {
    boot_id().map_err(|source| ProcessError::Unreadable {
        pid,
        what: "boot id",
        source,
    })
}

/// A pidfd is readable once its process has exited, and stays so after it was reaped.
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)) {
            Ok(fired) => return fired == 0,
            Err(Errno::INTR) => {}
            // Says nothing: a peer that can't be told alive counts as gone.
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Actor;

    #[tokio::test]
    async fn a_held_process_is_seen_to_exit_by_all_who_wait() {
        let mut actor = Actor::sleeping().unwrap();
        let held = HeldProcess::open(actor.pid()).unwrap();
        assert!(held.is_alive());
        let waiters = [
            held.clone(),
            held.clone(),
            HeldProcess::open(actor.pid()).unwrap(),
        ];
        let waiting = waiters.map(|held| tokio::spawn(async move { held.exited().await }));
        actor.kill_without_reaping().unwrap();
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
        assert!(!held.is_alive(), "a zombie does not live");
        assert!(held.facts().unwrap_err().is_gone());
        actor.end().unwrap();
        assert!(!held.is_alive());
        held.exited().await.unwrap();
    }

    #[test]
    fn only_the_same_process_is_adopted() {
        let mut actor = Actor::sleeping().unwrap();
        let process = HeldProcess::open(actor.pid()).unwrap().process();
        assert_eq!(HeldProcess::adopt(process).unwrap().process(), process);

        let reused = ProcessRef {
            start_time: process.start_time - 1,
            ..process
        };
        assert!(HeldProcess::adopt(reused).unwrap_err().is_gone());
        let other_boot = ProcessRef {
            boot_id: [7; 16],
            ..process
        };
        assert!(HeldProcess::adopt(other_boot).unwrap_err().is_gone());
        for nobody in [0, u32::MAX, 4_194_305] {
            assert!(HeldProcess::open(nobody).unwrap_err().is_gone(), "{nobody}");
        }

        actor.end().unwrap();
        assert!(HeldProcess::adopt(process).unwrap_err().is_gone());
    }

    #[test]
    fn facts_are_those_of_the_process() {
        let actor = Actor::sleeping().unwrap();
        let facts = HeldProcess::open(actor.pid()).unwrap().facts().unwrap();
        assert_eq!(facts.process.pid, actor.pid());
        assert_eq!(facts.parent, std::process::id());
        assert!(facts.uid.are_all(rustix::process::geteuid().as_raw()));
        assert!(facts.gid.are_all(rustix::process::getegid().as_raw()));
        assert_eq!(facts.namespaces, crate::Namespaces::own().unwrap());
        let executable = facts.executable.unwrap();
        assert_eq!(executable.path, actor.program());
        let file = std::fs::File::open(actor.program()).unwrap();
        assert_eq!(executable.file, crate::FileIdentity::of(&file).unwrap());
        assert!(!executable.is_setuid() && !executable.is_setgid());
    }
}
