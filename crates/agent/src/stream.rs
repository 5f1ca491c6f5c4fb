//! Streams of the Workload API: the full state at once, and again on every change that its caller
//! could notice (WAPI-06 to 08).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use taskmint_id::Bundle;
use taskmint_lifecycle::successor_due;
use taskmint_model::{EntryId, Selectors, TaskId, Timestamp};
use taskmint_wire::workload;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::caller::{Caller, Connection, Scope};
use crate::denial::{Denial, NO_IDENTITY};
use crate::holding::Held;
use crate::knowledge::{Crls, Entries};
use crate::order::{Hinted, MAX_SVIDS, hints};
use crate::svids::{Fetched, Svid};
use crate::topics::{Subscription, Topic};
use crate::view::{Missing, not_live, starting};

/// How long until a look that could not be finished is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The longest pause between two looks.
pub(crate) const LOOK: Duration = Duration::from_secs(3600);

/// How often a task's successor is thought of: the rule itself says when it is due.
const SUCCESSION: Duration = Duration::from_secs(60);

/// What one look found: the message, and what tells it from another.
pub(crate) struct Look<M> {
    pub(crate) message: M,
    pub(crate) print: Print,
    pub(crate) next: Timestamp,
}

/// Tells messages apart without keeping one: they hold keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Print {
    svids: Vec<(TaskId, u64, String)>,
    bundle: Option<Arc<Bundle>>,
    /// Where an entry says so.
    crls: Option<Crls>,
}

impl Print {
    /// The same beside these lists.
    pub(crate) fn with_crls(self, crls: Option<Crls>) -> Self {
        Self { crls, ..self }
    }
}

/// A stream and what its caller's view depends on.
pub(crate) struct Stream<M> {
    agent: Arc<Agent>,
    connection: Connection,
    action: &'static str,
    out: mpsc::Sender<Result<M, Status>>,
    subscription: Subscription,
    entries: watch::Receiver<Option<Arc<Entries>>>,
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
    crls: watch::Receiver<Crls>,
    matched: Option<(Selectors, Vec<(EntryId, u64)>)>,
    shown: Vec<TaskId>,
    sent: Option<Print>,
}

impl<M: Send + 'static> Stream<M> {
    pub(crate) fn new(
        agent: Arc<Agent>,
        connection: Connection,
        action: &'static str,
        out: mpsc::Sender<Result<M, Status>>,
    ) -> Self {
        Self {
            subscription: agent.holding.topics().subscription(),
            entries: agent.knowledge.entries_changed(),
            bundle: agent.knowledge.bundle_changed(),
            crls: agent.knowledge.crls_changed(),
            agent,
            connection,
            action,
            out,
            matched: None,
            shown: Vec::new(),
            sent: None,
        }
    }

    /// Looks and sends until the caller goes away or has nothing left.
    pub(crate) async fn run<F>(mut self, look: impl Fn(Arc<Agent>, Caller) -> F)
    where
        F: Future<Output = Result<Look<M>, Status>>,
    {
        loop {
            match self.look_and_send(&look).await {
                Ok(next) => match self.wait(next).await {
                    Ok(()) => {}
                    Err(Some(status)) => return self.end(status).await,
                    Err(None) => return,
                },
                Err(Some(status)) => return self.end(status).await,
                Err(None) => return,
            }
        }
    }

    async fn look_and_send<F>(
        &mut self,
        look: &impl Fn(Arc<Agent>, Caller) -> F,
    ) -> Result<Timestamp, Option<Status>>
    where
        F: Future<Output = Result<Look<M>, Status>>,
    {
        let caller = match self.agent.attest(&self.connection, self.action).await {
            Ok(caller) => caller,
            // Nobody could tell who it is: that takes nothing away from an open stream yet.
            Err(status) if self.sent.is_some() && status.code() == Code::Unavailable => {
                return Ok(self.agent.clock.now() + RETRY);
            }
            Err(status) => return Err(Some(status)),
        };
        // Subscribed before anything is read, so that no change falls in between.
        self.depend_on(&caller);
        let found = look(Arc::clone(&self.agent), caller).await;
        let found = found.map_err(|status| Some(self.explained(status)))?;
        self.shown = found.print.svids.iter().map(|(task, ..)| *task).collect();
        if self.sent.as_ref() != Some(&found.print) {
            self.sent = Some(found.print);
            self.out.send(Ok(found.message)).await.map_err(|_| None)?;
        }
        Ok(found.next)
    }

    fn depend_on(&mut self, caller: &Caller) {
        let topics = match caller.scope() {
            Scope::Task(id) => vec![Topic::Task(id)],
            Scope::Shared => caller
                .ancestry()
                .iter()
                .copied()
                .map(Topic::Process)
                .collect(),
        };
        self.subscription.set(topics);
        self.bundle.mark_unchanged();
        self.crls.mark_unchanged();
        let entries = self.entries.borrow_and_update().clone();
        let matched = matched(
            entries.as_deref(),
            caller.selectors(),
            self.agent.clock.now(),
        );
        self.matched = Some((caller.selectors().clone(), matched));
    }

    /// Returns once another look is due; an error ends the stream, with a word or without.
    async fn wait(&mut self, next: Timestamp) -> Result<(), Option<Status>> {
        let pause = next.since(self.agent.clock.now()).min(LOOK);
        // The others are not disturbed by what they are not shown.
        let has_crls = self.sent.as_ref().is_some_and(|sent| sent.crls.is_some());
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        let stop = self.agent.shutdown.requested();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = self.subscription.changed() => return Ok(()),
                changed = self.entries.changed() => {
                    changed.map_err(|_| Some(stopping()))?;
                    if self.entries_matter() {
                        return Ok(());
                    }
                }
                changed = self.bundle.changed() => return changed.map_err(|_| Some(stopping())),
                changed = self.crls.changed(), if has_crls => {
                    return changed.map_err(|_| Some(stopping()));
                }
                () = &mut due => return Ok(()),
                () = self.out.closed() => return Err(None),
                () = &mut stop => return Err(Some(stopping())),
            }
        }
    }

    /// Whether other entries, or another revision of one, match the caller as it was last seen.
    fn entries_matter(&mut self) -> bool {
        let entries = self.entries.borrow_and_update().clone();
        let Some((selectors, before)) = &self.matched else {
            return true;
        };
        let now = self.agent.clock.now();
        // A task of an entry that its caller does not match may be shown too (`descendants`).
        let others = self
            .shown
            .iter()
            .filter_map(|id| self.agent.holding.get(*id));
        let gone = |held: &Held| {
            let entry = held
                .task
                .entry
                .and_then(|id| entries.as_ref()?.get(id).cloned());
            entry.is_none()
        };
        *before != matched(entries.as_deref(), selectors, now)
            || others.into_iter().any(|h| gone(&h))
    }

    /// Where the caller loses what it had: says which task it was, and what became of it.
    fn explained(&self, status: Status) -> Status {
        if status.code() != Code::PermissionDenied {
            return status;
        }
        let now = self.agent.clock.now();
        let shown = self
            .shown
            .iter()
            .filter_map(|id| self.agent.holding.get(*id));
        let lost = shown.filter_map(|held| not_live(&held, now)).next();
        lost.map_or(status, Denial::status)
    }

    async fn end(self, status: Status) {
        // Who went away meanwhile needs no last word.
        drop(self.out.send(Err(status)).await);
    }
}

fn matched(
    entries: Option<&Entries>,
    selectors: &Selectors,
    now: Timestamp,
) -> Vec<(EntryId, u64)> {
    let matching = entries
        .map(|entries| entries.matching(selectors, now))
        .unwrap_or_default();
    matching
        .iter()
        .map(|entry| (entry.id, entry.revision))
        .collect()
}

/// SVIDs of all tasks that a caller sees, with their hints.
pub(crate) struct Have {
    pub(crate) svids: Vec<(Held, Arc<Svid>, String)>,
    pub(crate) bundle: Arc<Bundle>,
    /// Where the entry of one of them says so.
    pub(crate) crls: Option<Crls>,
    pub(crate) print: Print,
    /// When to look again.
    pub(crate) next: Timestamp,
}

/// What the caller has now; at least one.
///
/// # Errors
/// Why it has nothing at all.
pub(crate) async fn have(
    agent: &Arc<Agent>,
    caller: &Caller,
    action: &'static str,
) -> Result<Have, Status> {
    let bundle = agent.knowledge.bundle().ok_or_else(starting)?;
    let mut view = agent.view(caller).await?;
    if view.tasks.len() > MAX_SVIDS {
        let all = view.tasks.len();
        tracing::warn!(process = %caller.process(), all, "only the first {MAX_SVIDS} SVIDs fit");
        view.tasks.truncate(MAX_SVIDS);
    }
    let fetched = join_all(view.tasks.iter().map(|held| agent.svids.get(held.task.id))).await;
    let mut next = agent.clock.now() + if view.is_incomplete() { RETRY } else { LOOK };
    let mut have = Vec::new();
    let mut failed = None;
    for (held, fetched) in view.tasks.into_iter().zip(fetched) {
        match fetched {
            Ok(Fetched { svid, ask_again }) => {
                next = next.min(ask_again).min(look_at(agent, &held));
                have.push((held, svid));
            }
            Err(status) => {
                next = next.min(agent.clock.now() + RETRY);
                failed = Some(status);
            }
        }
    }
    if have.is_empty() {
        return Err(nothing(agent, caller, action, failed, view.missing));
    }
    let entries = have.iter().filter_map(|(held, _)| held.task.entry);
    let wants_crls = any_wants_crls(&view.entries, entries);
    let crls = wants_crls.then(|| agent.knowledge.crls());
    let hints = hints(&hinted(&have, &view.entries));
    let svids: Vec<_> = have
        .into_iter()
        .zip(hints)
        .map(|((held, svid), hint)| (held, svid, hint))
        .collect();
    let prints = svids.iter();
    let prints = prints.map(|(held, svid, hint)| (held.task.id, svid.number, hint.clone()));
    let print = Print {
        svids: prints.collect(),
        crls: crls.clone(),
        ..print_of(&bundle)
    };
    Ok(Have {
        svids,
        bundle,
        crls,
        print,
        next,
    })
}

/// X.509-SVIDs of all tasks that the caller sees.
pub(crate) async fn x509_svids(
    agent: Arc<Agent>,
    caller: Caller,
) -> Result<Look<workload::X509svidResponse>, Status> {
    let have = have(&agent, &caller, "FetchX509SVID").await?;
    let der = have.bundle.x509_der();
    let svids = have.svids.iter();
    let svids = svids.map(|(held, svid, hint)| workload::X509svid {
        spiffe_id: held.task.spiffe_id.to_string(),
        x509_svid: svid.certificate.clone(),
        x509_svid_key: svid.key.to_vec(),
        bundle: der.clone(),
        hint: hint.clone(),
    });
    let message = workload::X509svidResponse {
        svids: svids.collect(),
        crl: have.crls.as_deref().cloned().unwrap_or_default(),
        federated_bundles: HashMap::new(),
    };
    Ok(Look {
        message,
        print: have.print,
        next: have.next,
    })
}

/// Bundles that authenticate X.509-SVIDs.
pub(crate) async fn x509_bundles(
    agent: Arc<Agent>,
    caller: Caller,
) -> Result<Look<workload::X509BundlesResponse>, Status> {
    let bundle = entitled(&agent, &caller, "FetchX509Bundles")?;
    let crls = crls_for(&agent, &caller)?;
    let message = workload::X509BundlesResponse {
        crl: crls.as_deref().cloned().unwrap_or_default(),
        bundles: HashMap::from([(bundle.trust_domain().id().to_string(), bundle.x509_der())]),
    };
    Ok(Look {
        message,
        print: print_of(&bundle).with_crls(crls),
        next: agent.clock.now() + LOOK,
    })
}

/// Bundles that authenticate JWT-SVIDs.
pub(crate) async fn jwt_bundles(
    agent: Arc<Agent>,
    caller: Caller,
) -> Result<Look<workload::JwtBundlesResponse>, Status> {
    let bundle = entitled(&agent, &caller, "FetchJWTBundles")?;
    let keys = bundle.to_jwt_jwks_json().into_bytes();
    let message = workload::JwtBundlesResponse {
        bundles: HashMap::from([(bundle.trust_domain().id().to_string(), keys)]),
    };
    Ok(Look {
        message,
        print: print_of(&bundle),
        next: agent.clock.now() + LOOK,
    })
}

pub(crate) fn entitled(
    agent: &Agent,
    caller: &Caller,
    action: &'static str,
) -> Result<Arc<Bundle>, Status> {
    agent.entitle(caller, action)?;
    agent.knowledge.bundle().ok_or_else(starting)
}

/// Revocation lists, where an entry that the caller matches says so.
pub(crate) fn crls_for(agent: &Agent, caller: &Caller) -> Result<Option<Crls>, Status> {
    let entries = agent.entries()?;
    let matching = entries.matching(caller.selectors(), agent.clock.now());
    let wants = any_wants_crls(&entries, matching.iter().map(|entry| entry.id));
    Ok(wants.then(|| agent.knowledge.crls()))
}

/// Whether one of these entries says that its workloads receive revocation lists.
fn any_wants_crls(entries: &Entries, mut ids: impl Iterator<Item = EntryId>) -> bool {
    ids.any(|id| entries.get(id).is_some_and(|entry| entry.crl))
}

pub(crate) fn print_of(bundle: &Arc<Bundle>) -> Print {
    Print {
        svids: Vec::new(),
        crls: None,
        bundle: Some(Arc::clone(bundle)),
    }
}

/// When a task must be looked at again for its own sake.
fn look_at(agent: &Agent, held: &Held) -> Timestamp {
    let now = agent.clock.now();
    let times = held.task.times;
    // The rule is a matter of kind and life; ask it again from time to time.
    let soon = now
        + SUCCESSION
            .min(times.limit.since(now) / 2)
            .max(Duration::from_millis(50));
    let renews =
        successor_due(&held.task, now) || held.task.kind == taskmint_model::TaskKind::Implicit;
    if renews {
        times.deadline.min(soon)
    } else {
        times.deadline
    }
}

fn hinted<'a>(have: &'a [(Held, Arc<Svid>)], entries: &'a Entries) -> Vec<Hinted<'a>> {
    let hint = |held: &Held| held.task.entry.and_then(|id| entries.get(id));
    have.iter()
        .map(|(held, _)| Hinted {
            task: held.task.id,
            entry: held.task.entry,
            hint: hint(held).map_or("", |entry| entry.hint.as_str()),
        })
        .collect()
}

/// Why there is nothing at all: what failed, else what the view says.
pub(crate) fn nothing(
    agent: &Agent,
    caller: &Caller,
    action: &'static str,
    failed: Option<Status>,
    missing: Option<Missing>,
) -> Status {
    match (failed, missing) {
        (Some(status), _) | (None, Some(Missing::Status(status))) => without_task(status),
        (None, Some(Missing::Denied(denial))) => agent.denials.give(caller, action, denial),
        (None, None) => {
            let denial = Denial::no_identity("NO_TASK", "this process has no task");
            agent.denials.give(caller, action, denial)
        }
    }
}

/// A task that the server no longer has is no identity: SPIFFE knows only that (WAPI-24).
pub(crate) fn without_task(status: Status) -> Status {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition => {
            Denial::no_identity("TASK_ENDED", "the task has ended")
                .fix("begin a new task")
                .status()
        }
        Code::PermissionDenied if !status.message().contains(NO_IDENTITY) => {
            let message = format!("{} ({NO_IDENTITY})", status.message());
            Status::with_details(status.code(), message, status.details().to_vec().into())
        }
        _ => status,
    }
}

fn stopping() -> Status {
    let message = "the agent is stopping";
    Denial::new(Code::Unavailable, "STOPPING", message)
        .fix("connect again")
        .status()
}
