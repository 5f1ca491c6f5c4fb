//! Puts the parts together: sockets first, then the session, then calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use taskmint_attest::DuplicateName;
use taskmint_daemon::{Failure, Tasks, health};
use taskmint_wire::envoy::auth::authorization_server::AuthorizationServer;
use taskmint_wire::envoy::secret::secret_discovery_service_server::SecretDiscoveryServiceServer;
use taskmint_wire::node;
use taskmint_wire::task::tasks_server::TasksServer;
use taskmint_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::agent::{Agent, Work};
use crate::caller::Scope;
use crate::ends;
use crate::envoy::{Authorization, Secrets};
use crate::folders::Services;
use crate::header::SecurityHeader;
use crate::identity::{StateDir, StateError};
use crate::join::Joiner;
use crate::listener::{Accepted, Door, ListenError, accept, bind};
use crate::mtls::Mtls;
use crate::reflection;
use crate::relay;
use crate::session;
use crate::settings::Settings;
use crate::task_api::TaskApi;
use crate::upstream::Upstream;
use crate::workload_api::WorkloadApi;

/// The largest request on any socket of this agent: tokens and CSRs are far below.
const MAX_REQUEST: usize = 64 << 10;

/// The largest header list of a request.
const MAX_HEADERS: u32 = 16 << 10;

/// Connections that wait to be served.
const WAITING: usize = 64;

/// How often what nobody needs any more is dropped.
const TIDY: Duration = Duration::from_secs(60);

/// An agent that runs, in the tasks that it was given.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where `/live`, `/ready` and `/metrics` are, if anywhere.
    pub http: Option<SocketAddr>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket can't be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The HTTP address can't be bound.
    #[error("can't listen on `{address}`")]
    Http {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The folder for per-task sockets can't be made.
    #[error("can't make the folder for per-task sockets")]
    TaskDir(#[source] io::Error),
    /// The state folder can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Two attestors of one name.
    #[error(transparent)]
    Attestors(#[from] DuplicateName),
    /// The descriptors of the API are damaged: the build is.
    #[error("server reflection can't be set up")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts an agent: as [`serve_with`], over mTLS.
///
/// # Errors
/// As [`serve_with`].
pub async fn serve(settings: Settings, tasks: &Tasks) -> Result<Running, ServeError> {
    let upstream = Arc::new(Mtls::new(&settings));
    serve_with(settings, upstream, tasks).await
}

/// Starts an agent that reaches its server by `upstream`. All sockets are bound when this returns;
/// the condition `session` of the tasks' readiness is met once the server has told what the node
/// needs to know.
///
/// # Errors
/// When something can't be bound, or the state folder can't be used.
pub async fn serve_with(
    settings: Settings,
    upstream: Arc<dyn Upstream>,
    tasks: &Tasks,
) -> Result<Running, ServeError> {
    let ready = tasks.readiness().condition("session");
    let shutdown = tasks.shutdown().clone();
    let state = StateDir::open(&settings.data_dir)?;
    // Read once now, so that damage shows at start and not in a loop.
    state.identity()?;
    let (agent, work) = Agent::new(&settings, Arc::clone(&upstream), shutdown.clone())?;
    let listeners = Listeners {
        workload: bind(&settings.sockets.workload)?,
        task: bind(&settings.sockets.task)?,
        revocation: bind(&settings.sockets.revocation)?,
    };
    let http = match settings.http_listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.map_err(|source| ServeError::Http { address, source })?)
        }
        None => None,
    };
    let running = Running {
        http: http
            .as_ref()
            .and_then(|listener| listener.local_addr().ok()),
    };

    spawn_services(tasks, &agent, &settings, listeners)?;
    spawn_work(tasks, &agent, work);
    if let Some(listener) = http {
        let metrics = Arc::clone(&agent);
        let render = move || metrics.metrics.render(metrics.holding.len());
        let router = health::router(tasks.readiness().clone(), render);
        tasks.spawn_support("http", health::serve(listener, router, shutdown));
    }
    let (clock, entropy) = (Arc::clone(&agent.clock), Arc::clone(&agent.entropy));
    let joiner = Joiner::new(
        state,
        upstream,
        settings.trust_domain.clone(),
        clock,
        entropy,
    );
    let session_agent = Arc::clone(&agent);
    tasks.spawn("session", async move {
        session::run(session_agent, joiner, ready).await;
        Ok::<(), Failure>(())
    });
    Ok(running)
}

/// The sockets that every process of the node may connect to.
struct Listeners {
    workload: UnixListener,
    task: UnixListener,
    revocation: UnixListener,
}

fn spawn_services(
    tasks: &Tasks,
    agent: &Arc<Agent>,
    settings: &Settings,
    listeners: Listeners,
) -> Result<(), ServeError> {
    let (workload, of_workload) = mpsc::channel(WAITING);
    let (task, of_task) = mpsc::channel(WAITING);
    let (revocation, of_revocation) = mpsc::channel(WAITING);
    tasks.spawn(
        "workload api",
        workload_server(agent, settings, of_workload)?,
    );
    tasks.spawn("task api", task_server(agent, settings, of_task));
    let streams = settings.limits.max_calls_per_connection;
    tasks.spawn(
        "relay",
        endless(relay::serve(Arc::clone(agent), of_revocation, streams)),
    );
    let services = Services {
        workload: workload.clone(),
        task: task.clone(),
    };
    agent.folders.start(services).map_err(ServeError::TaskDir)?;
    let Listeners {
        workload: at_workload,
        task: at_task,
        revocation: at_revocation,
    } = listeners;
    spawn_accept(
        tasks,
        agent,
        ("workload socket", "workload"),
        at_workload,
        workload,
    );
    spawn_accept(tasks, agent, ("task socket", "task"), at_task, task);
    spawn_accept(
        tasks,
        agent,
        ("revocation socket", "revocation"),
        at_revocation,
        revocation,
    );
    Ok(())
}

type Serving = BoxFuture<'static, Result<(), tonic::transport::Error>>;

fn workload_server(
    agent: &Arc<Agent>,
    settings: &Settings,
    accepted: mpsc::Receiver<io::Result<Accepted>>,
) -> Result<Serving, ServeError> {
    let api = SpiffeWorkloadApiServer::new(WorkloadApi(Arc::clone(agent)))
        .max_decoding_message_size(MAX_REQUEST);
    let secrets = SecretDiscoveryServiceServer::new(Secrets(Arc::clone(agent)))
        .max_decoding_message_size(MAX_REQUEST);
    let authorization = AuthorizationServer::new(Authorization::new(Arc::clone(agent)))
        .max_decoding_message_size(MAX_REQUEST);
    let reflection = reflection::workload_api().map_err(ServeError::Reflection)?;
    let router = bounded(settings)
        .layer(SecurityHeader)
        .add_service(api)
        .add_service(secrets)
        .add_service(authorization)
        .add_service(reflection);
    let stop = agent.shutdown.requested();
    Ok(Box::pin(router.serve_with_incoming_shutdown(
        ReceiverStream::new(accepted),
        stop,
    )))
}

fn task_server(
    agent: &Arc<Agent>,
    settings: &Settings,
    accepted: mpsc::Receiver<io::Result<Accepted>>,
) -> Serving {
    let api = TasksServer::new(TaskApi(Arc::clone(agent))).max_decoding_message_size(MAX_REQUEST);
    let router = bounded(settings).add_service(api);
    let stop = agent.shutdown.requested();
    Box::pin(router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop))
}

fn bounded(settings: &Settings) -> Server {
    Server::builder()
        .max_concurrent_streams(settings.limits.max_calls_per_connection)
        .http2_max_header_list_size(MAX_HEADERS)
}

fn spawn_accept(
    tasks: &Tasks,
    agent: &Arc<Agent>,
    (name, socket): (&'static str, &'static str),
    listener: UnixListener,
    incoming: mpsc::Sender<io::Result<Accepted>>,
) {
    let never = CancellationToken::new();
    let door = Door {
        socket,
        scope: Scope::Shared,
        only_uid: None,
        open: never.clone(),
        linger: never,
    };
    let accepting = accept(Arc::clone(agent), listener, door, incoming);
    tasks.spawn(name, async move {
        accepting.await;
        Ok::<(), Failure>(())
    });
}

fn spawn_work(tasks: &Tasks, agent: &Arc<Agent>, work: Work) {
    let Work {
        mut exits,
        ends,
        reports,
        minting,
    } = work;
    tasks.spawn_support("minting", endless(minting));
    tasks.spawn_support("ends", endless(ends::run(Arc::clone(agent), ends)));
    tasks.spawn_support("denials", endless(report(Arc::clone(agent), reports)));
    let of_exits = Arc::clone(agent);
    tasks.spawn_support(
        "liveness",
        endless(async move {
            while let Some(process) = exits.next().await {
                of_exits.died(process);
            }
        }),
    );
    let of_rates = Arc::clone(agent);
    tasks.spawn_support(
        "tidy",
        endless(async move {
            loop {
                tokio::time::sleep(TIDY).await;
                of_rates.rates.tidy();
            }
        }),
    );
}

async fn endless(work: impl Future<Output = ()>) -> Result<(), Failure> {
    work.await;
    Ok(())
}

/// Tells the server of denials, once it can be reached.
async fn report(agent: Arc<Agent>, mut reports: mpsc::Receiver<node::ReportDenialRequest>) {
    while let Some(report) = reports.recv().await {
        agent.server.wait_up().await;
        let id = report.denial_id.clone();
        let told = agent
            .server
            .call(|mut nodes| async move { nodes.report_denial(report).await });
        if let Err(status) = told.await {
            tracing::warn!(id, %status, "the server does not know this denial");
        }
    }
}
