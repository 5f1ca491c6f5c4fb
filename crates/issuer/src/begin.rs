//! Begin: one decision, one durable write, the first SVID with it.

use std::sync::Arc;
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_lifecycle::{self as lifecycle, Ask, Begun, Defaults};
use taskmint_mint::{Class, Facts, PublicKey};
use taskmint_model::{
    Authority, Binding, Entry, EntryId, Holder, Limits, Process, Task, TaskId, TaskKind, Timestamp,
};
use taskmint_store::{Change, Commit, CommitError, Expect};

use crate::entries::no_entry;
use crate::mint::{MintedX509, X509Plan};
use crate::refused::{RefusalKind, Refused};
use crate::requests::{Asked, RequestMark};
use crate::{Caller, Issuer, Principal};

/// How often a decision is made anew because something changed meanwhile.
pub(crate) const ATTEMPTS: usize = 16;

/// What a caller asks for when a task begins.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Recognises a retry (P6).
    pub request: Option<RequestMark>,
    /// The task above.
    pub parent: Option<TaskId>,
    /// Set for an implicit task: its entry.
    pub implicit: Option<EntryId>,
    /// An orchestrator names the entry instead of being matched.
    pub entry: Option<EntryId>,
    /// Which of the identities that the caller matches.
    pub spiffe_id: Option<SpiffeId>,
    /// What for.
    pub purpose: String,
    /// On whose behalf; unset means the entry's.
    pub owner: Option<String>,
    /// What it may ask for; unset means all that its entry and parent allow.
    pub authority: Option<Authority>,
    /// From now until its deadline.
    pub ttl: Option<Duration>,
    /// From now until its limit.
    pub limit: Option<Duration>,
    /// Children.
    pub limits: Option<Limits>,
    /// Who sees it.
    pub binding: Binding,
    /// The process whose life it depends on.
    pub holder: Option<Process>,
    /// The node that holds it, where that is not the caller's.
    pub node: Option<SpiffeId>,
    /// The key of the first SVID; none mints nothing yet.
    pub key: Option<PublicKey>,
    /// The task that this one continues (P4).
    pub continues: Option<TaskId>,
}

/// A task that began, with its first SVID where a key came along.
#[derive(Debug, Clone)]
pub struct Began {
    /// The task.
    pub task: Task,
    /// Its first SVID.
    pub svid: Option<MintedX509>,
    /// The same request was answered before; this is that task as it is now.
    pub replayed: bool,
}

impl Issuer {
    /// Begins a task for an attested workload, or for an administrator's orchestrator.
    ///
    /// # Errors
    /// Refuses by the rules of `lifecycle`, by P3 (`BARRED`), by P6 (`REQUEST_ID_REUSED`,
    /// `TOO_MANY_REQUEST_IDS`), and when no entry matches (`NO_MATCHING_ENTRY`) or several do (`SEVERAL_IDENTITIES`).
    pub async fn begin(&self, who: &Principal, begin: Begin) -> Result<Began, Refused> {
        let mut asked = self.asked(who, begin.request.as_ref());
        for _ in 0..ATTEMPTS {
            if let Some(task) = self.answered(&mut asked).await? {
                return self.replay(who, &begin, task).await;
            }
            match self.try_begin(who, &begin, &mut asked).await? {
                Some(began) => return Ok(began),
                None => continue,
            }
        }
        Err(Refused::busy())
    }

    /// One attempt; none when something changed meanwhile.
    async fn try_begin(
        &self,
        who: &Principal,
        begin: &Begin,
        asked: &mut Asked<'_>,
    ) -> Result<Option<Began>, Refused> {
        let now = self.clock.now();
        let parent = match begin.parent {
            Some(id) => Some(self.visible_task(who, id).await?),
            None => None,
        };
        let entry = self.choose_entry(who, begin, parent.as_ref())?;
        self.take_rate(Some(entry.id))?;
        if begin.implicit.is_some() {
            self.check_implicit(who, &entry).await?;
        }
        if let Some(before) = begin.continues {
            self.check_continues(who, before, &entry).await?;
        }
        let ask = self.ask(who, begin, &entry, parent.as_ref());
        let defaults = &self.settings.defaults;
        let Begun {
            task,
            parent: counted,
        } = self
            .open_task(ask, Some(&entry), parent.as_ref(), defaults, now)
            .await?;
        let id = task.id;

        let mut commit = Commit::default();
        commit.expect.push(Expect::NoTask(id));
        commit.expect.push(Expect::Entry(entry.id, entry.revision));
        if let (Some(before), Some(after)) = (&parent, counted) {
            commit.expect.push(Expect::Task(before.id, before.version));
            commit.changes.push(Change::PutTask(Box::new(after)));
        }
        asked.write(&mut commit, &task);
        commit.changes.push(Change::PutTask(Box::new(task.clone())));
        let resource = task.spiffe_id.to_string();
        let audit = self.audit(who, "task.begin", resource, Some(&task), now);
        commit.changes.push(Change::Audit(audit));

        let plan = match &begin.key {
            Some(key) => Some(self.plan_x509(&task, Some(&entry), key.clone(), now)?),
            None => None,
        };
        let svid = match self.commit_and_sign(commit, plan, &task).await {
            Ok(svid) => svid,
            Err(Interrupted::Conflict) => return Ok(None),
            Err(Interrupted::Refused(refused)) => return Err(refused),
            Err(Interrupted::Unsigned(refused)) => {
                asked.written(&task);
                // The task is durable but its first credential was never made: end it, so that
                // nothing is left running that nobody knows of.
                drop(
                    self.end(&Principal::Issuer, id, crate::Cause::FAILED, "")
                        .await,
                );
                return Err(refused);
            }
        };
        asked.written(&task);
        self.publish(task.clone());
        Ok(Some(Began {
            task,
            svid,
            replayed: false,
        }))
    }

    /// Opens a task by the rules, at a place of its own and with the authority's grant. Nothing is
    /// durable yet but that the place is used up.
    pub(crate) async fn open_task(
        &self,
        ask: Ask,
        entry: Option<&Entry>,
        parent: Option<&Task>,
        defaults: &Defaults,
        now: Timestamp,
    ) -> Result<Begun, Refused> {
        let times = lifecycle::times(&ask, entry, parent, defaults, now)?;
        let place = self.store.place(times.limit.hour()).await?;
        let id = TaskId::new(now, &*self.entropy);
        let mut begun = lifecycle::begin(ask, entry, parent, id, place, defaults, now)?;
        begun.task.grant = self.authority.grant(&facts(&begun.task)).await?.0;
        Ok(begun)
    }

    /// Signs beside the sync (P28); nothing leaves unless both are done.
    pub(crate) async fn commit_and_sign(
        &self,
        mut commit: Commit,
        plan: Option<X509Plan>,
        task: &Task,
    ) -> Result<Option<MintedX509>, Interrupted> {
        let Some(plan) = plan else {
            self.store.commit(commit).await?;
            return Ok(None);
        };
        let record = plan.record(task);
        commit.changes.push(Change::Issue(record.clone()));
        let (committed, signed) = tokio::join!(self.store.commit(commit), self.sign_x509(plan));
        if committed.is_err() && signed.is_ok() {
            self.keep_discarded(vec![record]).await;
        }
        committed?;
        signed.map(Some).map_err(Interrupted::Unsigned)
    }

    /// P6: the same request again gives the same task as it is now.
    async fn replay(&self, who: &Principal, begin: &Begin, task: Task) -> Result<Began, Refused> {
        let svid = match &begin.key {
            Some(key) if task.is_live(self.clock.now()) => {
                let node = match who {
                    Principal::Workload(caller) => Some(&caller.node),
                    _ => None,
                };
                Some(self.mint_x509(node, task.id, key.clone()).await?)
            }
            _ => None,
        };
        Ok(Began {
            task,
            svid,
            replayed: true,
        })
    }

    /// Which entry allows the task: the one named, else the only one that the caller matches.
    fn choose_entry(
        &self,
        who: &Principal,
        begin: &Begin,
        parent: Option<&Task>,
    ) -> Result<Arc<Entry>, Refused> {
        let caller = match who {
            Principal::Workload(caller) => caller,
            Principal::Admin(_) => {
                let named = begin.entry.and_then(|id| self.entries.get(id));
                return named.ok_or_else(no_entry);
            }
            Principal::Node(_) | Principal::Watcher(_) | Principal::Issuer => {
                return Err(Refused::no_task());
            }
        };
        let now = self.clock.now();
        let matching =
            self.entries
                .matching(&caller.node, &caller.node_selectors, &caller.selectors, now);
        if matching.is_empty() {
            return Err(self.no_match(caller));
        }
        if let Some(id) = begin.implicit {
            let found = matching
                .into_iter()
                .find(|entry| entry.id == id && entry.implicit);
            return found.ok_or_else(|| self.no_match(caller));
        }
        let wanted = begin.spiffe_id.as_ref();
        let fits = |entry: &&Arc<Entry>| wanted.is_none_or(|id| entry.spiffe_id == *id);
        // A sub-task carries on its parent's identity unless it asks for another one.
        let inherited = parent
            .filter(|_| wanted.is_none())
            .and_then(|parent| matching.iter().find(|entry| Some(entry.id) == parent.entry));
        if let Some(entry) = inherited {
            return Ok(entry.clone());
        }
        let mut fitting = matching.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(entry), None) => Ok(entry.clone()),
            (None, _) => Err(self.no_match(caller)),
            (Some(_), Some(_)) => {
                let ids: Vec<_> = matching.iter().map(|e| e.spiffe_id.to_string()).collect();
                let message = format!("this process matches several entries: {}", ids.join(", "));
                Err(
                    Refused::new(RefusalKind::Invalid, "SEVERAL_IDENTITIES", message)
                        .fix("name the SPIFFE ID that the task should carry"),
                )
            }
        }
    }

    /// Explains, to the operator alone, why each entry of the node did not match.
    fn no_match(&self, caller: &Caller) -> Refused {
        let on_node = self
            .entries
            .counting_on(&caller.node, &caller.node_selectors);
        let mut ranked: Vec<_> = on_node
            .iter()
            .map(|entry| {
                let missing: Vec<_> = entry
                    .selectors
                    .difference(&caller.selectors)
                    .map(ToString::to_string)
                    .collect();
                (
                    missing.len(),
                    format!(
                        "entry {} ({}) lacks {}",
                        entry.id,
                        entry.spiffe_id,
                        missing.join(", ")
                    ),
                )
            })
            .collect();
        ranked.sort();
        let mut detail: Vec<_> = ranked.into_iter().take(16).map(|(_, text)| text).collect();
        if detail.is_empty() {
            detail.push(format!("no entry counts on node {}", caller.node));
        }
        // The phrase is what SPIFFE clients look for to tell this from other denials (T-26).
        let message = "no identity issued: no entry matches this process";
        let mut refused = Refused::new(RefusalKind::Denied, "NO_MATCHING_ENTRY", message)
            .fix("ask an operator to look at the denial id, and to create or change an entry")
            .detail(detail);
        refused.facts = caller.selectors.clone();
        refused
    }

    /// P3: an implicit task that was ended is not begun again by a retry.
    async fn check_implicit(&self, who: &Principal, entry: &Entry) -> Result<(), Refused> {
        let Principal::Workload(caller) = who else {
            return Ok(());
        };
        let bars = self.store.bars(&caller.node).await?;
        let barred = bars
            .iter()
            .find(|bar| bar.entry == entry.id && bar.process == caller.process);
        let Some(bar) = barred else { return Ok(()) };
        let message = format!(
            "no identity issued: task {} of this process was ended",
            bar.task
        );
        let mut refused = Refused::new(RefusalKind::Denied, "BARRED", message)
            .fix("start a new process, or ask an operator to lift the bar");
        refused.facts = caller.selectors.clone();
        Err(refused)
    }

    /// P4: a successor follows a task of the same process and entry that has not been ended.
    async fn check_continues(
        &self,
        who: &Principal,
        before: TaskId,
        entry: &Entry,
    ) -> Result<(), Refused> {
        let before = self.visible_task(who, before).await?;
        lifecycle::successor(&before, self.clock.now())?;
        let process = match who {
            Principal::Workload(caller) => Some(caller.process),
            _ => None,
        };
        if before.entry == Some(entry.id) && before.holder.process == process {
            return Ok(());
        }
        let message = "a task is continued by its own process and under its own entry";
        Err(Refused::new(RefusalKind::Denied, "NO_SUCCESSOR", message))
    }

    fn ask(&self, who: &Principal, begin: &Begin, entry: &Entry, parent: Option<&Task>) -> Ask {
        let node = match who {
            Principal::Workload(caller) => Some(caller.node.clone()),
            _ => begin.node.clone(),
        };
        let owner = begin.owner.clone().unwrap_or_else(|| {
            parent.map_or_else(|| entry.owner.clone(), |parent| parent.owner.clone())
        });
        Ask {
            kind: if begin.implicit.is_some() {
                TaskKind::Implicit
            } else {
                TaskKind::Explicit
            },
            entry: Some(entry.id),
            spiffe_id: entry.spiffe_id.clone(),
            owner,
            purpose: begin.purpose.clone(),
            authority: begin.authority.clone(),
            ttl: begin.ttl,
            limit: begin.limit,
            limits: begin.limits,
            holder: Holder {
                node,
                process: begin.holder,
            },
            binding: begin.binding.clone(),
            continues: begin.continues,
        }
    }
}

/// Why a commit with a signature beside it did not go through.
pub(crate) enum Interrupted {
    /// Something changed meanwhile; nothing was written.
    Conflict,
    /// Nothing was written.
    Refused(Refused),
    /// It was written, but not signed.
    Unsigned(Refused),
}

impl From<CommitError> for Interrupted {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Conflict,
            error => Self::Refused(error.into()),
        }
    }
}

/// The facts of a task, as the authority's grant binds them.
pub(crate) fn facts(task: &Task) -> Facts {
    Facts {
        task: task.id,
        root: task.root,
        spiffe_id: task.spiffe_id.clone(),
        place: task.place,
        limit: task.times.limit,
        class: match task.kind {
            TaskKind::Explicit | TaskKind::Implicit => Class::Workload,
            TaskKind::Node => Class::Node,
            TaskKind::Server => Class::Server,
        },
    }
}
