//! What can be wrong with a process or a peer. Each error has a stable reason for its caller.

use std::io;

use crate::facts::Ids;

/// Why a process could not be held or read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has exited, or its pid belongs to another process by now.
    #[error("process {0} is gone")]
    Gone(u32),
    /// The kernel refused something about a process that may still live. Nothing follows about
    /// its life, so a task is never ended for this.
    #[error("can't read {what} of process {pid}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// Which fact.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `/proc` holds something that this version does not understand.
    #[error("can't understand {what} of process {pid}")]
    Malformed {
        /// The process.
        pid: u32,
        /// Which fact.
        what: &'static str,
    },
    /// More than is ever read.
    #[error("{what} of process {pid} has more than {limit} bytes")]
    TooLarge {
        /// The process.
        pid: u32,
        /// Which fact.
        what: &'static str,
        /// The bound in bytes.
        limit: usize,
    },
}

/// Why a connection has no peer that could be attested.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// `SO_PEERCRED` failed.
    #[error("the socket names no peer")]
    Credentials(#[source] io::Error),
    /// The peer lives in a pid namespace that this process can't see into.
    #[error("the peer is outside this pid namespace")]
    Invisible,
    /// `SO_PEERPIDFD` failed, other than by not existing.
    #[error("the socket gives no pidfd of its peer")]
    Pidfd(#[source] io::Error),
    /// Without `SO_PEERPIDFD`: the process that has the peer's pid is not who connected.
    #[error("process {0} is not the one that connected")]
    Replaced(u32),
    /// The peer could not be held or read.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Why a named child was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Only a process's own children can be named by it.
    #[error("process {child} is no child of process {parent}")]
    NotAChild {
        /// The process that was named.
        child: u32,
        /// Who named it.
        parent: u32,
    },
    /// The child, or who named it, could not be held or read.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Why a second look at a peer refused it.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its uids or gids are not, all of them, those that it connected with.
    #[error("process {pid} connected as {uid}:{gid} and runs as {uids}:{gids}")]
    Credentials {
        /// The peer.
        pid: u32,
        /// Effective uid at connect.
        uid: u32,
        /// Effective gid at connect.
        gid: u32,
        /// The uids it has.
        uids: Ids,
        /// The gids it has.
        gids: Ids,
    },
    /// It runs another file than when its connection was accepted.
    #[error("process {pid} has executed another file since it was accepted")]
    Executable {
        /// The peer.
        pid: u32,
    },
}

/// Why a walk up the parents gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum AncestryError {
    /// A process on the way could not be held or read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// More ancestors than [`MAX_ANCESTRY`](crate::MAX_ANCESTRY).
    #[error("process {0} has too many ancestors")]
    TooDeep(u32),
    /// Parents changed during each of several walks.
    #[error("the ancestors of process {0} keep changing")]
    Unstable(u32),
}

impl ProcessError {
    /// Whether the process no longer exists (rather than that it can't be read).
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }

    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone(_) => "PEER_GONE",
            Self::Unreadable { .. } | Self::Malformed { .. } | Self::TooLarge { .. } => {
                "PEER_UNREADABLE"
            }
        }
    }
}

impl PeerError {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Credentials(_) | Self::Pidfd(_) => "PEER_UNKNOWN",
            Self::Invisible => "PEER_INVISIBLE",
            Self::Replaced(_) => "PEER_GONE",
            Self::Process(error) => error.reason(),
        }
    }
}

impl ChildError {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAChild { .. } => "NOT_A_CHILD",
            Self::Process(error) => error.reason(),
        }
    }
}

impl LookError {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Process(error) => error.reason(),
            Self::Credentials { .. } => "PEER_CREDENTIALS_CHANGED",
            Self::Executable { .. } => "PEER_EXECUTABLE_CHANGED",
        }
    }
}

impl AncestryError {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Process(error) => error.reason(),
            Self::TooDeep(_) => "ANCESTRY_TOO_DEEP",
            Self::Unstable(_) => "ANCESTRY_UNSTABLE",
        }
    }
}
