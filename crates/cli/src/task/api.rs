//! The same questions to the agent and to the server.

use taskmint_client::{Admin, Tasks};
use taskmint_wire::admin::{ListTasksRequest, WatchTasksRequest};
use taskmint_wire::task::{
    EndRequest, EndResponse, ExtendRequest, GetRequest, ListRequest, Receipt, ResumeRequest,
    SuspendRequest, Task, TaskResponse, WaitRequest, WatchRequest,
};
use tonic::{Response, Status, Streaming};

use super::End;
use crate::exit::Failure;

/// Tasks of one call.
const PAGE: usize = 500;

/// Who is asked.
pub(super) enum Api {
    /// The agent, which shows what the caller sees.
    Holder(Tasks),
    /// The server.
    Operator(Admin),
}

/// Which tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) live_only: bool,
    pub(super) spiffe_id: String,
    pub(super) root_id: String,
    pub(super) node_id: String,
    pub(super) entry_id: String,
    pub(super) owner: String,
    pub(super) all_kinds: bool,
}

impl Api {
    pub(super) async fn get(&mut self, task_id: String) -> Result<Task, Failure> {
        let request = GetRequest { task_id };
        task(match self {
            Self::Holder(tasks) => tasks.get(request).await,
            Self::Operator(admin) => admin.get_task(request).await,
        })
    }

    pub(super) async fn extend(&mut self, request: ExtendRequest) -> Result<Task, Failure> {
        task(match self {
            Self::Holder(tasks) => tasks.extend(request).await,
            Self::Operator(admin) => admin.extend_task(request).await,
        })
    }

    pub(super) async fn suspend(&mut self, request: SuspendRequest) -> Result<Task, Failure> {
        task(match self {
            Self::Holder(tasks) => tasks.suspend(request).await,
            Self::Operator(admin) => admin.suspend_task(request).await,
        })
    }

    pub(super) async fn resume(&mut self, request: ResumeRequest) -> Result<Task, Failure> {
        task(match self {
            Self::Holder(tasks) => tasks.resume(request).await,
            Self::Operator(admin) => admin.resume_task(request).await,
        })
    }

    pub(super) async fn end(
        &mut self,
        how: End,
        request: EndRequest,
    ) -> Result<EndResponse, Failure> {
        let ended = match (self, how) {
            (Self::Holder(tasks), End::Complete) => tasks.complete(request).await,
            (Self::Holder(tasks), End::Fail) => tasks.fail(request).await,
            (Self::Holder(tasks), End::Cancel) => tasks.cancel(request).await,
            (Self::Operator(admin), End::Complete) => admin.complete_task(request).await,
            (Self::Operator(admin), End::Revoke) => admin.revoke_task(request).await,
            (Self::Holder(_), End::Revoke) | (Self::Operator(_), End::Fail | End::Cancel) => {
                return Err(Failure::usage(
                    "an operator completes or revokes a task, its holder completes, fails or cancels it",
                ));
            }
        };
        Ok(ended?.into_inner())
    }

    /// At most `limit` of them.
    pub(super) async fn list(
        &mut self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Task>, Failure> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let size = limit.saturating_sub(found.len()).min(PAGE);
            if size == 0 {
                return Ok(found);
            }
            let list = ListRequest {
                live_only: filter.live_only,
                spiffe_id: filter.spiffe_id.clone(),
                root_id: filter.root_id.clone(),
                page_size: u32::try_from(size).unwrap_or(u32::MAX),
                page_token,
            };
            let page = match self {
                Self::Holder(tasks) => tasks.list(list).await?.into_inner(),
                Self::Operator(admin) => {
                    let request = ListTasksRequest {
                        list: Some(list),
                        node_id: filter.node_id.clone(),
                        entry_id: filter.entry_id.clone(),
                        owner: filter.owner.clone(),
                        all_kinds: filter.all_kinds,
                    };
                    admin.list_tasks(request).await?.into_inner()
                }
            };
            found.extend(page.tasks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    pub(super) async fn wait(
        &mut self,
        request: WaitRequest,
    ) -> Result<Streaming<Receipt>, Failure> {
        Ok(match self {
            Self::Holder(tasks) => tasks.wait(request).await?.into_inner(),
            Self::Operator(admin) => admin.wait_task(request).await?.into_inner(),
        })
    }

    pub(super) async fn watch(
        &mut self,
        request: WatchTasksRequest,
    ) -> Result<Streaming<TaskResponse>, Failure> {
        Ok(match self {
            Self::Holder(tasks) => tasks.watch(WatchRequest {}).await?.into_inner(),
            Self::Operator(admin) => admin.watch_tasks(request).await?.into_inner(),
        })
    }
}

fn task(response: Result<Response<TaskResponse>, Status>) -> Result<Task, Failure> {
    Ok(response?.into_inner().task.unwrap_or_default())
}
