//! The Store port: durable tasks, entries, nodes, issuances and ends, in domain terms.
//!
//! Rules run on what was read and commit by expected version. One writer groups concurrent
//! commits, rechecks every expectation inside the group, assigns sequence numbers and the chain
//! hash of the revocation log, and syncs once (P28). So a [`Commit`] is all or nothing, and when
//! [`Commits::commit`] returns it is on disk.
//!
//! A new store implements the traits of the port and passes `conformance`. One that keeps rows
//! needs no rules of its own: [`Group`] says what a commit changes, [`Rows`] gives it the reading
//! half of the port.

mod chain;
mod commit;
#[cfg(feature = "conformance")]
pub mod conformance;
mod group;
mod ledger;
mod lists;
mod memory;
mod port;
mod read;
mod rows;

pub use chain::{AUDIT_START, audit_hash, check_audit};
pub use commit::{
    Change, Commit, CommitError, Committed, Conflict, Expect, Malformed, RequestCount, RequestKey,
    RequestRecord, StatusChange,
};
pub use group::{Effects, Group, index_rows};
pub use ledger::{Ledger, Promise, Retention};
pub use lists::{BucketStatus, Lists, Withdrawn};
pub use memory::Memory;
pub use port::{
    AuditLine, AuthorityRecord, AuthorityState, Commits, Journal, KeyUse, Log, LogIdentity,
    LogPosition, Page, Registry, StatusSnapshot, Store, StoreError, TaskQuery, Tasks,
};
pub use read::{Rows, ledger};
pub use rows::{Key, Row, View, request_hash};
