//! A server in this process, on ports and in a folder of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use taskmint_authority::InProcess;
use taskmint_client::{Admin, Endpoint};
use taskmint_config::{Overrides, ServerConfig};
use taskmint_daemon::{Shutdown, Tasks};
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_server::{Running, Server};
use taskmint_wire::admin;
use tempfile::TempDir;

use crate::agent::PATIENCE;

/// What is asked here is as much as the server can do, not as much as it lets one node ask.
const UNLIMITED: &str = "[rate_limits.per_node]\nper_second = 1000000\nburst = 1000000\n\
                         [rate_limits.per_caller]\nper_second = 1000000\nburst = 1000000\n\
                         [rate_limits.per_entry]\nper_second = 1000000\nburst = 1000000\n";

/// Where a world differs from what operators run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    /// Signs in this process: to see what the signer costs.
    pub(crate) own_keys: bool,
    /// State is in memory that looks like a disk, where a sync costs nothing.
    pub(crate) no_sync: bool,
    /// Nodes have the rates that they have by default.
    pub(crate) limited: bool,
}

/// A running server, over RocksDB.
pub(crate) struct World {
    pub(crate) server: Running,
    pub(crate) admin: Admin,
    tasks: Tasks,
    folder: Arc<TempDir>,
}

impl World {
    /// A fresh one.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// One whose configuration has these tables, too.
    pub(crate) async fn start_with(tables: &str) -> anyhow::Result<Self> {
        Self::of(Kind::default(), tables).await
    }

    /// One that differs from what operators run.
    pub(crate) async fn of(kind: Kind, tables: &str) -> anyhow::Result<Self> {
        let folder = Arc::new(match kind.no_sync {
            true => TempDir::with_prefix_in("taskmint-bench-", "/dev/shm")?,
            false => TempDir::with_prefix("taskmint-bench-")?,
        });
        let rates = if kind.limited { "" } else { UNLIMITED };
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
             watch_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\ngrace = \"1s\"\n\
             store.kind = \"rocksdb\"\nkeys.kind = \"memory\"\n{rates}{tables}",
            folder.path().join("server").display(),
        );
        let config = ServerConfig::parse(&text, "bench", &Overrides::none())
            .map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
        let tasks = Tasks::new(Shutdown::new());
        let mut server = Server::new(config, Arc::new(SystemClock), Arc::new(SystemEntropy));
        if kind.own_keys {
            server = server.with_authority(Box::new(|policy, _| {
                let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
                Ok(Arc::new(InProcess::in_memory(policy, clock, entropy)))
            }));
        }
        let server = server.bind().await?.serve(&tasks).await?;
        let endpoint = Endpoint::Unix(server.admin_socket.clone());
        let admin = Admin::new(taskmint_client::connect(&endpoint).await?);
        Ok(Self {
            server,
            admin,
            tasks,
            folder,
        })
    }

    /// Where its state is, and what else belongs to this measurement.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates entries, all or it fails; gives their ids.
    pub(crate) async fn create(
        &mut self,
        entries: Vec<admin::Entry>,
    ) -> anyhow::Result<Vec<String>> {
        create(&mut self.admin, entries).await
    }

    /// A join string for a node of this name.
    pub(crate) async fn join_string(&mut self, node: &str) -> anyhow::Result<String> {
        join_string(&mut self.admin, node).await
    }

    /// Stops it; its folder goes once nothing is written there any more.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.tasks.shutdown().request();
        self.tasks.join().await?;
        self.tasks.shutdown().force();
        let (folder, issuer) = (Arc::clone(&self.folder), Arc::clone(&self.server.issuer));
        drop(self);
        // The store is closed by whoever lets go of it last: a connection, perhaps.
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let closing = async {
            while Arc::strong_count(&issuer) > 1 || Arc::strong_count(issuer.store()) > 1 {
                looks.tick().await;
            }
        };
        let closed = tokio::time::timeout(PATIENCE, closing).await;
        closed.context("the store is still in use")?;
        drop(issuer);
        drop(folder);
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().force();
    }
}

/// Creates entries, all or it fails; gives their ids.
pub(crate) async fn create(
    admin: &mut Admin,
    entries: Vec<admin::Entry>,
) -> anyhow::Result<Vec<String>> {
    let request = admin::CreateEntriesRequest { entries };
    let answer = admin.create_entries(request).await?.into_inner();
    let mut ids = Vec::with_capacity(answer.results.len());
    for result in answer.results {
        match result.entry {
            Some(entry) => ids.push(entry.id),
            None => bail!("no entry: {} {}", result.reason, result.message),
        }
    }
    Ok(ids)
}

/// A join string for a node of this name.
pub(crate) async fn join_string(admin: &mut Admin, node: &str) -> anyhow::Result<String> {
    let request = admin::CreateTokenRequest {
        node: node.to_owned(),
        ..Default::default()
    };
    let answer = admin.create_token(request).await.context("no join token")?;
    Ok(answer.into_inner().join_string)
}

/// An entry for processes of this uid, with every scope and audience.
pub(crate) fn entry(path: &str, uid: u32, implicit: bool) -> admin::Entry {
    admin::Entry {
        spiffe_id: format!("spiffe://example.org/{path}"),
        selectors: vec![format!("unix:uid:{uid}")],
        implicit,
        owner: "bench".to_owned(),
        scopes: vec!["*".to_owned()],
        audiences: vec!["*".to_owned()],
        ..Default::default()
    }
}
