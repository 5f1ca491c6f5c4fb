//! A server in process, on ports of its own, in a folder of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taskmint_authority::{Core, InProcess, SealingKey};
use taskmint_client::Endpoint;
use taskmint_config::{KeyKind, Overrides, ServerConfig};
use taskmint_daemon::{Shutdown, Tasks};
use taskmint_model::{Clock, Entropy, SystemClock, SystemEntropy};
use taskmint_server::{MakeAuthority, Running, Server};
use taskmint_wire::admin::admin_client::AdminClient;
use taskmint_wire::{admin, task};
use tempfile::TempDir;
use tonic::transport::Channel;

/// A running server; stopped when dropped.
pub(crate) struct World {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) server: Running,
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    lines: String,
}

/// A server that is away. It comes back over the same store and at the same addresses.
pub(crate) struct Away {
    pub(crate) folder: Arc<TempDir>,
    lines: String,
    clock: Arc<dyn Clock>,
    ports: [u16; 2],
}

impl Away {
    /// Changes its configuration before it comes back.
    pub(crate) fn configure(&mut self, from: &str, to: &str) {
        self.lines = self.lines.replace(from, to);
    }

    /// Another with the same past and the same keys, at addresses of its own: of what only one may
    /// be, there are two.
    pub(crate) fn twin(&self) -> Self {
        let folder = TempDir::new().unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r").arg(self.folder.path().join("server"));
        assert!(copy.arg(folder.path()).status().unwrap().success());
        Self {
            folder: Arc::new(folder),
            lines: self.lines.clone(),
            clock: Arc::clone(&self.clock),
            ports: [0; 2],
        }
    }

    pub(crate) async fn come_back(self) -> World {
        let entropy = Arc::new(SystemEntropy);
        World::at(self.folder, &self.lines, self.clock, entropy, self.ports).await
    }
}

impl World {
    /// A fresh one that forgets.
    pub(crate) async fn in_memory() -> Self {
        Self::with("store.kind = \"memory\"\nkeys.kind = \"memory\"").await
    }

    /// A fresh one with more lines of configuration.
    pub(crate) async fn with(lines: &str) -> Self {
        Self::in_folder(Arc::new(TempDir::new().unwrap()), lines).await
    }

    /// One over what an earlier one left in its folder.
    pub(crate) async fn in_folder(folder: Arc<TempDir>, lines: &str) -> Self {
        Self::by(folder, lines, Arc::new(SystemClock)).await
    }

    /// One by another clock.
    pub(crate) async fn by(folder: Arc<TempDir>, lines: &str, clock: Arc<dyn Clock>) -> Self {
        Self::at(folder, lines, clock, Arc::new(SystemEntropy), [0; 2]).await
    }

    /// One that remembers: over RocksDB, its keys sealed.
    pub(crate) async fn durable(lines: &str, clock: Arc<dyn Clock>) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let key_file = sealing_key(&folder);
        let lines = format!(
            "store.kind = \"rocksdb\"\nkeys.sealing_key_file = \"{}\"\n{lines}",
            key_file.display()
        );
        Self::by(folder, &lines, clock).await
    }

    /// One that remembers, and whose keys are in a process of their own: the real signer, reached by a
    /// link in the world's folder.
    pub(crate) async fn with_signer() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let link = folder.path().join("signer");
        std::os::unix::fs::symlink(crate::signer::program(), &link).unwrap();
        let lines = format!(
            "store.kind = \"rocksdb\"\nkeys.sealing_key_file = \"{}\"\nsigner.path = \"{}\"\n\
             signer.verify_one_in = 1",
            sealing_key(&folder).display(),
            link.display()
        );
        Self::in_folder(folder, &lines).await
    }

    /// One by all that a server may be given; ports 0 are any.
    pub(crate) async fn at(
        folder: Arc<TempDir>,
        lines: &str,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        [nodes, watch]: [u16; 2],
    ) -> Self {
        let data = folder.path().join("server");
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:{nodes}\"\n\
             watch_listen = \"127.0.0.1:{watch}\"\nhttp_listen = \"127.0.0.1:0\"\n{lines}\n",
            data.display()
        );
        let config = ServerConfig::parse(&text, "test", &Overrides::none()).unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let of_its_own = config.signer.path.is_some();
        let mut server = Server::new(config, Arc::clone(&clock), Arc::clone(&entropy));
        if !of_its_own {
            server = server.with_authority(in_process(Arc::clone(&clock), entropy));
        }
        let server = server.bind().await.unwrap().serve(&tasks).await.unwrap();
        let endpoint = Endpoint::Unix(server.admin_socket.clone());
        let admin = AdminClient::new(taskmint_client::connect(&endpoint).await.unwrap());
        Self {
            folder,
            server,
            admin,
            clock,
            tasks,
            lines: lines.to_owned(),
        }
    }

    /// Stops it, with all that is needed to have it back.
    pub(crate) async fn go_away(self) -> Away {
        let (lines, clock) = (self.lines.clone(), Arc::clone(&self.clock));
        let ports = [self.server.address.port(), self.server.watch_address.port()];
        let folder = self.stop().await;
        Away {
            folder,
            lines,
            clock,
            ports,
        }
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.tasks.shutdown().request();
        self.tasks.join().await.unwrap();
        self.tasks.shutdown().force();
        let (folder, issuer) = (self.folder.clone(), self.server.issuer.clone());
        drop(self);
        // The store is closed by whoever lets go of it last: a connection, perhaps.
        let closed = async {
            while Arc::strong_count(&issuer) > 1 || Arc::strong_count(issuer.store()) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .unwrap();
        folder
    }

    /// Creates an entry for processes with these selectors.
    pub(crate) async fn entry(
        &mut self,
        id: &str,
        selectors: &[&str],
        implicit: bool,
    ) -> admin::Entry {
        let entry = admin::Entry {
            spiffe_id: format!("spiffe://example.org/{id}"),
            selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
            implicit,
            owner: "alice".to_owned(),
            scopes: vec!["*".to_owned()],
            audiences: vec!["*".to_owned()],
            max_children: 8,
            max_depth: 3,
            ..Default::default()
        };
        self.create(entry).await.unwrap()
    }

    /// Creates an entry, or says why not.
    pub(crate) async fn create(&mut self, entry: admin::Entry) -> Result<admin::Entry, String> {
        let request = admin::CreateEntriesRequest {
            entries: vec![entry],
        };
        let answer = self
            .admin
            .create_entries(request)
            .await
            .unwrap()
            .into_inner();
        let result = answer.results.into_iter().next().unwrap();
        result
            .entry
            .ok_or(format!("{}: {}", result.reason, result.message))
    }

    /// A join string for a node of this name.
    pub(crate) async fn token(&mut self, node: &str) -> String {
        let request = admin::CreateTokenRequest {
            node: node.to_owned(),
            ..Default::default()
        };
        self.admin
            .create_token(request)
            .await
            .unwrap()
            .into_inner()
            .join_string
    }

    /// One task, as an operator sees it.
    pub(crate) async fn task(&mut self, id: &str) -> task::Task {
        let request = task::GetRequest {
            task_id: id.to_owned(),
        };
        let answer = self.admin.get_task(request).await.unwrap();
        answer.into_inner().task.unwrap()
    }

    /// Waits until a task has ended, and says of what.
    pub(crate) async fn ended(&mut self, id: &str) -> String {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let ended = async {
            loop {
                looks.tick().await;
                if let Some(ending) = self.task(id).await.ending {
                    return ending.cause;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), ended)
            .await
            .unwrap()
    }

    /// All nodes that are known.
    pub(crate) async fn nodes(&mut self) -> Vec<admin::Node> {
        let answer = self.admin.list_nodes(admin::ListNodesRequest {}).await;
        answer.unwrap().into_inner().nodes
    }

    /// Everything that was written down, oldest first.
    pub(crate) async fn audit_lines(&mut self) -> Vec<admin::AuditLine> {
        let request = admin::ListAuditRequest {
            from: 1,
            page_size: 1000,
            ..Default::default()
        };
        let answer = self.admin.list_audit(request).await;
        answer.unwrap().into_inner().lines
    }

    /// What became of it.
    pub(crate) async fn audit(&mut self) -> Vec<String> {
        let lines = self.audit_lines().await;
        lines.into_iter().map(|line| line.action).collect()
    }

    /// How often each action was written down.
    pub(crate) async fn audited(&mut self, action: &str) -> usize {
        let mut counts = BTreeMap::new();
        for action in self.audit().await {
            *counts.entry(action).or_insert(0) += 1;
        }
        counts.get(action).copied().unwrap_or(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().force();
    }
}

fn sealing_key(folder: &TempDir) -> std::path::PathBuf {
    let key_file = folder.path().join("sealing-key");
    std::fs::write(&key_file, [7_u8; 32]).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key_file, private).unwrap();
    key_file
}

/// Keys in this process: the clock of a test is not the signer's.
pub(crate) fn in_process(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> MakeAuthority {
    Box::new(move |policy, config| {
        let sealing = match config.keys.kind {
            KeyKind::Memory => None,
            KeyKind::Sealed => {
                let file = config.keys.sealing_key_file.as_ref().unwrap();
                let key = std::fs::read(file)?;
                Some(SealingKey::open_file(&key, &policy.trust_domain, None)?)
            }
        };
        let core = Core::new(policy, sealing, clock, entropy);
        Ok(Arc::new(InProcess::new(Arc::new(core))))
    })
}
