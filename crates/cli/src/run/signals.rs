//! Signals of this process: passed on to the command, except those that the terminal sends to both.

use nix::libc;
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use super::child::{Ended, Running};

/// Passed on.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals, caught for as long as this lives.
pub(super) struct Signals {
    caught: AsyncFd<SignalFd>,
    before: SigSet,
}

impl Signals {
    /// Catches signals from here on; must be called before there is a second thread.
    pub(super) fn catch() -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        for signal in FORWARDED {
            mask.add(signal);
        }
        let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let caught = SignalFd::with_flags(&mask, flags)?;
        #[expect(
            unsafe_code,
            reason = "that the descriptor stays open can't be told by its type"
        )]
        // SAFETY: `SignalFd` owns its descriptor and never hands it out or changes it.
        let caught = unsafe { AsyncFd::register(caught) }.map_err(|_| nix::Error::EBADF)?;
        Ok(Self { caught, before })
    }

    /// The mask that the caller of this program had.
    pub(super) fn before(&self) -> &SigSet {
        &self.before
    }

    /// Waits for a signal that ends programs, and says which.
    pub(super) async fn to_die(&self) -> i32 {
        loop {
            match self.next().await {
                Ok(info) if is_child(&info) => {}
                Ok(info) => return number(&info),
                Err(_) => return Signal::SIGTERM as i32,
            }
        }
    }

    /// Waits until the command has ended, and leaves its process on the table; passes on what
    /// comes meanwhile.
    pub(super) async fn until_ended(&self, child: &Running) -> nix::Result<Ended> {
        loop {
            // First, for it may have ended before anybody looked.
            if let Some(ended) = look(child.pid())? {
                return Ok(ended);
            }
            let info = self.next().await?;
            if is_child(&info) {
                reap_orphans(child.pid());
            } else if !reached_by_terminal(&info, child.pid())
                && let Ok(signal) = Signal::try_from(number(&info))
            {
                // It may have ended in this very moment.
                signal::kill(child.pid(), signal).ok();
            }
        }
    }

    async fn next(&self) -> nix::Result<siginfo> {
        loop {
            let mut ready = self
                .caught
                .readable()
                .await
                .map_err(|_| nix::Error::EBADF)?;
            match ready.get_inner().read_signal() {
                Ok(Some(info)) => return Ok(info),
                Ok(None) => ready.clear_ready(),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Best effort: the process is about to end.
        self.before.thread_set_mask().ok();
    }
}

fn number(info: &siginfo) -> i32 {
    i32::try_from(info.ssi_signo).unwrap_or(0)
}

fn is_child(info: &siginfo) -> bool {
    number(info) == Signal::SIGCHLD as i32
}

/// Ctrl-C goes to the whole foreground group: passed on, it would reach the command twice.
fn reached_by_terminal(info: &siginfo, child: Pid) -> bool {
    let same_group = nix::unistd::getpgid(Some(child)) == Ok(nix::unistd::getpgrp());
    info.ssi_code == libc::SI_KERNEL && same_group
}

/// How the command ended, if it has. It stays on the table: the agent gives the caller of `begin` a
/// moment to say how the task ended, and the process must not be somebody else by then.
fn look(child: Pid) -> nix::Result<Option<Ended>> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    match waitid(Id::Pid(child), flags) {
        Ok(WaitStatus::Exited(_, code)) => {
            Ok(Some(Ended::Exited(u8::try_from(code).unwrap_or(u8::MAX))))
        }
        Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(Ended::Signaled(signal as i32))),
        Ok(_) | Err(nix::Error::EINTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes orphans of the command off the table, once they ended.
fn reap_orphans(child: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    loop {
        // Looks first: the command itself must stay.
        let Ok(found) = waitid(Id::All, flags | WaitPidFlag::WNOWAIT) else {
            return;
        };
        match found.pid() {
            Some(pid) if pid != child => drop(waitid(Id::Pid(pid), flags)),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::child::Held;
    use super::*;

    /// Each on a thread of its own, for signal masks and tracing are the thread's.
    fn run(script: &str, then: impl FnOnce(&Running)) -> Ended {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let signals = Signals::catch().unwrap();
            let command = ["sh".into(), "-c".into(), script.into()];
            let child = Held::start(&command, signals.before())
                .unwrap()
                .release()
                .unwrap();
            then(&child);
            // Which thread of the test process gets SIGCHLD is chance, so it is asked again.
            let ended = loop {
                match look(child.pid()).unwrap() {
                    Some(ended) => break ended,
                    None => tokio::task::yield_now().await,
                }
            };
            assert_eq!(signals.until_ended(&child).await, Ok(ended));
            child.reap();
            ended
        })
    }

    #[test]
    fn an_exit_status_is_seen_while_the_process_is_still_there() {
        assert_eq!(run("exit 0", |_| ()), Ended::Exited(0));
        assert_eq!(run("exit 42", |_| ()), Ended::Exited(42));
    }

    #[test]
    fn an_end_by_signal_is_told_apart_from_an_exit_status() {
        assert_eq!(run("kill -TERM $$", |_| ()), Ended::Signaled(15));
        let killed = run("exec sleep 60", |child| {
            signal::kill(child.pid(), Signal::SIGKILL).unwrap();
        });
        assert_eq!(killed, Ended::Signaled(9));
        assert_eq!(killed.words(), "killed by SIGKILL");
    }
}
