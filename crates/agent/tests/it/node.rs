//! An agent in process, and clients of it.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use taskmint_agent::{JoinSource, Limits, Running, Settings, serve_with};
use taskmint_daemon::{Shutdown, Tasks};
use taskmint_wire::denial_of;
use taskmint_wire::task::tasks_client::TasksClient;
use taskmint_wire::workload;
use taskmint_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::fake::{Fake, PATIENCE};
use crate::puppet::Puppet;

pub(crate) type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;
pub(crate) type Workload = SpiffeWorkloadApiClient<InterceptedService<Channel, Interceptor>>;
pub(crate) type Svids = Streaming<workload::X509svidResponse>;

/// An agent that runs. Its folder outlives it, so that another can follow.
pub(crate) struct Node {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) tasks: Tasks,
    pub(crate) running: Running,
    pub(crate) settings: Settings,
}

impl Node {
    /// An agent that has its session.
    pub(crate) async fn start(fake: &Fake) -> Self {
        Self::start_in(fake, Arc::new(TempDir::new().unwrap()), Limits::default()).await
    }

    pub(crate) async fn start_in(fake: &Fake, dir: Arc<TempDir>, limits: Limits) -> Self {
        let mut settings = Settings::new(
            dir.path().join("state"),
            &dir.path().join("run"),
            JoinSource::None,
        );
        settings.http_listen = Some("127.0.0.1:0".parse().unwrap());
        settings.limits = limits;
        settings.unix.max_sha256_bytes = 0;
        let tasks = Tasks::new(Shutdown::new());
        let upstream = Arc::new(fake.clone());
        let running = serve_with(settings.clone(), upstream, &tasks)
            .await
            .unwrap();
        let node = Self {
            dir,
            tasks,
            running,
            settings,
        };
        let ready = node.tasks.readiness().clone();
        tokio::time::timeout(PATIENCE, ready.ready())
            .await
            .expect("the agent gets ready");
        node
    }

    /// Stops the agent, as a signal would.
    pub(crate) async fn stop(&self) {
        self.tasks.shutdown().request();
        self.tasks.join().await.unwrap();
    }

    /// Stops it as a crash would: nothing is said to anybody.
    pub(crate) async fn kill(&self) {
        self.tasks.shutdown().force();
        drop(self.tasks.join().await);
    }

    pub(crate) fn workload_socket(&self) -> &Path {
        &self.settings.sockets.workload
    }

    pub(crate) fn task_socket(&self) -> &Path {
        &self.settings.sockets.task
    }

    /// The Workload API, for this very process.
    pub(crate) async fn workload(&self) -> Workload {
        workload(UnixStream::connect(self.workload_socket()).await.unwrap()).await
    }

    /// The task API, for this very process.
    pub(crate) async fn task_api(&self) -> TasksClient<Channel> {
        task_api(UnixStream::connect(self.task_socket()).await.unwrap()).await
    }

    /// A child that has connected to both sockets: workload first.
    pub(crate) fn puppet(&self) -> Puppet {
        Puppet::connected(&[self.workload_socket(), self.task_socket()])
    }
}

/// A channel over one connection that is there.
pub(crate) async fn channel(stream: UnixStream) -> Channel {
    let mut only = Some(TokioIo::new(stream));
    let dial = tower::service_fn(move |_| {
        let stream = only
            .take()
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { stream }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(dial)
        .await
        .unwrap()
}

pub(crate) fn with_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}

pub(crate) async fn workload(stream: UnixStream) -> Workload {
    SpiffeWorkloadApiClient::with_interceptor(channel(stream).await, with_header as Interceptor)
}

pub(crate) async fn task_api(stream: UnixStream) -> TasksClient<Channel> {
    TasksClient::new(channel(stream).await)
}

/// Opens a stream of SVIDs; its first message, or why there is none.
pub(crate) async fn fetch(
    client: &mut Workload,
) -> Result<(workload::X509svidResponse, Svids), Status> {
    let mut stream = client
        .fetch_x509svid(workload::X509svidRequest {})
        .await?
        .into_inner();
    let first = next(&mut stream).await?;
    Ok((first, stream))
}

/// The next message, within patience.
pub(crate) async fn next<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    message
        .expect("a message in time")?
        .ok_or_else(|| Status::ok("the stream ended"))
}

/// Messages until one is as wanted.
pub(crate) async fn until<M>(
    stream: &mut Streaming<M>,
    wanted: impl Fn(&M) -> bool,
) -> Result<M, Status> {
    loop {
        let message = next(stream).await?;
        if wanted(&message) {
            return Ok(message);
        }
    }
}

/// The stable reason of a denial.
pub(crate) fn reason(status: &Status) -> String {
    denial_of(status)
        .map(|(reason, _)| reason)
        .unwrap_or_else(|| format!("none: {status}"))
}

/// How a stream ends.
pub(crate) async fn end<M: std::fmt::Debug>(stream: &mut Streaming<M>) -> Status {
    loop {
        match next(stream).await {
            Ok(_) => {}
            Err(status) => return status,
        }
    }
}
