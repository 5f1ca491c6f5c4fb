//! What an agent is told once, at start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taskmint_id::TrustDomain;
use taskmint_model::{Clock, Entropy, SystemClock, SystemEntropy};
use zeroize::Zeroizing;

/// What an agent is told once, at start.
#[derive(Clone)]
pub struct Settings {
    /// The trust domain; unset, the join string names it. If both do, they must agree.
    pub trust_domain: Option<TrustDomain>,
    /// Where the node's key and SVID are kept; made with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// Where the join string comes from. Not looked at once the node is attested.
    pub join: JoinSource,
    /// The server, where the join string does not say it or says it wrong.
    pub server: ServerAddress,
    /// How the node proves what it is.
    pub proof: NodeProof,
    /// The sockets that workloads and verifiers on this node use.
    pub sockets: Sockets,
    /// Where `/live`, `/ready` and `/metrics` are served; unset: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// What bounds callers.
    pub limits: Limits,
    /// How far this machine's clock may drift from the server's between two comparisons, for the
    /// agent's own watch of the revocation log (P17); unset: as every verifier's by default.
    pub drift_allowance: Option<Duration>,
    /// What the unix attestor looks at.
    pub unix: taskmint_workload_unix::Config,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Where the join string comes from.
#[derive(Clone, Default)]
pub enum JoinSource {
    /// Nowhere: the node is attested already, or the root is pinned by [`ServerAddress`].
    #[default]
    None,
    /// The string itself.
    Text(Zeroizing<String>),
    /// A file with it.
    File(PathBuf),
    /// Standard input, read to its end and once, when the node has to attest.
    StandardInput,
}

/// How to reach the server and know it, beside the join string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerAddress {
    /// `host:port` of the node API.
    pub node: Option<String>,
    /// `host:port` of the watch; unset, the server names it.
    pub watch: Option<String>,
    /// SHA-256 of the root's public key (SPKI).
    pub root_sha256: Option<[u8; 32]>,
}

/// How the node proves what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeProof {
    /// By the one-time token in the join string.
    #[default]
    JoinToken,
    /// By an X.509 certificate that it holds already.
    X509Pop {
        /// The certificate and its chain, as PEM.
        certificate_file: PathBuf,
        /// Its key, as PEM.
        key_file: PathBuf,
    },
}

/// The unix sockets on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// The SPIFFE Workload API.
    pub workload: PathBuf,
    /// The task API.
    pub task: PathBuf,
    /// The relay of the revocation log.
    pub revocation: PathBuf,
    /// Where per-task folders are made (P2).
    pub task_dir: PathBuf,
}

/// What bounds callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time, over all sockets.
    pub max_connections: u32,
    /// Connections at the same time by one uid.
    pub max_connections_per_uid: u32,
    /// Calls at the same time on one connection, streams included.
    pub max_calls_per_connection: u32,
    /// Watches of the revocation log at the same time, through this agent's relay (P19).
    pub max_watches: u32,
    /// Watches at the same time by one uid: the server counts those of a node together, and nobody
    /// may take them all.
    pub max_watches_per_uid: u32,
    /// Tasks that begin at the same time.
    pub max_begins: usize,
    /// Calls a second by one process, sustained.
    pub calls_per_second: u32,
    /// Calls at once by one process, after a pause.
    pub burst: u32,
}

impl Settings {
    /// Defaults for everything but places: state below `data_dir`, sockets below `run_dir`.
    pub fn new(data_dir: PathBuf, run_dir: &std::path::Path, join: JoinSource) -> Self {
        Self {
            trust_domain: None,
            data_dir,
            join,
            server: ServerAddress::default(),
            proof: NodeProof::default(),
            sockets: Sockets {
                workload: run_dir.join("workload.sock"),
                task: run_dir.join("task.sock"),
                revocation: run_dir.join("revocation.sock"),
                task_dir: run_dir.join("tasks"),
            },
            http_listen: None,
            limits: Limits::default(),
            drift_allowance: None,
            unix: taskmint_workload_unix::Config::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_connections_per_uid: 2_048,
            max_calls_per_connection: 128,
            max_watches: 1_024,
            max_watches_per_uid: 32,
            max_begins: 256,
            calls_per_second: 200,
            burst: 1_000,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("trust_domain", &self.trust_domain)
            .field("data_dir", &self.data_dir)
            .field("join", &self.join)
            .field("server", &self.server)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

/// Says where, never what: a join string holds a token.
impl std::fmt::Debug for JoinSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::StandardInput => f.write_str("StandardInput"),
        }
    }
}
