//! The task API: fourteen calls, each for an attested process; a task id grants nothing.

use std::sync::Arc;

use taskmint_wire::task;
use taskmint_wire::task::tasks_server::Tasks;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::agent::Agent;
use crate::begin::fault;
use crate::caller::Connection;
use crate::task_change::Way;

/// The task API over an agent.
#[derive(Clone)]
pub(crate) struct TaskApi(pub(crate) Arc<Agent>);

type Answer<T> = Result<Response<T>, Status>;

impl TaskApi {
    /// Does what was asked, on its own: a caller that goes away must not leave half of it.
    async fn answer<T, R, F>(
        &self,
        request: Request<T>,
        work: impl FnOnce(Arc<Agent>, Connection, T) -> F,
    ) -> Answer<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Status>> + Send + 'static,
    {
        let connection = self.0.admit(&request)?;
        let work = tokio::spawn(work(Arc::clone(&self.0), connection, request.into_inner()));
        work.await
            .unwrap_or_else(|error| Err(fault(&error)))
            .map(Response::new)
    }

    async fn end(&self, request: Request<task::EndRequest>, way: Way) -> Answer<task::EndResponse> {
        self.answer(request, async move |agent: Arc<Agent>, connection, ask| {
            agent.end_task(&connection, ask, way).await
        })
        .await
    }
}

#[tonic::async_trait]
impl Tasks for TaskApi {
    type WaitStream = ReceiverStream<Result<task::Receipt, Status>>;
    type WatchStream = ReceiverStream<Result<task::TaskResponse, Status>>;

    async fn begin(&self, request: Request<task::BeginRequest>) -> Answer<task::BeginResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.begin_task(&connection, ask).await
        })
        .await
    }

    async fn delegate(
        &self,
        request: Request<task::DelegateRequest>,
    ) -> Answer<task::BeginResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.delegate_task(&connection, ask).await
        })
        .await
    }

    async fn extend(&self, request: Request<task::ExtendRequest>) -> Answer<task::TaskResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.extend_task(&connection, ask).await
        })
        .await
    }

    async fn suspend(&self, request: Request<task::SuspendRequest>) -> Answer<task::TaskResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.suspend_task(&connection, ask).await
        })
        .await
    }

    async fn resume(&self, request: Request<task::ResumeRequest>) -> Answer<task::TaskResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.resume_task(&connection, ask).await
        })
        .await
    }

    async fn complete(&self, request: Request<task::EndRequest>) -> Answer<task::EndResponse> {
        self.end(request, Way::Complete).await
    }

    async fn fail(&self, request: Request<task::EndRequest>) -> Answer<task::EndResponse> {
        self.end(request, Way::Fail).await
    }

    async fn cancel(&self, request: Request<task::EndRequest>) -> Answer<task::EndResponse> {
        self.end(request, Way::Cancel).await
    }

    async fn wait(&self, request: Request<task::WaitRequest>) -> Answer<Self::WaitStream> {
        let opened = self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.open_wait(&connection, ask).await
        });
        let receipts = opened.await?.into_inner();
        let (out, messages) = mpsc::channel(1);
        tokio::spawn(Arc::clone(&self.0).pass_receipts(receipts, out));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn get(&self, request: Request<task::GetRequest>) -> Answer<task::TaskResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.get_task(&connection, ask).await
        })
        .await
    }

    async fn list(&self, request: Request<task::ListRequest>) -> Answer<task::ListResponse> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.list_tasks(&connection, ask).await
        })
        .await
    }

    async fn watch(&self, request: Request<task::WatchRequest>) -> Answer<Self::WatchStream> {
        let caller = self.0.caller(&request, "Watch").await?;
        let (out, messages) = mpsc::channel(16);
        tokio::spawn(Arc::clone(&self.0).watch_tasks(caller, out));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_x509svid(
        &self,
        request: Request<task::FetchX509svidRequest>,
    ) -> Answer<task::X509svid> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.fetch_x509(&connection, ask).await
        })
        .await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<task::FetchJwtsvidRequest>,
    ) -> Answer<task::Jwtsvid> {
        self.answer(request, async |agent: Arc<Agent>, connection, ask| {
            agent.fetch_jwt(&connection, ask).await
        })
        .await
    }
}
