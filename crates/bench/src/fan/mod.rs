//! `fanout`, `fanout-load`, `fanout-reach`, `fanout-relay`, `fanout-clients`, `keepalive` and
//! `watcher-memory`: one log, ten thousand watchers.

mod conn;
mod grpc;
mod ledger;
mod link;
mod log;
mod plain;
mod play;
mod sealed;
mod stage;

use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;

pub(crate) use ledger::now;
pub(crate) use link::{Link, To};
pub(crate) use play::{Play, read_credentials, write_credentials};
use stage::Kind;
pub(crate) use stage::{Design, Player, Stage};

use crate::figure::{Bar, Figure};
use crate::samples::Samples;

/// What a watcher may cost, in kilobytes.
const MEMORY: f64 = 65.536;

/// Agents that relay to all others.
pub(crate) const AGENTS: usize = 200;

/// Those that never read.
const DEAF: usize = 500;

/// Watchers of another kind, and as many ordinary ones beside them.
const BESIDE: usize = 2_000;

/// Watchers that `fanout-reach` begins with.
const REACHED: usize = 1_000;

/// How long watchers are left alone, in seconds: each is asked twice whether it is there.
const IDLE: f64 = 40.0;

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
    Stage::of(design, watchers, phases).apart()
}

/// A number of a report, by its pointer.
fn number(report: &Value, at: &str) -> anyhow::Result<f64> {
    let number = report.pointer(at).and_then(Value::as_f64);
    number.with_context(|| format!("no `{at}` was measured"))
}

/// Event until the last has heard of it, in a phase.
fn lasts(report: &Value, phase: usize) -> anyhow::Result<Samples> {
    lasts_at(report, &format!("/phases/{phase}"))
}

/// The same of any player's report.
fn lasts_at(report: &Value, at: &str) -> anyhow::Result<Samples> {
    let Some(Value::Array(found)) = report.pointer(&format!("{at}/last_ns")) else {
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
    let sealed = lasts(&stage(Design::Sealed, watchers, &phases)?, 0)?;
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
        Figure::new("fanout, last, p50, over ready frames sealed", p50, "ms")
            .floor("no server: TLS and writes, p50", sealed.percentile(50.0)?),
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

/// A bound on what a number of watchers hears, for [`reach`].
struct Heard {
    watchers: usize,
    figures: [f64; 4],
}

const REACH: [(&str, &str, f64); 4] = [
    ("100/s, last, p99", "ms", 300.0),
    ("1,000/s, age p50", "ms", 50.0),
    ("1,000/s, age p99", "ms", 300.0),
    ("1,000/s, memory growth", "%", 5.0),
];

impl Heard {
    fn measure(span: Duration, watchers: usize) -> anyhow::Result<Self> {
        let seconds = span.as_secs().max(2);
        let phases = [format!("100:{seconds}"), format!("1000:{seconds}")];
        let report = stage(Design::Fanout, watchers, &phases)?;
        let of = |what: &str| number(&report, &format!("/phases/1/{what}"));
        let before = of("memory_before")?;
        let figures = [
            lasts(&report, 0)?.percentile(99.0)?,
            of("age_p50_ns")? / 1e6,
            of("age_p99_ns")? / 1e6,
            (of("memory_peak")? - before) / before * 100.0,
        ];
        Ok(Self { watchers, figures })
    }

    /// Whether the bars at 100 ends a second are reached, and those at 1,000.
    fn holds(&self) -> (bool, bool) {
        let mut each = self.figures.iter().zip(REACH);
        let mut next = || {
            each.next()
                .is_some_and(|(value, (_, _, most))| *value <= most)
        };
        (next(), next() & next() & next())
    }
}

/// How many watchers there may be until the bars of `fanout-load` are missed: twice as many each
/// time.
pub(crate) fn reach(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let most = within_limit(watchers);
    let (mut figures, mut reached) = (Vec::new(), [0, 0]);
    let mut asked = REACHED.min(most);
    loop {
        let heard = Heard::measure(span, asked)?;
        for (value, (what, unit, bar)) in heard.figures.iter().zip(REACH) {
            let name = format!("fanout-reach, {asked} watchers, {what}");
            figures.push(Figure::new(name, *value, unit).bar(Bar::AtMost(bar)));
        }
        let (slow, fast) = heard.holds();
        let [of_slow, of_fast] = &mut reached;
        if slow {
            *of_slow = heard.watchers;
        }
        if fast {
            *of_fast = heard.watchers;
        }
        if asked == most || !(slow || fast) {
            break;
        }
        asked = most.min(asked * 2);
    }
    for (most, rate) in reached.into_iter().zip(["100", "1,000"]) {
        let name = format!("fanout-reach, watchers that {rate} ends a second reach in time");
        figures.push(Figure::new(name, most as f64, ""));
    }
    Ok(figures)
}

/// Real gRPC clients, and those with small windows, beside ordinary watchers.
pub(crate) fn clients(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let each = BESIDE.min(within_limit(watchers) / 2).max(1);
    let seconds = span.as_secs().max(2);
    let phases = [format!("1:{seconds}"), format!("100:{seconds}")];
    let beside = |kind, phases: &[String]| {
        Stage {
            kind: Some(kind),
            others: each,
            ..Stage::of(Design::Fanout, each, phases)
        }
        .apart()
    };
    let [once, _] = &phases;
    let grpc = beside(Kind::Grpc, std::slice::from_ref(once))?;
    let narrow = beside(Kind::Narrow, &phases)?;
    let plain = stage(Design::Fanout, 2 * each, &phases)?;
    let mut figures = Vec::new();
    for percent in [50.0, 99.0] {
        let last = |report, at: &str| lasts_at(report, at)?.percentile(percent);
        let mut figure = |what: String, value, beside, floor| {
            let name = format!("fanout-clients, {what}, last, p{percent}");
            figures.push(Figure::new(name, value, "ms").floor(beside, floor));
        };
        figure(
            format!("{each} of tonic's"),
            last(&grpc, "/phases/0/others")?,
            "as many played ones beside them",
            last(&grpc, "/phases/0")?,
        );
        for (phase, rate) in [(0, 1), (1, 100)] {
            let at = format!("/phases/{phase}");
            let all = last(&plain, &at)?;
            figure(
                format!("{each} with windows of 4 KiB, {rate}/s"),
                last(&narrow, &format!("{at}/others"))?,
                "twice as many ordinary ones",
                all,
            );
            figure(
                format!("{each} beside those, {rate}/s"),
                last(&narrow, &at)?,
                "twice as many ordinary ones",
                all,
            );
        }
    }
    Ok(figures)
}

/// What it costs to ask idle watchers whether they are there, and how soon those are found who are
/// not: a tenth of them.
pub(crate) fn keepalive(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    let watchers = within_limit(watchers).max(10);
    let dead = watchers / 10;
    let idle = format!("0:{IDLE}");
    let quiet = Stage {
        no_pings: true,
        ..Stage::of(Design::Fanout, watchers, std::slice::from_ref(&idle))
    };
    let quiet = quiet.apart()?;
    let phases = [idle, format!("1:{}", span.as_secs().max(2))];
    let report = Stage {
        kind: Some(Kind::Frozen),
        others: dead,
        ..Stage::of(Design::Fanout, watchers - dead, &phases)
    };
    let report = report.apart()?;
    // Milliseconds of a second.
    let cost = |report| anyhow::Ok(number(report, "/phases/0/server_cpu_us")? / 1000.0 / IDLE);
    let seconds = |at: &str| anyhow::Ok(number(&report, at)? / 1000.0);
    let (before, meanwhile) = (lasts(&report, 1)?, lasts_at(&report, "/found/meanwhile")?);
    let mut figures = vec![
        Figure::new(
            format!("keepalive of {watchers} idle, processor time a second"),
            cost(&report)?,
            "ms",
        )
        .floor("without pings", cost(&quiet)?),
        Figure::new(
            format!("keepalive, {dead} frozen, the first found"),
            seconds("/found/first_ms")?,
            "s",
        ),
        Figure::new("keepalive, the last found", seconds("/found/all_ms")?, "s"),
    ];
    for percent in [50.0, 99.0] {
        let name = format!("keepalive, last of the living meanwhile, p{percent}");
        let figure = Figure::new(name, meanwhile.percentile(percent)?, "ms");
        figures.push(figure.floor("before", before.percentile(percent)?));
    }
    Ok(figures)
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
            deaf,
            ..Stage::of(design, 50, &phase)
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
