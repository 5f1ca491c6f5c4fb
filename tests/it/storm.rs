//! A storm: two hundred verifiers, most of them behind ways that delay, freeze, cut, double and swap
//! what passes, some killed and started anew, while a thousand tasks end in a second.
//!
//! An oracle holds every verdict and every event against what was acknowledged: nobody accepts what
//! it knows, or must know, to have ended; nobody who is cut off accepts anything; nobody goes back,
//! leaves out an end or tells of it twice; and in the end all agree.
//!
//! All this is one process: what a signal does to one, `tests/chaos` tries. Octets are doubled and
//! swapped below TLS, which notices and ends the connection; what a relay could do above it is tried
//! with the watcher itself.

mod crowd;
mod load;
mod oracle;
mod stage;

use std::io::Write as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crowd::Crowd;
use load::Done;
use oracle::{BELIEVED, Oracle, RULES};
use stage::Stage;
use taskmint_model::{Entropy, SystemEntropy};
use taskmint_status::Now;
use taskmint_verifier::watch::{Clocks, SystemClocks};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::rough::Mood;

const VERIFIERS: usize = 200;

/// How long it lasts, in seconds, unless `TASKMINT_STORM_SECONDS` says otherwise.
const SECONDS: u64 = 20;

/// Ends a second that a storm must have. A thousand are due, and two cores have that many; where they
/// are slow or busy, and have to be server and all verifiers at once, half of it proves as much.
const LEAST: f64 = 500.0;

/// What all this, and the tests beside it, need to have open at once.
const FILES: u64 = 2_000;

const LOOK: Duration = Duration::from_millis(25);

/// Looks between one kill and the next.
const KILL: u32 = 8;

/// A wait between two attempts to connect, an attempt, and a connection that turns out to be dead.
const CONVERGED: Duration = Duration::from_secs(30);

type SharedOracle = Arc<Mutex<Oracle>>;

fn below(dice: &dyn Entropy, most: usize) -> usize {
    u32::from_be_bytes(dice.array()) as usize % most
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_nobody_accepts_what_has_ended_and_then_all_agree() {
    if soft_limit() < FILES {
        return say("skipped: in_a_storm: too few files may be open here");
    }
    let seed = setting("TASKMINT_STORM_SEED");
    let seed = seed.unwrap_or_else(|| below(&SystemEntropy, 1_000_000) as u64);
    let span = Duration::from_secs(setting("TASKMINT_STORM_SECONDS").unwrap_or(SECONDS));
    say(&format!("TASKMINT_STORM_SEED={seed}"));
    let mut stage = Stage::start(seed).await;
    let stock = stage.load.fill().await;
    let mut crowd = Crowd::start(VERIFIERS, &stage, Arc::new(SystemClocks));
    crowd.converge(&stage.ground, CONVERGED).await;

    let weather = stage.weather();
    let ending = tokio::spawn(stage.load.clone().run(stock, span));
    let mut looks = looks();
    let mut looked = 0;
    while !ending.is_finished() {
        looks.tick().await;
        crowd.look(&mut stage.ground).await;
        assert_eq!(stage.objection(), None);
        looked += 1;
        if looked % KILL == 0 {
            crowd.replace_one(&*stage.ground.dice);
        }
    }
    let done = ending.await.unwrap();
    drop(weather);
    stage.calm();
    let calm = Instant::now();
    crowd.converge(&stage.ground, CONVERGED).await;
    let calm = calm.elapsed();
    crowd.look(&mut stage.ground).await;
    crowd.settle(&stage.ground);

    let rate = done.ends as f64 / done.took.as_secs_f64();
    let started = crowd.started();
    say(&format!(
        "{} ends, {rate:.0}/s; {started} verifiers, {VERIFIERS} at once, all agree {calm:.1?} \
         later; {looked} looks",
        done.ends
    ));
    prove(&stage, &done, started);
    assert!(rate >= LEAST, "{rate:.0} ends in a second");
    drop(crowd);
    stage.stop().await;
}

/// A test that did nothing proves nothing.
fn prove(stage: &Stage, done: &Done, started: usize) {
    let oracle = stage.ground.oracle.lock().unwrap();
    let (counts, harm) = (&oracle.counts, &stage.harm);
    let again = harm.of(Mood::Pass) - started as u64;
    say(&format!("{again} connections again, {harm:?}; {counts:?}"));
    assert_eq!(oracle.objection(), None);
    assert_eq!(oracle.ends.len() as u64, done.ends);
    stage.ground.log.has_only(&oracle.ends);
    assert!(again > 0, "nobody had to connect again");
    for mood in Mood::ALL {
        assert!(harm.of(mood) > 0, "{mood:?} did nothing");
    }
    let said = [
        "accepted",
        "TASK_ENDED",
        "STATUS_STALE",
        "STATUS_NOT_SYNCED",
    ];
    let told = ["told", "reset", "moved by a head"];
    for what in said.iter().chain(&told).chain(&RULES) {
        assert!(counts.contains_key(what), "never: {what}");
    }
}

/// The machine's own, until they stop.
#[derive(Default)]
struct Stopped(OnceLock<Now>);

impl Clocks for Stopped {
    fn now(&self) -> Now {
        let stopped = self.0.get().copied();
        stopped.unwrap_or_else(|| SystemClocks.now())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_whose_clocks_stand_still_is_found_out() {
    let mut stage = Stage::start(1).await;
    let clocks = Arc::<Stopped>::default();
    let mut crowd = Crowd::start(1, &stage, Arc::clone(&clocks) as _);
    crowd.converge(&stage.ground, CONVERGED).await;
    stage.ways[0].set(Mood::Freeze);
    clocks.0.get_or_init(|| SystemClocks.now());
    let found_out = async {
        let mut looks = looks();
        loop {
            looks.tick().await;
            crowd.look(&mut stage.ground).await;
            if let Some(objection) = stage.objection() {
                return objection;
            }
        }
    };
    let objection = tokio::time::timeout(3 * BELIEVED, found_out).await;
    let objection = objection.expect("nobody noticed");
    assert!(objection.ends_with("cut off"), "{objection}");
    drop(crowd);
    stage.stop().await;
}

fn looks() -> Interval {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

/// Past the capture of the harness, so that it is always seen.
fn say(what: &str) {
    let line = format!("{what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// How many files may be open in this process.
fn soft_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.unwrap().split_whitespace().nth(3).unwrap();
    soft.parse().unwrap_or(u64::MAX)
}
