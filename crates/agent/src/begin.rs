//! Begin: one round trip to the server, and what it gives is kept here, whether or not who asked
//! still waits.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{TaskId, Timestamp};
use taskmint_peer::HeldProcess;
use taskmint_wire::{node, task_from_wire};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::denial::Denial;
use crate::holding::{Held, Origin};
use crate::key::PrivateKey;
use crate::svids::Svid;

/// About how long it takes until one of many that begin has begun.
const BEGINS_TAKE: Duration = Duration::from_millis(100);

/// A task that is to begin.
pub(crate) struct Beginning {
    pub(crate) request: node::BeginTaskRequest,
    /// The key that this agent made; none where the caller keeps its own.
    pub(crate) key: Option<PrivateKey>,
    /// Who asks.
    pub(crate) beginner: HeldProcess,
    /// Whose folder its sockets go in.
    pub(crate) folder: Option<u32>,
    /// For the metrics.
    pub(crate) kind: &'static str,
}

/// A task that began.
pub(crate) struct Begun {
    pub(crate) held: Held,
    /// The SVID over the agent's key.
    pub(crate) svid: Option<Arc<Svid>>,
    /// The SVID as it came; empty if the task is a retry's and no longer live.
    pub(crate) certificate: Vec<u8>,
    pub(crate) expires_at: Timestamp,
}

impl Agent {
    /// Begins a task.
    ///
    /// # Errors
    /// What the server refuses; that too many begin, or that it can't be reached.
    pub(crate) async fn begin(self: &Arc<Self>, beginning: Beginning) -> Result<Begun, Status> {
        let Ok(slot) = Arc::clone(&self.begins).try_acquire_owned() else {
            let message = "too many tasks begin at the same time";
            let denial = Denial::new(Code::ResourceExhausted, "TOO_MANY_BEGINS", message);
            return Err(denial.fix("try again").retry_after(BEGINS_TAKE).status());
        };
        let agent = Arc::clone(self);
        // On its own: a caller that goes away must not leave a task that nobody here knows of.
        let begun = tokio::spawn(async move {
            let begun = agent.begin_now(beginning).await;
            drop(slot);
            begun
        });
        begun.await.unwrap_or_else(|error| Err(fault(&error)))
    }

    async fn begin_now(&self, beginning: Beginning) -> Result<Begun, Status> {
        let Beginning {
            request,
            key,
            beginner,
            folder,
            kind,
        } = beginning;
        let answer = self
            .server
            .call(|mut nodes| async move { nodes.begin_task(request).await });
        let answer = answer.await?;
        let of_task = answer.task.unwrap_or_default();
        let task = task_from_wire(&of_task).map_err(|error| fault(&error))?;
        let id = task.id;
        let expires_at = Timestamp::from_millis(answer.expires_at_ms);
        let svid = match key {
            Some(key) if !answer.certificate.is_empty() => Some(
                self.svids
                    .put(id, key, answer.certificate.clone(), expires_at)
                    .await,
            ),
            _ => None,
        };
        self.metrics.begun(kind);
        self.learn(
            task,
            Origin {
                beginner: Some(beginner),
                folder,
            },
        );
        let held = self.known(id)?;
        Ok(Begun {
            held,
            svid,
            certificate: answer.certificate,
            expires_at,
        })
    }

    fn known(&self, id: TaskId) -> Result<Held, Status> {
        self.holding
            .get(id)
            .ok_or_else(|| fault(&"a task that began is not there"))
    }
}

/// A fault of ours: the caller can't do anything about it, the log says what it is.
pub(crate) fn fault(error: &impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a fault");
    Denial::new(Code::Internal, "FAULT", "a fault of ours; it is in the log").status()
}
