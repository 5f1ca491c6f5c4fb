//! Accepts TLS connections and spreads them over lanes, each on a thread of its own.
//!
//! Ten thousand that come at once wait in three places, none of which is a watcher's: the kernel's
//! backlog, a lane's hall of those whose handshake has not begun, and its few slots for handshakes.
//! So watchers that are there already hear of an end meanwhile.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::Counted;
use crate::{Fanout, Lane, Source, Tls};

/// How long a handshake may keep its slot: one that waits for its peer goes on without.
const SLOT: Duration = Duration::from_millis(250);

/// Connections of one lane whose handshake is not done; beyond them the kernel's backlog is left
/// to fill.
const HALL: usize = 4096;

/// How long a peer may keep silent after it connected, once half of the hall is full.
const HURRIED: Duration = Duration::from_secs(2);

/// How long to wait where accepting failed: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a listener stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A lane has no thread or no runtime.
    #[error("cannot start a lane")]
    Start(#[source] io::Error),
    /// A lane's thread ended.
    #[error("a lane has died")]
    Died,
}

/// One lane's end of the listener.
struct Entrance {
    sockets: mpsc::UnboundedSender<Arrived>,
    /// Connections that it has.
    load: Arc<AtomicUsize>,
    /// Those of them whose handshake is not done.
    hall: Arc<AtomicUsize>,
}

/// Resolves when a lane has ended, whatever ended it.
type Ended = oneshot::Receiver<()>;

/// A connection that was just accepted.
struct Arrived {
    stream: StdStream,
    counted: Counted,
    load: Held,
    hall: Held,
}

/// One of a number, until dropped.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(of))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves watchers that connect to `listener`, until `stop` and until the last of them was told.
/// Dropping the future ends everything at once.
///
/// # Errors
/// [`ListenError`], when a lane can't be started, or has died.
pub async fn listen<S: Source>(
    fanout: Fanout<S>,
    listener: TcpListener,
    tls: Tls<S::Peer>,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let dropped = CancellationToken::new();
    let _guard = dropped.clone().drop_guard();
    let (mut entrances, mut ends) = (Vec::new(), Vec::new());
    for number in 0..fanout.settings().lanes.max(1) {
        let started = start(number, &fanout, &tls, &stop, &dropped);
        let (entrance, ended) = started.map_err(ListenError::Start)?;
        entrances.push(entrance);
        ends.push(ended);
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = futures::future::select_all(&mut ends) => return Err(ListenError::Died),
            () = accept(&fanout, &listener, &entrances) => {}
        }
    }
    drop((listener, entrances));
    futures::future::join_all(ends).await;
    Ok(())
}

/// Accepts one connection. Cancelling it loses none.
async fn accept<S: Source>(fanout: &Fanout<S>, listener: &TcpListener, entrances: &[Entrance]) {
    let load = |entrance: &&Entrance| entrance.load.load(Ordering::Relaxed);
    let Some(entrance) = entrances.iter().min_by_key(load) else {
        return;
    };
    if entrance.hall.load(Ordering::Relaxed) >= HALL {
        return tokio::time::sleep(PAUSE).await;
    }
    let metrics = fanout.metrics();
    let stream = match listener.accept().await {
        // Into this lane's runtime it goes without the registration in ours.
        Ok((stream, _)) => stream.into_std(),
        Err(error) => {
            tracing::warn!(%error, "a watcher can't be accepted");
            return tokio::time::sleep(PAUSE).await;
        }
    };
    if metrics.connections.get() >= fanout.settings().connections as u64 {
        return metrics.refused.add(1);
    }
    let Ok(stream) = stream else { return };
    let arrived = Arrived {
        stream,
        counted: Counted::new(metrics, |metrics| &metrics.connections),
        load: Held::new(&entrance.load),
        hall: Held::new(&entrance.hall),
    };
    // A lane that has died is noticed beside this.
    drop(entrance.sockets.send(arrived));
}

/// Starts a lane on a thread of its own.
fn start<S: Source>(
    number: usize,
    fanout: &Fanout<S>,
    tls: &Tls<S::Peer>,
    stop: &CancellationToken,
    dropped: &CancellationToken,
) -> io::Result<(Entrance, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sockets, arrivals) = mpsc::unbounded_channel();
    let (alive, ended) = oneshot::channel();
    let entrance = Entrance {
        sockets,
        load: Arc::default(),
        hall: Arc::default(),
    };
    let (fanout, tls) = (fanout.clone(), tls.clone());
    let (stop, dropped) = (stop.clone(), dropped.clone());
    let hall = Arc::clone(&entrance.hall);
    let work = move || {
        let lane = async {
            let lane = fanout.lane(stop);
            drop(fanout);
            let take = take(&lane, arrivals, tls, hall);
            tokio::select! {
                () = async { tokio::join!(take, lane.drained()); } => {}
                () = dropped.cancelled() => {}
            }
        };
        runtime.block_on(lane);
        drop(runtime);
        // Dropped by a panic, too: never sent.
        drop::<oneshot::Sender<()>>(alive);
    };
    std::thread::Builder::new()
        .name(format!("fanout-{number}"))
        .spawn(work)?;
    Ok((entrance, ended))
}

/// Takes connections in, until the listener has no more.
async fn take<S: Source>(
    lane: &Lane<S>,
    mut arrivals: mpsc::UnboundedReceiver<Arrived>,
    tls: Tls<S::Peer>,
    hall: Arc<AtomicUsize>,
) {
    let slots = Arc::new(Semaphore::new(lane.shared().settings.handshakes.max(1)));
    while let Some(arrived) = arrivals.recv().await {
        let hurried = hall.load(Ordering::Relaxed) > HALL / 2;
        let one = welcome(
            lane.clone(),
            arrived,
            tls.clone(),
            Arc::clone(&slots),
            hurried,
        );
        lane.tasks().spawn(one);
    }
}

/// The handshake of one connection, and then its service.
async fn welcome<S: Source>(
    lane: Lane<S>,
    arrived: Arrived,
    tls: Tls<S::Peer>,
    slots: Arc<Semaphore>,
    hurried: bool,
) {
    let Arrived {
        stream,
        counted,
        load,
        hall,
    } = arrived;
    let stop = lane.shared().stop.clone();
    let greeted = tokio::select! {
        greeted = greet(&lane, stream, tls, &slots, hurried) => greeted,
        () = stop.cancelled() => return,
    };
    drop(hall);
    match greeted {
        Ok((stream, peer)) => {
            let tasks = lane.tasks().clone();
            // In another task: what the handshake needed is not kept for hours.
            tasks.spawn(async move {
                lane.run(stream, peer).await;
                drop((counted, load));
            });
        }
        Err(error) => {
            lane.shared().metrics.failed.add(1);
            tracing::debug!(%error, "a watcher's handshake failed");
        }
    }
}

async fn greet<S: Source>(
    lane: &Lane<S>,
    stream: StdStream,
    tls: Tls<S::Peer>,
    slots: &Semaphore,
    hurried: bool,
) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, S::Peer)> {
    let stream = TcpStream::from_std(stream)?;
    let patience = lane.shared().settings.handshake;
    let silence = if hurried {
        HURRIED.min(patience)
    } else {
        patience
    };
    // Who says nothing has no slot.
    timeout_at(Instant::now() + silence, stream.readable()).await??;
    let slot = slots.acquire().await.map_err(io::Error::other)?;
    let until = Instant::now() + patience;
    let mut handshake = std::pin::pin!(tls.accept(stream));
    if let Ok(done) = timeout_at(Instant::now() + SLOT, &mut handshake).await {
        return done;
    }
    drop(slot);
    timeout_at(until, handshake).await?
}
