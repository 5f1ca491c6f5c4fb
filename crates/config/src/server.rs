//! What `taskmint-server` can be told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taskmint_id::{PathPrefix, SpiffeId, TrustDomain};

use crate::mistake::Mistakes;
use crate::overrides::Overrides;
use crate::schema::{self, Checked, LoadError};
use crate::sheet::Key;
use crate::types::{Address, Log, PublicUrl, Rate, choice};

mod lists;
mod read;

pub use lists::{Crl, Public, PublicSecurity, StatusList};

/// The server's configuration. Every path is absolute.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The trust domain that it issues for.
    pub trust_domain: TrustDomain,
    /// Its name below `/taskmint/server/`.
    pub server_id: String,
    /// Where its state is.
    pub data_dir: PathBuf,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// What agents are told to connect to, if not `listen`.
    pub advertise: Option<Address>,
    /// Where watchers connect.
    pub watch_listen: SocketAddr,
    /// What watchers are told to connect to, if not `watch_listen`.
    pub watch_advertise: Option<Address>,
    /// Where `/live`, `/ready` and `/metrics` are served.
    pub http_listen: SocketAddr,
    /// Where status lists can be fetched; unset, tokens carry no `status` (P21).
    pub public_url: Option<PublicUrl>,
    /// Where status lists, CRLs, checks and introspection are served.
    pub public: Public,
    /// Certificate revocation lists.
    pub crl: Crl,
    /// Token status lists.
    pub status_list: StatusList,
    /// How long a stop may take.
    pub grace: Duration,
    /// Logging.
    pub log: Log,
    /// Where tasks, entries and the revocation log are kept.
    pub store: StoreKind,
    /// Where authority keys are kept.
    pub keys: Keys,
    /// The process that holds them.
    pub signer: Signer,
    /// How long what is issued lives.
    pub credentials: Credentials,
    /// What bounds every task.
    pub tasks: TaskLimits,
    /// What verifiers are promised.
    pub revocation: Revocation,
    /// What bounds watchers.
    pub watch: WatchLimits,
    /// How often nodes and callers may ask.
    pub rate_limits: RateLimits,
    /// How nodes can prove what they are.
    pub node_attestors: NodeAttestors,
    /// Who administers.
    pub admin: Admin,
}

/// Where state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// On disk, below the data folder.
    RocksDb,
    /// Nowhere: gone with the process.
    Memory,
}

choice!(pub StoreKind, "`\"rocksdb\"` or `\"memory\"`", { "rocksdb" => RocksDb, "memory" => Memory });

/// How authority keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Sealed in the store, or nowhere.
    pub kind: KeyKind,
    /// The file with the sealing key; always there for [`KeyKind::Sealed`], unless the signer is
    /// started by another and has its own.
    pub sealing_key_file: Option<PathBuf>,
    /// The file with the passphrase of the sealing key.
    pub passphrase_file: Option<PathBuf>,
}

/// The process that holds the authority keys (P23 to P27).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Where one listens that a service manager started.
    pub socket: Option<PathBuf>,
    /// The program that is started otherwise; unset, `taskmint-signer` beside the server.
    pub path: Option<PathBuf>,
    /// Where it counts what it signs; unset, `signer-journal` below the data folder.
    pub journal: Option<PathBuf>,
    /// Threads that sign; one for each core if not set.
    pub workers: Option<u32>,
    /// Of so many signatures one is verified before it leaves; 0 verifies none (P27).
    pub verify_one_in: u32,
    /// Requests that may wait for it before more are refused.
    pub max_waiting: u32,
}

/// Where authority keys outlive a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// In the store, encrypted under the sealing key (P25).
    Sealed,
    /// Nowhere: a restart makes new ones.
    Memory,
}

choice!(pub KeyKind, "`\"sealed\"` or `\"memory\"`", { "sealed" => Sealed, "memory" => Memory });

/// Lifetimes of what is issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Authority keys: CA, JWT and log.
    pub ca_ttl: Duration,
    /// X.509-SVIDs of workloads, unless their entry says otherwise.
    pub x509_ttl: Duration,
    /// The longest that an entry may say.
    pub x509_ttl_cap: Duration,
    /// JWT-SVIDs, unless their entry says otherwise.
    pub jwt_ttl: Duration,
    /// The longest that an entry may say.
    pub jwt_ttl_cap: Duration,
    /// SVIDs of nodes and servers.
    pub node_ttl: Duration,
    /// How far validity begins in the past, for clocks that are behind (P33).
    pub backdate: Duration,
}

/// What bounds every task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    /// How far ahead a limit may lie (P4).
    pub max_limit: Duration,
    /// How long a node may be silent before its tasks end (P12).
    pub lease: Duration,
    /// How many request ids one caller may have remembered.
    pub max_request_ids: u32,
}

/// What verifiers are promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// How old a head may be before a verifier says no (P17).
    pub max_age: Duration,
    /// How often a head is signed when nothing happens.
    pub heartbeat: Duration,
    /// What verifiers forgive on an expiry (P18).
    pub leeway: Duration,
    /// How far a verifier's clock may drift between two nonces (P17).
    pub drift_allowance: Duration,
}

/// What bounds watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Watches at the same time.
    pub max_watchers: u32,
    /// Watches at the same time by one SPIFFE ID.
    pub max_per_identity: u32,
    /// Watchers whose acknowledgements are waited for, those behind relays included.
    pub max_waited_for: u32,
    /// SPIFFE IDs that are waited for beside nodes and those whose entry says so.
    pub waited_for: Vec<SpiffeId>,
    /// How many records behind a watcher may be before it gets a checkpoint instead.
    pub checkpoint_after: u64,
    /// Threads that serve watchers; one for each core if not set.
    pub threads: Option<u32>,
}

/// How often may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// By all workloads of one node together.
    pub per_node: Rate,
    /// By one caller.
    pub per_caller: Rate,
    /// Credentials of one entry, on all nodes together.
    pub per_entry: Rate,
}

/// How nodes can prove what they are; one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAttestors {
    /// By a one-time token.
    pub join_token: Option<JoinToken>,
    /// By an X.509 certificate that they hold already.
    pub x509pop: Option<X509Pop>,
}

/// Join tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// How long a token can be used, unless it is made with another.
    pub ttl: Duration,
}

/// Possession of an X.509 certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// The CAs of such certificates, as PEM; one at least.
    pub ca_files: Vec<PathBuf>,
}

/// Who administers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The unix socket of the admin API.
    pub socket: PathBuf,
    /// Who may use the socket, beside the server's own user and root.
    pub allowed_uids: Vec<u32>,
    /// Who may use the admin API over mTLS (P31).
    pub grants: Vec<Grant>,
}

/// What one SPIFFE ID may do over mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who.
    pub principal: SpiffeId,
    /// What; one at least.
    pub verbs: Vec<Verb>,
    /// On which SPIFFE IDs.
    pub path_prefix: PathPrefix,
}

/// What an administrator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// List and show everything; changes nothing.
    Read,
    /// Create, change and delete entries.
    Register,
    /// Make and delete join tokens.
    Invite,
    /// Evict, ban and unban nodes.
    Evict,
    /// Begin tasks, as an orchestrator does.
    Begin,
    /// Extend tasks.
    Extend,
    /// Suspend and resume tasks.
    Suspend,
    /// Complete and revoke tasks.
    End,
    /// Lift the bars that keep ended tasks from coming back (P3).
    Lift,
    /// Prepare, activate and retire authority keys.
    Rotate,
    /// Make backups.
    Backup,
    /// Watch, and be waited for (P19).
    Watch,
}

choice!(pub Verb, "a verb: `\"read\"`, `\"register\"`, `\"invite\"`, `\"evict\"`, `\"begin\"`, `\"extend\"`, \
    `\"suspend\"`, `\"end\"`, `\"lift\"`, `\"rotate\"`, `\"backup\"` or `\"watch\"`", {
    "read" => Read,
    "register" => Register,
    "invite" => Invite,
    "evict" => Evict,
    "begin" => Begin,
    "extend" => Extend,
    "suspend" => Suspend,
    "end" => End,
    "lift" => Lift,
    "rotate" => Rotate,
    "backup" => Backup,
    "watch" => Watch,
});

impl ServerConfig {
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
