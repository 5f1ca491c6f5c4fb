//! What stands behind the fan-out: who may watch, where each begins, and who signs.

use std::sync::Arc;

use taskmint_wire::revocation as wire;
use tonic::Status;

use crate::frame::{Checkpoint, Head};

/// What stands behind a [`Fanout`](crate::Fanout). What it publishes to all goes into the
/// [`Feed`](crate::Feed).
///
/// The asynchronous methods are polled by the task of a connection, among thousands of others: none
/// may hold a lock that the log needs while it waits. Where that could be, they hand the work to a
/// task of their own.
pub trait Source: Send + Sync + 'static {
    /// Who is at the other end of a connection.
    type Peer: Send + Sync + 'static;

    /// A watcher's place on the list; it leaves when this is dropped.
    type Watcher: Send + 'static;

    /// Lets a watcher in, or says why not. Its nonce is seen to by the fan-out.
    fn open(
        &self,
        peer: &Self::Peer,
        open: wire::Open,
    ) -> impl Future<Output = Result<Admission<Self::Watcher>, Status>> + Send;

    /// A checkpoint of position `least` or a later one, from which the feed's records lead on to
    /// the newest head. It is shared by all who ask until there is a better one.
    fn checkpoint(
        &self,
        least: u64,
    ) -> impl Future<Output = Result<Arc<Checkpoint>, Status>> + Send;

    /// A head over this nonce and everything that is in the feed, signed for one watcher. Records
    /// that it covers and the feed has not yet may come later.
    fn answer(&self, nonce: [u8; 16]) -> impl Future<Output = Result<Head, Status>> + Send;

    /// Whether somebody waits for this watcher to acknowledge a head at `sequence`.
    fn prompts(&self, watcher: &Self::Watcher, sequence: u64) -> bool;

    /// The watcher is being sent everything up to `sequence`: it may acknowledge that.
    fn sent(&self, watcher: &Self::Watcher, sequence: u64);

    /// Takes in what a watcher has applied.
    ///
    /// # Errors
    /// Its stream ends with this status.
    fn acknowledge(&self, watcher: &Self::Watcher, said: wire::Acknowledge) -> Result<(), Status>;
}

/// A watcher that is let in.
#[derive(Debug)]
pub struct Admission<W> {
    /// Its place on the list.
    pub watcher: W,
    /// Where it begins.
    pub start: Start,
    /// In which of the feed's logs ([`Feed::restart`](crate::Feed::restart)).
    pub log: u64,
    /// What it may ask for.
    pub allowance: Allowance,
}

/// Where a watcher begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has applied everything up to here.
    After(u64),
    /// It has nothing that leads on.
    Checkpoint,
}

/// What a watcher may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Octets of one message.
    pub message: usize,
    /// Nonces that are answered at once.
    pub nonces_at_once: u32,
    /// Nonces that are answered in a second, after those.
    pub nonces_per_second: u32,
}

impl Allowance {
    /// For a watcher that speaks for itself.
    pub fn workload() -> Self {
        Self {
            message: 8 << 10,
            nonces_at_once: 8,
            nonces_per_second: 5,
        }
    }

    /// For one that speaks for others, too.
    pub fn relay() -> Self {
        Self {
            message: 64 << 10,
            nonces_at_once: 64,
            nonces_per_second: 50,
        }
    }
}
