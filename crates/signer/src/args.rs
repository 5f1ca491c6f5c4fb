//! What the signer is told at its start. Nothing that comes over its socket changes it (P23).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser};
use taskmint_id::TrustDomain;
use taskmint_mint::Policy;

/// What it is asked to do.
pub(crate) enum Asked {
    /// To sign.
    Serve(Args),
    /// To make a sealing key, and no more.
    MakeKey(MakeKey),
}

/// Holds the signing keys of a Taskmint server, and signs for it.
///
/// Standard input is the socket: a connection, or one that listens. Standard output is the journal:
/// a file opened for appending. It is started by taskmint-server or by the service manager.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// The one trust domain whose names it signs.
    #[arg(long, env = "TASKMINT_SIGNER_TRUST_DOMAIN")]
    pub(crate) trust_domain: TrustDomain,

    /// The public address of the trust domain, below which status lists are.
    #[arg(long, env = "TASKMINT_SIGNER_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,

    /// The file with the sealing key: mode 0600, 32 random octets or what `make-key` wrote.
    #[arg(long, env = "TASKMINT_SIGNER_SEALING_KEY")]
    #[arg(required_unless_present = "memory", conflicts_with = "memory")]
    pub(crate) sealing_key: Option<PathBuf>,

    /// The file with the passphrase of the sealing key.
    #[arg(long, env = "TASKMINT_SIGNER_PASSPHRASE", requires = "sealing_key")]
    pub(crate) passphrase: Option<PathBuf>,

    /// Makes the sealing key if its file is not there: for development.
    #[arg(long, requires = "sealing_key", conflicts_with = "passphrase")]
    pub(crate) make_missing_key: bool,

    /// Keeps keys in memory alone: they end with the process.
    #[arg(long)]
    pub(crate) memory: bool,

    /// Longest X.509-SVID of a workload.
    #[arg(long, env = "TASKMINT_SIGNER_WORKLOAD_CAP", value_parser = span, default_value = "61m")]
    pub(crate) workload_cap: Duration,

    /// Longest X.509-SVID of a node.
    #[arg(long, env = "TASKMINT_SIGNER_NODE_CAP", value_parser = span, default_value = "24h1m")]
    pub(crate) node_cap: Duration,

    /// Longest X.509-SVID of a server.
    #[arg(long, env = "TASKMINT_SIGNER_SERVER_CAP", value_parser = span, default_value = "24h1m")]
    pub(crate) server_cap: Duration,

    /// Longest JWT-SVID.
    #[arg(long, env = "TASKMINT_SIGNER_JWT_CAP", value_parser = span, default_value = "61m")]
    pub(crate) jwt_cap: Duration,

    /// Longest certificate of an authority.
    #[arg(long, env = "TASKMINT_SIGNER_AUTHORITY_CAP", value_parser = span, default_value = "3653d")]
    pub(crate) authority_cap: Duration,

    /// How far ahead the limit of a task may lie.
    #[arg(long, env = "TASKMINT_SIGNER_MAX_LIMIT", value_parser = span, default_value = "30d")]
    pub(crate) max_limit: Duration,

    /// How long a head of the revocation log may count.
    #[arg(long, env = "TASKMINT_SIGNER_MAX_HEAD_AGE", value_parser = span, default_value = "5m")]
    pub(crate) max_head_age: Duration,

    /// How long a CRL or a status list may count.
    #[arg(long, env = "TASKMINT_SIGNER_MAX_LIST_AGE", value_parser = span, default_value = "61m")]
    pub(crate) max_list_age: Duration,

    /// Threads that sign; one for each core if not given.
    #[arg(long, env = "TASKMINT_SIGNER_WORKERS", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: Option<u32>,
}

/// Makes a sealing key.
///
/// The file has mode 0600 and is never written over. Without it, whatever it seals is lost.
#[derive(Debug, clap::Args)]
pub(crate) struct MakeKey {
    /// The trust domain that the key is for.
    #[arg(long, env = "TASKMINT_SIGNER_TRUST_DOMAIN")]
    pub(crate) trust_domain: TrustDomain,

    /// The file to be made.
    #[arg(long)]
    pub(crate) out: PathBuf,

    /// The file with the passphrase that the key is to be sealed by; without it the file holds the
    /// key as it is.
    #[arg(long)]
    pub(crate) passphrase: Option<PathBuf>,
}

impl Asked {
    /// What stands on the command line.
    ///
    /// # Errors
    /// When that makes no sense, or asks for help or the version: what to print then.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
        let make_key = MakeKey::augment_args(clap::Command::new(MAKE_KEY));
        let command = Args::command()
            .subcommand(make_key)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true);
        let matches = command.clone().try_get_matches()?;
        let asked = match matches.subcommand() {
            Some((MAKE_KEY, matches)) => MakeKey::from_arg_matches(matches).map(Self::MakeKey),
            _ => Args::from_arg_matches(&matches).map(Self::Serve),
        };
        asked.map_err(|error| error.format(&mut command.clone()))
    }
}

const MAKE_KEY: &str = "make-key";

fn span(text: &str) -> Result<Duration, String> {
    taskmint_config::parse_duration(text)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| format!("`{text}` is no duration such as `90s` or `1h30m`"))
}

impl Args {
    /// What it refuses whoever asks.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::new(self.trust_domain.clone());
        policy.caps.workload = self.workload_cap;
        policy.caps.node = self.node_cap;
        policy.caps.server = self.server_cap;
        policy.caps.jwt = self.jwt_cap;
        policy.caps.authority = self.authority_cap;
        policy.max_limit = self.max_limit;
        policy.max_head_age = self.max_head_age;
        policy.max_list_age = self.max_list_age;
        let url = self.public_url.as_ref();
        policy.public_url = url.map(|url| url.trim_end_matches('/').to_owned());
        policy
    }

    /// How many threads sign.
    pub(crate) fn workers(&self) -> u32 {
        self.workers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            u32::try_from(cores).unwrap_or(1).clamp(1, 64)
        })
    }
}
