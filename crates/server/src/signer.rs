//! The process that holds the signing keys: started here, or reached where a service manager
//! started it (P25, P26). The sealing key never passes through this process.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use taskmint_config::{KeyKind, ServerConfig};
use taskmint_mint::{Connect, Connection, Policy, Remote, RemoteSettings};
use taskmint_model::{Entropy, millis};
use taskmint_secret::Protection;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The name of the program, beside this one.
const PROGRAM: &str = "taskmint-signer";

/// The sealing key in the state folder.
const KEY: &str = "sealing-key";

/// The journal in the state folder.
const JOURNAL: &str = "signer-journal";

/// A signer for this configuration.
///
/// # Errors
/// When none is configured, and none stands beside this program.
pub(crate) fn remote(
    config: &ServerConfig,
    policy: Policy,
    entropy: Arc<dyn Entropy>,
) -> anyhow::Result<Remote> {
    let connect: Arc<dyn Connect> = match &config.signer.socket {
        Some(socket) => Arc::new(Reach(socket.clone())),
        None => Arc::new(Start::new(config, &policy)?),
    };
    let settings = RemoteSettings {
        policy,
        max_waiting: usize::try_from(config.signer.max_waiting).unwrap_or(usize::MAX),
        verify_one_in: config.signer.verify_one_in,
    };
    Ok(Remote::new(connect, settings, entropy))
}

/// Warns of each signer that keeps its keys less well than it could. Runs until dropped.
pub(crate) async fn warn_of_weak_protection(remote: Arc<Remote>) {
    let mut signs = remote.signs();
    while signs.wait_for(|signs| *signs).await.is_ok() {
        if let Some(opened) = remote.opened().filter(|opened| is_weak(&opened.protection)) {
            tracing::warn!(
                protection = opened.protection,
                fix = "boot with `secretmem.enable=1`",
                "the signer's keys are not in secret memory"
            );
        }
        if signs.wait_for(|signs| !*signs).await.is_err() {
            return;
        }
    }
}

/// Of the words that a signer of the same release has for it.
fn is_weak(protection: &str) -> bool {
    protection != Protection::Secret.to_string()
}

/// A signer that a service manager started.
struct Reach(PathBuf);

#[async_trait]
impl Connect for Reach {
    async fn connect(&self) -> io::Result<Connection> {
        let stream = UnixStream::connect(&self.0).await.map_err(|error| {
            let socket = self.0.display();
            io::Error::new(
                error.kind(),
                format!("no signer listens on `{socket}`: {error}"),
            )
        })?;
        Ok(Connection {
            stream,
            keep: Box::new(()),
        })
    }
}

/// A signer that is started here: by the same user, so for development.
struct Start {
    program: PathBuf,
    arguments: Vec<String>,
    journal: PathBuf,
}

impl Start {
    fn new(config: &ServerConfig, policy: &Policy) -> anyhow::Result<Self> {
        let program = match &config.signer.path {
            Some(path) => path.clone(),
            None => beside_this()?,
        };
        let shown = program.display();
        anyhow::ensure!(
            program.is_file(),
            "there is no signer at `{shown}`: install {PROGRAM} beside this program, or set `signer.path` or `signer.socket`"
        );
        let journal = config.signer.journal.clone();
        let journal = journal.unwrap_or_else(|| config.data_dir.join(JOURNAL));
        Ok(Self {
            program,
            arguments: arguments(config, policy),
            journal,
        })
    }

    fn start(&self) -> anyhow::Result<(std::os::unix::net::UnixStream, Child)> {
        let (ours, its) = std::os::unix::net::UnixStream::pair().context("a socket pair")?;
        let journal = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.journal)
            .with_context(|| format!("cannot open the journal `{}`", self.journal.display()))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::from(journal))
            // An interrupt from the keyboard is for the server: it may still have to sign.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.program.display()))?;
        ours.set_nonblocking(true).context("a socket pair")?;
        Ok((ours, child))
    }
}

#[async_trait]
impl Connect for Start {
    async fn connect(&self) -> io::Result<Connection> {
        let (stream, child) = self
            .start()
            .map_err(|error| io::Error::other(format!("{error:#}")))?;
        tracing::info!(
            pid = child.id(),
            "started a signer of its own user: for development"
        );
        Ok(Connection {
            stream: UnixStream::from_std(stream)?,
            keep: Box::new(child),
        })
    }
}

fn beside_this() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let folder = this.parent().unwrap_or(Path::new("/"));
    let beside = folder.join(PROGRAM);
    // Test programs lie one folder below.
    match folder.parent().map(|above| above.join(PROGRAM)) {
        Some(above) if !beside.exists() && above.exists() && folder.ends_with("deps") => Ok(above),
        _ => Ok(beside),
    }
}

fn arguments(config: &ServerConfig, policy: &Policy) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut say = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    say("trust-domain", policy.trust_domain.to_string());
    let caps = &policy.caps;
    for (name, span) in [
        ("workload-cap", caps.workload),
        ("node-cap", caps.node),
        ("server-cap", caps.server),
        ("jwt-cap", caps.jwt),
        ("authority-cap", caps.authority),
        ("max-limit", policy.max_limit),
        ("max-head-age", policy.max_head_age),
        ("max-list-age", policy.max_list_age),
    ] {
        say(name, format!("{}ms", millis(span)));
    }
    if let Some(url) = &policy.public_url {
        say("public-url", url.clone());
    }
    if let Some(workers) = config.signer.workers {
        say("workers", workers.to_string());
    }
    let own = config.data_dir.join(KEY);
    match (config.keys.kind, &config.keys.sealing_key_file) {
        (KeyKind::Memory, _) => arguments.push("--memory".to_owned()),
        (KeyKind::Sealed, file) => {
            let file = file.as_ref().unwrap_or(&own);
            say("sealing-key", file.display().to_string());
            if let Some(passphrase) = &config.keys.passphrase_file {
                say("passphrase", passphrase.display().to_string());
            } else if *file == own {
                arguments.push("--make-missing-key".to_owned());
            }
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_secret_memory_is_weak() {
        assert!(!is_weak(&Protection::Secret.to_string()));
        for weak in [
            Protection::Locked,
            Protection::Unlocked,
            Protection::Ordinary,
        ] {
            assert!(is_weak(&weak.to_string()), "{weak}");
        }
    }
}
