//! Processes that connect for themselves: a child calls `connect` on a socket that the test holds
//! too, so the agent sees the child, and the test speaks for it.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use taskmint_peer::{HeldProcess, ProcessRef};
use tokio::net::UnixStream;

/// A child with a connection to each of the paths that it was given, and nothing else.
pub(crate) struct Puppet {
    child: Child,
    pub(crate) process: ProcessRef,
    /// A child of the child, if one was asked for.
    pub(crate) grandchild: Option<u32>,
    streams: Vec<Option<UnixStream>>,
}

impl Puppet {
    /// A child that connects to each of `paths`.
    pub(crate) fn connected(paths: &[&Path]) -> Self {
        Self::family(paths, &[])
    }

    /// A child that connects to each of `paths`, and a child of it that connects to each of
    /// `below`. Streams of both come in this order.
    #[expect(
        unsafe_code,
        reason = "runs between fork and exec, and never comes to exec"
    )]
    pub(crate) fn family(paths: &[&Path], below: &[&Path]) -> Self {
        let made: Vec<(OwnedFd, UnixAddr)> = paths.iter().chain(below).map(|p| made(p)).collect();
        let fds: Vec<_> = made
            .iter()
            .map(|(fd, address)| (fd.as_raw_fd(), *address))
            .collect();
        let (mut told, tell) = io::pipe().unwrap();
        let tell_fd = tell.as_raw_fd();
        let own = paths.len();
        let has_below = !below.is_empty();
        let mut command = Command::new("/bin/true");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: system calls only, on memory that was made before the fork.
        unsafe {
            command.pre_exec(move || {
                for (fd, address) in &fds[..own] {
                    connect(*fd, address)?;
                }
                if has_below {
                    match nix::unistd::fork()? {
                        nix::unistd::ForkResult::Child => {
                            let signal = nix::sys::signal::Signal::SIGKILL;
                            nix::sys::prctl::set_pdeathsig(signal)?;
                            for (fd, address) in &fds[own..] {
                                connect(*fd, address)?;
                            }
                            tell_and_wait(tell_fd, nix::unistd::getpid().as_raw())
                        }
                        nix::unistd::ForkResult::Parent { .. } => wait(),
                    }
                }
                tell_and_wait(tell_fd, 0)
            });
        }
        // The child closes the pipe that `spawn` waits on, as if it had come to exec.
        let child = command.spawn().unwrap();
        drop(tell);
        let mut pid = [0; 4];
        told.read_exact(&mut pid).unwrap();
        let pid = u32::from_ne_bytes(pid);
        let process = HeldProcess::open(child.id()).unwrap().process();
        let streams = made.into_iter().map(|(fd, _)| Some(stream(fd))).collect();
        Self {
            child,
            process,
            grandchild: (pid != 0).then_some(pid),
            streams,
        }
    }

    /// The connection to the path of this number.
    pub(crate) fn stream(&mut self, number: usize) -> UnixStream {
        self.streams[number].take().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills and reaps it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn made(path: &Path) -> (OwnedFd, UnixAddr) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    (fd, UnixAddr::new(path).unwrap())
}

fn stream(fd: OwnedFd) -> UnixStream {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

/// Says the pid, lets go of every descriptor and sleeps for ever.
#[expect(
    unsafe_code,
    reason = "closes descriptors that this copy of the process does not own"
)]
fn tell_and_wait(fd: i32, pid: i32) -> ! {
    // SAFETY: `pid` lives across the call; a failure shows as a test that reads nothing.
    unsafe { nix::libc::write(fd, pid.to_ne_bytes().as_ptr().cast(), 4) };
    wait()
}

#[expect(
    unsafe_code,
    reason = "closes descriptors that this copy of the process does not own"
)]
fn wait() -> ! {
    // SAFETY: nothing in this copy uses a descriptor any more.
    unsafe { nix::libc::close_range(0, u32::MAX, 0) };
    loop {
        nix::unistd::pause();
    }
}
