//! Tasks: begun for others, changed, ended, listed, watched and waited for.

use std::time::Duration;

use taskmint_config::Verb;
use taskmint_id::SpiffeId;
use taskmint_issuer::{Announced, Cause, Method, Refused};
use taskmint_model::{EntryId, Task, TaskKind};
use taskmint_store::TaskQuery;
use taskmint_wire::{admin, field, optional, task};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{AdminService, Changes, page, store};
use crate::admin_access::Access;
use crate::receipts::{self, Receipts};
use crate::refusal::{deny, explained, status};
use crate::requests::{self, text};

impl AdminService {
    pub(super) async fn begin_task(
        &self,
        request: Request<admin::BeginTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let entry: EntryId = field("entry_id", &ask.entry_id)?;
        let spiffe_id = self
            .issuer
            .entry(entry)
            .map(|entry| entry.spiffe_id.clone());
        access.check(Verb::Begin, spiffe_id.as_ref())?;
        let of_task = ask.task.clone().unwrap_or_default();
        let request = requests::mark(Method::Begin, &of_task.request_id, &[], || ask.clone())?;
        let mut begin = requests::begin(&of_task, request)?;
        begin.entry = Some(entry);
        begin.node = optional("node_id", &ask.node_id)?;
        begin.parent = optional("parent_id", &ask.parent_id)?;
        if let Some(parent) = begin.parent {
            // A child counts against its parent's limits and carries its root: the parent, too,
            // has to lie below the path.
            let parent = self.issuer.visible_task(&access.principal, parent).await;
            let parent = parent.map_err(status)?;
            access.check(Verb::Begin, Some(&parent.spiffe_id))?;
        }
        if let Some(node) = &begin.node
            && self
                .issuer
                .store()
                .node(node)
                .await
                .map_err(store)?
                .is_none()
        {
            return Err(deny(Code::NotFound, "NO_SUCH_NODE", "no such node"));
        }
        match self.issuer.begin(&access.principal, begin).await {
            Ok(began) => answer(&began.task),
            Err(refused) => Err(self.explained(&access, "task.begin", refused).await),
        }
    }

    pub(super) async fn get_task(
        &self,
        request: Request<task::GetRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (_, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Read)
            .await?;
        answer(&task)
    }

    pub(super) async fn list_tasks(
        &self,
        request: Request<admin::ListTasksRequest>,
    ) -> Result<Response<task::ListResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let list = ask.list.unwrap_or_default();
        let kinds = [TaskKind::Explicit, TaskKind::Implicit];
        let query = TaskQuery {
            live_only: list.live_only,
            node: optional("node_id", &ask.node_id)?,
            spiffe_id: optional("spiffe_id", &list.spiffe_id)?,
            root: optional("root_id", &list.root_id)?,
            entry: optional("entry_id", &ask.entry_id)?,
            kinds: if ask.all_kinds {
                Vec::new()
            } else {
                kinds.to_vec()
            },
            owner: (!ask.owner.is_empty()).then_some(ask.owner),
            after: page::read(&list.page_token)?,
            max: page::size(list.page_size),
        };
        let page = self.issuer.store().tasks(&query).await.map_err(store)?;
        let visible = page
            .items
            .iter()
            .filter(|task| access.may(Verb::Read, &task.spiffe_id));
        Ok(Response::new(task::ListResponse {
            tasks: visible.map(Into::into).collect(),
            next_page_token: page.next.map(page::write).unwrap_or_default(),
        }))
    }

    pub(super) async fn extend_task(
        &self,
        request: Request<task::ExtendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Extend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Extend, &ask.request_id, &[], || ask.clone())?;
        let (who, ttl) = (&access.principal, Duration::from_millis(ask.ttl_ms));
        let extended = self.issuer.extend(who, task.id, ttl, mark.as_ref()).await;
        answer(&extended.map_err(status)?)
    }

    pub(super) async fn suspend_task(
        &self,
        request: Request<task::SuspendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Suspend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Suspend, &ask.request_id, &[], || ask.clone())?;
        let (who, reason) = (&access.principal, text("reason", &ask.reason)?);
        let suspended = self.issuer.suspend(who, task.id, &reason, mark.as_ref());
        answer(&suspended.await.map_err(status)?)
    }

    pub(super) async fn resume_task(
        &self,
        request: Request<task::ResumeRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Suspend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Resume, &ask.request_id, &[], || ask.clone())?;
        let resumed = self
            .issuer
            .resume(&access.principal, task.id, mark.as_ref());
        answer(&resumed.await.map_err(status)?)
    }

    pub(super) async fn revoke_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        self.end_task(request, Cause::REVOKED).await
    }

    pub(super) async fn complete_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        self.end_task(request, Cause::COMPLETED).await
    }

    pub(super) async fn wait_task(
        &self,
        request: Request<task::WaitRequest>,
    ) -> Result<Response<Receipts>, Status> {
        let ask = request.get_ref();
        let (_, task) = self.task(&request, &ask.task_id, Verb::Read).await?;
        let receipts = receipts::wait(&self.issuer, None, task, ask.timeout_ms, self.stop.clone());
        receipts.map(Response::new)
    }

    pub(super) async fn watch_tasks(
        &self,
        request: Request<admin::WatchTasksRequest>,
    ) -> Result<Response<Changes>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let root: Option<taskmint_model::TaskId> = optional("root_id", &ask.root_id)?;
        let spiffe_id: Option<SpiffeId> = optional("spiffe_id", &ask.spiffe_id)?;
        let (answers, stream) = mpsc::channel(256);
        let (mut changes, stop) = (self.issuer.task_changes(), self.stop.clone());
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = changes.recv() => changed,
                    () = answers.closed() => return,
                    () = stop.cancelled() => return,
                };
                let answer = match changed {
                    Ok(task) => {
                        let wanted = root.is_none_or(|root| task.root == root)
                            && spiffe_id.as_ref().is_none_or(|id| task.spiffe_id == *id)
                            && access.may(Verb::Read, &task.spiffe_id);
                        if !wanted {
                            continue;
                        }
                        Ok(task::TaskResponse {
                            task: Some((&*task).into()),
                        })
                    }
                    Err(RecvError::Lagged(_)) => Err(deny(
                        Code::DataLoss,
                        "TOO_SLOW",
                        "changes were missed; list again",
                    )),
                    Err(RecvError::Closed) => return,
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// The task, if `verb` may be done to it.
    async fn task<T>(
        &self,
        request: &Request<T>,
        id: &str,
        verb: Verb,
    ) -> Result<(Access, Task), Status> {
        let access = self.access(request)?;
        let id = field("task_id", id)?;
        let task = self
            .issuer
            .visible_task(&access.principal, id)
            .await
            .map_err(status)?;
        access.check(verb, Some(&task.spiffe_id))?;
        Ok((access, task))
    }

    async fn end_task(
        &self,
        request: Request<task::EndRequest>,
        cause: Cause,
    ) -> Result<Response<task::EndResponse>, Status> {
        let (access, found) = self
            .task(&request, &request.get_ref().task_id, Verb::End)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(requests::end_method(cause), &ask.request_id, &[], || {
            ask.clone()
        })?;
        let (who, reason) = (&access.principal, text("reason", &ask.reason)?);
        let announced = ask.wait.then(|| self.issuer.announce_wait());
        let ended = self
            .issuer
            .end_asked(who, found.id, cause, &reason, mark.as_ref())
            .await;
        let (ended, _) = ended.map_err(status)?;
        announced.into_iter().for_each(Announced::linger);
        receipts::end_response(&self.issuer, &ended).map(Response::new)
    }

    async fn explained(&self, access: &Access, action: &str, refused: Refused) -> Status {
        explained(&self.issuer, &access.principal, None, action, refused).await
    }
}

fn answer(task: &Task) -> Result<Response<task::TaskResponse>, Status> {
    Ok(Response::new(task::TaskResponse {
        task: Some(task.into()),
    }))
}
