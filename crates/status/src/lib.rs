//! Where a task's status is kept, how it travels, and when it may be believed.
//!
//! Every credential names a [`Place`]: a log, an hour bucket and an index in it. Two bits at that
//! place say valid, ended or suspended. The changes form one hash-chained log of [`Record`]s; a
//! signed [`Head`] vouches for everything up to a position at an instant; a signed [`Checkpoint`]
//! stands for the maps at a position, so that nobody has to replay the log from its start.
//!
//! [`Watcher`] is the verifier's side: fed with frames that a relay may have delayed, dropped,
//! repeated or forged, it answers for a place or says why it can't. [`StatusView`] is the copy that
//! many threads read without locks while one task feeds the watcher.
//!
//! The crate does no I/O, reads no clock and draws no random numbers: instants and nonces are
//! arguments. The byte layouts are written down in `docs/decisions/0001-status-bytes.md`, and
//! `tests/vectors/status.json` holds one of each.

pub mod checkpoint;
pub mod claim;
pub mod clock;
pub mod delta;
pub mod extension;
pub mod head;
pub mod map;
mod octets;
pub mod place;
pub mod record;
pub mod serial;
pub mod statement;
pub mod verdict;
pub mod view;
pub mod watcher;

pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use clock::{BootTime, Millis, Now, WallTime};
pub use delta::Delta;
pub use extension::TaskBinding;
pub use head::{Head, HeadKeys, KeyId, SignedHead, SignerChain};
pub use map::{Chunk, Status, StatusMap};
pub use place::{Generation, LogId, Place, Slot};
pub use record::{Cause, ChainHash, Change, Record};
pub use serial::Serial;
pub use statement::{Shown, Signed, Statement, StatementError};
pub use verdict::{Refusal, Verdict};
pub use view::StatusView;
pub use watcher::{Applied, Config, Fault, Fork, Frame, Freshness, Position, Step, Watcher, Wish};
