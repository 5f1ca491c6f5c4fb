//! Among very many open connections exactly those end whose task or certificate does, however the
//! service holds them: as streams, in TLS, by requests, or by a callback of its own.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use taskmint_model::{Clock, Timestamp};
use taskmint_verifier::connections::{Connections, Guard};
use taskmint_verifier::layer::{PeerLayer, PeerService, REASON};
use taskmint_verifier::tls::{
    Clients, Identity, Trust, authorize, client_config, read_verified, server_config,
};
use taskmint_verifier::{PeerSvid, Refused, StatusCheck, verify_x509};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::{Layer as _, ServiceExt as _};

use crate::world::{Statuses, World, chain};

/// Open connections, and tasks that they are shared out to: 500 each.
const OPEN: usize = 2_000;
const TASKS: usize = 4;

/// The task that ends.
const ENDED: usize = 1;

/// Longer than anything takes that is going to happen.
const SOON: Duration = Duration::from_secs(60);

struct Stage {
    world: World,
    statuses: Arc<Statuses>,
    connections: Connections,
    peers: Vec<PeerSvid>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let statuses: Arc<Statuses> = Arc::default();
        let status: Arc<dyn StatusCheck> = Arc::<Statuses>::clone(&statuses);
        let connections = Connections::new(Arc::new(world.clock.clone()), Some(status));
        let peer = |task| {
            let leaf = world.task("/agent", task);
            verify_x509(&chain(&leaf), &world.bundles(), world.now()).unwrap()
        };
        let peers = (0..TASKS as u64).map(peer).collect();
        Self {
            world,
            statuses,
            connections,
            peers,
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.world.clock.clone())
    }

    fn status(&self) -> Option<Arc<dyn StatusCheck>> {
        Some(Arc::<Statuses>::clone(&self.statuses))
    }

    fn peer(&self, number: usize) -> &PeerSvid {
        &self.peers[number % TASKS]
    }

    /// As the log says it: first the status counts, then connections are closed.
    fn end(&self) {
        let place = self.world.binding(ENDED as u64).place;
        self.statuses.end(place);
        let why = Refused::new("TASK_ENDED", "the task has ended");
        self.connections.close(place, &why);
    }
}

fn of_the_ended_task(open: usize) -> BTreeSet<usize> {
    (0..open).filter(|number| number % TASKS == ENDED).collect()
}

/// Connections whose service gives back what it gets.
struct Echoes {
    clients: Vec<DuplexStream>,
    ends: mpsc::UnboundedReceiver<(usize, String)>,
}

impl Echoes {
    fn of(guards: impl Iterator<Item = Guard>) -> Self {
        let (say, ends) = mpsc::unbounded_channel();
        let clients = guards.enumerate().map(|(number, guard)| {
            let (near, far) = duplex(64);
            let (mut stream, say) = (guard.guard(far), say.clone());
            tokio::spawn(async move {
                let why = loop {
                    match stream.read_u8().await {
                        Ok(octet) => stream.write_u8(octet).await.unwrap(),
                        Err(error) => break error.to_string(),
                    }
                };
                say.send((number, why)).unwrap();
            });
            near
        });
        let clients = clients.collect();
        Self { clients, ends }
    }

    /// Exactly these end, for this reason; the others go on.
    async fn exactly_these_end(&mut self, expected: BTreeSet<usize>, reason: &str) {
        let mut ended = BTreeSet::new();
        while ended.len() < expected.len() {
            let (number, why) = tokio::time::timeout(SOON, self.ends.recv())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(why, reason);
            ended.insert(number);
        }
        assert_eq!(ended, expected);
        for (number, client) in self.clients.iter_mut().enumerate() {
            if expected.contains(&number) {
                assert!(client.read_u8().await.is_err(), "{number} is closed");
                continue;
            }
            client.write_u8(7).await.unwrap();
            let echo = tokio::time::timeout(SOON, client.read_u8()).await.unwrap();
            assert_eq!(echo.unwrap(), 7, "{number} is open");
        }
        assert!(self.ends.try_recv().is_err(), "no other has ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_connections_exactly_those_of_the_ended_task_close() {
    let stage = Stage::new();
    let guards = (0..OPEN).map(|number| stage.connections.register(stage.peer(number)));
    let mut echoes = Echoes::of(guards);
    assert_eq!(stage.connections.len(), OPEN);
    stage.end();
    let expected = of_the_ended_task(OPEN);
    let left = OPEN - expected.len();
    echoes
        .exactly_these_end(expected, "the task has ended")
        .await;
    assert_eq!(stage.connections.len(), left);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_connections_exactly_those_close_whose_certificate_ends() {
    let stage = Stage::new();
    let mut shorter = stage.peers[ENDED].clone();
    shorter.not_after = stage.world.now() + Duration::from_secs(60);
    stage.world.clock.advance(Duration::from_millis(60_960));
    let guards = (0..OPEN).map(|number| match number % TASKS {
        ENDED => stage.connections.register(&shorter),
        _ => stage.connections.register(stage.peer(number)),
    });
    let mut echoes = Echoes::of(guards);
    stage.world.clock.advance(Duration::from_millis(40));
    let expected = of_the_ended_task(OPEN);
    echoes
        .exactly_these_end(expected, "the peer's certificate has expired")
        .await;
}

/// Opens connections over TLS, does something to the task, and sees exactly its connections close.
/// Its peers' certificates count as ending at `not_after`.
async fn exactly_those_of_the_task_close_in_tls(
    stage: Stage,
    not_after: Option<Timestamp>,
    close: impl FnOnce(&Stage),
) {
    const OPEN: usize = 200;
    let trust = Trust::new(stage.world.bundles());
    let identity = |task| {
        let leaf = stage.world.task("/agent", task);
        let identity = Identity::new();
        identity.set(chain(&leaf), &leaf.key.pkcs8()).unwrap();
        identity
    };
    let (service, anyone) = (identity(99), authorize::anyone);
    let required = Clients::Required;
    let server = server_config(
        &service,
        &trust,
        stage.clock(),
        required,
        anyone(),
        stage.status(),
    );
    let acceptor = TlsAcceptor::from(Arc::new(server.unwrap()));
    let connectors: Vec<_> = (0..TASKS as u64)
        .map(|task| {
            let own = identity(task);
            let config = client_config(Some(&own), &trust, stage.clock(), anyone(), None);
            TlsConnector::from(Arc::new(config.unwrap()))
        })
        .collect();

    let (mut services, mut clients) = (Vec::new(), Vec::new());
    for number in 0..OPEN {
        let (near, far) = duplex(1 << 14);
        let name = ServerName::try_from("service.example").unwrap();
        let (accepted, connected) = tokio::join!(
            acceptor.accept(far),
            connectors[number % TASKS].connect(name, near)
        );
        let stream = accepted.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        let mut peer = read_verified(&chain[0]).unwrap();
        if number % TASKS == ENDED {
            peer.not_after = not_after.unwrap_or(peer.not_after);
        }
        let mut stream = stage.connections.register(&peer).guard(stream);
        services.push(tokio::spawn(async move {
            while let Ok(octet) = stream.read_u8().await {
                stream.write_u8(octet).await.unwrap();
                stream.flush().await.unwrap();
            }
        }));
        clients.push(connected.unwrap());
    }
    close(&stage);
    for (number, client) in clients.iter_mut().enumerate() {
        if number % TASKS == ENDED {
            let ended = tokio::time::timeout(SOON, client.read_u8()).await.unwrap();
            assert!(ended.is_err(), "{number} is closed");
            continue;
        }
        client.write_u8(7).await.unwrap();
        client.flush().await.unwrap();
        let echo = tokio::time::timeout(SOON, client.read_u8()).await.unwrap();
        assert_eq!(echo.unwrap(), 7, "{number} is open");
    }
    drop(clients);
    for service in services {
        service.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_tls_connections_exactly_those_of_the_ended_task_close() {
    exactly_those_of_the_task_close_in_tls(Stage::new(), None, Stage::end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_tls_connections_exactly_those_close_whose_certificate_ends() {
    let stage = Stage::new();
    let not_after = stage.world.now() + Duration::from_secs(60);
    let expired = |stage: &Stage| stage.world.clock.set(not_after + Duration::from_secs(1));
    stage.world.clock.advance(Duration::from_millis(60_960));
    exactly_those_of_the_task_close_in_tls(stage, Some(not_after), expired).await;
}

/// Connections of these peers whose requests are judged.
fn layers(stage: &Stage, peers: impl Iterator<Item = PeerSvid>) -> Vec<PeerService<Hello>> {
    let layer = PeerLayer::new(stage.clock(), stage.status());
    peers
        .map(|peer| layer.clone().peer(peer).layer(Hello))
        .collect()
}

/// Answers everybody.
#[derive(Clone)]
struct Hello;

impl tower::Service<Request<()>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

/// Asks once on each: those that were refused, all of them for this reason.
async fn refused(services: &[PeerService<Hello>], reason: &str) -> BTreeSet<usize> {
    let mut refused = BTreeSet::new();
    for (number, service) in services.iter().enumerate() {
        let answer = service.clone().oneshot(Request::default()).await.unwrap();
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.headers()[REASON], reason);
            refused.insert(number);
        }
    }
    refused
}

#[tokio::test]
async fn of_two_thousand_connections_requests_on_those_of_the_ended_task_are_refused() {
    let stage = Stage::new();
    let services = layers(&stage, (0..OPEN).map(|number| stage.peer(number).clone()));
    assert!(refused(&services, "").await.is_empty());
    stage.end();
    let expected = of_the_ended_task(OPEN);
    assert_eq!(refused(&services, "TASK_ENDED").await, expected);
}

#[tokio::test]
async fn of_two_thousand_connections_requests_on_those_are_refused_whose_certificate_ends() {
    let stage = Stage::new();
    let mut shorter = stage.peers[ENDED].clone();
    shorter.not_after = stage.world.now() + Duration::from_secs(60);
    let peers = (0..OPEN).map(|number| match number % TASKS {
        ENDED => shorter.clone(),
        _ => stage.peer(number).clone(),
    });
    let services = layers(&stage, peers);
    let end = shorter.not_after.floor_to_second() + Duration::from_secs(1);
    stage.world.clock.advance(Duration::from_millis(60_999));
    assert!(stage.world.now() < end);
    assert!(
        refused(&services, "").await.is_empty(),
        "the last second counts"
    );
    stage.world.clock.set(end);
    let expected = of_the_ended_task(OPEN);
    assert_eq!(refused(&services, "SVID_EXPIRED").await, expected);
}

/// Neither a watch nor a runtime: the service calls `expire` when it was told to.
#[test]
fn of_two_thousand_connections_the_callbacks_of_expired_certificates_alone_are_called() {
    let world = World::new();
    let leaf = world.task("/agent", 1);
    let peer = verify_x509(&chain(&leaf), &world.bundles(), world.now()).unwrap();
    let connections = Connections::new(Arc::new(world.clock.clone()), None);
    let called: Arc<Mutex<BTreeSet<usize>>> = Arc::default();
    let guards = (0..OPEN).map(|number| {
        let mut peer = peer.clone();
        peer.not_after = world.now() + Duration::from_secs(60 + (number % TASKS) as u64);
        let called = Arc::clone(&called);
        connections.register_with(&peer, move |why| {
            assert_eq!(why.reason, "SVID_EXPIRED");
            assert!(called.lock().insert(number), "called once");
        })
    });
    let guards: Vec<_> = guards.collect();
    let mut next = connections.expire();
    for of in 0..TASKS {
        let end = next.unwrap();
        assert!(world.now() < end);
        world.clock.set(end);
        assert_eq!(called.lock().len(), of * OPEN / TASKS, "not by itself");
        next = connections.expire();
        let expected: BTreeSet<_> = (0..OPEN).filter(|number| number % TASKS <= of).collect();
        assert_eq!(*called.lock(), expected);
    }
    assert_eq!(next, None);
    drop(guards);
    assert!(connections.is_empty());
}

#[test]
fn all_connections_of_the_task_are_closed_before_the_first_is_told() {
    let stage = Stage::new();
    let guards: Arc<Mutex<Vec<Guard>>> = Arc::default();
    let told: Arc<Mutex<usize>> = Arc::default();
    for _ in 0..TASKS * 10 {
        let (all, told) = (Arc::clone(&guards), Arc::clone(&told));
        let close = move |_: &Refused| {
            *told.lock() += 1;
            assert!(all.lock().iter().all(|guard| guard.check().is_some()));
        };
        let guard = stage.connections.register_with(stage.peer(ENDED), close);
        guards.lock().push(guard);
    }
    stage.end();
    assert_eq!(*told.lock(), TASKS * 10);
}

/// Without a runtime: for stacks that know no tokio.
#[test]
fn of_two_thousand_connections_the_callbacks_of_the_ended_task_alone_are_called() {
    let stage = Stage::new();
    let called: Arc<Mutex<BTreeSet<usize>>> = Arc::default();
    let register = |number: usize, peer: &PeerSvid| {
        // A callback may let go of its own guard, or register another.
        let guard: Arc<Mutex<Option<Guard>>> = Arc::default();
        let (called, own) = (Arc::clone(&called), Arc::clone(&guard));
        let connections = stage.connections.clone();
        let registered = stage.connections.register_with(peer, move |_| {
            drop(own.lock().take());
            assert!(connections.len() < OPEN + 2);
            assert!(called.lock().insert(number), "called once");
        });
        *guard.lock() = Some(registered);
        guard
    };
    let guards: Vec<_> = (0..OPEN)
        .map(|number| register(number, stage.peer(number)))
        .collect();
    stage.end();
    assert_eq!(*called.lock(), of_the_ended_task(OPEN));
    assert_eq!(stage.connections.len(), OPEN - OPEN / TASKS);
    stage.connections.recheck();
    assert_eq!(called.lock().len(), OPEN / TASKS, "none is called again");

    // One that the service has closed by itself is not called, though its task ends.
    drop(guards[0].lock().take());
    let mut shorter = stage.peers[0].clone();
    shorter.not_after = stage.world.now() + Duration::from_secs(60);
    let short = register(OPEN, &shorter);
    let end = shorter.not_after.floor_to_second() + Duration::from_secs(1);
    assert_eq!(stage.connections.expire(), Some(end));
    stage.world.clock.set(end);
    let next = stage.connections.expire();
    assert!(next.is_some_and(|next| next > end));
    assert!(called.lock().contains(&OPEN) && short.lock().is_none());
    assert_eq!(called.lock().len(), OPEN / TASKS + 1);
    stage.world.clock.set(next.unwrap());
    assert_eq!(stage.connections.expire(), None);
    assert_eq!(called.lock().len(), OPEN, "all but the one that was let go");
    assert!(!called.lock().contains(&0) && stage.connections.is_empty());

    // A task that ended before it is registered: called at once.
    let late = register(OPEN + 1, &stage.peers[ENDED].clone());
    assert!(called.lock().contains(&(OPEN + 1)));
    drop(late);
}
