//! `fanout`, `fanout-load`, `fanout-relay` and `watcher-memory`: one log, ten thousand watchers.

mod conn;
mod ledger;
mod link;
mod log;
mod plain;
mod play;
mod stage;

use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;

pub(crate) use play::{Play, write_credentials};
pub(crate) use stage::{Design, Player, Stage};

use crate::figure::{Bar, Figure};
use crate::samples::Samples;

/// What a watcher may cost, in kilobytes.
const MEMORY: f64 = 65.536;

/// Agents that relay to all others.
pub(crate) const AGENTS: usize = 200;

/// Those that never read.
const DEAF: usize = 500;

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_limit() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// As many as there may be descriptors for, of those that are asked for.
pub(crate) fn within_limit(asked: usize) -> usize {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_sub(256);
    if asked > most {
        eprintln!("only {most} watchers instead of {asked}: there are no more descriptors");
    }
    asked.min(most)
}

fn stage(design: Design, watchers: usize, phases: &[String]) -> anyhow::Result<Value> {
    Stage {
        design,
        watchers,
        deaf: 0,
        phase: phases.to_vec(),
    }
    .apart()
}

/// A number of a report, by its pointer.
fn number(report: &Value, at: &str) -> anyhow::Result<f64> {
    let number = report.pointer(at).and_then(Value::as_f64);
    number.with_context(|| format!("no `{at}` was measured"))
}

/// Event until the last has heard of it, in a phase.
fn lasts(report: &Value, phase: usize) -> anyhow::Result<Samples> {
    let found = report.pointer(&format!("/phases/{phase}/last_ns"));
    let Some(Value::Array(found)) = found else {
        bail!("nothing was measured");
    };
    let mut samples = Samples::default();
    for nanos in found.iter().filter_map(Value::as_u64) {
        samples.add(Duration::from_nanos(nanos));
    }
    Ok(samples)
}

/// Microseconds that a message costs the server.
fn cost(report: &Value, phase: usize) -> anyhow::Result<f64> {
    let of = |what: &str| number(report, &format!("/phases/{phase}/{what}"));
    Ok(of("server_cpu_us")? / of("messages")?)
}

/// One event a second: the fan-out's p99, in milliseconds.
pub(crate) fn worst(watchers: usize, seconds: u64) -> anyhow::Result<f64> {
    let report = stage(Design::Fanout, watchers, &[format!("1:{seconds}")])?;
    lasts(&report, 0)?.percentile(99.0)
}

pub(crate) fn fanout(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let watchers = within_limit(watchers);
    let phases = [format!("1:{}", span.as_secs().max(2))];
    let raw = lasts(&stage(Design::Raw, watchers, &phases)?, 0)?;
    let report = stage(Design::Fanout, watchers, &phases)?;
    let plain = stage(Design::Tonic, watchers, &phases)?;
    let (ours, tonic) = (lasts(&report, 0)?, lasts(&plain, 0)?);
    let p50 = ours.percentile(50.0)?;
    let checks = number(&report, "/phases/0/heads")?;
    let own = number(&report, "/phases/0/checking_ns")? / 1000.0 / checks;
    let (tonic_p50, raw_p50) = (tonic.percentile(50.0)?, raw.percentile(50.0)?);
    Ok(vec![
        Figure::new(format!("fanout to {watchers}, last, p50"), p50, "ms")
            .floor("plain tonic p50", tonic_p50)
            .bar(Bar::RatioAtMost(0.75)),
        Figure::new("fanout, last, p50, over sockets alone", p50, "ms")
            .floor("as many sends of 100 octets, p50", raw_p50)
            .bar(Bar::RatioAtMost(1.7)),
        Figure::new("fanout, last, p99", ours.percentile(99.0)?, "ms")
            .floor("plain tonic p99", tonic.percentile(99.0)?)
            .bar(Bar::AtMost(250.0)),
        Figure::new(
            "fanout, processor time per message",
            cost(&report, 0)?,
            "us",
        )
        .floor("plain tonic", cost(&plain, 0)?),
        Figure::new("fanout, an end at one verifier", own, "us"),
        Figure::new("fanout, all connected", number(&report, "/ready_ms")?, "ms")
            .floor("plain tonic", number(&plain, "/ready_ms")?),
    ])
}

/// What the server has to do where agents relay: they are played here, each of them one watcher.
pub(crate) fn relay(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let watchers = within_limit(watchers);
    let agents = AGENTS.min(watchers);
    let phases = [format!("1:{}", span.as_secs().max(2))];
    let direct = stage(Design::Fanout, watchers, &phases)?;
    let relayed = stage(Design::Fanout, agents, &phases)?;
    let each = |report: &Value| -> anyhow::Result<f64> {
        let ends = lasts(report, 0)?.count();
        Ok(number(report, "/phases/0/server_cpu_us")? / 1000.0 / ends as f64)
    };
    let last = lasts(&relayed, 0)?;
    let name = format!("fanout-relay, {agents} agents for {watchers}, processor time of an end");
    Ok(vec![
        Figure::new(name, each(&relayed)?, "ms")
            .floor("all of them directly", each(&direct)?)
            .bar(Bar::RatioAtMost(0.05)),
        Figure::new(
            "fanout-relay, last agent, p50",
            last.percentile(50.0)?,
            "ms",
        ),
        Figure::new(
            "fanout-relay, last agent, p99",
            last.percentile(99.0)?,
            "ms",
        )
        .bar(Bar::AtMost(25.0)),
    ])
}

pub(crate) fn load(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let watchers = within_limit(watchers);
    let seconds = span.as_secs().max(2);
    let phases = [format!("100:{seconds}"), format!("1000:{seconds}")];
    let report = stage(Design::Fanout, watchers, &phases)?;
    let (steady, heavy) = (lasts(&report, 0)?, lasts(&report, 1)?);
    let age = |percent: u32| number(&report, &format!("/phases/1/age_p{percent}_ns"));
    let before = number(&report, "/phases/1/memory_before")?;
    let growth = (number(&report, "/phases/1/memory_peak")? - before) / before * 100.0;
    Ok(vec![
        Figure::new(
            format!("fanout-load to {watchers}, 100/s, last, p50"),
            steady.percentile(50.0)?,
            "ms",
        ),
        Figure::new(
            "fanout-load, 100/s, last, p99",
            steady.percentile(99.0)?,
            "ms",
        )
        .bar(Bar::AtMost(300.0)),
        Figure::new("fanout-load, 1,000/s, age p50", age(50)? / 1e6, "ms").bar(Bar::AtMost(50.0)),
        Figure::new("fanout-load, 1,000/s, age p99", age(99)? / 1e6, "ms").bar(Bar::AtMost(300.0)),
        Figure::new(
            "fanout-load, 1,000/s, last, p50",
            heavy.percentile(50.0)?,
            "ms",
        ),
        Figure::new(
            "fanout-load, 1,000/s, last, p99",
            heavy.percentile(99.0)?,
            "ms",
        ),
        Figure::new("fanout-load, memory growth", growth, "%").bar(Bar::AtMost(5.0)),
    ])
}

pub(crate) fn memory(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let watchers = within_limit(watchers);
    let phases = [format!("100:{}", span.as_secs().max(2))];
    let ours = stage(Design::Fanout, watchers, &phases)?;
    let plain = stage(Design::Tonic, watchers, &phases)?;
    let deaf = DEAF.min(watchers);
    let deaf_stage = |design| {
        let phase = vec![format!("1000:{}", span.as_secs().max(2))];
        Stage {
            design,
            watchers: 50,
            deaf,
            phase,
        }
        .apart()
    };
    let (our_deaf, plain_deaf) = (deaf_stage(Design::Fanout)?, deaf_stage(Design::Tonic)?);
    // Kilobytes of each over the empty process.
    let each = |report: &Value, what: &str, of: usize| -> anyhow::Result<f64> {
        Ok((number(report, what)? - number(report, "/empty")?) * 1000.0 / of as f64)
    };
    let peak = "/phases/0/memory_peak";
    let figure = |name: &str, ours: f64, plain: f64| {
        [
            Figure::new(format!("watcher-memory, {name}"), ours, "kB")
                .floor("plain tonic", plain)
                .bar(Bar::RatioAtMost(1.0)),
            Figure::new(format!("watcher-memory, {name}, bound"), ours, "kB")
                .bar(Bar::AtMost(MEMORY)),
        ]
    };
    let idle = (
        each(&ours, "/idle", watchers)?,
        each(&plain, "/idle", watchers)?,
    );
    let loaded = (each(&ours, peak, watchers)?, each(&plain, peak, watchers)?);
    let all = deaf + 50;
    let unread = (each(&our_deaf, peak, all)?, each(&plain_deaf, peak, all)?);
    let mut figures = Vec::new();
    figures.extend(figure("idle", idle.0, idle.1));
    figures.extend(figure("100 ends a second", loaded.0, loaded.1));
    figures.extend(figure("never reads", unread.0, unread.1));
    Ok(figures)
}
