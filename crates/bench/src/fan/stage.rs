//! A stage: one design in a process of its own, its watchers in another, and what was measured.
//!
//! Processes are thrown away after each, so that memory and time are of one design alone.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use taskmint_fanout::{Fanout, Feed, Metrics, Settings, Tls, listen};
use taskmint_id::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{Clock as _, SystemClock, SystemEntropy};
use taskmint_testkit::TestCa;
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{Clients, Identity, authorize, server_config};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::ledger::now;
use super::log::{Event, Open, Writer, anybody};
use super::plain::{Plain, Raw};
use super::play::write_credentials;
use super::sealed::Sealed;
use crate::machine;

/// Who tells the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Design {
    /// `taskmint-fanout`.
    Fanout,
    /// A plain tonic stream.
    Tonic,
    /// Ready frames, sealed and written, and nothing else.
    Sealed,
    /// Sockets alone.
    Raw,
}

/// Watchers of another kind, in a process of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Clients of tonic's.
    Grpc,
    /// Those that let 4 KiB be on their way.
    Narrow,
    /// Those that are stopped in the end, and never hang up.
    Frozen,
}

/// Measures one design.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stage {
    #[arg(long)]
    pub(crate) design: Design,
    #[arg(long)]
    pub(crate) watchers: usize,
    #[arg(long, default_value_t = 0)]
    pub(crate) deaf: usize,
    /// What others there are, and how many.
    #[arg(long, requires = "others")]
    pub(crate) kind: Option<Kind>,
    #[arg(long, default_value_t = 0)]
    pub(crate) others: usize,
    /// No peer is asked whether it is there.
    #[arg(long)]
    pub(crate) no_pings: bool,
    /// Ends per second, a colon, seconds.
    #[arg(long)]
    pub(crate) phase: Vec<String>,
}

/// How long those who are dead may take to be noticed.
const NOTICED: Duration = Duration::from_secs(120);

type Tell = Box<dyn FnMut(Event) -> anyhow::Result<()>>;

/// A design at work.
struct Started {
    address: SocketAddr,
    tell: Tell,
    /// What the fan-out counts.
    metrics: Arc<Metrics>,
}

/// A player; killed when dropped.
pub(crate) struct Player {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// How long it took until all were in.
    pub(crate) ready: Duration,
}

impl Player {
    /// Starts one, and waits until all its watchers are in. The flags say where they connect.
    pub(crate) fn start(
        folder: &Path,
        (watchers, deaf): (usize, usize),
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("play");
        // What it gives back it needs again at once.
        command.env("MALLOC_TRIM_THRESHOLD_", "1073741824");
        command.env("MALLOC_MMAP_THRESHOLD_", "33554432");
        command.args(["--watchers", &watchers.to_string()]);
        command.args(["--deaf", &deaf.to_string()]).args(flags);
        command.arg("--folder").arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let mut player = Self {
            child,
            input,
            output: BufReader::new(output),
            ready: Duration::ZERO,
        };
        let line = player.line()?;
        let took = line.strip_prefix("ready ").context("not ready")?;
        player.ready = Duration::from_millis(took.trim().parse()?);
        Ok(player)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the player has died");
        Ok(line)
    }

    /// What it has measured since the last report, once all stand at `position`.
    pub(crate) fn report(&mut self, position: u64) -> anyhow::Result<Value> {
        writeln!(self.input, "{position}")?;
        self.input.flush()?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Stops all its watchers: they answer nothing any more, and don't hang up.
    fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The largest resident memory for as long as it lives.
struct Peak(Arc<AtomicBool>, std::thread::JoinHandle<f64>);

impl Peak {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut most = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                most = most.max(machine::memory(std::process::id()).unwrap_or(0.0));
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        Self(is_over, thread)
    }

    fn end(self) -> anyhow::Result<f64> {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().ok().context("a thread has died")
    }
}

impl Stage {
    /// So many ordinary watchers.
    pub(crate) fn of(design: Design, watchers: usize, phases: &[String]) -> Self {
        Self {
            design,
            watchers,
            deaf: 0,
            kind: None,
            others: 0,
            no_pings: false,
            phase: phases.to_vec(),
        }
    }

    /// Runs it in a process of its own.
    pub(crate) fn apart(&self) -> anyhow::Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        let design = self.design.to_possible_value().context("no such design")?;
        command.args(["stage", "--design", design.get_name()]);
        command.args(["--watchers", &self.watchers.to_string()]);
        command.args(["--deaf", &self.deaf.to_string()]);
        command.args(["--others", &self.others.to_string()]);
        if let Some(kind) = self.kind {
            let kind = kind.to_possible_value().context("no such kind")?;
            command.args(["--kind", kind.get_name()]);
        }
        if self.no_pings {
            command.arg("--no-pings");
        }
        for phase in &self.phase {
            command.args(["--phase", phase]);
        }
        eprintln!(
            "  {} to {} watchers, {} that never read, and {} others: {}",
            design.get_name(),
            self.watchers,
            self.deaf,
            self.others,
            self.phase.join(" "),
        );
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{self:?} has failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Runs it here, and prints what was measured.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        super::raise_limit()?;
        let folder = TempDir::with_prefix("taskmint-bench-")?;
        let (tls, mut writer) = credentials(folder.path())?;
        let times = File::create(folder.path().join("times"))?;
        let first = writer.end(0)?;
        let runtime = match self.design {
            Design::Tonic => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?,
            // The lanes have threads of their own.
            _ => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
        };
        let mut started = self.start(&runtime, tls, first)?;
        let empty = machine::memory(std::process::id())?;
        let mut flags = vec![format!("--address={}", started.address)];
        flags.extend(match self.design {
            Design::Fanout | Design::Sealed => None,
            Design::Tonic => Some("--lossy".to_owned()),
            Design::Raw => Some("--raw".to_owned()),
        });
        let mut player = Player::start(folder.path(), (self.watchers, self.deaf), &flags)?;
        let mut others = self.others(folder.path(), flags)?;
        // What handshakes needed is given back, or is not.
        std::thread::sleep(Duration::from_secs(2));
        let idle = machine::memory(std::process::id())?;
        drop(player.report(0)?);
        if let Some(others) = &mut others {
            drop(others.report(0)?);
        }
        let mut phases = Vec::new();
        for phase in &self.phase {
            let (rate, seconds) = phase.split_once(':').context("no rate and seconds")?;
            let begun = machine::memory(std::process::id())?;
            let cpu = machine::own_time();
            let peak = Peak::start();
            let span = Duration::from_secs(seconds.parse()?);
            let last = publish(&mut writer, &times, &mut started.tell, rate.parse()?, span)?;
            let mut report = player.report(last)?;
            let of_others = others
                .as_mut()
                .map(|others| others.report(last))
                .transpose()?;
            let cpu = machine::own_time().saturating_sub(cpu);
            let more = [
                ("server_cpu_us", json!(u64::try_from(cpu.as_micros())?)),
                ("memory_before", json!(begun)),
                ("memory_peak", json!(peak.end()?)),
            ];
            for report in std::iter::once(&report).chain(&of_others) {
                self.complete(report, last)?;
            }
            let fields = report.as_object_mut().context("a strange report")?;
            fields.extend(more.map(|(name, value)| (name.to_owned(), value)));
            fields.insert("others".to_owned(), json!(of_others));
            phases.push(report);
        }
        let found = match (self.kind, &others) {
            (Some(Kind::Frozen), Some(others)) => {
                others.freeze()?;
                self.find(&mut started, &mut player, (&mut writer, &times))?
            }
            _ => Value::Null,
        };
        let ready = u64::try_from(player.ready.as_millis())?;
        let measured = json!({
            "ready_ms": ready, "empty": empty, "idle": idle, "phases": phases, "found": found,
        });
        drop((player, others));
        println!("{measured}");
        runtime.shutdown_background();
        // Ten thousand connections are not worth being closed in good order.
        fs::remove_dir_all(folder.path())?;
        std::process::exit(0)
    }

    /// Starts those of another kind, if there are any.
    fn others(&self, folder: &Path, mut flags: Vec<String>) -> anyhow::Result<Option<Player>> {
        let Some(kind) = self.kind else {
            return Ok(None);
        };
        flags.extend(match kind {
            Kind::Grpc => Some("--grpc".to_owned()),
            Kind::Narrow => Some("--window=4096".to_owned()),
            Kind::Frozen => None,
        });
        Player::start(folder, (self.others, 0), &flags).map(Some)
    }

    /// Everybody has heard of everything.
    fn complete(&self, report: &Value, last: u64) -> anyhow::Result<()> {
        let stands = |end: &str| report.get(end).and_then(Value::as_u64);
        ensure!(
            self.design == Design::Tonic
                || stands("lowest") == Some(last) && stands("highest") == Some(last),
            "somebody has not heard of all {last} ends: {report}"
        );
        Ok(())
    }

    /// Ends a task a second until the server has noticed all who are dead: when it noticed the
    /// first and the last of them, and what the living heard meanwhile.
    fn find(
        &self,
        started: &mut Started,
        player: &mut Player,
        (writer, times): (&mut Writer, &File),
    ) -> anyhow::Result<Value> {
        let (metrics, dead) = (Arc::clone(&started.metrics), self.others as u64);
        let finding = std::thread::spawn(move || {
            let (begun, mut first) = (Instant::now(), None);
            while begun.elapsed() < NOTICED {
                std::thread::sleep(Duration::from_millis(20));
                let found = metrics.read().silent;
                if found > 0 && first.is_none() {
                    first = Some(begun.elapsed());
                }
                if found == dead {
                    return first.zip(Some(begun.elapsed()));
                }
            }
            None
        });
        let mut last = 0;
        while !finding.is_finished() {
            last = publish(writer, times, &mut started.tell, 1, Duration::from_secs(1))?;
            std::thread::sleep(Duration::from_secs(1));
        }
        let found = finding.join().ok().flatten();
        let (first, all) = found.context("the dead are not noticed")?;
        let report = player.report(last)?;
        self.complete(&report, last)?;
        Ok(json!({
            "first_ms": u64::try_from(first.as_millis())?,
            "all_ms": u64::try_from(all.as_millis())?,
            "meanwhile": report,
        }))
    }

    fn start(
        &self,
        runtime: &Runtime,
        tls: rustls::ServerConfig,
        first: Event,
    ) -> anyhow::Result<Started> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let of = |tell: Tell| Started {
            address,
            tell,
            metrics: Arc::default(),
        };
        if self.design == Design::Raw {
            let raw = Raw::start(listener)?;
            let tell = move |event: Event| {
                raw.tell(event.head.sequence);
                Ok(())
            };
            return Ok(of(Box::new(tell)));
        }
        if self.design == Design::Sealed {
            let sealed = Sealed::start(listener, tls, &first)?;
            let tell = move |event: Event| {
                sealed.tell(&event);
                Ok(())
            };
            return Ok(of(Box::new(tell)));
        }
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        if self.design == Design::Tonic {
            let plain = Plain::new(first.head);
            runtime.spawn(plain.clone().serve(listener, tls));
            let tell = move |event| {
                plain.tell(event);
                Ok(())
            };
            return Ok(of(Box::new(tell)));
        }
        let mut settings = Settings {
            connections: self.watchers + self.deaf + self.others + 16,
            lanes: 2,
            ..Settings::default()
        };
        if self.no_pings {
            settings.keepalive = Duration::from_secs(3600);
        }
        let feed = Feed::new(0, settings.behind);
        feed.publish(&first.records, first.head)?;
        let source = Arc::new(Open);
        let fanout = Fanout::new(source, feed.clone(), settings);
        let metrics = Arc::clone(fanout.metrics());
        let tls = Tls::new(tls, anybody);
        runtime.spawn(listen(fanout, listener, tls, CancellationToken::new()));
        let tell = move |event: Event| Ok(feed.publish(&event.records, event.head)?);
        let tell = Box::new(tell);
        Ok(Started {
            address,
            tell,
            metrics,
        })
    }
}

/// Ends tasks at a steady rate. Each counts from when it was due; those that are due at the same
/// time go out together, under one head. The position of the last. No rate: lets the time pass.
fn publish(
    writer: &mut Writer,
    times: &File,
    tell: &mut Tell,
    rate: u64,
    span: Duration,
) -> anyhow::Result<u64> {
    if rate == 0 {
        std::thread::sleep(span);
        return Ok(writer.next() - 1);
    }
    let all = rate * span.as_secs();
    let (begun, started) = (Instant::now(), now());
    let mut done = 0;
    let mut last = 0;
    while done < all {
        let due = u64::try_from(begun.elapsed().as_nanos())? * rate / 1_000_000_000 + 1;
        let count = due.min(all) - done;
        if count == 0 {
            let next = Duration::from_nanos(done * 1_000_000_000 / rate);
            std::thread::sleep(next.saturating_sub(begun.elapsed()));
            continue;
        }
        // Written before the watchers can hear.
        let first = writer.next();
        for number in 0..count {
            let at = started + (done + number) * 1_000_000_000 / rate;
            times.write_all_at(&at.to_be_bytes(), (first + number) * 8)?;
        }
        let event = writer.end(count)?;
        last = event.head.sequence;
        tell(event)?;
        done += count;
    }
    Ok(last)
}

/// A CA, a server, a watcher and a signer of heads.
fn credentials(folder: &Path) -> anyhow::Result<(rustls::ServerConfig, Writer)> {
    let domain: TrustDomain = "example.org".parse()?;
    let ca = TestCa::new(&domain, SystemClock.now(), &SystemEntropy);
    let mut bundle = Bundle::new(domain);
    if !bundle.add_x509_authority(X509Authority::from_der(ca.certificate())?) {
        bail!("no CA");
    }
    let leaf = |id: &str| -> anyhow::Result<_> {
        let id: SpiffeId = id.parse()?;
        Ok(ca.svid(&id, SystemClock.now(), &SystemEntropy))
    };
    let watcher = leaf("spiffe://example.org/watcher")?;
    write_credentials(folder, &watcher.certificate, &watcher.key.pkcs8(), &bundle)?;
    let server = leaf("spiffe://example.org/taskmint/server/s1")?;
    let identity = Identity::new();
    let chain = vec![CertificateDer::from(server.certificate.clone())];
    identity.set(chain, &server.key.pkcs8())?;
    let trust = Trust::new(std::iter::once(bundle).collect::<BundleSet>());
    let clock = Arc::new(SystemClock);
    let clients = Clients::Required;
    let tls = server_config(&identity, &trust, clock, clients, authorize::anyone(), None)?;
    let signer = leaf("spiffe://example.org/log")?;
    let writer = Writer::new(&signer.key.pkcs8(), signer.certificate.clone())?;
    Ok((tls, writer))
}
