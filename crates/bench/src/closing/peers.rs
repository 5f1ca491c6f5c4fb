//! The other ends of TLS connections, in a process of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Args;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustls::ClientConfig;

use crate::fan::{self, Link, To, now, read_credentials};

/// Connections on their way in at the same time.
const COMING: usize = 128;

/// Connects, and waits until the other side has closed every connection.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    #[arg(long)]
    address: SocketAddr,
    /// How many.
    #[arg(long)]
    count: usize,
    /// Where credentials are.
    #[arg(long)]
    folder: PathBuf,
}

struct Links {
    epoll: OwnedFd,
    links: Vec<Link>,
    /// Those that are on their way in.
    coming: usize,
    closed: usize,
    buffer: Vec<u8>,
}

impl Peers {
    /// Says `ready` once all are in, and when the last of them was closed: nanoseconds of the
    /// monotonic clock. Stays until its standard input ends.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        fan::raise_limit()?;
        let tls = Arc::new(read_credentials(&self.folder)?);
        let mut links = Links {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::with_capacity(self.count),
            coming: 0,
            closed: 0,
            buffer: vec![0; 4 << 10],
        };
        while links.links.len() < self.count || links.coming > 0 {
            while links.links.len() < self.count && links.coming < COMING {
                links.open(self.address, &tls)?;
            }
            links.turn()?;
        }
        say("ready")?;
        while links.closed < self.count {
            links.turn()?;
        }
        say(&now().to_string())?;
        drop(std::io::stdin().read(&mut [0]));
        Ok(())
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

impl Links {
    fn open(&mut self, address: SocketAddr, tls: &Arc<ClientConfig>) -> anyhow::Result<()> {
        let mut link = Link::open(To::Tls(address, tls))?;
        link.flush()?;
        let data = epoll::EventData::new_u64(self.links.len() as u64);
        epoll::add(&self.epoll, &link, data, epoll::EventFlags::IN)?;
        self.links.push(link);
        self.coming += 1;
        Ok(())
    }

    /// Waits for something to happen, and takes it in.
    fn turn(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1024);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            None,
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let link = self.links.get_mut(usize::try_from(event.data.u64())?);
            let link = link.context("nobody")?;
            let was_in = link.is_through();
            let read = link.fill().and_then(|()| {
                while link.read(&mut self.buffer)?.is_some() {}
                Ok(())
            });
            if let Err(error) = read {
                ensure!(was_in, "a handshake failed: {error:#}");
                self.closed += 1;
                epoll::delete(&self.epoll, &*link)?;
            } else if !was_in && link.is_through() {
                self.coming -= 1;
            }
        }
        Ok(())
    }
}

/// Such a process; killed when dropped.
pub(super) struct Apart {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Apart {
    /// Starts one, and waits until all of them are connected.
    pub(super) fn connect(
        address: SocketAddr,
        count: usize,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peers", "--address", &address.to_string()]);
        command
            .args(["--count", &count.to_string(), "--folder"])
            .arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut apart = Self { child, output };
        ensure!(apart.line()?.trim() == "ready", "the peers are not ready");
        Ok(apart)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the peers have died");
        Ok(line)
    }

    /// When the last of its connections was closed; waits for it.
    pub(super) fn last(&mut self) -> anyhow::Result<u64> {
        Ok(self.line()?.trim().parse()?)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
