//! A server and a real agent in process, joined over TLS; the workload is this very process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use taskmint_agent::{JoinSource, Settings};
use taskmint_client::{Endpoint, SecurityHeader, WorkloadApi};
use taskmint_daemon::{Shutdown, Tasks};
use taskmint_model::Clock;
use taskmint_wire::task;
use taskmint_wire::task::tasks_client::TasksClient;
use taskmint_wire::{admin, admin::admin_client::AdminClient};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::harness::World;

/// Longer than anything takes that is going to happen.
pub(crate) const SOON: Duration = Duration::from_secs(15);

pub(crate) type TaskApi = TasksClient<InterceptedService<Channel, SecurityHeader>>;

/// A server and an agent, joined.
pub(crate) struct Joined {
    pub(crate) world: World,
    pub(crate) agent: Agent,
}

/// An agent that runs; stopped when dropped.
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
}

impl Joined {
    pub(crate) async fn start() -> Self {
        Self::over(World::in_memory().await).await
    }

    pub(crate) async fn over(mut world: World) -> Self {
        let agent = Agent::join(&mut world, "n1").await;
        Self { world, agent }
    }

    /// An entry for this process.
    pub(crate) async fn own_entry(&mut self, implicit: bool) -> admin::Entry {
        let entry = self
            .world
            .entry("me", &[&own_uid_selector()], implicit)
            .await;
        self.agent.knows_an_entry().await;
        entry
    }

    pub(crate) async fn revoke(&mut self, id: &str) {
        let request = task::EndRequest {
            task_id: id.to_owned(),
            ..Default::default()
        };
        self.world.admin.revoke_task(request).await.unwrap();
    }

    pub(crate) async fn show(&mut self, id: &str) -> task::Task {
        self.world.task(id).await
    }

    pub(crate) async fn live_tasks(&mut self) -> Vec<task::Task> {
        live_tasks(&mut self.world.admin).await
    }
}

impl Agent {
    /// Joins a node of this name by a token, with its state and sockets in a folder of its own.
    pub(crate) async fn join(world: &mut World, name: &str) -> Self {
        let settings = Self::settings(world, name).await;
        Self::start(settings).await
    }

    /// What [`Self::join`] starts with: by the world's clock.
    pub(crate) async fn settings(world: &mut World, name: &str) -> Settings {
        let join = JoinSource::Text(Zeroizing::new(world.token(name).await));
        let clock = Arc::clone(&world.clock);
        Self::settings_in(&world.folder.path().join(name), join, clock)
    }

    pub(crate) fn settings_in(folder: &Path, join: JoinSource, clock: Arc<dyn Clock>) -> Settings {
        let mut settings = Settings::new(folder.join("agent"), folder, join);
        settings.clock = clock;
        settings
    }

    /// One that runs, and has its session.
    pub(crate) async fn start(settings: Settings) -> Self {
        let agent = Self::launch(settings).await;
        agent.is_ready().await;
        agent
    }

    /// One that runs, whether the server takes it or not.
    pub(crate) async fn launch(settings: Settings) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        taskmint_agent::serve(settings.clone(), &tasks)
            .await
            .unwrap();
        Self { settings, tasks }
    }

    pub(crate) async fn is_ready(&self) {
        let ready = self.tasks.readiness().ready();
        tokio::time::timeout(SOON, ready).await.unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().request();
        self.tasks.join().await.unwrap();
    }

    /// Starts it over the state that it left, without a token.
    pub(crate) async fn start_again(&mut self) {
        self.settings.join = JoinSource::None;
        *self = Self::start(self.settings.clone()).await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub(crate) async fn workload_api(&self) -> WorkloadApi {
        WorkloadApi::connect(&Endpoint::Unix(self.settings.sockets.workload.clone()))
            .await
            .unwrap()
    }

    pub(crate) async fn task_api(&self) -> TaskApi {
        task_api(self.settings.sockets.task.clone()).await
    }

    /// The agent learns of an entry by itself; waits until it has.
    pub(crate) async fn knows_an_entry(&self) {
        let api = self.workload_api().await;
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let learnt = async {
            while api.first_jwt_bundles().await.is_err() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(SOON, learnt).await.unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.shutdown().force();
    }
}

/// Tasks of workloads that live.
pub(crate) async fn live_tasks(admin: &mut AdminClient<Channel>) -> Vec<task::Task> {
    let list = Some(task::ListRequest {
        live_only: true,
        ..Default::default()
    });
    let request = admin::ListTasksRequest {
        list,
        ..Default::default()
    };
    admin.list_tasks(request).await.unwrap().into_inner().tasks
}

async fn task_api(socket: PathBuf) -> TaskApi {
    let channel = taskmint_client::connect(&Endpoint::Unix(socket))
        .await
        .unwrap();
    TasksClient::with_interceptor(channel, SecurityHeader)
}

/// What the unix attestor says of this process.
pub(crate) fn own_uid_selector() -> String {
    let own = std::fs::metadata("/proc/self").unwrap();
    format!("unix:uid:{}", std::os::unix::fs::MetadataExt::uid(&own))
}

/// A child of this process that lives until it is killed, at the latest when it is dropped.
pub(crate) struct Held(Child);

impl Held {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn child() -> Held {
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Held(command.spawn().unwrap())
}
