//! What all parts of the agent share.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use taskmint_attest::{DuplicateName, WorkloadAttestors};
use taskmint_daemon::Shutdown;
use taskmint_model::{Clock, Entropy, EntryId, Process, Task};
use taskmint_peer::{Exits, Liveness};
use taskmint_verifier::Trust;
use taskmint_wire::node;
use taskmint_workload_unix::UnixAttestor;
use tokio::sync::{Semaphore, mpsc};

use crate::denial::Denials;
use crate::ends::{End, LastWords};
use crate::folders::Folders;
use crate::holding::{Holding, Learnt, Origin, Orphan};
use crate::identity::NodeIdentity;
use crate::knowledge::Knowledge;
use crate::limits::{Rates, Slots};
use crate::locks::KeyedLocks;
use crate::metrics::Metrics;
use crate::mint::Minter;
use crate::server::Server;
use crate::settings::{Settings, Sockets};
use crate::status::Status;
use crate::svids::Svids;
use crate::upstream::Upstream;

/// What all parts of the agent share.
pub(crate) struct Agent {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) shutdown: Shutdown,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) server: Arc<Server>,
    /// What this node is; none before it is attested.
    pub(crate) identity: ArcSwapOption<NodeIdentity>,
    /// `host:port` of the revocation log.
    pub(crate) watch_address: ArcSwapOption<String>,
    /// The configuration names it; the server need not.
    pub(crate) watch_is_fixed: bool,
    pub(crate) attestors: WorkloadAttestors,
    pub(crate) knowledge: Knowledge,
    pub(crate) holding: Holding,
    pub(crate) minter: Arc<Minter>,
    pub(crate) svids: Svids,
    pub(crate) denials: Denials,
    pub(crate) last_words: LastWords,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slots: Slots,
    /// Watches through the relay, by the uid that asked for them.
    pub(crate) watches: Slots,
    pub(crate) rates: Rates,
    pub(crate) begins: Arc<Semaphore>,
    pub(crate) implicit_locks: KeyedLocks<(EntryId, Process)>,
    pub(crate) folders: Folders,
    pub(crate) status: Status,
    /// The bundle as the agent's own watch of the revocation log uses it.
    pub(crate) trust: Trust,
    /// See [`Settings`].
    pub(crate) drift_allowance: Option<std::time::Duration>,
    pub(crate) sockets: Sockets,
    ends: mpsc::UnboundedSender<End>,
}

/// The work behind an agent, to be run as tasks.
pub(crate) struct Work {
    pub(crate) exits: Exits,
    pub(crate) ends: mpsc::UnboundedReceiver<End>,
    pub(crate) reports: mpsc::Receiver<node::ReportDenialRequest>,
    pub(crate) minting: futures::future::BoxFuture<'static, ()>,
}

impl Agent {
    pub(crate) fn new(
        settings: &Settings,
        upstream: Arc<dyn Upstream>,
        shutdown: Shutdown,
    ) -> Result<(Arc<Self>, Work), DuplicateName> {
        let (clock, entropy) = (Arc::clone(&settings.clock), Arc::clone(&settings.entropy));
        let limits = &settings.limits;
        let unix = UnixAttestor::new(settings.unix, Arc::clone(&clock));
        // One line for each workload attestor.
        let attestors = WorkloadAttestors::new(vec![Arc::new(unix)])?;
        let (liveness, exits) = Liveness::new();
        let metrics = Arc::new(Metrics::new());
        let server = Arc::new(Server::new());
        let (minter, minting) = Minter::new(Arc::clone(&server), Arc::clone(&metrics));
        let minter = Arc::new(minter);
        let (denials, reports) = Denials::new(
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::clone(&metrics),
        );
        let (ends, owed) = mpsc::unbounded_channel();
        let agent = Self {
            shutdown,
            upstream,
            server,
            identity: ArcSwapOption::empty(),
            watch_address: ArcSwapOption::from(settings.server.watch.clone().map(Arc::new)),
            watch_is_fixed: settings.server.watch.is_some(),
            attestors,
            knowledge: Knowledge::new(),
            holding: Holding::new(Arc::clone(&clock), liveness),
            svids: Svids::new(
                Arc::clone(&minter),
                Arc::clone(&clock),
                Arc::clone(&entropy),
            ),
            minter,
            denials,
            last_words: LastWords::default(),
            metrics,
            slots: Slots::new(limits.max_connections, limits.max_connections_per_uid),
            watches: Slots::new(limits.max_watches, limits.max_watches_per_uid),
            rates: Rates::new(limits),
            begins: Arc::new(Semaphore::new(limits.max_begins)),
            implicit_locks: KeyedLocks::default(),
            folders: Folders::new(settings.sockets.task_dir.clone()),
            status: Status::default(),
            trust: Trust::default(),
            drift_allowance: settings.drift_allowance,
            sockets: settings.sockets.clone(),
            ends,
            clock,
            entropy,
        };
        let work = Work {
            exits,
            ends: owed,
            reports,
            minting: Box::pin(minting),
        };
        Ok((Arc::new(agent), work))
    }

    /// Takes in what the server said of a task, and does what follows from it.
    pub(crate) fn learn(&self, task: Task, origin: Origin) -> Learnt {
        let id = task.id;
        let learnt = self.holding.learn(task, origin);
        match learnt {
            Learnt::Ended => self.forget(id),
            Learnt::HolderGone => {
                self.svids.forget(id);
                self.end_later(Orphan { id, beginner: None }.into());
            }
            Learnt::Changed | Learnt::Nothing => {}
        }
        learnt
    }

    /// A task is over: its key is wiped, its sockets go.
    pub(crate) fn forget(&self, id: taskmint_model::TaskId) {
        self.svids.forget(id);
        self.folders.remove(id);
    }

    /// Has the server told that a task ended, until it took it.
    pub(crate) fn end_later(&self, end: End) {
        if let Err(lost) = self.ends.send(end) {
            // The agent is going down; the next one finds the holder gone.
            tracing::warn!(end = ?lost.0, "an end is not said");
        }
    }

    /// A process has died: whatever it held ends.
    pub(crate) fn died(&self, process: Process) {
        let orphans = self.holding.died(process);
        if !orphans.is_empty() {
            tracing::info!(%process, tasks = orphans.len(), "a holder is gone: its tasks end");
        }
        for orphan in orphans {
            self.svids.forget(orphan.id);
            self.end_later(orphan.into());
        }
    }
}
