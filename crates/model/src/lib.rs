//! Tasks, entries, nodes, selectors and what happens to them: values, no I/O.
//!
//! The vocabulary of the issuer. Rules over these values live in `lifecycle`, their bytes on disk
//! in `store-rocksdb`, their bytes on the wire in `wire`.

mod audit;
mod authority;
mod chance;
mod entry;
mod ids;
mod issuance;
mod node;
mod process;
mod selector;
mod task;
mod text;
mod time;

pub use audit::{Audit, Decision, Denial, Reason};
pub use authority::Authority;
pub use chance::{Entropy, SystemEntropy};
pub use entry::{Entry, EntryError, EntryTtls, KeyType, NodeMatch, NotYet, is_dns_name};
pub use ids::{AuditId, AuthorityId, DenialId, EntryId, RequestId, TaskId};
pub use ids::{Id, IdError, Kind as IdKind};
pub use issuance::{CredentialKind, Issuance};
pub use node::{JoinToken, Node, NodeState, NodeSvid};
pub use process::{Process, ProcessError};
pub use selector::{Selector, SelectorError, Selectors};
pub use task::{
    Actor, Bar, Binding, Cause, EndTrace, Holder, Limits, State, Suspension, Task, TaskKind,
    TaskTimes,
};
pub use text::{TextError, bounded};
pub use time::{Clock, SystemClock, Timestamp, TimestampError, millis};
