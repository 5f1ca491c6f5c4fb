//! The relay of the revocation log: one watch of the server's log, however many verifiers follow
//! it on this node (docs/decisions/0017-relay-with-one-stream.md).
//!
//! ```text
//!  server <──one stream──> upstream ──> copy ──> feed ──> fan-out ──> verifiers of this node
//!                             ^  heads that answer go to who asked ──────^  │
//!                             └── outbox <── nonces, acknowledgements <─────┘
//! ```
//!
//! It keeps opaque bytes and reads of them what it needs to keep them in order. It can neither
//! forge nor drop anything unnoticed (contract line 6), so it verifies nothing.

mod behind;
mod copy;
mod nonces;
mod outbox;
mod source;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taskmint_fanout::{Checkpoint, Fanout, Feed, Settings};
use taskmint_model::Timestamp;
use taskmint_status::{ChainHash, Generation, LogId};
use tokio::sync::{Notify, mpsc, watch};
use tonic::Status;
use tonic::transport::server::Connected as _;

use crate::agent::Agent;
use crate::identity::NodeIdentity;
use crate::listener::Accepted;
use behind::Behind;
use nonces::Nonces;
use source::Local;

/// Records that are kept after the checkpoint, 16 MiB: more than the server makes of one
/// checkpoint by default.
const KEEP: u64 = 262_144;

/// What the relay has, shared by the stream from the server and those to verifiers.
pub(crate) struct Relay {
    feed: Feed,
    known: watch::Sender<Known>,
    nonces: Nonces,
    behind: Arc<Behind>,
    /// There is something to say to the server.
    said: Arc<Notify>,
    /// Somebody needs a newer checkpoint than there is.
    refresh: Notify,
    /// The next stream is to begin with a checkpoint.
    anew: AtomicBool,
    /// Names this relay to the server, for as long as it keeps what it has.
    instance: [u8; 16],
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    id: LogId,
    generation: Generation,
}

/// What is known of the log.
#[derive(Debug, Clone, Default)]
struct Known {
    /// None before the first checkpoint.
    log: Option<Log>,
    /// Goes up with each log.
    number: u64,
    epoch: u32,
    checkpoint: Option<Arc<Checkpoint>>,
    /// The newest head; none until there is one that what is here leads to.
    tip: Option<Tip>,
    /// Why the last stream is over; none while one is fine.
    trouble: Option<Status>,
}

/// The newest head that went to all.
#[derive(Debug, Clone, Copy)]
struct Tip {
    sequence: u64,
    at: Timestamp,
    hash: ChainHash,
}

impl Relay {
    fn new(instance: [u8; 16]) -> Self {
        let said = Arc::<Notify>::default();
        Self {
            feed: Feed::new(0, KEEP),
            known: watch::Sender::default(),
            nonces: Nonces::new(Arc::clone(&said)),
            behind: Arc::new(Behind::new(Arc::clone(&said))),
            said,
            refresh: Notify::new(),
            anew: AtomicBool::new(false),
            instance,
        }
    }

    /// Has the next stream begin with a checkpoint, and begin now.
    fn ask_for_a_checkpoint(&self) {
        self.anew.store(true, Ordering::SeqCst);
        self.refresh.notify_one();
    }
}

/// How the name of the agent's own watch begins.
const OWN: &str = "agent of ";

/// What the relay, and the agent's own watch behind it, is called.
pub(crate) fn name(identity: &NodeIdentity) -> String {
    format!("{OWN}{}", identity.id)
}

/// Serves the verifiers of this node, until the agent stops.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    mut accepted: mpsc::Receiver<std::io::Result<Accepted>>,
    streams: u32,
) {
    let relay = Arc::new(Relay::new(agent.entropy.array()));
    let settings = Settings {
        behind: KEEP,
        streams: usize::try_from(streams).unwrap_or(usize::MAX),
        drain: Duration::from_millis(500),
        ..Settings::default()
    };
    let source = Local::new(Arc::clone(&agent), Arc::clone(&relay));
    let fanout = Fanout::new(Arc::new(source), relay.feed.clone(), settings);
    let lane = fanout.lane(agent.shutdown.token());
    let serving = async {
        while let Some(accepted) = accepted.recv().await {
            if let Ok(accepted) = accepted {
                let connection = accepted.connect_info();
                lane.serve(accepted, connection);
            }
        }
    };
    let following = upstream::run(Arc::clone(&agent), Arc::clone(&relay));
    tokio::select! {
        () = serving => {}
        () = following => {}
        () = agent.shutdown.requested() => {}
    }
    lane.drained().await;
}
