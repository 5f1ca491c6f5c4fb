//! What `taskmint-agent` can be told.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use taskmint_id::TrustDomain;

use crate::mistake::Mistakes;
use crate::overrides::Overrides;
use crate::reader::Reader;
use crate::schema::{self, Checked, LoadError, Schema};
use crate::sheet::Key;
use crate::types::{
    Address, Fingerprint, Log, Rate, SecretSource, choice, refuse_shared_paths, socket_path,
    warn_of_open_http,
};

/// The credential under which a service manager hands over the join string.
const JOIN_STRING: &str = "taskmint-join-string";

/// What comes after the folder in the path of a per-task socket: a slash, a task id and a name.
const TASK_SOCKET_TAIL: usize = "/00000000-0000-0000-0000-000000000000/task.sock".len();

/// The agent's configuration. Every path is absolute.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The trust domain; unset, the join string names it.
    pub trust_domain: Option<TrustDomain>,
    /// Where its state is.
    pub data_dir: PathBuf,
    /// Where the join string is. Read only until the node is attested, and it may be absent after
    /// that.
    pub join_string_file: Option<SecretSource>,
    /// The server, where the join string does not say it or says it wrong.
    pub server: Server,
    /// How the node proves what it is.
    pub node_attestor: NodeAttestor,
    /// The sockets that workloads and verifiers on this node use.
    pub sockets: WorkloadSockets,
    /// Where `/live`, `/ready` and `/metrics` are served.
    pub http_listen: SocketAddr,
    /// How long a stop may take.
    pub grace: Duration,
    /// Logging.
    pub log: Log,
    /// What bounds callers.
    pub limits: AgentLimits,
    /// How it follows the revocation log.
    pub revocation: AgentRevocation,
    /// How workloads are told apart.
    pub workload_attestors: WorkloadAttestors,
}

/// How to reach the server and know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The node API; unset, the join string names it.
    pub address: Option<Address>,
    /// The watch; unset, the server names it.
    pub watch_address: Option<Address>,
    /// SHA-256 of the root's public key (SPKI); unset, the join string names it.
    pub root_sha256: Option<Fingerprint>,
}

/// How the node proves what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// By the one-time token in the join string.
    JoinToken,
    /// By an X.509 certificate that it holds already.
    X509Pop {
        /// The certificate and its chain, as PEM.
        certificate_file: PathBuf,
        /// Its key, as PEM.
        key_file: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NodeAttestorKind {
    JoinToken,
    X509Pop,
}

choice!(pub(crate) NodeAttestorKind, "`\"join_token\"` or `\"x509pop\"`", {
    "join_token" => JoinToken,
    "x509pop" => X509Pop,
});

/// The unix sockets on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSockets {
    /// The SPIFFE Workload API.
    pub workload: PathBuf,
    /// The task API.
    pub task: PathBuf,
    /// The relay of the revocation log, for verifiers.
    pub revocation: PathBuf,
    /// Where per-task sockets are made (P2).
    pub task_dir: PathBuf,
}

/// What bounds callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Connections at the same time, over all sockets.
    pub max_connections: u32,
    /// Connections at the same time by one uid.
    pub max_connections_per_uid: u32,
    /// Calls at the same time on one connection, streams included.
    pub max_calls_per_connection: u32,
    /// Watches of the revocation log at the same time.
    pub max_watches: u32,
    /// Watches at the same time by one uid.
    pub max_watches_per_uid: u32,
    /// Tasks that begin at the same time.
    pub max_begins: u32,
    /// How often one process may ask.
    pub per_caller: Rate,
}

/// How the agent follows the revocation log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentRevocation {
    /// How far its clock may drift from the server's between two nonces (P17).
    pub drift_allowance: Duration,
}

/// How workloads are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadAttestors {
    /// By what the kernel knows of the process.
    pub unix: UnixAttestor,
}

/// The unix attestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAttestor {
    /// Whether executables count: selectors `path` and `sha256`.
    pub discover_path: bool,
    /// The largest executable that is hashed, in bytes; 0: none is.
    pub max_sha256_bytes: u64,
}

impl AgentConfig {
    /// Reads a configuration; `source` is the name by which mistakes speak of it.
    ///
    /// # Errors
    ///
    /// Every mistake there is.
    pub fn parse(text: &str, source: &str, overrides: &Overrides) -> Result<Self, Mistakes> {
        Self::check(text, source, overrides).map(|checked| checked.config)
    }

    /// The same, with warnings and origins.
    ///
    /// # Errors
    ///
    /// Every mistake there is.
    pub fn check(
        text: &str,
        source: &str,
        overrides: &Overrides,
    ) -> Result<Checked<Self>, Mistakes> {
        schema::check(text, source, overrides)
    }

    /// The same, from a file.
    ///
    /// # Errors
    ///
    /// The file can't be read, or every mistake in it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Checked<Self>, LoadError> {
        schema::load(path, overrides)
    }

    /// Every key there is.
    pub fn keys() -> Vec<Key> {
        schema::keys::<Self>()
    }
}

impl Schema for AgentConfig {
    const PREFIX: &'static str = "TASKMINT_AGENT_";

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let trust_domain = reader.value::<TrustDomain>("trust_domain").optional();
        let data_dir = reader
            .value("data_dir")
            .or(PathBuf::from("/var/lib/taskmint-agent"));
        let mut join_string_file = reader.value::<SecretSource>("join_string_file").optional();
        let server = reader.table("server", Server::read);
        if !reader.is_given("join_string_file") && server.root_sha256.is_none() {
            join_string_file = reader.credential(JOIN_STRING).map(SecretSource::File);
        }
        let node_attestor = reader.table("node_attestor", NodeAttestor::read);
        check_bootstrap(reader, join_string_file.is_some(), &node_attestor);
        let sockets = WorkloadSockets::read(reader);
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 8445));
        let http_listen = reader.value("http_listen").or(loopback);
        warn_of_open_http(reader, http_listen);
        let range = Duration::ZERO..=Duration::from_secs(600);
        let grace = reader
            .value("grace")
            .within(range)
            .or(Duration::from_secs(10));
        let log = reader.table("log", Log::read);
        let limits = reader.table("limits", AgentLimits::read);
        let revocation = reader.table("revocation", AgentRevocation::read);
        let unix = |reader: &mut Reader<'_, '_>| reader.table("unix", UnixAttestor::read);
        let unix = reader.table("workload_attestors", unix);
        Some(Self {
            trust_domain,
            data_dir,
            join_string_file,
            server,
            node_attestor: node_attestor?,
            sockets,
            http_listen,
            grace,
            log,
            limits,
            revocation,
            workload_attestors: WorkloadAttestors { unix },
        })
    }
}

/// The first contact needs an address, a pin of the root and the trust domain: all from a join
/// string, or all from here.
fn check_bootstrap(
    reader: &mut Reader<'_, '_>,
    has_join_string: bool,
    attestor: &Option<NodeAttestor>,
) {
    if reader.is_given("server.root_sha256") {
        if reader.is_given("join_string_file") {
            let text =
                "contradicts `join_string_file`, which pins the root too: remove one of them";
            reader.mistake("server.root_sha256", text);
            return;
        }
        if matches!(attestor, Some(NodeAttestor::JoinToken)) {
            let text = "without a join string there is no join token: give `join_string_file` \
                        instead, or set `node_attestor.kind = \"x509pop\"`";
            reader.mistake("server.root_sha256", text);
        }
        for (key, example) in [
            ("server.address", "taskmint.example.org:8441"),
            ("trust_domain", "example.org"),
        ] {
            if !reader.is_given(key) {
                let text =
                    format!("missing: without a join string, write it, as in `\"{example}\"`");
                reader.mistake(key, text);
            }
        }
    } else if !has_join_string && !reader.is_given("join_string_file") {
        // No mistake: a node that is attested needs none, and only its state knows.
        let text = format!(
            "unset, and no credential `{JOIN_STRING}` was given, so a new node can't join: write \
             `join_string_file = \"/etc/taskmint/join-string\"`, a file of mode 0600 with what \
             `taskmint token create` printed"
        );
        reader.warning("join_string_file", text);
    }
}

impl Server {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            address: reader.value("address").optional(),
            watch_address: reader.value("watch_address").optional(),
            root_sha256: reader.value("root_sha256").optional(),
        }
    }
}

impl NodeAttestor {
    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let kind = reader.value("kind").or(NodeAttestorKind::JoinToken);
        let certificate_file = reader.value("certificate_file").optional();
        let key_file = reader.value("key_file").optional();
        for key in ["certificate_file", "key_file"] {
            match (kind, reader.is_given(key)) {
                (NodeAttestorKind::JoinToken, true) => {
                    let text = "only for `kind = \"x509pop\"`: remove it, or set that kind";
                    reader.mistake(key, text);
                }
                (NodeAttestorKind::X509Pop, false) => {
                    let text = format!(
                        "missing: write `{key} = \"/etc/taskmint/node.pem\"` in `[node_attestor]`"
                    );
                    reader.mistake(key, text);
                }
                _ => {}
            }
        }
        match kind {
            NodeAttestorKind::JoinToken => Some(Self::JoinToken),
            NodeAttestorKind::X509Pop => Some(Self::X509Pop {
                certificate_file: certificate_file?,
                key_file: key_file?,
            }),
        }
    }
}

impl WorkloadSockets {
    /// These keys are at the top: they are what most people look for.
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let mut socket = |key, default, extra| {
            let field = reader
                .value::<PathBuf>(key)
                .check(|path| socket_path(path, extra));
            field.or(PathBuf::from(default))
        };
        let sockets = Self {
            workload: socket("workload_socket", "/run/taskmint/workload.sock", 0),
            task: socket("task_socket", "/run/taskmint/task.sock", 0),
            revocation: socket("revocation_socket", "/run/taskmint/revocation.sock", 0),
            task_dir: socket("task_socket_dir", "/run/taskmint/tasks", TASK_SOCKET_TAIL),
        };
        let paths = [
            ("workload_socket", sockets.workload.as_path()),
            ("task_socket", sockets.task.as_path()),
            ("revocation_socket", sockets.revocation.as_path()),
            ("task_socket_dir", sockets.task_dir.as_path()),
        ];
        refuse_shared_paths(reader, &paths);
        sockets
    }
}

impl AgentLimits {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let caller = Rate {
            per_second: 200,
            burst: 1_000,
        };
        let max_connections = reader
            .value("max_connections")
            .within(1..=1_000_000)
            .or(8_192);
        let per_uid = reader
            .value("max_connections_per_uid")
            .within(1..=1_000_000);
        let max_connections_per_uid = per_uid.or(2_048);
        if max_connections_per_uid > max_connections {
            let text = format!(
                "more than `max_connections`, which is {max_connections}: write at most that"
            );
            reader.mistake("max_connections_per_uid", text);
        }
        // An SVID stream, a bundle stream and a call in hand must fit side by side.
        let calls = reader
            .value("max_calls_per_connection")
            .within(8..=65_536)
            .or(128);
        let max_watches = reader.value("max_watches").within(1..=65_536).or(1_024);
        let per_uid = reader.value("max_watches_per_uid").within(1..=65_536);
        let max_watches_per_uid = per_uid.or(32);
        if max_watches_per_uid > max_watches {
            let text =
                format!("more than `max_watches`, which is {max_watches}: write at most that");
            reader.mistake("max_watches_per_uid", text);
        }
        let max_begins = reader.value("max_begins").within(1..=65_536).or(256);
        let per_caller = reader.table("per_caller", |reader| Rate::read(reader, caller));
        Self {
            max_connections,
            max_connections_per_uid,
            max_calls_per_connection: calls,
            max_watches,
            max_watches_per_uid,
            max_begins,
            per_caller,
        }
    }
}

impl AgentRevocation {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        // The upper bound is every verifier's: what an ended task may outlive counts with it.
        let drift = reader
            .value("drift_allowance")
            .within(Duration::from_millis(10)..=Duration::from_secs(2));
        Self {
            drift_allowance: drift.or(Duration::from_secs(1)),
        }
    }
}

impl UnixAttestor {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            discover_path: reader.value("discover_path").or(true),
            max_sha256_bytes: reader
                .value("max_sha256_bytes")
                .within(0..=1 << 34)
                .or(512 << 20),
        }
    }
}
