//! Unix peers: who is at the other end of a socket, and for how long.
//!
//! A pid is a number that the kernel hands out again; a pidfd is the process. So a [`Peer`] is
//! captured when its connection is accepted, with a pidfd, and everything read from `/proc`
//! afterwards counts only while that pidfd says that the process lives. Tasks are held the same
//! way ([`HeldProcess`]), and [`Liveness`] tells the instant a holder is gone.
//!
//! ```text
//! accept ─> Peer::of ── first look ──┐                     ┌─> ancestry: who started it
//!                                    ├─ Peer::look (again) ┤
//!           pidfd ───────────────────┘                     └─> exited(): close the connection
//! ```
//!
//! Linux only. `SO_PEERPIDFD` came with 6.5; before that the pid is opened at accept and checked
//! against the socket's credentials, which leaves open the time between connect and accept.

mod ancestry;
mod boot;
mod error;
mod facts;
mod held;
mod liveness;
mod peer;
mod procfs;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use ancestry::{MAX_ANCESTRY, ancestry};
pub use boot::boot_id;
pub use error::{AncestryError, ChildError, LookError, PeerError, ProcessError};
pub use facts::{
    Executable, ExecutableError, FileIdentity, Ids, Namespaces, OpenExecutable, ProcessFacts,
};
pub use held::HeldProcess;
pub use liveness::{Exits, Liveness};
pub use peer::Peer;

/// A process named so that no other is ever meant: pid, start time in clock ticks, boot id.
pub use taskmint_model::Process as ProcessRef;
