//! The revocation protocol as a model, searched for a way to get an ended task accepted.
//!
//! The property, in the words of the protocol (P18): *what a receipt names as applied is refused by
//! that verifier, and past `dead_everywhere_by` no verifier accepts*. `stateright` searches small
//! worlds whole, every order of every step; random walks go through a world that is too wide for
//! that. Each guard is then taken away, and the search must find how that is exploited. At last the
//! real `taskmint_status::Watcher` and `StatusView` are given real bytes, with real signatures, for
//! what the model's verifier is given on the same ways, and must say the same after every step.
//!
//! # Who acts
//!
//! - **Server** ([`Server`]): writes records and issuances, syncs them, and only then signs, pushes
//!   and acknowledges. It dies at any instant, and loses what was not synced. It starts again with
//!   a new epoch, perhaps on a machine whose clock is ahead, or from a backup, with a new log of a
//!   higher generation. While it runs it signs a head at every instant and after every sync.
//! - **Relay**: has no state but what was ever signed ([`World::heads`]). It delivers any of it, at
//!   any time, in any order, any number of times, or never: so it drops, delays, reorders,
//!   duplicates, replays and freezes. It makes up what carries no signature, which is records and
//!   a checkpoint's maps, and tries to make up heads. It holds nonces back before the server sees
//!   them, and asks for as many answers as it likes.
//! - **Verifier** ([`Verifier`]): connects with a nonce, takes heads, checkpoints and records, keeps
//!   what waits for its head, applies, acknowledges, ages by its own clock, closes, reconnects. Its
//!   process is replaced by one that remembers nothing, while its acknowledgement may still be on
//!   the way.
//! - **Client**: holds the receipts ([`Receipt`]), with who has applied the end and the bound.
//!
//! # What is said
//!
//! [`Frame::Head`] (position, hash, server's time; epoch and floor follow; perhaps the nonce),
//! [`Frame::Checkpoint`] (position, hash, maps), [`Frame::Record`]; from verifiers a nonce and the
//! newest acknowledgement. [`Chain`] is a log and its own hash: equal if and only if all records
//! are.
//!
//! # The guards
//!
//! [`Guard`] lists them. Without it:
//!
//! | guard | what the search finds |
//! |---|---|
//! | head signature | the relay signs a fresh head over a position of before the end |
//! | checkpoint digest | maps without the end beside the genuine checkpoint: applied and accepted |
//! | log hash | another record in the end's place: applied and accepted |
//! | floor | the map went with its hour, and what isn't listed is valid |
//! | nonce | everything comes late, and looks fresh on arrival |
//! | nonce for each epoch | a new machine's clock is ahead, and its old heads look fresh |
//! | answered position | a restarted verifier is handed a checkpoint and a head of before the end |
//! | staleness | the relay goes silent |
//! | durable before visible | the end is acknowledged, and lost; a place gets two tasks |
//! | generation after restore | the backup doesn't know the end; a place gets two tasks |
//!
//! # What is left out
//!
//! Suspension, the largest limit, drift and jumps of a verifier's clocks, credentials' own expiry
//! (the later of the two terms of `dead_everywhere_by`), rotation of the log's key, and a second
//! server that still runs after a restore. The first three have tests of their own beside the
//! watcher. A word that passed through a relay (`applied_by_relay`) proves nothing here: receipts
//! count a verifier's own. Verifiers don't act on each other, so that small worlds have one; the
//! wide one has two.
//!
//! # How long it looks
//!
//! `cargo test -p taskmint-model-check` takes seconds. `TASKMINT_MODEL_TICKS=1` makes every search
//! an instant longer, `TASKMINT_MODEL_WALKS` sets how many random walks are taken;
//! `tests/run --full` sets both.

mod guard;
mod history;
mod scope;
mod search;
mod server;
#[cfg(test)]
mod tests;
mod verifier;
mod world;

pub use guard::{Guard, Guards};
pub use history::{BUCKETS, Bucket, Chain, GENERATIONS, Head, Place, Record, Statuses};
pub use scope::Scope;
pub use search::*;
pub use server::Server;
pub use verifier::{Fault, Frame, Refusal, Verifier};
pub use world::{Action, Fate, HOUR_ENDS, Receipt, World};

/// An instant of the one true time.
pub type Tick = u8;

/// How old a head may be, in ticks.
pub const MAX_AGE: i8 = 2;
