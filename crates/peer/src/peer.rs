//! The process at the other end of a unix socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

use crate::ProcessRef;
use crate::error::{ChildError, LookError, PeerError, ProcessError};
use crate::facts::ProcessFacts;
use crate::held::HeldProcess;

/// Who connected: the process that called `connect`, whoever holds the socket now.
///
/// The identity of a connection is that of this process for as long as the connection lives;
/// close it when [`exited`](Self::exited) returns, even if an heir holds the descriptor.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Captured>);

#[derive(Debug)]
struct Captured {
    uid: u32,
    gid: u32,
    held: HeldProcess,
    first: ProcessFacts,
}

impl Peer {
    /// Captures the peer of a connection and takes the first look. Call it at accept.
    ///
    /// # Errors
    /// Any error is a denial: close the connection.
    pub fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        Self::of_socket(stream)
    }

    /// A child that the peer names, as a peer of its own: attested by what it is itself.
    ///
    /// Only a process's own child can be named, and not a grandchild: no pid that the peer could
    /// have learnt elsewhere is accepted.
    ///
    /// # Errors
    /// If `pid` is no child of the peer, or either has exited.
    pub fn child(&self, pid: u32) -> Result<Self, ChildError> {
        let held = HeldProcess::open(pid)?;
        let first = held.facts()?;
        // Held, then read, and the parent alive afterwards: no other process had its pid.
        if first.parent != self.pid() {
            return Err(ChildError::NotAChild {
                child: pid,
                parent: self.pid(),
            });
        }
        if !self.is_alive() {
            return Err(ProcessError::Gone(self.pid()).into());
        }
        let (uid, gid) = (first.uid.effective, first.gid.effective);
        Ok(Self(Arc::new(Captured {
            uid,
            gid,
            held,
            first,
        })))
    }

    /// Effective uid at connect.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Effective gid at connect.
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// Its pid, which is its own only while it lives.
    pub fn pid(&self) -> u32 {
        self.0.held.pid()
    }

    /// Which process it is.
    pub fn process(&self) -> ProcessRef {
        self.0.held.process()
    }

    /// The process itself, held.
    pub fn held(&self) -> &HeldProcess {
        &self.0.held
    }

    /// What was seen when it was accepted.
    pub fn first_look(&self) -> &ProcessFacts {
        &self.0.first
    }

    /// Whether it has not exited.
    pub fn is_alive(&self) -> bool {
        self.0.held.is_alive()
    }

    /// Returns once it has exited.
    ///
    /// # Errors
    /// As [`HeldProcess::exited`].
    pub async fn exited(&self) -> io::Result<()> {
        self.0.held.exited().await
    }

    /// Looks again: before each reply that mints or changes something.
    ///
    /// All its uids and gids must be those it connected with, at the first look and now, and it
    /// must run the same file. A file replaced on disk while it runs is still the same file.
    ///
    /// # Errors
    /// Any error is a denial.
    pub fn look(&self) -> Result<ProcessFacts, LookError> {
        let now = self.0.held.facts()?;
        self.credentials_hold(self.first_look())?;
        self.credentials_hold(&now)?;
        if let (Ok(then), Ok(now)) = (&self.first_look().executable, &now.executable)
            && !then.file.same_inode(&now.file)
        {
            return Err(LookError::Executable { pid: self.pid() });
        }
        Ok(now)
    }

    fn of_socket(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)
            .map_err(|errno| PeerError::Credentials(errno.into()))?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        if pid == 0 {
            return Err(PeerError::Invisible);
        }
        let held = match pidfd_of(socket)? {
            Some(pidfd) => HeldProcess::from_pidfd(pid, pidfd)?,
            None => hold_by_pid(pid, uid, gid)?,
        };
        let first = held.facts()?;
        Ok(Self(Arc::new(Captured {
            uid,
            gid,
            held,
            first,
        })))
    }

    fn credentials_hold(&self, facts: &ProcessFacts) -> Result<(), LookError> {
        let (uid, gid) = (self.uid(), self.gid());
        // All four: a process between two users could be either of them a moment later.
        if facts.uid.are_all(uid) && facts.gid.are_all(gid) {
            return Ok(());
        }
        let (uids, gids) = (facts.uid, facts.gid);
        Err(LookError::Credentials {
            pid: self.pid(),
            uid,
            gid,
            uids,
            gids,
        })
    }
}

/// The peer's pidfd; none if this kernel has no such option. Any other error is a denial.
fn pidfd_of(socket: &impl AsFd) -> Result<Option<OwnedFd>, PeerError> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(errno) => Err(PeerError::Pidfd(errno.into())),
    }
}

/// Before Linux 6.5: holds whoever has the pid, if start time and credentials agree.
///
/// A process that took over the pid between connect and accept under the same uid and gid is
/// not told apart.
fn hold_by_pid(pid: u32, uid: u32, gid: u32) -> Result<HeldProcess, PeerError> {
    let before = HeldProcess::open(pid)?.process();
    let held = HeldProcess::open(pid)?;
    let facts = held.facts()?;
    if held.process() != before || facts.uid.effective != uid || facts.gid.effective != gid {
        return Err(PeerError::Replaced(pid));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Ids;
    use crate::testing::{Actor, Socket, needs_root};

    const CHANGED: &str = "PEER_CREDENTIALS_CHANGED";

    /// This process, as a peer of itself.
    fn own() -> Captured {
        let held = HeldProcess::open(std::process::id()).unwrap();
        let first = held.facts().unwrap();
        Captured {
            uid: first.uid.effective,
            gid: first.gid.effective,
            held,
            first,
        }
    }

    #[tokio::test]
    async fn a_peer_is_the_process_that_connected() {
        let socket = Socket::bind().unwrap();
        let mut actor = Actor::connected(&socket).unwrap();
        let peer = Peer::of(&socket.accept().await.unwrap()).unwrap();
        assert_eq!(peer.pid(), actor.pid());
        assert_eq!(peer.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(&peer.look().unwrap(), peer.first_look());
        actor.end().unwrap();
        peer.exited().await.unwrap();
        assert!(!peer.is_alive());
        assert_eq!(peer.look().unwrap_err().reason(), "PEER_GONE");
    }

    #[tokio::test]
    async fn a_peer_that_left_before_accept_is_denied() {
        let socket = Socket::bind().unwrap();
        Actor::connected(&socket).unwrap().end().unwrap();
        let error = Peer::of(&socket.accept().await.unwrap()).unwrap_err();
        assert!(
            ["PEER_GONE", "PEER_UNKNOWN"].contains(&error.reason()),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_heir_of_the_socket_is_not_the_peer() {
        let socket = Socket::bind().unwrap();
        // The shell connects, leaves the socket to a child, and exits.
        let mut actor = Actor::script_connected(&socket, "sleep 1000 & echo $!; read go").unwrap();
        let stream = socket.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        let heir = peer.child(actor.line().unwrap().parse().unwrap()).unwrap();
        actor.proceed().unwrap();
        peer.exited().await.unwrap();
        assert_eq!(peer.look().unwrap_err().reason(), "PEER_GONE");
        // The heir still holds the other end.
        let mut byte = [0];
        assert_eq!(
            stream.try_read(&mut byte).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        Actor::kill_stranger(heir.held()).unwrap();
    }

    #[tokio::test]
    async fn one_that_gave_up_its_uid_is_not_who_connected() {
        if needs_root("one_that_gave_up_its_uid_is_not_who_connected") {
            return;
        }
        let socket = Socket::bind().unwrap();
        let _actor = Actor::connected_then_as(&socket, 65_533, 65_533).unwrap();
        let peer = Peer::of(&socket.accept().await.unwrap()).unwrap();
        assert_eq!(peer.uid(), 0);
        let error = peer.look().unwrap_err();
        assert_eq!(error.reason(), CHANGED);
        assert!(
            error
                .to_string()
                .contains("connected as 0:0 and runs as 65533:65533"),
            "{error}"
        );
    }

    #[test]
    fn credentials_must_hold_at_both_looks() {
        let held = HeldProcess::open(std::process::id()).unwrap();
        let facts = held.facts().unwrap();
        let peer = |uid, first| {
            Peer(Arc::new(Captured {
                uid,
                held: held.clone(),
                first,
                ..own()
            }))
        };
        let own_uid = own().uid;
        peer(own_uid, facts.clone()).look().unwrap();
        let other = Ids {
            saved: own_uid + 1,
            ..facts.uid
        };
        let only_then = ProcessFacts {
            uid: other,
            ..facts.clone()
        };
        assert_eq!(
            peer(own_uid, only_then).look().unwrap_err().reason(),
            CHANGED
        );
        let uid = own_uid + 1;
        let all = Ids {
            real: uid,
            effective: uid,
            saved: uid,
            filesystem: uid,
        };
        let only_now = ProcessFacts { uid: all, ..facts };
        assert_eq!(peer(uid, only_now).look().unwrap_err().reason(), CHANGED);
    }

    #[tokio::test]
    async fn one_that_executes_another_file_is_refused() {
        let socket = Socket::bind().unwrap();
        let mut actor = Actor::script_connected(&socket, "read go; exec sleep 1000").unwrap();
        let peer = Peer::of(&socket.accept().await.unwrap()).unwrap();
        peer.look().unwrap();
        let shell = peer.first_look().executable.clone().unwrap();
        actor.proceed().unwrap();
        actor.until(|facts| {
            facts
                .executable
                .as_ref()
                .is_ok_and(|e| e.file != shell.file)
        });
        assert_eq!(peer.look().unwrap_err().reason(), "PEER_EXECUTABLE_CHANGED");
    }

    #[tokio::test]
    async fn only_an_own_child_can_be_named() {
        let socket = Socket::bind().unwrap();
        let own = std::os::unix::net::UnixStream::connect(socket.path()).unwrap();
        let peer = Peer::of(&socket.accept().await.unwrap()).unwrap();
        drop(own);
        let actor = Actor::sleeping().unwrap();
        let child = peer.child(actor.pid()).unwrap();
        assert_eq!(child.pid(), actor.pid());
        child.look().unwrap();
        for stranger in [1, std::process::id()] {
            assert_eq!(peer.child(stranger).unwrap_err().reason(), "NOT_A_CHILD");
        }
        assert_eq!(child.child(peer.pid()).unwrap_err().reason(), "NOT_A_CHILD");
    }

    #[test]
    fn without_peer_pidfds_another_user_with_the_pid_is_refused() {
        let actor = Actor::sleeping().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        assert_eq!(
            hold_by_pid(actor.pid(), uid, gid).unwrap().pid(),
            actor.pid()
        );
        for (uid, gid) in [(uid + 1, gid), (uid, gid + 1)] {
            let error = hold_by_pid(actor.pid(), uid, gid).unwrap_err();
            assert!(matches!(error, PeerError::Replaced(_)), "{error}");
        }
    }
}
