//! The embedded store: RocksDB behind the Store port.
//!
//! One writer thread takes all commits that wait, checks each against what is stored and against
//! those before it, and writes the whole group as one batch with one sync (P28). Readers go to
//! RocksDB directly, and only ever see what is synced. What a commit means is decided by
//! [`taskmint_store::Group`], as for every store; this crate knows where rows lie.
//!
//! Layout version 2 (P29, and `docs/decisions/0021-compact.md`): a column family for each kind of row, keys big-endian, what expires with
//! a task keyed by its bucket first, so that a sweep is a range delete. Values are the messages of
//! `proto/taskmint/store/v1/records.proto` after a format octet.

mod base;
#[cfg(feature = "bulk")]
pub mod bulk;
mod index;
mod keys;
mod options;
mod places;
mod restore;
mod store;
mod values;
mod writer;

pub use base::SCHEMA;
pub use options::Options;
pub use restore::{Restored, restore};
pub use store::RocksStore;
