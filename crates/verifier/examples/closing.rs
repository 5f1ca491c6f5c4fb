//! How long it takes until the connections of an ended task are closed, among 10,000 open ones.
//!
//! `cargo run --release -p taskmint-verifier --features watch --example closing`
//!
//! Prints milliseconds from the end's arrival at the registry until the last stream of the task has
//! broken off under its reader, and until the last callback has run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::{LogId, Place, TaskBinding};
use taskmint_verifier::connections::Connections;
use taskmint_verifier::{PeerSvid, Refused};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

/// Open connections.
const OPEN: usize = 10_000;

/// How often each is measured; the middle one and the worst are printed.
const ROUNDS: usize = 21;

fn peer(index: u64) -> anyhow::Result<PeerSvid> {
    let now = SystemClock.now();
    let place = Place::new(LogId([7; 8]), now.hour(), index)?;
    Ok(PeerSvid {
        spiffe_id: "spiffe://example.org/agent".parse()?,
        serial: [0; 20],
        binding: Some(TaskBinding {
            place,
            task: [1; 16],
            root: [1; 16],
        }),
        not_after: now + Duration::from_secs(600),
        spki: Vec::new(),
    })
}

/// From the end of a task with so many of the connections until all of them have closed.
async fn streams(closing: usize) -> anyhow::Result<Duration> {
    let connections = Connections::new(Arc::new(SystemClock), None);
    let (ended, other) = (peer(1)?, peer(2)?);
    let (say, mut ends) = mpsc::unbounded_channel();
    let (mut others, mut tasks) = (Vec::new(), Vec::new());
    for number in 0..OPEN {
        let whose = if number < closing { &ended } else { &other };
        let (near, far) = tokio::io::duplex(64);
        let mut stream = connections.register(whose).guard(far);
        let say = say.clone();
        tasks.push(tokio::spawn(async move {
            let broken = stream.read_u8().await.is_err();
            drop(stream);
            // Nobody listens once the round is over.
            let _unheard = say.send((Instant::now(), broken));
        }));
        others.push(near);
    }
    // All of them wait by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    connections.close(end(&ended)?, &why());
    let mut last = begun;
    for _ in 0..closing {
        let (at, broken) = ends.recv().await.context("no end")?;
        ensure!(broken, "it did not break off");
        last = last.max(at);
    }
    ensure!(connections.len() == OPEN - closing, "others closed too");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(last - begun)
}

fn callbacks(closing: usize) -> anyhow::Result<Duration> {
    let connections = Connections::new(Arc::new(SystemClock), None);
    let (ended, other) = (peer(1)?, peer(2)?);
    let called = Arc::new(AtomicUsize::new(0));
    let guards: Vec<_> = (0..OPEN)
        .map(|number| {
            let whose = if number < closing { &ended } else { &other };
            let called = Arc::clone(&called);
            connections.register_with(whose, move |_| {
                called.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let begun = Instant::now();
    connections.close(end(&ended)?, &why());
    let took = begun.elapsed();
    ensure!(
        called.load(Ordering::Relaxed) == closing,
        "others closed too"
    );
    drop(guards);
    Ok(took)
}

fn end(peer: &PeerSvid) -> anyhow::Result<Place> {
    peer.place().context("no place")
}

fn why() -> Refused {
    Refused::new("TASK_ENDED", "the task has ended")
}

fn print(what: &str, closing: usize, mut took: Vec<Duration>) {
    took.sort_unstable();
    let millis = |at: Option<&Duration>| at.map_or(0.0, |took| took.as_secs_f64() * 1e3);
    let (middle, worst) = (millis(took.get(took.len() / 2)), millis(took.last()));
    println!("{what:9} {closing:6} of {OPEN}: p50 {middle:8.3} ms, worst {worst:8.3} ms");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for closing in [1, 500, OPEN] {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            took.push(streams(closing).await?);
        }
        print("streams", closing, took);
        let took: anyhow::Result<Vec<_>> = (0..ROUNDS).map(|_| callbacks(closing)).collect();
        print("callbacks", closing, took?);
    }
    Ok(())
}
