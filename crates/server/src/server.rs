//! The server as a value: bound, then served until it is told to stop.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig as TlsConfig;
use taskmint_attest::{NodeAttestor, NodeAttestors};
use taskmint_config::{ServerConfig, Verb};
use taskmint_daemon::{Tasks, health};
use taskmint_id::SpiffeId;
use taskmint_issuer::{Issuer, Settings, watchers};
use taskmint_mint::{Authority, Caps, Meters, Policy};
use taskmint_model::{Clock, Entropy};
use taskmint_status::LogId;
use taskmint_store::Store;
use taskmint_verifier::tls::{self, Clients};
use taskmint_wire::admin::admin_server::AdminServer;
use taskmint_wire::node::nodes_server::NodesServer;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tonic::transport::Server as Grpc;

use crate::admin::AdminService;
use crate::attestors;
use crate::connection::{accept, accept_admins};
use crate::identity::OwnIdentity;
use crate::limits::Limits;
use crate::nodes::NodeService;
use crate::upkeep::{report, until_stopped};
use crate::{metrics, public, signer, store, watch};

/// A request of more than this is refused before it is read.
const MAX_MESSAGE: usize = 4 << 20;

/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Watchers that come back at once wait in the kernel for their turn; it may allow fewer.
const BACKLOG: u32 = 4096;

/// Makes an authority that insists on a policy.
pub type MakeAuthority =
    Box<dyn FnOnce(Policy, &ServerConfig) -> anyhow::Result<Arc<dyn Authority>> + Send>;

/// A server that has its configuration, and nothing else yet.
pub struct Server {
    config: ServerConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    authority: Option<MakeAuthority>,
}

/// A server whose ports are held, but that serves nothing yet.
pub struct Bound {
    config: ServerConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    authority: Option<MakeAuthority>,
    signing: Option<Arc<Meters>>,
    nodes: TcpListener,
    watch: TcpListener,
    http: TcpListener,
    public: Option<TcpListener>,
    admin: UnixListener,
}

/// A server that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its issuer.
    pub issuer: Arc<Issuer>,
    /// Where agents connect.
    pub address: SocketAddr,
    /// Where watchers connect.
    pub watch_address: SocketAddr,
    /// Where `/live`, `/ready` and `/metrics` are.
    pub http_address: SocketAddr,
    /// Where those connect who don't watch, if anywhere.
    pub public_address: Option<SocketAddr>,
    /// Where this host's administrators connect.
    pub admin_socket: PathBuf,
}

/// Why a server can't serve. The chain of causes says it all.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ServeError(#[from] anyhow::Error);

impl Server {
    /// A server over a configuration, a clock and randomness. Its keys are in a signer, a process
    /// of its own.
    pub fn new(config: ServerConfig, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            config,
            clock,
            entropy,
            authority: None,
        }
    }

    /// With keys somewhere else than in a signer: for tests with a clock of their own, and to
    /// measure what the signer costs.
    #[must_use]
    pub fn with_authority(mut self, make: MakeAuthority) -> Self {
        self.authority = Some(make);
        self
    }

    /// Holds all ports and sockets, or none.
    ///
    /// # Errors
    /// Names the address that can't be had.
    pub async fn bind(self) -> Result<Bound, ServeError> {
        let Self {
            config,
            clock,
            entropy,
            authority,
        } = self;
        make_folder(&config.data_dir)?;
        let tcp = async |address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))
        };
        let nodes = tcp(config.listen).await?;
        let watch = bind_watch(config.watch_listen)
            .with_context(|| format!("cannot listen on {}", config.watch_listen))?;
        let http = tcp(config.http_listen).await?;
        let public = match config.public.listen {
            Some(address) => Some(tcp(address).await?),
            None => None,
        };
        let admin = bind_admin(&config.admin.socket).await?;
        Ok(Bound {
            config,
            clock,
            entropy,
            authority,
            signing: None,
            nodes,
            watch,
            http,
            public,
            admin,
        })
    }
}

impl Bound {
    /// Starts serving: opens the store, loads the keys, applies deadlines, and only then answers.
    /// Everything that it starts is a named task of `tasks`, and ends with it.
    ///
    /// # Errors
    /// When the store or the keys can't be opened.
    pub async fn serve(mut self, tasks: &Tasks) -> Result<Running, ServeError> {
        tasks.set_grace(self.config.grace);
        let ready = tasks.readiness().condition("issuer");
        let (log, now) = (LogId(self.entropy.array()), self.clock.now());
        let (store, writable) = store::open(&self.config, log, now).await?;
        report(tasks, "store", writable);
        let issuer = self.start_issuer(store, tasks).await?;
        let running = Running {
            issuer: Arc::clone(&issuer),
            address: self.nodes.local_addr().context("the node listener")?,
            watch_address: self.watch.local_addr().context("the watch listener")?,
            http_address: self.http.local_addr().context("the http listener")?,
            public_address: match &self.public {
                Some(public) => Some(public.local_addr().context("the public listener")?),
                None => None,
            },
            admin_socket: self.config.admin.socket.clone(),
        };
        self.start_upkeep(tasks, &issuer);
        self.start_listeners(tasks, &running).await?;
        tracing::info!(
            trust_domain = %issuer.settings().trust_domain,
            nodes = %running.address,
            watch = %running.watch_address,
            http = %running.http_address,
            admin = %running.admin_socket.display(),
            "serving"
        );
        ready.set(true);
        Ok(running)
    }

    async fn start_issuer(
        &mut self,
        store: Arc<dyn Store>,
        tasks: &Tasks,
    ) -> anyhow::Result<Arc<Issuer>> {
        let settings = settings(&self.config)?;
        let policy = policy(&settings, &self.config);
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let authority = match self.authority.take() {
            Some(make) => make(policy, &self.config)?,
            None => {
                let remote = signer::remote(&self.config, policy, Arc::clone(&entropy))?;
                report(tasks, "signer", remote.signs());
                self.signing = Some(remote.meters());
                let remote = Arc::new(remote);
                let warning = signer::warn_of_weak_protection(Arc::clone(&remote));
                until_stopped(tasks, "protection", warning);
                remote
            }
        };
        Issuer::start(settings, store, authority, clock, entropy)
            .await
            .context("cannot start the issuer")
    }

    /// What the issuer does by itself: heads, deadlines, leases.
    fn start_upkeep(&self, tasks: &Tasks, issuer: &Arc<Issuer>) {
        let of = || Arc::clone(issuer);
        let (heads, keys, authority, lists, ends) = (of(), of(), of(), of(), of());
        until_stopped(tasks, "heads", async move { heads.sign_heads().await });
        until_stopped(tasks, "keys", async move { keys.rotate_in_time().await });
        let (stop, last) = (tasks.shutdown().requested(), of());
        tasks.spawn("authority", async move {
            tokio::select! {
                () = authority.keep_authority() => {}
                () = stop => last.note_evidence().await,
            }
            Ok::<_, ServeError>(())
        });
        until_stopped(tasks, "crls", async move { lists.keep_crls().await });
        until_stopped(tasks, "ends", async move { ends.end_in_time().await });
    }

    fn most_watchers(&self) -> watchers::Most {
        let number = |of: u32| usize::try_from(of).unwrap_or(usize::MAX);
        let limits = &self.config.watch;
        watchers::Most {
            watchers: number(limits.max_watchers),
            per_identity: number(limits.max_per_identity),
            waited_for: number(limits.max_waited_for),
        }
    }

    async fn start_listeners(self, tasks: &Tasks, running: &Running) -> anyhow::Result<()> {
        let issuer = &running.issuer;
        let (own, renewal) = OwnIdentity::start(issuer).await?;
        let (keep, of) = (own.clone(), Arc::clone(issuer));
        until_stopped(
            tasks,
            "identity",
            async move { keep.keep(of, renewal).await },
        );

        let stop = tasks.shutdown().token();
        let limits = Arc::new(Limits::new(&self.config.rate_limits));
        let told = |configured: &Option<taskmint_config::Address>, bound: SocketAddr| {
            configured
                .as_ref()
                .map_or_else(|| bound.to_string(), ToString::to_string)
        };
        let node_service = NodeService {
            issuer: Arc::clone(issuer),
            attestors: self.attestors(issuer)?,
            limits: Arc::clone(&limits),
            watch_address: told(&self.config.watch_advertise, running.watch_address),
            stop: stop.clone(),
        };
        let joined = self.config.node_attestors.join_token.as_ref();
        let admin_service = AdminService {
            issuer: Arc::clone(issuer),
            grants: Arc::new(self.config.admin.grants.clone()),
            limits,
            address: told(&self.config.advertise, running.address),
            token_ttl: joined.map_or(Duration::from_secs(600), |joined| joined.ttl),
            started_at: self.clock.now(),
            stop: stop.clone(),
        };
        let shutdown = stop;
        let most = self.most_watchers();
        let (fanout, feeding) = watch::start(issuer, &self.config.watch, most).await?;
        let watching = Arc::clone(fanout.metrics());

        let admin = AdminServer::new(admin_service).max_decoding_message_size(MAX_MESSAGE);
        let nodes = NodesServer::new(node_service).max_decoding_message_size(MAX_MESSAGE);
        let grace = Clients::OptionalWithGrace(issuer.settings().node_grace);
        let optional = Arc::new(tls(&own, &self.clock, grace)?);
        let required = tls(&own, &self.clock, Clients::Required)?;

        let stop = tasks.shutdown().requested();
        let router = grpc().add_service(nodes).add_service(admin.clone());
        tasks.spawn(
            "nodes",
            router.serve_with_incoming_shutdown(accept(self.nodes, optional), stop),
        );
        let stop = tasks.shutdown().requested();
        let serving = watch::serve(fanout, self.watch, required, shutdown);
        tasks.spawn("watch", async move {
            tokio::select! {
                served = serving => served.context("the watch listener"),
                () = feeding => Err(anyhow::anyhow!("the log is not passed on to watchers")),
            }
            .map_err(ServeError::from)
        });
        let mut allowed = self.config.admin.allowed_uids.clone();
        // Root could become this uid at will; refusing it would only cost a detour.
        allowed.extend([0, nix::unistd::geteuid().as_raw()]);
        let incoming = accept_admins(self.admin, allowed);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(taskmint_wire::DESCRIPTORS)
            .build_v1()?;
        let router = grpc().add_service(admin).add_service(reflection);
        tasks.spawn(
            "admin",
            router.serve_with_incoming_shutdown(Box::pin(incoming), stop),
        );

        if let Some(listener) = self.public {
            public::start(tasks, listener, &self.config, issuer, &own, &self.clock)?;
        }
        let of = Arc::clone(issuer);
        let signing = self.signing;
        let text = move || {
            let signing = signing.as_ref().map(|signing| signing.read());
            metrics::text(&of, watching.read(), signing)
        };
        let router = health::router(tasks.readiness().clone(), text);
        let serve = health::serve(self.http, router, tasks.shutdown().clone());
        tasks.spawn_support("http", serve);
        Ok(())
    }

    fn attestors(&self, issuer: &Arc<Issuer>) -> anyhow::Result<NodeAttestors> {
        let config = &self.config.node_attestors;
        let mut all: Vec<Arc<dyn NodeAttestor>> = Vec::new();
        if config.join_token.is_some() {
            all.push(attestors::join_token(Arc::clone(issuer.store())));
        }
        if let Some(x509pop) = &config.x509pop {
            let entropy = Arc::clone(&self.entropy);
            all.push(attestors::x509pop(&x509pop.ca_files, entropy)?);
        }
        NodeAttestors::new(all).context("node attestors")
    }
}

fn grpc() -> Grpc {
    Grpc::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(1024)
        .tcp_nodelay(true)
}

fn tls(own: &OwnIdentity, clock: &Arc<dyn Clock>, clients: Clients) -> anyhow::Result<TlsConfig> {
    // Who may call what is decided by each service, where a denial can explain itself.
    let anybody: tls::Authorize = Arc::new(|_| Ok(()));
    let clock = Arc::clone(clock);
    let mut config = tls::server_config(&own.identity, &own.trust, clock, clients, anybody, None)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn settings(config: &ServerConfig) -> anyhow::Result<Settings> {
    let server = SpiffeId::server(&config.trust_domain, &config.server_id)?;
    let mut settings = Settings::new(config.trust_domain.clone(), server);
    settings.defaults.max_limit = config.tasks.max_limit;
    settings.x509_ttl = config.credentials.x509_ttl;
    settings.jwt_ttl = config.credentials.jwt_ttl;
    settings.x509_ttl_cap = config.credentials.x509_ttl_cap;
    settings.jwt_ttl_cap = config.credentials.jwt_ttl_cap;
    settings.node_ttl = config.credentials.node_ttl;
    settings.ca_ttl = config.credentials.ca_ttl;
    settings.backdate = config.credentials.backdate;
    settings.lease = config.tasks.lease;
    settings.max_request_ids = config.tasks.max_request_ids;
    settings.max_age = config.revocation.max_age;
    settings.drift_allowance = config.revocation.drift_allowance;
    settings.heartbeat = config.revocation.heartbeat;
    settings.leeway = config.revocation.leeway;
    settings.waited_for = config.watch.waited_for.iter().cloned().collect();
    let grants = config.admin.grants.iter();
    let watching = grants.filter(|grant| grant.verbs.contains(&Verb::Watch));
    let watching = watching.map(|grant| grant.principal.clone());
    settings.waited_for.extend(watching);
    settings.crl_ttl = config.crl.ttl;
    settings.crl_interval = config.crl.interval;
    settings.status_list_ttl = config.status_list.ttl;
    settings.status_list_lifetime = config.status_list.lifetime;
    let per_entry = config.rate_limits.per_entry;
    settings.per_entry = (per_entry.per_second, per_entry.burst);
    settings.public_url = config
        .public_url
        .as_ref()
        .map(|url| url.as_str().to_owned());
    Ok(settings)
}

/// What the authority insists on by itself, whatever it is asked (P23).
fn policy(settings: &Settings, config: &ServerConfig) -> Policy {
    // Lifetimes are counted from the backdated first second.
    let room = settings.backdate + Duration::from_secs(2);
    let skew = Duration::from_secs(120);
    let mut policy = Policy::new(settings.trust_domain.clone());
    policy.caps = Caps {
        workload: config.credentials.x509_ttl_cap + room,
        node: settings.node_ttl + room,
        server: settings.server_ttl + room,
        jwt: config.credentials.jwt_ttl_cap + room,
        authority: settings.ca_ttl + skew,
    };
    policy.max_limit = settings
        .defaults
        .max_limit
        .max(settings.node_ttl)
        .max(settings.server_ttl)
        + Duration::from_secs(60);
    policy.max_head_age = settings.max_age;
    policy.max_list_age = settings.crl_ttl.max(settings.status_list_lifetime) + room;
    policy.public_url.clone_from(&settings.public_url);
    policy
}

/// Binds the watch listener, with room for those who come back at once.
fn bind_watch(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {shown}"))?;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(folder, private).with_context(|| format!("cannot close {shown}"))
}

/// Binds the admin socket, in place of one that nobody listens on any more.
async fn bind_admin(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            anyhow::bail!("another server listens on {shown}");
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove {shown}"))?;
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    // Who may is decided by uid at accept; the mode only has to let them in.
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(path, mode).with_context(|| format!("cannot open {shown}"))?;
    Ok(listener)
}
