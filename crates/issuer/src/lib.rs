//! Use cases over the ports: attest, begin, mint, end, watch.
//!
//! Every use case reads, asks the rules (`lifecycle`), and commits by expected version. Signing
//! runs beside the sync; what was signed leaves only after both are done (contract line 2).
//! Nothing in here knows a wire format, a database or a key.

mod authorities;
mod begin;
mod crl;
mod denials;
mod entries;
mod evidence;
mod heads;
mod leases;
mod live;
mod log;
mod mint;
mod nodes;
mod rates;
mod receipts;
mod refused;
mod requests;
mod settings;
mod standing;
mod start;
mod tasks;
mod together;
mod tokens;
pub mod watchers;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use taskmint_id::{Bundle, Kind, SpiffeId};
use taskmint_mint::Authority;
use taskmint_model::{
    Audit, Clock, Decision, Entropy, Process, Selectors, Task, TaskId, Timestamp,
};
use taskmint_store::Store;
use tokio::sync::{broadcast, watch};

pub use authorities::AuthorityView;
pub use begin::{Began, Begin};
pub use crl::{Crl, Crls};
pub use denials::OTHER_HISTORY;
pub use log::{LogKey, SignedCheckpoint, SignedLog};
pub use mint::{MintedJwt, MintedX509};
pub use nodes::{AttestedNode, NodeIdentity, Session};
pub use receipts::{Announced, MAX_WAIT, Receipt, WAIT, Waiting};
pub use refused::{RefusalKind, Refused};
pub use requests::{Method, RequestMark};
pub use settings::Settings;
pub use standing::StatusList;
pub use taskmint_lifecycle::Defaults;
pub use taskmint_model::Cause;
pub use tokens::NewToken;
pub use watchers::Watchers;

/// The issuer: one per server process.
pub struct Issuer {
    settings: Settings,
    store: Arc<dyn Store>,
    authority: Arc<dyn Authority>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    entries: entries::EntrySet,
    live: live::Live,
    leases: leases::Leases,
    requests: requests::Requests,
    rates: rates::EntryRates,
    bundle: watch::Sender<Arc<Bundle>>,
    changed: broadcast::Sender<Arc<Task>>,
    /// The node whose bars changed last.
    bars: watch::Sender<Option<SpiffeId>>,
    /// Held while keys are changed: what was read of them counts until it is written.
    changing_keys: tokio::sync::Mutex<()>,
    signed: log::Signer,
    evidence: evidence::Evidence,
    crls: crl::Published,
    status_lists: standing::StatusLists,
    watchers: Arc<Watchers>,
    alarms: denials::Alarms,
    bounds: receipts::Bounds,
    /// How many waits go through each node.
    waits: Mutex<HashMap<SpiffeId, usize>>,
}

/// Who asks, for whoever reads the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A workload, through the agent of its node.
    Workload(Caller),
    /// An agent, for itself.
    Node(SpiffeId),
    /// An administrator: `uid:0`, or a SPIFFE ID with a grant.
    Admin(String),
    /// Who follows the revocation log by an SVID of its own.
    Watcher(SpiffeId),
    /// The issuer itself.
    Issuer,
}

/// A workload as its agent attested it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The node whose agent speaks for it.
    pub node: SpiffeId,
    /// What the node was attested to be.
    pub node_selectors: Selectors,
    /// The calling process.
    pub process: Process,
    /// What it was attested to be.
    pub selectors: Selectors,
    /// The live task through which it acts on another one, if it does.
    pub acting: Option<TaskId>,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(caller) => write!(f, "process {} on {}", caller.process, caller.node),
            Self::Node(id) | Self::Watcher(id) => write!(f, "{id}"),
            Self::Admin(name) => f.write_str(name),
            Self::Issuer => f.write_str("issuer"),
        }
    }
}

impl Issuer {
    /// What it was told at start.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The wall clock that it decides by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Everything that it keeps; for reading.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The trust domain's bundle; changes when a key does.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// Every task, whole, whenever it changes. A receiver that lags must read again.
    pub fn task_changes(&self) -> broadcast::Receiver<Arc<Task>> {
        self.changed.subscribe()
    }

    /// Tells which node's bars were lifted last.
    pub fn lifted_bars(&self) -> watch::Receiver<Option<SpiffeId>> {
        self.bars.subscribe()
    }

    fn bars_changed(&self, node: &SpiffeId) {
        self.bars.send_replace(Some(node.clone()));
    }

    /// Who follows the revocation log, and how far.
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// Whether ends are waited for until a watcher with this identity has applied them (P19):
    /// nodes always, workloads by grant. Else one that never acknowledges would stall every wait.
    pub fn waits_for(&self, id: &SpiffeId) -> bool {
        id.kind() == Kind::Node
            || self.settings.waited_for.contains(id)
            || self.entries.may_be_waited_for(id, self.clock.now())
    }

    /// How many tasks are live.
    pub fn live_tasks(&self) -> usize {
        let live = self.store.live_tasks().unwrap_or_else(|error| {
            tracing::error!(%error, "live tasks can't be counted");
            0
        });
        usize::try_from(live).unwrap_or(usize::MAX)
    }

    fn audit(
        &self,
        who: &Principal,
        action: &'static str,
        resource: String,
        task: Option<&Task>,
        at: Timestamp,
    ) -> Audit {
        Audit {
            at,
            who: who.to_string(),
            owner: task.map(|task| task.owner.clone()).unwrap_or_default(),
            task: task.map(|task| task.id),
            action: action.into(),
            resource,
            decision: Decision::Allowed,
            reason: "".into(),
        }
    }

    /// Tells everybody who follows tasks; called once what changed is durable.
    fn publish(&self, task: Task) {
        self.live.note(&task);
        // Nobody listening is fine.
        drop(self.changed.send(Arc::new(task)));
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
