//! `startup`: how soon the binaries are ready, and the memory that they then have.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taskmint_client::{Admin, Endpoint};
use taskmint_model::{Entropy, SystemEntropy};
use tempfile::TempDir;

use crate::child::{Daemon, beside, nothing};
use crate::figure::{Bar, Figure};
use crate::machine;
use crate::samples::Samples;
use crate::world::{create, entry, join_string};

/// Entries of the full server.
const ENTRIES: u32 = 20_000;

/// Entries of one call.
const BATCH: usize = 1000;

/// Starts of which the median counts.
const STARTS: usize = 5;

/// Bars of the server: half of what SPIRE's takes to start, and a half of what it takes empty.
const READY: f64 = 250.0;
const MEMORY: f64 = 50.0;

/// Where a server is.
struct Place {
    folder: TempDir,
    config: PathBuf,
    admin: PathBuf,
}

pub(crate) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let Some(program) = beside("taskmint-server") else {
        eprintln!("skipped: startup: no `taskmint-server` beside this program; build it, too");
        return Ok(Vec::new());
    };
    let mut bare = Samples::default();
    for _ in 0..STARTS {
        bare.add(nothing(&program)?);
    }
    let bare = bare.percentile(50.0)?;
    let place = Place::new()?;
    let mut figures = Vec::new();
    let (server, ready) = starts(&program, &place)?;
    figures.push(ready_figure("startup empty, ready", ready, bare));
    let memory = machine::memory(server.pid())?;
    figures.push(
        Figure::new("startup empty, memory", memory, "MB")
            .bar(Bar::AtMost(MEMORY))
            .spire("101 MB"),
    );
    figures.extend(agent(&place).await?);
    fill(&place).await?;
    server.stop()?;
    let (server, ready) = starts(&program, &place)?;
    figures.push(ready_figure("startup 20,000 entries, ready", ready, bare));
    let memory = machine::memory(server.pid())?;
    // No more than SPIRE's server has when it is empty.
    figures.push(
        Figure::new("startup 20,000 entries, memory", memory, "MB")
            .bar(Bar::AtMost(101.0))
            .spire("101 MB empty"),
    );
    server.stop()?;
    Ok(figures)
}

fn ready_figure(name: &str, ready: f64, bare: f64) -> Figure {
    Figure::new(name, ready, "ms")
        .floor("a process that does nothing", bare)
        .bar(Bar::AtMost(READY))
        .spire("500 ms")
}

/// Starts it over and over; the last one runs on. The median time to ready, in milliseconds.
fn starts(program: &Path, place: &Place) -> anyhow::Result<(Daemon, f64)> {
    let mut samples = Samples::default();
    for _ in 1..STARTS {
        let (server, took) = Daemon::start(program, &place.config)?;
        samples.add(took);
        server.stop()?;
    }
    let (server, took) = Daemon::start(program, &place.config)?;
    samples.add(took);
    Ok((server, samples.percentile(50.0)?))
}

/// The agent's memory, once it has joined.
async fn agent(place: &Place) -> anyhow::Result<Vec<Figure>> {
    let Some(program) = beside("taskmint-agent") else {
        eprintln!("skipped: startup of the agent: no `taskmint-agent` beside this program");
        return Ok(Vec::new());
    };
    let mut admin = place.admin().await?;
    let folder = place.folder.path();
    let join = folder.join("join-string");
    write_secret(&join, join_string(&mut admin, "n1").await?.as_bytes())?;
    let config = folder.join("agent.toml");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "join_string_file = \"{}\"\ndata_dir = \"{}\"\nworkload_socket = \"{}\"\n\
         task_socket = \"{}\"\nrevocation_socket = \"{}\"\ntask_socket_dir = \"{}\"\n\
         http_listen = \"127.0.0.1:0\"\n",
        join.display(),
        at("agent"),
        at("workload.sock"),
        at("task.sock"),
        at("revocation.sock"),
        at("tasks"),
    );
    fs::write(&config, text)?;
    let (agent, took) = Daemon::start(&program, &config)?;
    let memory = machine::memory(agent.pid())?;
    agent.stop()?;
    Ok(vec![
        Figure::new("startup agent, joined", millis(took), "ms"),
        Figure::new("startup agent, memory", memory, "MB")
            .bar(Bar::AtMost(31.0))
            .spire("62 MB"),
    ])
}

async fn fill(place: &Place) -> anyhow::Result<()> {
    let mut admin = place.admin().await?;
    let mut numbers = 0..ENTRIES;
    loop {
        let batch: Vec<_> = numbers
            .by_ref()
            .take(BATCH)
            .map(|n| entry(&format!("team-{}/service-{n}", n % 100), n, false))
            .collect();
        if batch.is_empty() {
            return Ok(());
        }
        create(&mut admin, batch).await?;
    }
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("taskmint-bench-")?;
        let (data, key) = (
            folder.path().join("server"),
            folder.path().join("sealing-key"),
        );
        let (config, admin) = (
            folder.path().join("server.toml"),
            folder.path().join("admin.sock"),
        );
        let entropy: &dyn Entropy = &SystemEntropy;
        write_secret(&key, &entropy.array::<32>())?;
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
             watch_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
             keys.sealing_key_file = \"{}\"\nadmin.socket = \"{}\"\n",
            data.display(),
            key.display(),
            admin.display(),
        );
        fs::write(&config, text)?;
        Ok(Self {
            folder,
            config,
            admin,
        })
    }

    async fn admin(&self) -> anyhow::Result<Admin> {
        let endpoint = Endpoint::Unix(self.admin.clone());
        Ok(Admin::new(taskmint_client::connect(&endpoint).await?))
    }
}

fn write_secret(path: &Path, secret: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(secret)?;
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
