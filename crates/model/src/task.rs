//! Tasks: the root of every credential.

use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_status::Place;

use crate::{Authority, EntryId, Process, TaskId, Timestamp};

pub use taskmint_status::Cause;

/// One SPIFFE ID acting for one owner and one purpose, until it ends. Everything is minted under
/// a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Names it. Grants nothing.
    pub id: TaskId,
    /// Goes up with every change, a child's begin included.
    pub version: u64,
    /// The task at the top of its tree; itself for a root.
    pub root: TaskId,
    /// The task that delegated to it.
    pub parent: Option<TaskId>,
    /// How far below its root; 0 for a root.
    pub depth: u8,
    /// The ended task that this one follows without a gap (P4).
    pub continues: Option<TaskId>,
    /// Where its two status bits are.
    pub place: Place,
    /// What kind of holder it has.
    pub kind: TaskKind,
    /// The entry that allowed it; none for nodes and servers.
    pub entry: Option<EntryId>,
    /// The identity it carries.
    pub spiffe_id: SpiffeId,
    /// On whose behalf.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// What it may ask for.
    pub authority: Authority,
    /// When it began, when it ends, and the latest it can be made to.
    pub times: TaskTimes,
    /// How many children it may have and how deep.
    pub limits: Limits,
    /// Live children now.
    pub children: u32,
    /// Who holds it: when the holder is gone, so is the task.
    pub holder: Holder,
    /// Who sees it (P1).
    pub binding: Binding,
    /// Where it is in its life.
    pub state: State,
    /// The signer's proof that these facts were stated at begin (P23); opaque here.
    pub grant: Vec<u8>,
}

/// When a task began, when it ends, and the latest it can be made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskTimes {
    /// Begin.
    pub opened: Timestamp,
    /// When it ends unless extended.
    pub deadline: Timestamp,
    /// The latest deadline that it can ever get; its bucket is this instant's hour.
    pub limit: Timestamp,
}

/// What kind of holder a task has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskKind {
    /// Begun by a call.
    Explicit,
    /// Begun by an unmodified SPIFFE client; as long as its process.
    Implicit,
    /// A node's own.
    Node,
    /// A server's own.
    Server,
}

/// How many children a task may have and how deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most live children.
    pub children: u32,
    /// Levels below this task.
    pub depth: u8,
}

/// Who holds a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// The node whose lease it depends on.
    pub node: Option<SpiffeId>,
    /// The process whose life it depends on.
    pub process: Option<Process>,
}

/// Who sees a task (P1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// The holder alone.
    Process,
    /// The holder and its descendants.
    Tree,
    /// Peers with this uid on a socket folder of its own.
    Socket {
        /// Whose folder.
        uid: u32,
    },
    /// No process: nodes, servers, and tasks that an orchestrator began.
    None,
}

/// Where a task is in its life. Each variant holds exactly what is known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Credentials may be minted.
    Live,
    /// Nothing may be minted; the only state that comes back.
    Suspended {
        /// Placed on this task itself, if at all.
        own: Option<Suspension>,
        /// Suspended because an ancestor is.
        inherited: bool,
    },
    /// For good.
    Ended {
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
        /// By whom.
        by: Actor,
        /// What it takes to say by when nobody accepts it any more.
        trace: EndTrace,
    },
}

/// What is known of an end beside the end itself: what a receipt is made of (P18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndTrace {
    /// Position in the revocation log at which the task, and everything below it that ended with
    /// it, has ended. None until it is committed, and for ends of another log.
    pub position: Option<u64>,
    /// No credential that was minted under the task, or under anything below it that ended with it,
    /// lasts longer. At 1970 if none was minted. None: as long as the task could have.
    pub last_expiry: Option<Timestamp>,
}

/// Who suspended a task and why: only the same rank or a higher one lifts it (P5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// Who placed it.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// Why, as said.
    pub reason: String,
}

/// Who acts on a task, lowest rank first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The process that holds the task.
    Holder,
    /// The holder of a task above it.
    Ancestor(TaskId),
    /// The agent of its node.
    Node(SpiffeId),
    /// A named administrator.
    Admin(String),
    /// The issuer itself: deadlines, leases.
    Issuer,
}

/// A bar on new implicit tasks: an ended identity is not begun again by a retry (P3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// The entry it bars.
    pub entry: EntryId,
    /// The node it holds on.
    pub node: SpiffeId,
    /// The process it bars, with its descendants.
    pub process: Process,
    /// The task whose end placed it.
    pub task: TaskId,
    /// When it was placed.
    pub at: Timestamp,
}

impl Task {
    /// Whether credentials may be minted under it at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Live) && now < self.times.deadline
    }

    /// Whether it has ended for good.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// What is left until its deadline.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.times.deadline.since(now)
    }
}

impl State {
    /// The word for it: `live`, `suspended` or `ended`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspended { .. } => "suspended",
            Self::Ended { .. } => "ended",
        }
    }
}

impl TaskKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Implicit => "implicit",
            Self::Node => "node",
            Self::Server => "server",
        }
    }
}

impl Binding {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Tree => "tree",
            Self::Socket { .. } => "socket",
            Self::None => "none",
        }
    }
}

impl Actor {
    /// How high the actor stands: a suspension is lifted by the same rank or a higher one (P5).
    pub fn rank(&self) -> u8 {
        match self {
            Self::Holder => 0,
            Self::Ancestor(_) => 1,
            Self::Node(_) => 2,
            Self::Admin(_) => 3,
            Self::Issuer => 4,
        }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Holder => f.write_str("holder"),
            Self::Ancestor(task) => write!(f, "task {task}"),
            Self::Node(node) => write!(f, "{node}"),
            Self::Admin(name) => write!(f, "{name}"),
            Self::Issuer => f.write_str("issuer"),
        }
    }
}
