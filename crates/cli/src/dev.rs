//! A server and an agent in one process, for development: the binaries' own `serve` functions,
//! joined over loopback by mTLS and a join token, as any two hosts would be.

mod exports;
mod folder;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use nix::unistd::{Uid, User, getuid};
use taskmint_agent::{JoinSource, Settings};
use taskmint_client::{Admin, Endpoint, connect};
use taskmint_config::{Overrides, ServerConfig};
use taskmint_daemon::{Failure, Tasks, logging};
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_server::{Running, Server};
use taskmint_wire::admin;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::entry;
use crate::output::note;

use folder::Folder;

/// How long everything may take to be ready.
const START: Duration = Duration::from_secs(60);

/// `taskmint dev`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints lines to evaluate, once all is ready; then standard output is closed:

  eval \"$(taskmint dev &)\"")]
pub struct Dev {
    /// Where state is kept from one start to the next; left out, a new folder that is removed in
    /// the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The trust domain.
    #[arg(long, default_value = "dev.taskmint")]
    trust_domain: String,
    /// What is logged, on standard error: a level, or levels by target.
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
}

impl Dev {
    /// Runs until a signal; gives the exit code.
    pub(crate) fn main(self) -> ExitCode {
        let started = Instant::now();
        let folder = match Folder::open(self.dir.as_deref()) {
            Ok(folder) => Arc::new(folder),
            Err(error) => {
                note(format_args!("taskmint-dev: {error:#}"));
                return ExitCode::from(taskmint_daemon::exit::FAILED);
            }
        };
        let used = Arc::clone(&folder);
        let code = taskmint_daemon::run("taskmint-dev", move |tasks| async move {
            logging::init(logging::Format::Text, &self.log).map_err(Failure::usage)?;
            let served = self.serve(&tasks, &used, started).await;
            served.map_err(|error| Failure::failed(format!("{error:#}")))
        });
        // Only now is the store closed, and nobody writes into the folder any more.
        drop(folder);
        code
    }

    async fn serve(&self, tasks: &Tasks, folder: &Folder, started: Instant) -> anyhow::Result<()> {
        note(format_args!(
            "\u{1b}[1;33mThis is taskmint for DEVELOPMENT.\u{1b}[0m Every process of uid {} gets an \
             identity, whatever it is, and keys are kept beside the data they protect.\nNever use \
             it for anything that matters. State is in {}{}.",
            getuid(),
            folder.path().display(),
            if folder.is_fresh() {
                ", until this ends"
            } else {
                ""
            },
        ));
        let config = server_config(&self.trust_domain, folder)?;
        let server = Server::new(config, Arc::new(SystemClock), Arc::new(SystemEntropy));
        let server = server.bind().await?.serve(tasks).await?;
        let mut admin = Admin::new(connect(&Endpoint::Unix(server.admin_socket.clone())).await?);
        register(&mut admin, &self.trust_domain).await?;
        let settings = agent_settings(folder, &mut admin, server.address).await?;
        let sockets = settings.sockets.clone();
        taskmint_agent::serve(settings, tasks).await?;
        let bundle = keep_bundle(&server, folder.path(), tasks)?;
        let ready = tokio::time::timeout(START, tasks.readiness().ready());
        tokio::select! {
            ready = ready => ready.with_context(|| format!(
                "not ready after {START:?}: {} missing; `--log info` tells more",
                tasks.readiness().missing().join(", "),
            ))?,
            () = tasks.shutdown().requested() => return Ok(()),
        }
        note(format_args!(
            "ready in {} ms",
            started.elapsed().as_millis()
        ));
        let variables = [
            (
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix:{}", sockets.workload.display()),
            ),
            (
                "TASKMINT_TASK_SOCKET",
                format!("unix:{}", sockets.task.display()),
            ),
            (
                "TASKMINT_REVOCATION_SOCKET",
                format!("unix:{}", sockets.revocation.display()),
            ),
            (
                "TASKMINT_ADMIN_SOCKET",
                format!("unix:{}", server.admin_socket.display()),
            ),
            ("TASKMINT_TRUST_BUNDLE", bundle.display().to_string()),
            ("TASKMINT_DEV_PID", std::process::id().to_string()),
        ];
        Ok(exports::print(&variables)?)
    }
}

/// The smallest server: loopback, ports that are free.
fn server_config(trust_domain: &str, folder: &Folder) -> anyhow::Result<ServerConfig> {
    let path = |name: &str| folder.utf8(name).map(toml::Value::String);
    let mut keys = toml::Table::new();
    if folder.is_fresh() {
        keys.insert("kind".to_owned(), "memory".into());
    } else {
        keys.insert("sealing_key_file".to_owned(), path("server/sealing-key")?);
    }
    let admin: toml::Table = [("socket".to_owned(), path("admin.sock")?)]
        .into_iter()
        .collect();
    let loopback = || toml::Value::from("127.0.0.1:0");
    let text = [
        ("trust_domain", trust_domain.into()),
        ("server_id", "dev".into()),
        ("data_dir", path("server")?),
        ("listen", loopback()),
        ("watch_listen", loopback()),
        ("http_listen", loopback()),
        ("grace", "2s".into()),
        ("keys", keys.into()),
        ("admin", admin.into()),
    ];
    let text: toml::Table = text
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    Ok(ServerConfig::parse(
        &text.to_string(),
        "taskmint dev",
        &Overrides::none(),
    )?)
}

async fn agent_settings(
    folder: &Folder,
    admin: &mut Admin,
    address: SocketAddr,
) -> anyhow::Result<Settings> {
    let request = admin::CreateTokenRequest {
        node: "dev".to_owned(),
        ..Default::default()
    };
    // Not looked at where the folder holds a node already.
    let made = admin
        .create_token(request)
        .await
        .map_err(taskmint_client::CallError::from)?;
    let join = Zeroizing::new(made.into_inner().join_string);
    let mut settings = Settings::new(
        folder.path().join("agent"),
        folder.path(),
        JoinSource::Text(join),
    );
    // The ports are other ones each time.
    settings.server.node = Some(address.to_string());
    Ok(settings)
}

/// The one entry: everything of the caller's own uid. It may be there from an earlier start.
async fn register(admin: &mut Admin, trust_domain: &str) -> anyhow::Result<()> {
    let uid = getuid();
    let entry = entry_of(uid, &name_of(uid), trust_domain);
    let (mut found, wanted) = (false, entry.selectors.clone());
    let same = admin::ListEntriesRequest {
        spiffe_id: entry.spiffe_id.clone(),
        ..Default::default()
    };
    let failed = |failure: crate::exit::Failure| anyhow::anyhow!("{}", failure.json());
    for other in entry::list(admin, same).await.map_err(failed)? {
        found |= other.selectors == wanted;
    }
    if found {
        return Ok(());
    }
    for (_, result) in entry::create(admin, vec![entry]).await.map_err(failed)? {
        anyhow::ensure!(
            result.entry.is_some(),
            "the entry is refused: {}",
            result.message
        );
    }
    Ok(())
}

fn entry_of(uid: Uid, name: &str, trust_domain: &str) -> admin::Entry {
    admin::Entry {
        spiffe_id: format!("spiffe://{trust_domain}/user/{name}"),
        selectors: vec![format!("unix:uid:{uid}")],
        owner: name.to_owned(),
        scopes: vec!["*".to_owned()],
        audiences: vec!["*".to_owned()],
        implicit: true,
        descendants: true,
        watch: true,
        max_children: 1_000,
        max_depth: 16,
        ..Default::default()
    }
}

/// The user's name where it can stand in a SPIFFE path, or else the uid.
fn name_of(uid: Uid) -> String {
    let name = User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name)
        .unwrap_or_default();
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if plain && !name.is_empty() && name != "." && name != ".." {
        name
    } else {
        uid.to_string()
    }
}

/// Writes the bundle to a file, and again whenever it changes.
fn keep_bundle(server: &Running, folder: &Path, tasks: &Tasks) -> anyhow::Result<PathBuf> {
    let path = folder.join("bundle.json");
    let mut bundle: watch::Receiver<_> = server.issuer.bundle();
    let write = {
        let path = path.clone();
        move |bundle: &taskmint_id::Bundle| folder::write(&path, bundle.to_json().as_bytes())
    };
    write(&bundle.borrow_and_update().clone()).context("cannot write the bundle")?;
    tasks.spawn_support("bundle", async move {
        while bundle.changed().await.is_ok() {
            let now = bundle.borrow_and_update().clone();
            write(&now)?;
        }
        std::future::pending::<Result<(), std::io::Error>>().await
    });
    Ok(path)
}

#[cfg(test)]
mod tests;
