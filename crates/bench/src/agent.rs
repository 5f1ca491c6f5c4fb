//! An agent in this process, whose workload is this process, too.

use std::time::Duration;

use anyhow::Context as _;
use taskmint_agent::{JoinSource, Settings, Sockets};
use taskmint_client::{Endpoint, WorkloadApi};
use taskmint_daemon::{Shutdown, Tasks};
use zeroize::Zeroizing;

use crate::world::World;

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that has joined the server.
pub(crate) struct Agent {
    pub(crate) sockets: Sockets,
    tasks: Tasks,
}

impl Agent {
    /// Starts it, and waits until it knows what it needs to know.
    pub(crate) async fn join(world: &mut World) -> anyhow::Result<Self> {
        let join = Zeroizing::new(world.join_string("n1").await?);
        let folder = world.folder().to_owned();
        let mut settings = Settings::new(folder.join("agent"), &folder, JoinSource::Text(join));
        settings.limits.calls_per_second = 1_000_000;
        settings.limits.burst = 1_000_000;
        let sockets = settings.sockets.clone();
        let tasks = Tasks::new(Shutdown::new());
        taskmint_agent::serve(settings, &tasks).await?;
        let ready = tokio::time::timeout(PATIENCE, tasks.readiness().ready()).await;
        ready.context("the agent is not ready")?;
        Ok(Self { sockets, tasks })
    }

    /// The Workload API, once this process has an identity there.
    pub(crate) async fn workload_api(&self) -> anyhow::Result<WorkloadApi> {
        let api = WorkloadApi::connect(&Endpoint::Unix(self.sockets.workload.clone())).await?;
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        let known = async {
            while api.first_jwt_bundles().await.is_err() {
                looks.tick().await;
            }
        };
        let known = tokio::time::timeout(PATIENCE, known).await;
        known.context("the agent does not learn of the entry")?;
        Ok(api)
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.tasks.shutdown().request();
        self.tasks.join().await?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.shutdown().force();
    }
}
