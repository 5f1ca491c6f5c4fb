//! The player: a process that is ten thousand watchers on one thread.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use taskmint_id::{Bundle, BundleSet};
use taskmint_model::SystemClock;
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{Identity, authorize, client_config};

use super::conn::{Conn, WINDOW};
use super::grpc;
use super::ledger::{Ledger, now};
use super::link::To;

/// A watcher acknowledges once in a hundred of these: once a second, each at a time of its own.
const TICK: Duration = Duration::from_millis(10);
const TICKS: u64 = 100;

/// How long those who lag may take to catch up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Plays watchers.
#[derive(Debug, Args)]
pub(crate) struct Play {
    #[arg(long)]
    pub(super) address: Option<SocketAddr>,
    /// Sockets of this machine instead: the watchers are spread over them.
    #[arg(long, conflicts_with_all = ["address", "raw"])]
    socket: Vec<PathBuf>,
    /// How many that read.
    #[arg(long)]
    pub(super) watchers: usize,
    /// How many that never do.
    #[arg(long)]
    deaf: usize,
    /// Without TLS and HTTP/2.
    #[arg(long)]
    raw: bool,
    /// Each is a client of tonic's.
    #[arg(long, conflicts_with_all = ["raw", "socket"])]
    grpc: bool,
    /// Octets that a watcher lets be on their way to it.
    #[arg(long, default_value_t = WINDOW)]
    window: u32,
    /// Watchers on their way in at the same time.
    #[arg(long, default_value_t = 128)]
    pub(super) coming: usize,
    /// Gaps are let pass.
    #[arg(long)]
    lossy: bool,
    /// Where credentials are, and the times of events.
    #[arg(long)]
    pub(super) folder: PathBuf,
}

struct Player {
    spec: Play,
    tls: Option<Arc<ClientConfig>>,
    epoll: OwnedFd,
    conns: Vec<Conn>,
    /// Those that are on their way in.
    coming: usize,
    ledger: Ledger,
    buffer: Vec<u8>,
    begun: Instant,
    ticks: u64,
    /// Report once everybody stands here, or it is too late.
    wanted: Option<(u64, Instant)>,
}

/// What a player shows and whom it trusts; files of a folder.
pub(crate) fn write_credentials(
    folder: &Path,
    leaf: &[u8],
    pkcs8: &[u8],
    bundle: &Bundle,
) -> anyhow::Result<()> {
    fs::write(folder.join("leaf.der"), leaf)?;
    fs::write(folder.join("key.der"), pkcs8)?;
    fs::write(folder.join("bundle.json"), bundle.to_json())?;
    Ok(())
}

/// The same as a client.
pub(crate) fn read_credentials(folder: &Path) -> anyhow::Result<ClientConfig> {
    let identity = Identity::new();
    let leaf = CertificateDer::from(fs::read(folder.join("leaf.der"))?);
    identity.set(vec![leaf], &fs::read(folder.join("key.der"))?)?;
    let domain = "example.org".parse()?;
    let bundle = Bundle::parse(domain, &fs::read(folder.join("bundle.json"))?)?;
    let trust = Trust::new(std::iter::once(bundle).collect::<BundleSet>());
    let clock = Arc::new(SystemClock);
    let mut config = client_config(Some(&identity), &trust, clock, authorize::anyone(), None)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Play {
    /// Plays until its standard input ends.
    ///
    /// It says `ready` once all are in. Each line that it is given names a position: it reports once
    /// all stand there, a line of JSON.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        super::raise_limit()?;
        if self.grpc {
            return grpc::run(&self);
        }
        let tls = match self.raw || !self.socket.is_empty() {
            true => None,
            false => Some(Arc::new(read_credentials(&self.folder)?)),
        };
        let times = File::open(self.folder.join("times")).ok();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let input = std::io::stdin();
        let of_input = epoll::EventData::new_u64(u64::MAX);
        epoll::add(&epoll, &input, of_input, epoll::EventFlags::IN)?;
        let mut player = Player {
            ledger: Ledger::new(times, self.lossy),
            spec: self,
            tls,
            epoll,
            conns: Vec::new(),
            coming: 0,
            buffer: vec![0; 64 << 10],
            begun: Instant::now(),
            ticks: 0,
            wanted: None,
        };
        player.come_in()?;
        let took = player.begun.elapsed().as_millis();
        say(&format!("ready {took}"))?;
        while player.turn()? {
            if let Some((position, until)) = player.wanted
                && (player.ledger.is_at(position) || Instant::now() > until)
            {
                player.wanted = None;
                say(&player.ledger.report()?.to_string())?;
            }
        }
        Ok(())
    }
}

pub(super) fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

impl Player {
    fn come_in(&mut self) -> anyhow::Result<()> {
        let all = self.spec.watchers + self.spec.deaf;
        while self.conns.len() < all || self.coming > 0 {
            while self.conns.len() < all && self.coming < self.spec.coming {
                let number = self.conns.len();
                let conn = Conn::open(self.to(number)?, &format!("w{number}"), self.spec.window)?;
                let data = epoll::EventData::new_u64(number as u64);
                epoll::add(&self.epoll, &conn.link, data, epoll::EventFlags::IN)?;
                self.conns.push(conn);
                self.coming += 1;
            }
            ensure!(self.turn()?, "stopped too soon");
        }
        Ok(())
    }

    /// Where a watcher connects.
    fn to(&self, number: usize) -> anyhow::Result<To<'_>> {
        let sockets = &self.spec.socket;
        if let Some(socket) = sockets.get(number % sockets.len().max(1)) {
            return Ok(To::Unix(socket));
        }
        let address = self.spec.address.context("nowhere to connect to")?;
        Ok(match &self.tls {
            Some(tls) => To::Tls(address, tls),
            None => To::Bare(address),
        })
    }

    /// Takes in what has come. `false`: it is over.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let mut events = Vec::with_capacity(1024);
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let number = event.data.u64();
            if number == u64::MAX {
                if !self.told()? {
                    return Ok(false);
                }
            } else {
                let number = usize::try_from(number)?;
                self.event(number)
                    .with_context(|| format!("watcher {number}"))?;
            }
        }
        self.tick()?;
        Ok(true)
    }

    fn told(&mut self) -> anyhow::Result<bool> {
        let mut line = [0; 64];
        let length = std::io::stdin().read(&mut line)?;
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default());
        if let Some(position) = text.split_whitespace().last() {
            self.wanted = Some((position.parse()?, Instant::now() + PATIENCE));
        }
        Ok(length > 0)
    }

    fn event(&mut self, number: usize) -> anyhow::Result<()> {
        let is_deaf = number >= self.spec.watchers;
        let conn = self.conns.get_mut(number).context("nobody")?;
        let was_blocked = conn.link.is_blocked();
        let was_in = conn.cursor.position.is_some();
        if was_blocked {
            conn.link.flush()?;
        }
        conn.read(&mut self.ledger, &mut self.buffer, now())?;
        if is_deaf && conn.link.is_through() {
            self.coming -= 1;
            return Ok(epoll::delete(&self.epoll, &conn.link)?);
        }
        if !is_deaf && !was_in && conn.cursor.position.is_some() {
            self.coming -= 1;
        }
        let is_blocked = conn.link.is_blocked();
        if was_blocked != is_blocked {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, is_blocked);
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &conn.link, data, flags)?;
        }
        Ok(())
    }

    /// Those whose turn it is acknowledge.
    fn tick(&mut self) -> anyhow::Result<()> {
        let due = u64::try_from(self.begun.elapsed().as_millis() / TICK.as_millis())?;
        // Whoever was not asked in a second is asked once.
        self.ticks = self.ticks.max(due.saturating_sub(TICKS));
        while self.ticks < due {
            self.ticks += 1;
            let first = usize::try_from(self.ticks % TICKS)?;
            let every = usize::try_from(TICKS)?;
            let conns = self.conns.iter_mut().take(self.spec.watchers);
            for conn in conns.skip(first).step_by(every) {
                conn.acknowledge(&mut self.ledger)?;
            }
        }
        Ok(())
    }
}
