//! A player whose watchers are ordinary gRPC clients: tonic over TLS, one task each, one thread.

use std::fs::File;
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use prost::Message as _;
use taskmint_client::{Endpoint, Revocation, connect};
use taskmint_wire::revocation::{self as wire, watch_request};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::conn::Cursor;
use super::ledger::{Ledger, now};
use super::play::{PATIENCE, Play, read_credentials, say};

/// Each acknowledges once in it, at a time of its own.
const TURN: Duration = Duration::from_secs(1);

/// What all watchers share.
struct Shared {
    endpoint: Endpoint,
    ledger: Mutex<Ledger>,
    /// Told of each that is in.
    came: mpsc::UnboundedSender<()>,
    coming: Semaphore,
}

/// As [`Play::run`].
pub(super) fn run(spec: &Play) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let played = runtime.block_on(play(spec));
    runtime.shutdown_background();
    played
}

async fn play(spec: &Play) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (came, mut arrivals) = mpsc::unbounded_channel();
    let times = File::open(spec.folder.join("times")).ok();
    let address = spec.address.context("nowhere to connect to")?.to_string();
    let config = Arc::new(read_credentials(&spec.folder)?);
    let shared = Arc::new(Shared {
        endpoint: Endpoint::Tls { address, config },
        ledger: Mutex::new(Ledger::new(times, false)),
        came,
        coming: Semaphore::new(spec.coming),
    });
    let mut watchers = JoinSet::new();
    for number in 0..spec.watchers {
        watchers.spawn(watch(Arc::clone(&shared), number));
    }
    for _ in 0..spec.watchers {
        tokio::select! {
            Some(()) = arrivals.recv() => {}
            Some(over) = watchers.join_next() => over??,
        }
    }
    say(&format!("ready {}", begun.elapsed().as_millis()))?;
    let mut positions = positions();
    loop {
        let position = tokio::select! {
            position = positions.recv() => position,
            Some(over) = watchers.join_next() => return over?,
        };
        let Some(position) = position else {
            return Ok(());
        };
        let until = Instant::now() + PATIENCE;
        while !shared.ledger.lock().is_at(position) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        say(&shared.ledger.lock().report()?.to_string())?;
    }
}

/// What standard input says, until it ends.
fn positions() -> mpsc::UnboundedReceiver<u64> {
    let (sender, positions) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        for position in lines.filter_map(|line| line.trim().parse().ok()) {
            if sender.send(position).is_err() {
                return;
            }
        }
    });
    positions
}

/// One watcher. Ends only where something is wrong.
async fn watch(shared: Arc<Shared>, number: usize) -> anyhow::Result<()> {
    let coming = shared.coming.acquire().await?;
    let channel = connect(&shared.endpoint).await?;
    let (sender, requests) = mpsc::unbounded_channel();
    let send = |message| {
        let message = Some(message);
        sender.send(wire::WatchRequest { message })
    };
    send(watch_request::Message::Open(wire::Open {
        name: format!("g{number}"),
        ..wire::Open::default()
    }))?;
    let requests = UnboundedReceiverStream::new(requests);
    let stream = Revocation::new(channel).watch(requests).await?;
    let (mut stream, mut cursor) = (stream.into_inner(), Cursor::default());
    let first = stream.message().await?.context("the watch ends")?;
    cursor.hear(&first, &shared.ledger)?;
    ensure!(cursor.position.is_some(), "it begins without a head");
    drop(coming);
    shared.came.send(())?;
    let own = Duration::from_millis(number as u64 % 1000);
    let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + own, TURN);
    loop {
        let can_wait = tokio::select! {
            message = stream.message() => {
                let message = message?.context("the watch ends")?;
                !cursor.hear(&message, &shared.ledger)?
            }
            _ = turns.tick() => false,
        };
        if can_wait {
            continue;
        }
        if let Some(position) = cursor.due() {
            let applied = shared.ledger.lock().applied(position);
            send(applied)?;
        }
    }
}

impl Cursor {
    /// Takes in a message as tonic has decoded it. Whether an acknowledgement can't wait.
    fn hear(
        &mut self,
        message: &wire::WatchResponse,
        ledger: &Mutex<Ledger>,
    ) -> anyhow::Result<bool> {
        let at = now();
        let mut ledger = ledger.lock();
        let said = ledger.hear(&message.encode_to_vec())?;
        self.apply(said, &mut ledger, at)
    }
}
