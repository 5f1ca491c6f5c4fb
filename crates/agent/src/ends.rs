//! Ends that this agent owes to the server: said until the server took them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_client::Backoff;
use taskmint_model::{Process, TaskId};
use taskmint_peer::HeldProcess;
use taskmint_wire::{node, retry_after_of, task_from_wire};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::Code;

use crate::agent::Agent;
use crate::holding::{Origin, Orphan};
use crate::server::is_transient;
use crate::topics::Topic;

/// How long a living beginner may take to begin to say how its child's task ended, after the child
/// did. Without it the exit status of every `run` would be lost to the first end, `holder_died`;
/// nobody sees the task meanwhile.
const LAST_WORD: Duration = Duration::from_millis(30);

/// How long its saying may take then: attestation, and the way to the server.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Calls at the same time.
const CALLS: usize = 64;

/// An end that is owed.
#[derive(Debug)]
pub(crate) struct End {
    task: TaskId,
    cause: &'static str,
    reason: &'static str,
    beginner: Option<HeldProcess>,
}

impl End {
    pub(crate) fn new(task: TaskId, cause: &'static str, reason: &'static str) -> Self {
        Self {
            task,
            cause,
            reason,
            beginner: None,
        }
    }
}

impl From<Orphan> for End {
    fn from(orphan: Orphan) -> Self {
        let end = Self::new(orphan.id, "holder_died", "the process that held it is gone");
        Self {
            beginner: orphan.beginner,
            ..end
        }
    }
}

/// Processes whose calls that end a task are being answered.
#[derive(Debug, Default)]
pub(crate) struct LastWords(Mutex<HashMap<Process, usize>>);

/// Such a call, until it is dropped.
pub(crate) struct Saying<'a> {
    words: &'a LastWords,
    who: Process,
}

impl LastWords {
    pub(crate) fn saying(&self, who: Process) -> Saying<'_> {
        *self.0.lock().entry(who).or_default() += 1;
        Saying { words: self, who }
    }

    fn is_saying(&self, who: Process) -> bool {
        self.0.lock().contains_key(&who)
    }
}

impl Drop for Saying<'_> {
    fn drop(&mut self) {
        let mut words = self.words.0.lock();
        if let Some(count) = words.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                words.remove(&self.who);
            }
        }
    }
}

/// Says each end until it was taken. Runs until the agent is dropped.
pub(crate) async fn run(agent: Arc<Agent>, mut ends: mpsc::UnboundedReceiver<End>) {
    let slots = Arc::new(Semaphore::new(CALLS));
    let mut saying = JoinSet::new();
    loop {
        tokio::select! {
            end = ends.recv() => match end {
                Some(end) => drop(saying.spawn(say(Arc::clone(&agent), end, Arc::clone(&slots)))),
                None => return,
            },
            Some(said) = saying.join_next() => {
                if let Err(error) = said {
                    tracing::error!(%error, "an end was not said");
                }
            }
        }
    }
}

async fn say(agent: Arc<Agent>, end: End, slots: Arc<Semaphore>) {
    if let Some(beginner) = end.beginner.as_ref().filter(|beginner| beginner.is_alive()) {
        let last_word = async {
            tokio::select! {
                () = until_ended(&agent, end.task) => {}
                // An error says nothing about its life; then only the time counts.
                Ok(()) = beginner.exited() => {}
            }
        };
        let mut last_word = std::pin::pin!(last_word);
        let said = tokio::time::timeout(LAST_WORD, &mut last_word).await;
        if said.is_err() && agent.last_words.is_saying(beginner.process()) {
            drop(tokio::time::timeout(LAST_CALL, last_word).await);
        }
    }
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while !has_ended(&agent, end.task) {
        agent.server.wait_up().await;
        let Ok(slot) = slots.acquire().await else {
            return;
        };
        let asked = ask(&agent, &end).await;
        drop(slot);
        let Err(told) = asked else {
            return;
        };
        tokio::time::sleep(backoff.next_after(told, &*agent.entropy)).await;
    }
}

/// Says it, until the server took it or has nothing to take.
///
/// # Errors
/// It must be said again, not before the server wants to hear it.
async fn ask(agent: &Agent, end: &End) -> Result<(), Option<Duration>> {
    let request = node::EndTaskRequest {
        task_id: end.task.to_string(),
        cause: end.cause.to_owned(),
        reason: end.reason.to_owned(),
        ..Default::default()
    };
    match agent
        .server
        .call(|mut nodes| async move { nodes.end_task(request).await })
        .await
    {
        Ok(answer) => {
            let task = answer.task.unwrap_or_default();
            match task_from_wire(&task) {
                Ok(task) => drop(agent.learn(task, Origin::default())),
                Err(error) => tracing::error!(%error, "an ended task can't be read"),
            }
            Ok(())
        }
        Err(status) => {
            let moot = matches!(status.code(), Code::NotFound | Code::FailedPrecondition);
            if !is_transient(&status) {
                tracing::warn!(task = %end.task, cause = end.cause, %status, "an end is refused");
            }
            if moot {
                Ok(())
            } else {
                Err(retry_after_of(&status))
            }
        }
    }
}

fn has_ended(agent: &Agent, task: TaskId) -> bool {
    agent
        .holding
        .get(task)
        .is_none_or(|held| held.task.is_ended())
}

async fn until_ended(agent: &Agent, task: TaskId) {
    let mut subscription = agent.holding.topics().subscription();
    subscription.set(vec![Topic::Task(task)]);
    while !has_ended(agent, task) {
        subscription.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_saying_its_last_word_until_its_last_call_is_answered() {
        let words = LastWords::default();
        let process = |pid| Process {
            pid,
            start_time: 1,
            boot_id: [1; 16],
        };
        let (one, same) = (words.saying(process(1)), words.saying(process(1)));
        assert!(words.is_saying(process(1)) && !words.is_saying(process(2)));
        drop(one);
        assert!(words.is_saying(process(1)));
        drop(same);
        assert!(!words.is_saying(process(1)));
        assert!(words.0.lock().is_empty());
    }
}
