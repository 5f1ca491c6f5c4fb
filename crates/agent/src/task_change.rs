//! Extend, suspend, resume and end, for workloads: on tasks that the caller holds, or that lie
//! below one that it holds.

use std::sync::Arc;

use taskmint_wire::{node, task, task_from_wire};
use tonic::Status;

use crate::agent::Agent;
use crate::asked::{Aim, Asked};
use crate::begin::fault;
use crate::caller::Connection;
use crate::denial::Denial;
use crate::holding::Origin;
use crate::task_begin::{request_id, text};

/// The ends that a holder can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Complete,
    Fail,
    Cancel,
}

impl Way {
    fn cause(self) -> &'static str {
        match self {
            Self::Complete => "completed",
            Self::Fail => "failed",
            Self::Cancel => "cancelled",
        }
    }

    /// As requests are scoped (P6).
    fn method(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Fail => "Fail",
            Self::Cancel => "Cancel",
        }
    }
}

impl Agent {
    pub(crate) async fn extend_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::ExtendRequest,
    ) -> Result<task::TaskResponse, Status> {
        request_id(&request.request_id)?;
        if request.ttl_ms == 0 {
            let message = "a time from now until the new deadline is needed";
            return Err(Denial::invalid("BAD_TTL", message).status());
        }
        let asked = Asked::new("extend", &request.request_id, &request);
        let caller = self.attest(connection, "Extend").await?;
        let aim = self.aim(&caller, &request.task_id, "Extend", &asked);
        let ruled = match aim.await? {
            Aim::Task(ruled) => ruled,
            Aim::Answered(answer) => return self.take(task::TaskResponse { task: answer.task }),
        };
        let request = node::ExtendTaskRequest {
            request_id: request.request_id,
            task_id: ruled.held.task.id.to_string(),
            ttl_ms: request.ttl_ms,
            caller: Some(caller.to_wire()),
            request_digest: asked.digest(),
        };
        let call = self
            .server
            .call(|mut nodes| async move { nodes.extend_task(request).await });
        self.take(call.await?)
    }

    pub(crate) async fn suspend_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::SuspendRequest,
    ) -> Result<task::TaskResponse, Status> {
        request_id(&request.request_id)?;
        text("reason", &request.reason)?;
        let asked = Asked::new("suspend", &request.request_id, &request);
        let id = request.task_id.clone();
        let change = node::ChangeTaskRequest {
            request_id: request.request_id,
            reason: request.reason,
            ..Default::default()
        };
        let change = match self
            .change(connection, &id, change, "Suspend", asked)
            .await?
        {
            Ok(change) => change,
            Err(before) => return self.take(before),
        };
        let call = self
            .server
            .call(|mut nodes| async move { nodes.suspend_task(change).await });
        self.take(call.await?)
    }

    pub(crate) async fn resume_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::ResumeRequest,
    ) -> Result<task::TaskResponse, Status> {
        request_id(&request.request_id)?;
        let asked = Asked::new("resume", &request.request_id, &request);
        let id = request.task_id.clone();
        let change = node::ChangeTaskRequest {
            request_id: request.request_id,
            ..Default::default()
        };
        let change = match self
            .change(connection, &id, change, "Resume", asked)
            .await?
        {
            Ok(change) => change,
            Err(before) => return self.take(before),
        };
        let call = self
            .server
            .call(|mut nodes| async move { nodes.resume_task(change).await });
        self.take(call.await?)
    }

    pub(crate) async fn end_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::EndRequest,
        way: Way,
    ) -> Result<task::EndResponse, Status> {
        request_id(&request.request_id)?;
        text("reason", &request.reason)?;
        let asked = Asked::new(way.method(), &request.request_id, &request);
        let _saying = self.last_words.saying(connection.peer.process());
        let caller = self.attest(connection, way.action()).await?;
        let aim = self.aim(&caller, &request.task_id, way.action(), &asked);
        let ruled = match aim.await? {
            Aim::Task(ruled) => ruled,
            Aim::Answered(answer) => return Ok(*answer),
        };
        let request = node::EndTaskRequest {
            request_id: request.request_id,
            task_id: ruled.held.task.id.to_string(),
            cause: way.cause().to_owned(),
            reason: request.reason,
            acting_task_id: ruled.acting.to_string(),
            caller: Some(caller.to_wire()),
            request_digest: asked.digest(),
            wait: request.wait,
        };
        let call = self
            .server
            .call(|mut nodes| async move { nodes.end_task(request).await });
        let answer = call.await?;
        // The caller's own streams end now, not when the server's event comes round.
        self.take(task::TaskResponse {
            task: answer.task.clone(),
        })?;
        Ok(answer)
    }

    /// A change with its task and caller; or what the same request was answered with before.
    async fn change(
        self: &Arc<Self>,
        connection: &Connection,
        id: &str,
        change: node::ChangeTaskRequest,
        action: &'static str,
        asked: Asked,
    ) -> Result<Result<node::ChangeTaskRequest, task::TaskResponse>, Status> {
        let caller = self.attest(connection, action).await?;
        let ruled = match self.aim(&caller, id, action, &asked).await? {
            Aim::Task(ruled) => ruled,
            Aim::Answered(answer) => return Ok(Err(task::TaskResponse { task: answer.task })),
        };
        Ok(Ok(node::ChangeTaskRequest {
            task_id: ruled.held.task.id.to_string(),
            acting_task_id: ruled.acting.to_string(),
            caller: Some(caller.to_wire()),
            request_digest: asked.digest(),
            ..change
        }))
    }

    /// Takes in what the server answered, before the caller hears it.
    fn take(&self, answer: task::TaskResponse) -> Result<task::TaskResponse, Status> {
        let of_wire = answer.task.clone().unwrap_or_default();
        let task = task_from_wire(&of_wire).map_err(|error| fault(&error))?;
        self.learn(task, Origin::default());
        Ok(answer)
    }
}
