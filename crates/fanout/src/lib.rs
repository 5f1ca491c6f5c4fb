//! The revocation log for very many watchers.
//!
//! Serves `taskmint.revocation.v1.Revocation/Watch` to ordinary gRPC clients, below tonic: one
//! task owns a connection, its streams and their cursors, and what it sends is chosen in the poll
//! that encrypts and writes it. So a watcher always gets what is newest then, in one frame, and a
//! slow one costs a cursor, never a queue.
//!
//! - [`Feed`] holds the newest records and the newest head, encoded once for all.
//! - [`Source`] says who may watch and where each begins, and signs for their nonces: the server
//!   over its issuer, an agent over its stream from the server, a bench over nothing at all.
//! - [`Fanout`] is both with their settings; a [`Lane`] serves connections on one runtime.
//! - [`listen()`] accepts TLS connections and spreads them over lanes, each on a thread of its own.

mod arena;
mod bucket;
mod connection;
mod crowd;
mod decode;
mod feed;
mod follow;
mod frame;
mod lane;
mod listen;
mod meter;
mod metrics;
mod nonces;
mod outgoing;
mod reply;
mod settings;
mod slot;
mod source;
mod stream;
mod tls;

pub use decode::{Decoder, Malformed};
pub use feed::{Feed, FeedError};
pub use frame::{Checkpoint, Head, Key};
pub use lane::{Fanout, Lane};
pub use listen::{ListenError, listen};
pub use metrics::{Metrics, Readings};
pub use settings::Settings;
pub use source::{Admission, Allowance, Source, Start};
pub use tls::Tls;

/// The path of the one method that is served.
pub const WATCH: &str = "/taskmint.revocation.v1.Revocation/Watch";
