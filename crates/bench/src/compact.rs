//! `compact`: what a live task costs in memory, what a start costs where there are millions, and
//! what a sweep costs those who begin tasks meanwhile.
//!
//! An issuer over RocksDB, without its listeners, in a process of its own: its resident memory is
//! compared with that of the same process over an empty store. RocksDB's caches, which are bounded,
//! count as well. The scan that a start is compared with comes after it, so that it finds in the
//! kernel's page cache what the start left there, and not the other way round.

mod load;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};
use taskmint_model::{Clock as _, SystemEntropy};
use taskmint_status::{Place, Status};
use taskmint_store::Store;
use taskmint_store_rocksdb::bulk::each_row;
use taskmint_store_rocksdb::{Options, RocksStore};
use taskmint_testkit::ManualClock;
use tempfile::TempDir;

use self::load::{BEGAN, Beginner, HOURS, LOG, in_memory, load};
use crate::figure::{Bar, Figure};
use crate::key::Key;
use crate::machine;
use crate::samples::Samples;

/// Tasks whose memory is measured beside that of the many.
const FEWER: u64 = 1_000_000;

/// Octets of resident memory that a live task may cost.
const MEMORY: f64 = 64.0;

/// How long a sweep may take until it counts as stuck.
const STUCK: Duration = Duration::from_secs(300);

/// Where the many are, and what is measured there.
#[derive(Debug, Args)]
pub(crate) struct Alone {
    /// Its store.
    #[arg(long)]
    folder: PathBuf,
    /// Tasks in it.
    #[arg(long)]
    tasks: u64,
    /// How long each thing is measured.
    #[arg(long)]
    seconds: u64,
    /// Sweeps all of them.
    #[arg(long)]
    sweep: bool,
}

pub(crate) async fn measure(span: Duration, tasks: u64) -> anyhow::Result<Vec<Figure>> {
    let folder = TempDir::with_prefix("taskmint-bench-")?;
    let at = |tasks: u64| folder.path().join(tasks.to_string());
    load(&at(0), 0).await?;
    let empty = number(&alone(&at(0), 0, span, false)?, "/memory")?;
    let mut figures = Vec::new();
    for tasks in [FEWER.min(tasks / 10), tasks] {
        let begun = Instant::now();
        load(&at(tasks), tasks).await?;
        eprintln!("{tasks} tasks in {:.0?}", begun.elapsed());
        let report = alone(&at(tasks), tasks, span, false)?;
        let memory = (number(&report, "/memory")? - empty) * 1e6 / count(tasks);
        figures.push(
            Figure::new(format!("task-memory, {tasks} live"), memory, "B").bar(Bar::AtMost(MEMORY)),
        );
        let scan = scan(&at(tasks))?;
        figures.extend([
            Figure::new(
                format!("restart, {tasks} live"),
                number(&report, "/start")?,
                "ms",
            )
            .floor("one full scan", scan)
            .bar(Bar::RatioAtMost(0.2)),
            Figure::new(
                "restart, the store's opening alone",
                number(&report, "/open")?,
                "ms",
            ),
        ]);
        let report = alone(&at(tasks), tasks, span, true)?;
        figures.extend([
            Figure::new(
                format!("sweep of {tasks}, begin p99 meanwhile"),
                number(&report, "/during")?,
                "ms",
            )
            .floor("begin p99 before", number(&report, "/before")?)
            .bar(Bar::RatioAtMost(2.0)),
            Figure::new(
                "sweep, until none of them is live",
                number(&report, "/swept")?,
                "ms",
            ),
        ]);
        std::fs::remove_dir_all(at(tasks))?;
    }
    Ok(figures)
}

/// Milliseconds that reading every row takes.
fn scan(folder: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let (mut rows, mut octets) = (0_u64, 0_usize);
    each_row(folder, &Options::default(), |_, key, value| {
        rows += 1;
        octets += key.len() + value.len();
    })?;
    let took = millis(begun.elapsed());
    eprintln!("{rows} rows of {octets} octets read in {took:.0} ms");
    Ok(took)
}

fn alone(folder: &Path, tasks: u64, span: Duration, sweep: bool) -> anyhow::Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("compact-alone").arg("--folder").arg(folder);
    command.args(["--tasks", &tasks.to_string()]);
    command.args(["--seconds", &span.as_secs().to_string()]);
    if sweep {
        command.arg("--sweep");
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the issuer alone failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Alone {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        let report = runtime.block_on(self.report())?;
        println!("{report}");
        Ok(())
    }

    async fn report(self) -> anyhow::Result<Value> {
        let (started, open, start) = open(&self.folder, self.tasks).await?;
        let span = Duration::from_secs(self.seconds);
        let before = begins(&started, |since| since < span).await?;
        let memory = machine::memory(std::process::id())?;
        let (during, swept) = match self.sweep {
            true => {
                let (during, swept) = sweep(&started, span).await?;
                (Some(during.percentile(99.0)?), Some(millis(swept)))
            }
            false => (None, None),
        };
        Ok(json!({
            "open": millis(open),
            "start": millis(start),
            "memory": memory,
            "before": before.percentile(99.0)?,
            "during": during,
            "swept": swept,
        }))
    }
}

/// Opens the store, starts over it, and answers the first questions: with how long the opening took,
/// and all of it.
async fn open(folder: &Path, tasks: u64) -> anyhow::Result<(Beginner, Duration, Duration)> {
    // While all of them are live.
    let clock = ManualClock::new(BEGAN + Duration::from_secs(3600));
    let key = Key::new()?.spki()?;
    let begun = Instant::now();
    let store = RocksStore::open(folder, LOG, clock.now(), Options::default())?;
    let opened = begun.elapsed();
    let store: Arc<dyn Store> = Arc::new(store);
    let authority = Arc::new(in_memory(&clock)?);
    let entropy = Arc::new(SystemEntropy);
    let beginner = Beginner::start(Arc::clone(&store), authority, clock, entropy, key).await?;
    if tasks > 0 {
        let place = Place::new(LOG, BEGAN.hour() + HOURS, tasks / 2)?;
        let status = store.status(place).await?;
        ensure!(status == Status::Valid, "{place:?} is {status:?}");
        let task = store.task_at(place).await?.context("no task at a place")?;
        ensure!(!task.is_ended(), "{} has ended", task.id);
    }
    let began = beginner.begin().await?;
    let took = begun.elapsed();
    ensure!(began.svid.is_some(), "a begin without an SVID");
    let live = beginner.issuer.live_tasks();
    ensure!(u64::try_from(live)? > tasks, "{live} are live");
    Ok((beginner, opened, took))
}

/// Begins one task after the other, while `goes_on` says so.
async fn begins(
    beginner: &Beginner,
    goes_on: impl Fn(Duration) -> bool,
) -> anyhow::Result<Samples> {
    let (mut samples, since) = (Samples::default(), Instant::now());
    while samples.count() == 0 || goes_on(since.elapsed()) {
        let begun = Instant::now();
        beginner.begin().await?;
        samples.add(begun.elapsed());
    }
    Ok(samples)
}

/// Lets every task's hour pass, and begins further ones until all are swept and for a while after:
/// compaction comes later.
async fn sweep(beginner: &Beginner, span: Duration) -> anyhow::Result<(Samples, Duration)> {
    // Those that began after the opening have their limits an hour later.
    let passed = u64::from(HOURS + 2) * 3600 + 120;
    let clock = &beginner.clock;
    clock.set(BEGAN + Duration::from_secs(passed));
    let ending = tokio::spawn({
        let issuer = Arc::clone(&beginner.issuer);
        async move { issuer.end_in_time().await }
    });
    let since = Instant::now();
    let mut samples = Samples::default();
    let position = beginner.issuer.store().position();
    while position.borrow().floor <= BEGAN.hour() + HOURS {
        ensure!(since.elapsed() < STUCK, "nothing is swept");
        samples.extend(begins(beginner, |since| since < Duration::from_millis(100)).await?);
    }
    let swept = since.elapsed();
    samples.extend(begins(beginner, |since| since < span).await?);
    ending.abort();
    Ok((samples, swept))
}

fn number(report: &Value, pointer: &str) -> anyhow::Result<f64> {
    let found = report.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("no {pointer} in the report"))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(tasks: u64) -> f64 {
    tasks as f64
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
