//! A caller's request, so that the server knows it again (P6): by its id and a digest of what the
//! caller said. What the agent finds out for it, such as the nearest task, may be something else by
//! the time of a retry, and is left out.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use taskmint_wire::{node, task};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::caller::Caller;
use crate::ruling::Ruled;
use crate::view::Missing;

/// A request that changes something.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// As the server names it.
    method: &'static str,
    id: Vec<u8>,
    digest: Vec<u8>,
}

/// What a request is about.
pub(crate) enum Aim {
    /// A task that the caller may act on.
    Task(Ruled),
    /// Nothing that the agent finds any more: the same request was answered with this task.
    Answered(Box<task::EndResponse>),
}

impl Asked {
    /// A request of a method, by its id and all that the caller said.
    pub(crate) fn new(method: &'static str, id: &[u8], said: &impl Message) -> Self {
        let digest = if id.is_empty() {
            Vec::new()
        } else {
            digest(&SHA256, &said.encode_to_vec()).as_ref().to_vec()
        };
        Self {
            method,
            id: id.to_vec(),
            digest,
        }
    }

    /// For the server; empty where there is no id.
    pub(crate) fn digest(&self) -> Vec<u8> {
        self.digest.clone()
    }
}

impl Agent {
    /// What a request is about: the task of this id, or the only one that the caller holds if the
    /// id is empty. A retry may come when that one has ended and is not held any more.
    ///
    /// # Errors
    /// `BAD_TASK_ID`, `NO_SUCH_TASK`, `NO_TASK`, `SEVERAL_TASKS`, `REQUEST_ID_REUSED`.
    pub(crate) async fn aim(
        &self,
        caller: &Caller,
        id: &str,
        action: &'static str,
        asked: &Asked,
    ) -> Result<Aim, Status> {
        match self.resolve(caller, id) {
            Ok(ruled) => Ok(Aim::Task(ruled)),
            Err(Missing::Status(status)) => Err(status),
            Err(Missing::Denied(denial)) => match self.recall(caller, asked).await? {
                Some(answer) => Ok(Aim::Answered(Box::new(answer))),
                None => Err(self.refuse(caller, action, denial)),
            },
        }
    }

    /// The task that the same request was answered with before, as it is now.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED`; that the server can't be reached.
    pub(crate) async fn recall(
        &self,
        caller: &Caller,
        asked: &Asked,
    ) -> Result<Option<task::EndResponse>, Status> {
        if asked.id.is_empty() {
            return Ok(None);
        }
        let request = node::RecallTaskRequest {
            method: asked.method.to_owned(),
            request_id: asked.id.clone(),
            request_digest: asked.digest(),
            caller: Some(caller.to_wire()),
        };
        let call = self
            .server
            .call(|mut nodes| async move { nodes.recall_task(request).await });
        match call.await {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_covers_all_that_was_said_and_is_only_made_for_an_id() {
        let said = task::EndRequest {
            request_id: vec![7; 16],
            task_id: "a".to_owned(),
            reason: "b".to_owned(),
            ..Default::default()
        };
        let digest =
            |said: &task::EndRequest| Asked::new("complete", &said.request_id, said).digest;
        assert_eq!(digest(&said).len(), 32);
        assert_eq!(digest(&said), digest(&said.clone()));
        let changes: [fn(&mut task::EndRequest); 3] = [
            |said| said.task_id = String::new(),
            |said| said.reason = "c".to_owned(),
            |said| said.task_id = "ab".to_owned(),
        ];
        for change in changes {
            let mut other = said.clone();
            change(&mut other);
            assert_ne!(digest(&other), digest(&said));
        }
        let without = task::EndRequest {
            request_id: Vec::new(),
            ..said
        };
        assert!(digest(&without).is_empty());
    }
}
