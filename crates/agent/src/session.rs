//! The session with the server: what this node is told, the lease that it keeps, and how it comes
//! back when the wire was cut (P11, P12).

use std::sync::Arc;
use std::time::Duration;

use taskmint_client::Backoff;
use taskmint_daemon::Condition;
use taskmint_lifecycle::RENEWAL_GRACE;
use taskmint_model::{Binding, Timestamp};
use taskmint_wire::{denial_of, node, retry_after_of, task, task_from_wire};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::agent::Agent;
use crate::holding::Origin;
use crate::identity::NodeIdentity;
use crate::join::{JoinError, Joiner, bundle_of};
use crate::knowledge::Entries;
use crate::server::Nodes;
use crate::upstream::UpstreamError;

/// Pauses between attempts to reach the server.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How long the server may take to open a session.
const OPEN: Duration = Duration::from_secs(10);

/// Reasons after which only a new attestation helps.
const REJOIN: [&str; 5] = [
    "NODE_UNKNOWN",
    "NODE_SUSPENDED",
    "NODE_EVICTED",
    "NODE_BANNED",
    "SVID_EXPIRED",
];

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The node has a new SVID, and comes back with it at once.
    #[error("the node's svid was renewed")]
    Renewed,
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the server refuses: {}", .0.message())]
    Refused(Box<Status>),
    #[error("{0}")]
    Lost(&'static str),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl End {
    /// When the server wants to be asked again.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(status) | Self::Join(JoinError::Refused(status)) => {
                retry_after_of(status)
            }
            _ => None,
        }
    }

    fn log(&self, pause: Duration) {
        let cause = std::error::Error::source(self).map(tracing::field::display);
        tracing::warn!(error = %self, cause, ?pause, "no session with the server");
    }
}

/// Keeps a session open until the stop.
pub(crate) async fn run(agent: Arc<Agent>, mut joiner: Joiner, ready: Condition) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut must_attest = false;
    loop {
        let mut session = Session::new(&agent, &mut joiner, &ready);
        let end = tokio::select! {
            end = session.run(must_attest) => end,
            () = agent.shutdown.requested() => return,
        };
        if session.was_up {
            backoff.reset();
        }
        if matches!(end, End::Renewed) {
            continue;
        }
        agent.server.set_up(false);
        agent.metrics.connected(false);
        ready.set(false);
        must_attest = needs_attestation(&end) || (must_attest && !session.attested);
        let pause = backoff.next_after(end.retry_after(), &*agent.entropy);
        end.log(pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

fn needs_attestation(end: &End) -> bool {
    let status = match end {
        End::Refused(status) | End::Join(JoinError::Refused(status)) => status,
        _ => return false,
    };
    denial_of(status).is_some_and(|(reason, _)| REJOIN.contains(&reason.as_str()))
}

/// One session, from the connection to its end.
struct Session<'a> {
    agent: &'a Arc<Agent>,
    joiner: &'a mut Joiner,
    ready: &'a Condition,
    /// Which of the first messages are there.
    told: Told,
    was_up: bool,
    attested: bool,
    answered: Instant,
}

#[derive(Default)]
struct Told {
    inventory: bool,
    bundle: bool,
    entries: bool,
    bars: bool,
}

impl<'a> Session<'a> {
    fn new(agent: &'a Arc<Agent>, joiner: &'a mut Joiner, ready: &'a Condition) -> Self {
        let (told, answered) = (Told::default(), Instant::now());
        Self {
            agent,
            joiner,
            ready,
            told,
            was_up: false,
            attested: false,
            answered,
        }
    }

    async fn run(&mut self, must_attest: bool) -> End {
        match self.open(must_attest).await {
            Ok(end) | Err(end) => end,
        }
    }

    /// Becomes a node if need be, connects, and serves the session.
    async fn open(&mut self, must_attest: bool) -> Result<End, End> {
        let identity = self.identify(must_attest).await?;
        // No call may be on its way under an older SVID when a newer one is first used.
        let paused = self.agent.server.pause().await;
        let mut nodes = paused.go_on(self.agent.upstream.nodes(&identity).await?);
        self.agent.knowledge.set_bundle(&identity.bundle);
        self.agent.trust.insert(identity.bundle.clone());
        self.agent.identity.store(Some(Arc::new(identity.clone())));
        if identity.expires_at <= self.agent.clock.now() {
            // After a long outage: renewal is accepted for a while longer than anything else.
            self.joiner.renew(&mut nodes, &identity).await?;
            return Ok(End::Renewed);
        }
        self.serve(nodes, &identity).await
    }

    async fn identify(&mut self, must_attest: bool) -> Result<NodeIdentity, JoinError> {
        if !must_attest && let Some(identity) = self.joiner.saved().await? {
            // Beyond the grace the server does not even shake hands.
            if self.agent.clock.now() < identity.expires_at + RENEWAL_GRACE {
                return Ok(identity);
            }
            tracing::warn!(node = %identity.id, "expired for too long: it must attest anew");
        }
        let identity = self.joiner.attest().await?;
        self.attested = true;
        Ok(identity)
    }

    async fn serve(&mut self, mut nodes: Nodes, identity: &NodeIdentity) -> Result<End, End> {
        let agent = Arc::clone(self.agent);
        let (say, requests) = mpsc::channel(16);
        agent.holding.begin_session();
        let open = node::session_request::Open {
            boot_id: taskmint_peer::boot_id()
                .map(|id| id.to_vec())
                .unwrap_or_default(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        send(&say, node::session_request::Message::Open(open)).await?;
        let opened = tokio::time::timeout(OPEN, nodes.session(ReceiverStream::new(requests)));
        let opened: Response<Streaming<node::SessionResponse>> = opened
            .await
            .map_err(|_| End::Lost("no answer from the server in time"))??;
        let mut messages = opened.into_inner();
        self.answered = Instant::now();
        let renew_at = identity.renew_at(agent.entropy.fraction());
        let mut renewal = pin_until(&agent, renew_at);
        let mut counter = 0;
        let mut tick = ticks(agent.knowledge.times().lease);
        loop {
            tokio::select! {
                message = messages.message() => {
                    let message = message?.ok_or(End::Lost("the server closed the session"))?;
                    let lease = agent.knowledge.times().lease;
                    self.hear(message, &say, identity).await?;
                    if agent.knowledge.times().lease != lease {
                        tick = ticks(agent.knowledge.times().lease);
                    }
                }
                _ = tick.tick() => {
                    if self.answered.elapsed() > agent.knowledge.times().lease / 2 {
                        return Err(End::Lost("the server does not answer"));
                    }
                    counter += 1;
                    let lease = node::session_request::Lease { counter };
                    send(&say, node::session_request::Message::Lease(lease)).await?;
                    agent.holding.watch_again().into_iter().for_each(|o| agent.end_later(o.into()));
                }
                () = &mut renewal => {
                    let current = agent.identity.load_full();
                    let current = current.as_deref().unwrap_or(identity);
                    match self.joiner.renew(&mut nodes, current).await {
                        Ok(_) => return Ok(End::Renewed),
                        Err(error) if needs_new_proof(&error) => return Err(error.into()),
                        Err(error) => {
                            tracing::warn!(%error, "the node's svid is not renewed yet");
                            let again = agent.clock.now() + LONGEST_PAUSE * 2;
                            renewal = pin_until(&agent, again);
                        }
                    }
                }
            }
        }
    }

    async fn hear(
        &mut self,
        message: node::SessionResponse,
        say: &mpsc::Sender<node::SessionRequest>,
        identity: &NodeIdentity,
    ) -> Result<(), End> {
        use node::session_response::Message;
        self.answered = Instant::now();
        match message.message {
            Some(Message::Inventory(inventory)) => {
                self.adopt(inventory, say).await?;
                self.told.inventory = true;
            }
            Some(Message::Entries(entries)) => {
                let entries = Entries::read(&entries.entries);
                tracing::debug!(entries = entries.len(), "entries received");
                self.agent.knowledge.set_entries(entries);
                self.told.entries = true;
            }
            Some(Message::Bundle(bundle)) => {
                self.take_bundle(&bundle, identity).await;
                self.told.bundle = true;
            }
            Some(Message::Task(event)) => self.learn(event.task.unwrap_or_default()),
            Some(Message::Bars(bars)) => {
                self.take_bars(bars);
                self.told.bars = true;
            }
            Some(Message::Crls(crls)) => self.agent.knowledge.set_crls(crls.lists),
            Some(Message::Lease(_)) | None => {}
        }
        self.rise();
        Ok(())
    }

    /// Once everything is known that decisions need, calls are taken.
    fn rise(&mut self) {
        let Told {
            inventory,
            bundle,
            entries,
            bars,
        } = self.told;
        if self.was_up || !(inventory && bundle && entries && bars) {
            return;
        }
        self.was_up = true;
        self.agent.server.set_up(true);
        self.agent.metrics.connected(true);
        self.ready.set(true);
        self.agent.follow_log();
        tracing::info!(
            tasks = self.agent.holding.len(),
            "session with the server open"
        );
    }

    /// P12: tasks whose holder lives are kept, the others end.
    async fn adopt(
        &mut self,
        inventory: node::session_response::Inventory,
        say: &mpsc::Sender<node::SessionRequest>,
    ) -> Result<(), End> {
        if let Some(settings) = inventory.settings {
            self.agent.knowledge.set_times(settings);
        }
        if !inventory.watch_address.is_empty() && !self.agent.watch_is_fixed {
            self.agent
                .watch_address
                .store(Some(Arc::new(inventory.watch_address)));
        }
        let mut tasks = Vec::with_capacity(inventory.tasks.len());
        if inventory.lapsed {
            tracing::warn!("the node's lease had lapsed: its tasks are over");
        } else {
            for task in &inventory.tasks {
                match task_from_wire(task) {
                    Ok(task) => tasks.push(task),
                    Err(error) => tracing::error!(task = task.id, %error, "a task can't be read"),
                }
            }
        }
        let reconciled = self.agent.holding.reconcile(tasks);
        for id in &reconciled.dropped {
            self.agent.forget(*id);
            tokio::spawn(ask_about(Arc::clone(self.agent), *id));
        }
        self.open_folders();
        let open = node::session_request::Open {
            adopted_task_ids: reconciled.adopted.iter().map(ToString::to_string).collect(),
            adopted: true,
            ..Default::default()
        };
        send(say, node::session_request::Message::Open(open)).await
    }

    /// Per-task sockets that an agent before this one had, and no others.
    fn open_folders(&self) {
        let agent = self.agent;
        for held in agent.holding.all() {
            let of_socket = matches!(held.task.binding, Binding::Socket { .. });
            if held.task.is_ended() || held.dying || !of_socket {
                continue;
            }
            let id = held.task.id;
            let Some(uid) = held.folder.or_else(|| agent.folders.owner(id)) else {
                tracing::warn!(task = %id, "whose folder it had is not known: it gets none");
                continue;
            };
            if let Err(error) = agent.folders.make(agent, id, uid) {
                tracing::error!(task = %id, %error, "its sockets can't be made");
            }
        }
        agent.folders.remove_others(|id| {
            agent
                .holding
                .get(id)
                .is_some_and(|held| !held.task.is_ended())
        });
    }

    fn learn(&self, task: task::Task) {
        match task_from_wire(&task) {
            Ok(task) => drop(self.agent.learn(task, Origin::default())),
            Err(error) => tracing::error!(task = task.id, %error, "a task can't be read"),
        }
    }

    async fn take_bundle(&self, bundle: &node::Bundle, identity: &NodeIdentity) {
        let bundle = match bundle_of(bundle, identity.trust_domain()) {
            Ok(bundle) => bundle,
            Err(error) => return tracing::error!(error, "a bundle can't be read"),
        };
        if !self.agent.knowledge.set_bundle(&bundle) {
            return;
        }
        tracing::info!(sequence = bundle.sequence(), "bundle changed");
        self.agent.trust.insert(bundle.clone());
        let identity = identity.with_bundle(bundle);
        if let Err(error) = self.joiner.save(&identity).await {
            tracing::error!(%error, "the bundle is not saved");
        }
        self.agent.identity.store(Some(Arc::new(identity)));
    }

    fn take_bars(&self, bars: node::Bars) {
        let read = bars.bars.iter().filter_map(|bar| {
            let (entry, process) = (bar.entry_id.parse().ok()?, bar.process.parse().ok()?);
            Some((entry, process, bar.task_id.parse().ok()?))
        });
        let read: Vec<_> = read.collect();
        if read.len() < bars.bars.len() {
            tracing::error!(
                bars = bars.bars.len(),
                read = read.len(),
                "bars can't be read"
            );
        }
        self.agent.holding.set_bars(read);
    }
}

fn needs_new_proof(error: &JoinError) -> bool {
    let JoinError::Refused(status) = error else {
        return false;
    };
    denial_of(status).is_some_and(|(reason, _)| REJOIN.contains(&reason.as_str()))
}

/// What became of a task that the server no longer lists: for those who ask later.
async fn ask_about(agent: Arc<Agent>, id: taskmint_model::TaskId) {
    agent.server.wait_up().await;
    let request = task::GetRequest {
        task_id: id.to_string(),
    };
    let answer = agent
        .server
        .call(|mut nodes| async move { nodes.get_task(request).await })
        .await;
    if let Ok(task::TaskResponse { task: Some(task) }) = answer
        && let Ok(task) = task_from_wire(&task)
    {
        agent.learn(task, Origin::default());
    }
}

async fn send(
    say: &mpsc::Sender<node::SessionRequest>,
    message: node::session_request::Message,
) -> Result<(), End> {
    let request = node::SessionRequest {
        message: Some(message),
    };
    say.send(request)
        .await
        .map_err(|_| End::Lost("the server closed the session"))
}

/// Four in a lease: three may get lost.
fn ticks(lease: Duration) -> tokio::time::Interval {
    let period = (lease / 4).max(Duration::from_millis(10));
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

type Until = std::pin::Pin<Box<tokio::time::Sleep>>;

fn pin_until(agent: &Agent, at: Timestamp) -> Until {
    Box::pin(tokio::time::sleep(at.since(agent.clock.now())))
}
