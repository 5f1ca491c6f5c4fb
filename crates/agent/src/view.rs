//! What a caller may have: its tasks, or why it has none.

use std::sync::Arc;

use taskmint_model::{Selectors, State, Timestamp};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::caller::{Caller, Scope};
use crate::denial::Denial;
use crate::holding::Held;
use crate::knowledge::{Entries, Entry};
use crate::server::is_transient;

/// Entries that an operator is shown to explain why none matched.
const EXPLAINED: usize = 8;

/// What a caller may have now.
pub(crate) struct View {
    /// Live tasks, in order of begin.
    pub(crate) tasks: Vec<Held>,
    /// The entries that this was decided by.
    pub(crate) entries: Arc<Entries>,
    /// Why there are none, or why one more that could be is not there yet.
    pub(crate) missing: Option<Missing>,
}

/// Why something is not there.
pub(crate) enum Missing {
    /// This agent says no.
    Denied(Denial),
    /// The server does, or can't be asked.
    Status(Status),
}

impl View {
    /// Whether it is worth asking again soon, without any change that would say so.
    pub(crate) fn is_incomplete(&self) -> bool {
        matches!(&self.missing, Some(Missing::Status(status)) if is_transient(status))
    }
}

impl Agent {
    /// The entries of this node.
    ///
    /// # Errors
    /// Before the first session with the server nothing is known.
    pub(crate) fn entries(&self) -> Result<Arc<Entries>, Status> {
        self.knowledge.entries().ok_or_else(starting)
    }

    /// What the caller may have; implicit tasks are opened for it where its entries allow them.
    ///
    /// # Errors
    /// Before the first session with the server nothing is known.
    pub(crate) async fn view(self: &Arc<Self>, caller: &Caller) -> Result<View, Status> {
        let entries = self.entries()?;
        let now = self.clock.now();
        let explicit = self.explicit(caller);
        if let Some(view) = decided(caller, explicit, &entries, now) {
            return Ok(view);
        }
        self.implicit_view(caller, entries, now).await
    }

    /// Tasks that are bound to the caller, whatever their state.
    pub(crate) fn explicit(&self, caller: &Caller) -> Vec<Held> {
        match caller.scope() {
            Scope::Task(id) => self.holding.get(id).into_iter().collect(),
            Scope::Shared => self.holding.seen(caller.ancestry()),
        }
    }

    /// Tasks whose SVIDs the caller may have, without opening any.
    ///
    /// # Errors
    /// Before the first session with the server nothing is known.
    pub(crate) fn bound(&self, caller: &Caller) -> Result<Vec<Held>, Status> {
        let entries = self.entries()?;
        let now = self.clock.now();
        let mut tasks = self.explicit(caller);
        if tasks.is_empty() && caller.scope() == Scope::Shared {
            let matching = entries.matching(caller.selectors(), now);
            let implicit = |entry: &Arc<Entry>| self.holding.implicit(entry.id, caller.process());
            tasks = matching.iter().filter_map(implicit).collect();
            tasks.sort_by_key(|held| held.order);
        }
        tasks.retain(|held| judge(caller, held, &entries, now).is_ok());
        Ok(tasks)
    }

    /// Whether the caller may have trust bundles: it matches an entry, or sees a task. Opens none
    /// (P3).
    ///
    /// # Errors
    /// A denial if not; before the first session with the server nothing is known.
    pub(crate) fn entitle(&self, caller: &Caller, action: &'static str) -> Result<(), Status> {
        let entries = self.entries()?;
        let matches = !entries
            .matching(caller.selectors(), self.clock.now())
            .is_empty();
        if matches || !self.bound(caller)?.is_empty() {
            return Ok(());
        }
        let denial = no_match(&entries, caller.selectors(), self.clock.now());
        Err(self.denials.give(caller, action, denial))
    }
}

/// The view, unless implicit tasks are to be considered: where an explicit task is bound to the
/// caller there are none, even if it can't be had now.
fn decided(
    caller: &Caller,
    explicit: Vec<Held>,
    entries: &Arc<Entries>,
    now: Timestamp,
) -> Option<View> {
    if explicit.is_empty() && caller.scope() == Scope::Shared {
        return None;
    }
    let mut denied = None;
    let mut tasks = Vec::new();
    for held in explicit {
        match judge(caller, &held, entries, now) {
            Ok(()) => tasks.push(held),
            Err(denial) => denied = Some(denial),
        }
    }
    let missing = if tasks.is_empty() {
        denied.or_else(|| Some(gone()))
    } else {
        None
    };
    let entries = Arc::clone(entries);
    Some(View {
        tasks,
        entries,
        missing: missing.map(Missing::Denied),
    })
}

/// Whether the caller may have the SVID of a task that is bound to it.
pub(crate) fn judge(
    caller: &Caller,
    held: &Held,
    entries: &Entries,
    now: Timestamp,
) -> Result<(), Denial> {
    let task = &held.task;
    if held.dying {
        let why = format_args!("the holder of task {} is gone", task.id);
        return Err(Denial::no_identity("TASK_ENDED", why));
    }
    if let Some(denial) = not_live(held, now) {
        return Err(denial);
    }
    let entry = task.entry.and_then(|id| entries.get(id));
    let Some(entry) = entry else {
        let why = format_args!("the entry of task {} does not count on this node", task.id);
        return Err(Denial::no_identity("ENTRY_GONE", why).fix("ask an operator"));
    };
    let is_holder = task.holder.process == Some(caller.process());
    if entry.matches(caller.selectors(), now) || (entry.descendants && !is_holder) {
        return Ok(());
    }
    let lacks = lacking(entry, caller.selectors());
    let why = "this process does not itself match the entry of the task that it sees";
    Err(Denial::no_identity("ENTRY_MISMATCH", why)
        .fix("run what the entry names, or ask an operator to set `descendants` on it")
        .detail(vec![format!(
            "entry {} ({}) lacks {lacks}",
            entry.id, entry.spiffe_id
        )]))
}

/// Why a task gives nothing, if it does not.
pub(crate) fn not_live(held: &Held, now: Timestamp) -> Option<Denial> {
    let task = &held.task;
    match &task.state {
        State::Ended { cause, .. } => {
            let why = format_args!("task {} has ended ({})", task.id, cause.name());
            Some(Denial::no_identity("TASK_ENDED", why).fix("begin a new task"))
        }
        State::Suspended { .. } => {
            let why = format_args!("task {} is suspended", task.id);
            Some(Denial::no_identity("TASK_SUSPENDED", why).fix("wait until it is resumed"))
        }
        State::Live if now >= task.times.deadline => {
            let why = format_args!("the deadline of task {} has passed", task.id);
            Some(Denial::no_identity("TASK_ENDED", why).fix("begin a new task"))
        }
        State::Live => None,
    }
}

/// No entry matches. The caller learns just that; the operator, what was nearest.
pub(crate) fn no_match(entries: &Entries, selectors: &Selectors, now: Timestamp) -> Denial {
    let mut near: Vec<_> = entries
        .sharing(selectors)
        .map(|entry| {
            let expired = entry.expires_at.is_some_and(|at| at <= now);
            let lacks = if expired {
                "nothing, but has expired".to_owned()
            } else {
                lacking(&entry, selectors)
            };
            let text = format!("entry {} ({}) lacks {lacks}", entry.id, entry.spiffe_id);
            (entry.selectors.difference(selectors).count(), text)
        })
        .collect();
    near.sort();
    let mut detail: Vec<_> = near
        .into_iter()
        .take(EXPLAINED)
        .map(|(_, text)| text)
        .collect();
    if detail.is_empty() {
        let count = entries.len();
        detail.push(format!(
            "none of the {count} entries on this node shares a selector with it"
        ));
    }
    Denial::no_identity("NO_MATCHING_ENTRY", "no entry matches this process")
        .fix("ask an operator to look at the denial id, and to create or change an entry")
        .detail(detail)
}

fn lacking(entry: &Entry, selectors: &Selectors) -> String {
    let lacking: Vec<_> = entry
        .selectors
        .difference(selectors)
        .map(ToString::to_string)
        .collect();
    lacking.join(", ")
}

fn gone() -> Denial {
    Denial::no_identity("TASK_ENDED", "the task has ended").fix("begin a new task")
}

/// Nothing has been heard from the server yet.
pub(crate) fn starting() -> Status {
    let message = "the agent has not heard from the server yet";
    Denial::new(Code::Unavailable, "SERVER_UNREACHABLE", message)
        .fix("try again")
        .status()
}
