//! `closing`: from the octets of an end in this process until the last connection of its task is
//! closed, among ten thousand open ones; and the same for certificates that expire.
//!
//! The server is the real one. A relay of octets stands between it and the watch, and notes when
//! the end came, before it hands it on: TLS, HTTP/2 and the signature are in the figures.

mod peers;
mod service;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::{Request, Response, StatusCode};
use rustix::time::{ClockId, clock_gettime};
use taskmint_model::{Clock as _, SystemClock, Timestamp};
use taskmint_verifier::connections::{Connections, Guard};
use taskmint_verifier::layer::{PeerLayer, PeerService};
use taskmint_verifier::tls::read_verified;
use taskmint_verifier::watch::Watch;
use taskmint_verifier::{PeerSvid, StatusCheck};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tower::{Layer as _, ServiceExt as _, service_fn};

pub(crate) use peers::Peers;

use crate::agent::PATIENCE;
use crate::end;
use crate::fan::{now, raise_limit, within_limit, write_credentials};
use crate::figure::{Bar, Figure};
use crate::node::{Node, UID, Workload};
use crate::proxy::Proxy;
use crate::samples::Samples;
use crate::world::{World, entry};
use peers::Apart;
use service::{Service, Tally, registered};

/// The bar, in milliseconds.
const MOST: f64 = 10.0;

/// Of all connections those that close, and how often an end and an expiry of so many is measured.
const CLOSING: [(usize, u32, u32); 3] = [(1, 21, 5), (500, 21, 5), (usize::MAX, 7, 3)];

/// Nobody renews the node's lease, and with it its tasks would end.
const LEASE: &str = "[tasks]\nlease = \"1h\"\n";

/// How long before the certificates of a round end its connections are opened: a second, and one
/// for each 500 of them.
const OPENED: usize = 500;

pub(crate) async fn measure(open: usize) -> anyhow::Result<Vec<Figure>> {
    raise_limit()?;
    let mut stage = Stage::start(within_limit(open)).await?;
    let mut figures = Vec::new();
    for (closing, ends, expiries) in CLOSING {
        let closing = closing.min(stage.open);
        let (marked, service, peers) = stage.streams_ended(closing, ends).await?;
        let open = stage.open;
        let of = |what: &str| format!("closing {closing} of {open}, {what}");
        figures.extend(rows(&of("TLS streams, no octet passes"), &marked)?);
        figures.extend(rows(&of("TLS streams"), &service)?);
        figures.extend(rows(&of("TLS streams, at the peers"), &peers)?);
        let called = stage.callbacks_ended(closing, ends).await?;
        figures.extend(rows(&of("callbacks"), &called)?);
        let ended = stage.calls_ended(closing, ends).await?;
        figures.extend(rows(&of("calls that run"), &ended)?);
        let refused = stage.requests_refused(closing, ends).await?;
        figures.extend(rows(&of("requests, each asked once"), &refused)?);
        let (service, peers) = stage.streams_expired(closing, expiries).await?;
        figures.extend(rows(&of("notAfter, TLS streams"), &service)?);
        figures.extend(rows(&of("notAfter, TLS streams, at the peers"), &peers)?);
        let called = stage.callbacks_expired(closing, expiries).await?;
        figures.extend(rows(&of("notAfter, callbacks"), &called)?);
    }
    stage.world.stop().await?;
    Ok(figures)
}

fn rows(name: &str, took: &Samples) -> anyhow::Result<[Figure; 2]> {
    Ok([
        Figure::new(format!("{name}, p50"), took.percentile(50.0)?, "ms"),
        Figure::new(format!("{name}, worst"), took.percentile(100.0)?, "ms").bar(Bar::AtMost(MOST)),
    ])
}

/// A server, and a service that watches its log.
struct Stage {
    world: World,
    node: Node,
    own: Workload,
    proxy: Proxy,
    watch: Watch,
    /// Connections that there are, those that close among them.
    open: usize,
    /// Of the next workload.
    pid: u32,
}

impl Stage {
    async fn start(open: usize) -> anyhow::Result<Self> {
        let mut world = World::start_with(LEASE).await?;
        world.create(vec![entry("agent", UID, false)]).await?;
        let mut node = Node::join(&world.join_string("n1").await?).await?;
        let own = node.begin(7).await?;
        let proxy = Proxy::start(world.server.watch_address).await?;
        let watch = end::watch(&proxy.address().to_string(), &node, &own)?;
        let synced = tokio::time::timeout(PATIENCE, watch.synced()).await;
        synced.context("the watch does not come about")?;
        Ok(Self {
            world,
            node,
            own,
            proxy,
            watch,
            open,
            pid: 1000,
        })
    }

    fn status(&self) -> Arc<dyn StatusCheck> {
        Arc::new(self.watch.clone())
    }

    /// Connections that follow the watch for as long as the handle lives.
    fn connections(&self) -> (Connections, AbortOnDropHandle<()>) {
        let connections = Connections::new(Arc::new(SystemClock), Some(self.status()));
        let follow = connections.clone().follow(self.watch.clone());
        (connections, AbortOnDropHandle::new(tokio::spawn(follow)))
    }

    /// A live task.
    async fn begin(&mut self) -> anyhow::Result<(Workload, PeerSvid)> {
        self.pid += 1;
        let workload = self.node.begin(self.pid).await?;
        let peer = read_verified(&workload.certificate)?;
        Ok((workload, peer))
    }

    /// Ends a task; when the first octets of it came here, by the monotonic clock.
    async fn end(&mut self, workload: &Workload) -> anyhow::Result<u64> {
        self.proxy.reset();
        self.node.complete(workload).await?;
        let came = async {
            loop {
                if let Some((at, _)) = self.proxy.passed().first() {
                    return *at;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let at = tokio::time::timeout(PATIENCE, came).await?;
        Ok(monotonic(at))
    }

    /// A process with so many connections of this workload.
    async fn connect(
        &self,
        service: &Service,
        workload: &Workload,
        count: usize,
    ) -> anyhow::Result<Apart> {
        let folder: PathBuf = self.world.folder().join(&workload.task);
        std::fs::create_dir_all(&folder)?;
        let key = workload.key.pkcs8()?;
        write_credentials(&folder, &workload.certificate, &key, &self.node.bundle)?;
        let address = service.address;
        let apart = move || Apart::connect(address, count, &folder);
        tokio::task::spawn_blocking(apart).await?
    }

    async fn service(&self, connections: &Connections) -> anyhow::Result<Service> {
        let (identity, trust) = (self.own.identity()?, &self.node.trust);
        Service::start(&identity, trust, self.status(), connections.clone()).await
    }

    /// Streams over TLS: until nothing could be read or written any more, until they broke off under
    /// their readers here, and until their peers had seen it.
    async fn streams_ended(
        &mut self,
        closing: usize,
        rounds: u32,
    ) -> anyhow::Result<(Samples, Samples, Samples)> {
        let (connections, _following) = self.connections();
        let service = self.service(&connections).await?;
        let (live, _) = self.begin().await?;
        let _others = self.connect(&service, &live, self.open - closing).await?;
        let (mut here, mut there) = (Samples::default(), Samples::default());
        let (mut marked, closed) = (Samples::default(), Arc::new(Tally::default()));
        for _ in 0..rounds {
            let (workload, peer) = self.begin().await?;
            let mut peers = self.connect(&service, &workload, closing).await?;
            registered(&connections, self.open).await?;
            // Called when all of them are closed, and perhaps before they were told.
            let marker = register(&connections, &peer, 1, &closed);
            let came = self.end(&workload).await?;
            add(&mut marked, came, closed.last(1).await?)?;
            add(&mut here, came, service.tally().last(closing).await?)?;
            add(&mut there, came, last(&mut peers)?)?;
            drop(marker);
            registered(&connections, self.open - closing).await?;
        }
        Ok((marked, here, there))
    }

    /// The same for certificates that end: from the end of their last second on.
    async fn streams_expired(
        &mut self,
        closing: usize,
        rounds: u32,
    ) -> anyhow::Result<(Samples, Samples)> {
        let (connections, _following) = self.connections();
        let service = self.service(&connections).await?;
        let (live, _) = self.begin().await?;
        let _others = self.connect(&service, &live, self.open - closing).await?;
        let (mut here, mut there) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            let (workload, peer) = self.begin().await?;
            let (not_after, end) = soon(Duration::from_secs(2 + (closing / OPENED) as u64));
            service.expire(&peer, not_after);
            let mut peers = self.connect(&service, &workload, closing).await?;
            registered(&connections, self.open).await?;
            ensure!(now() < end, "they came in too late");
            add(&mut here, end, service.tally().last(closing).await?)?;
            add(&mut there, end, last(&mut peers)?)?;
            registered(&connections, self.open - closing).await?;
        }
        Ok((here, there))
    }

    /// Until the last callback has run.
    async fn callbacks_ended(&mut self, closing: usize, rounds: u32) -> anyhow::Result<Samples> {
        let (connections, _following) = self.connections();
        let (_, other) = self.begin().await?;
        let tally = Arc::new(Tally::default());
        let _others = register(&connections, &other, self.open - closing, &tally);
        let mut took = Samples::default();
        for _ in 0..rounds {
            let (workload, peer) = self.begin().await?;
            let _ending = register(&connections, &peer, closing, &tally);
            let came = self.end(&workload).await?;
            add(&mut took, came, tally.last(closing).await?)?;
        }
        Ok(took)
    }

    async fn callbacks_expired(&mut self, closing: usize, rounds: u32) -> anyhow::Result<Samples> {
        let (connections, _following) = self.connections();
        let (_, other) = self.begin().await?;
        let tally = Arc::new(Tally::default());
        let _others = register(&connections, &other, self.open - closing, &tally);
        let mut took = Samples::default();
        for _ in 0..rounds {
            let (_, mut peer) = self.begin().await?;
            let (not_after, end) = soon(Duration::from_secs(2));
            peer.not_after = not_after;
            let _ending = register(&connections, &peer, closing, &tally);
            ensure!(now() < end, "they came in too late");
            add(&mut took, end, tally.last(closing).await?)?;
        }
        Ok(took)
    }

    /// Calls that run behind the layer, until the last of them was refused.
    async fn calls_ended(&mut self, closing: usize, rounds: u32) -> anyhow::Result<Samples> {
        let (connections, _following) = self.connections();
        let layer = PeerLayer::new(Arc::new(SystemClock), Some(self.status()));
        let layer = layer.connections(connections.clone());
        let (_, other) = self.begin().await?;
        let tally = Arc::new(Tally::default());
        let _others = call(&layer, &other, self.open - closing, &tally);
        let mut took = Samples::default();
        for _ in 0..rounds {
            let (workload, peer) = self.begin().await?;
            let _ending = call(&layer, &peer, closing, &tally);
            registered(&connections, self.open).await?;
            let came = self.end(&workload).await?;
            add(&mut took, came, tally.last(closing).await?)?;
        }
        Ok(took)
    }

    /// Until each connection of the task has refused one more request, asked once the end counted.
    async fn requests_refused(&mut self, closing: usize, rounds: u32) -> anyhow::Result<Samples> {
        let (_, other) = self.begin().await?;
        let layer = PeerLayer::new(Arc::new(SystemClock), Some(self.status()));
        let served = |peer: &PeerSvid| layer.clone().peer(peer.clone()).layer(service_fn(hello));
        let others = vec![served(&other); self.open - closing];
        let mut took = Samples::default();
        for _ in 0..rounds {
            let (workload, peer) = self.begin().await?;
            let binding = peer.binding.context("an SVID without a task")?;
            let mut events = self.watch.subscribe();
            let ending = vec![served(&peer); closing];
            let watch = self.watch.clone();
            let asked = tokio::spawn(async move {
                end::refused(&watch, &mut events, &binding).await?;
                let passed = passed(&ending).await?;
                ensure!(passed == 0, "{passed} requests of an ended task passed");
                anyhow::Ok(now())
            });
            let came = self.end(&workload).await?;
            add(&mut took, came, asked.await??)?;
            ensure!(passed(&others).await? == others.len(), "others are refused");
        }
        Ok(took)
    }
}

async fn hello(_: Request<()>) -> Result<Response<()>, Infallible> {
    Ok(Response::new(()))
}

/// So many calls that no service ever answers, a task each.
fn call(layer: &PeerLayer, peer: &PeerSvid, count: usize, tally: &Arc<Tally>) -> JoinSet<()> {
    let layer = layer.clone().peer(peer.clone());
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<()>, Infallible>>()
    }));
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let (call, tally) = (
            service.clone().oneshot(Request::default()),
            Arc::clone(tally),
        );
        calls.spawn(async move {
            if call
                .await
                .is_ok_and(|answer| answer.status() == StatusCode::FORBIDDEN)
            {
                tally.note();
            }
        });
    }
    calls
}

/// Asks each of them once; how many answered.
async fn passed<S, B>(services: &[PeerService<S>]) -> anyhow::Result<usize>
where
    S: tower::Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut passed = 0;
    for service in services {
        let answer = service.clone().oneshot(Request::default()).await?;
        passed += usize::from(answer.status() == StatusCode::OK);
    }
    Ok(passed)
}

fn register(
    connections: &Connections,
    peer: &PeerSvid,
    count: usize,
    tally: &Arc<Tally>,
) -> Vec<Guard> {
    let one = |_| {
        let tally = Arc::clone(tally);
        connections.register_with(peer, move |_| tally.note())
    };
    (0..count).map(one).collect()
}

fn last(peers: &mut Apart) -> anyhow::Result<u64> {
    tokio::task::block_in_place(|| peers.last())
}

/// The time between two instants of the monotonic clock, in nanoseconds.
fn add(samples: &mut Samples, from: u64, to: u64) -> anyhow::Result<()> {
    let took = to.checked_sub(from).context("closed too early")?;
    samples.add(Duration::from_nanos(took));
    Ok(())
}

/// The monotonic clock at an instant, in nanoseconds.
fn monotonic(at: Instant) -> u64 {
    now().saturating_sub(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// A `notAfter` after so long, and the end of its second by the monotonic clock, in nanoseconds.
fn soon(after: Duration) -> (Timestamp, u64) {
    let not_after = (SystemClock.now() + after).floor_to_second();
    let wall = clock_gettime(ClockId::Realtime);
    let wall = i128::from(wall.tv_sec) * 1_000_000_000 + i128::from(wall.tv_nsec);
    let end = i128::from(not_after.secs() + 1) * 1_000_000_000;
    let end = i128::from(now()) + end - wall;
    (not_after, u64::try_from(end).unwrap_or(0))
}
