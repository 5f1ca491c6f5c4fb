//! Who may act on a task: those whom it is bound to, its holder, who began it, and the same of any
//! task above it. A task's id grants nothing.

use taskmint_model::TaskId;
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::caller::{Caller, Scope};
use crate::denial::Denial;
use crate::holding::Held;
use crate::view::Missing;

/// A task and the one through which the caller acts on it: the task itself or one above it.
#[derive(Debug, Clone)]
pub(crate) struct Ruled {
    pub(crate) held: Held,
    pub(crate) acting: TaskId,
}

/// What a caller may act on, decided once for many tasks.
pub(crate) struct Rule<'a> {
    agent: &'a Agent,
    caller: &'a Caller,
    bound: Vec<TaskId>,
}

impl Agent {
    /// What the caller may act on.
    pub(crate) fn rule<'a>(&'a self, caller: &'a Caller) -> Rule<'a> {
        let bound = self
            .explicit(caller)
            .iter()
            .map(|held| held.task.id)
            .collect();
        Rule {
            agent: self,
            caller,
            bound,
        }
    }

    /// The task of this id, if the caller may act on it.
    ///
    /// # Errors
    /// `BAD_TASK_ID`; `NO_SUCH_TASK`, also where there is one and it is none of the caller's.
    pub(crate) fn ruled(
        &self,
        caller: &Caller,
        id: &str,
        action: &'static str,
    ) -> Result<Ruled, Status> {
        let id = task_id(id)?;
        self.rule(caller)
            .task(id)
            .ok_or_else(|| self.no_such_task(caller, action))
    }

    /// The task of this id, or the only one that the caller holds if the id is empty.
    ///
    /// # Errors
    /// As [`Self::ruled`]; `NO_TASK` or `SEVERAL_TASKS` where none is named. Nobody was told yet.
    pub(crate) fn resolve(&self, caller: &Caller, id: &str) -> Result<Ruled, Missing> {
        if !id.is_empty() {
            let id = task_id(id).map_err(Missing::Status)?;
            let found = self.rule(caller).task(id);
            return found.ok_or_else(|| Missing::Denied(unknown()));
        }
        let mut held = self.explicit(caller);
        if held.is_empty() {
            held = self.bound(caller).map_err(Missing::Status)?;
        }
        held.retain(|held| !held.task.is_ended());
        let several = held.len() > 1;
        match held.pop() {
            Some(held) if !several => Ok(Ruled {
                acting: held.task.id,
                held,
            }),
            Some(_) => {
                let message = "this process holds several tasks";
                let denial = Denial::invalid("SEVERAL_TASKS", message);
                Err(Missing::Denied(denial.fix("name the task")))
            }
            None => {
                let denial = Denial::new(Code::NotFound, "NO_TASK", "this process holds no task");
                Err(Missing::Denied(denial.fix("name the task")))
            }
        }
    }

    /// Denies the caller what [`Self::resolve`] did not find.
    pub(crate) fn refuse(&self, caller: &Caller, action: &'static str, denial: Denial) -> Status {
        match denial.code {
            // What has to be asked for rightly leaves no story.
            Code::InvalidArgument => denial.status(),
            _ => self.denials.give(caller, action, denial),
        }
    }

    pub(crate) fn no_such_task(&self, caller: &Caller, action: &'static str) -> Status {
        self.denials.give(caller, action, unknown())
    }
}

impl Rule<'_> {
    /// The task of this id, if the caller may act on it.
    pub(crate) fn task(&self, id: TaskId) -> Option<Ruled> {
        let way = self.agent.holding.upwards(id);
        let acting = way.iter().find(|held| self.is_own(held))?.task.id;
        let held = way.into_iter().next()?;
        Some(Ruled { held, acting })
    }

    /// Whether the caller needs no task above to act on this one.
    fn is_own(&self, held: &Held) -> bool {
        if self.bound.contains(&held.task.id) {
            return true;
        }
        // On a task's own socket there is that task, and what is below it.
        if self.caller.scope() != Scope::Shared {
            return false;
        }
        let process = self.caller.process();
        let began = held
            .beginner
            .as_ref()
            .is_some_and(|by| by.process() == process);
        held.task.holder.process == Some(process) || began
    }
}

fn unknown() -> Denial {
    let message = "no such task, or none that this process sees";
    Denial::new(Code::NotFound, "NO_SUCH_TASK", message)
}

/// Reads a task id.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Status> {
    let read = text.parse::<TaskId>();
    read.map_err(|error| Denial::invalid("BAD_TASK_ID", error.to_string()).status())
}
