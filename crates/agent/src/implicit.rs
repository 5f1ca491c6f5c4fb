//! Implicit tasks: what an unmodified SPIFFE client gets, where an entry allows it. A task as long
//! as the process, never begun again once it was ended (P3), followed by a successor before its
//! limit (P4).

use std::sync::Arc;

use futures::future::join_all;
use taskmint_lifecycle::successor_due;
use taskmint_model::{EntryId, State, Timestamp};
use taskmint_wire::{node, task};
use tonic::Status;

use crate::agent::Agent;
use crate::begin::Beginning;
use crate::caller::Caller;
use crate::denial::Denial;
use crate::ends::End;
use crate::holding::Held;
use crate::key::PrivateKey;
use crate::knowledge::{Entries, Entry};
use crate::view::{Missing, View, no_match, not_live};

impl Agent {
    /// The caller's implicit tasks, one for each entry that allows them; opened where there is none.
    pub(crate) async fn implicit_view(
        self: &Arc<Self>,
        caller: &Caller,
        entries: Arc<Entries>,
        now: Timestamp,
    ) -> Result<View, Status> {
        let none = |denial| View {
            tasks: Vec::new(),
            entries: Arc::clone(&entries),
            missing: Some(Missing::Denied(denial)),
        };
        let matching = entries.matching(caller.selectors(), now);
        if self.holding.is_or_was_bound(caller.ancestry()) {
            return Ok(none(bound_elsewhere()));
        }
        if matching.is_empty() {
            return Ok(none(no_match(&entries, caller.selectors(), now)));
        }
        let implicit: Vec<_> = matching.iter().filter(|entry| entry.implicit).collect();
        if implicit.is_empty() {
            return Ok(none(no_implicit(&matching)));
        }
        // The oldest entry's first, so that the default identity is the same for every process that
        // starts; the others together.
        let mut opening = implicit
            .into_iter()
            .map(|entry| self.implicit_task(caller, entry));
        let mut opened = Vec::new();
        if let Some(first) = opening.next() {
            opened.push(first.await);
        }
        opened.extend(join_all(opening).await);
        let mut view = View {
            tasks: Vec::new(),
            entries: Arc::clone(&entries),
            missing: None,
        };
        for outcome in opened {
            match outcome {
                Ok(held) => view.tasks.push(held),
                Err(missing) => view.missing = Some(missing),
            }
        }
        view.tasks.sort_by_key(|held| held.order);
        Ok(view)
    }

    /// The task of the caller under one entry: the one there is, or its successor, or a new one.
    async fn implicit_task(
        self: &Arc<Self>,
        caller: &Caller,
        entry: &Arc<Entry>,
    ) -> Result<Held, Missing> {
        let key = (entry.id, caller.process());
        let now = self.clock.now();
        if let Some(held) = self.holding.implicit(entry.id, caller.process()) {
            if let Some(denial) = unusable(&held, now) {
                return Err(Missing::Denied(denial));
            }
            if held.task.is_live(now) && !successor_due(&held.task, now) {
                return Ok(held);
            }
        }
        // Many connections of one process cost one task.
        let _alone = self.implicit_locks.lock(key).await;
        match self.holding.implicit(entry.id, caller.process()) {
            Some(held) if held.task.is_live(now) => {
                if !successor_due(&held.task, now) {
                    return Ok(held);
                }
                Ok(self.succeed(caller, entry, held).await)
            }
            Some(held) if unusable(&held, now).is_some() => {
                Err(unusable(&held, now)
                    .map_or_else(|| Missing::Denied(expired()), Missing::Denied))
            }
            _ => self.open(caller, entry).await,
        }
    }

    /// Opens an implicit task, unless P3 bars it.
    async fn open(self: &Arc<Self>, caller: &Caller, entry: &Arc<Entry>) -> Result<Held, Missing> {
        if let Some(task) = self.holding.barred(entry.id, caller.ancestry()) {
            let why =
                format_args!("task {task} of this process, or of one that started it, was ended");
            let denial = Denial::no_identity("BARRED", why);
            let fix = "start a new process, or ask an operator to lift the bar";
            return Err(Missing::Denied(denial.fix(fix)));
        }
        self.begin_implicit(caller, entry.id, None)
            .await
            .map_err(Missing::Status)
    }

    /// Follows a task before its limit; the old one goes on if that fails, until it ends.
    async fn succeed(self: &Arc<Self>, caller: &Caller, entry: &Arc<Entry>, old: Held) -> Held {
        match self.begin_implicit(caller, entry.id, Some(&old)).await {
            Ok(successor) => {
                let reason = "its successor took its place";
                self.end_later(End::new(old.task.id, "superseded", reason));
                successor
            }
            Err(status) => {
                tracing::warn!(task = %old.task.id, %status, "no successor yet");
                old
            }
        }
    }

    async fn begin_implicit(
        self: &Arc<Self>,
        caller: &Caller,
        entry: EntryId,
        continues: Option<&Held>,
    ) -> Result<Held, Status> {
        let key = PrivateKey::generate().map_err(|error| crate::begin::fault(&error))?;
        let of_task = task::BeginRequest {
            purpose: "as long as the process".to_owned(),
            ..Default::default()
        };
        let request = node::BeginTaskRequest {
            task: Some(of_task),
            implicit_entry_id: entry.to_string(),
            caller: Some(caller.to_wire()),
            spki: key.spki.clone(),
            continues: continues
                .map(|held| held.task.id.to_string())
                .unwrap_or_default(),
            ..Default::default()
        };
        let beginner = caller.held().clone();
        let beginning = Beginning {
            request,
            key: Some(key),
            beginner,
            folder: None,
            kind: "implicit",
        };
        self.begin(beginning).await.map(|begun| begun.held)
    }
}

/// Why a task that is there can't be used: only a suspension says so, an end makes room.
fn unusable(held: &Held, now: Timestamp) -> Option<Denial> {
    matches!(held.task.state, State::Suspended { .. })
        .then(|| not_live(held, now))
        .flatten()
}

fn expired() -> Denial {
    Denial::no_identity("TASK_ENDED", "the task has ended")
}

fn bound_elsewhere() -> Denial {
    let why = "this process, or one that started it, has or had a task of its own, and gets no \
               other one by itself";
    Denial::no_identity("TASK_BOUND", why).fix("begin a new task, or start a new process")
}

fn no_implicit(matching: &[Arc<Entry>]) -> Denial {
    let why = "this process matches an entry, but has no task";
    let names = matching
        .iter()
        .map(|entry| format!("entry {} ({}) is not implicit", entry.id, entry.spiffe_id));
    Denial::no_identity("NO_TASK", why)
        .fix("begin a task (`taskmint run -- command`), or ask an operator to set `implicit` on the entry")
        .detail(names.collect())
}
