//! Open connections end with their task, with their certificate, and with nothing else.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{Clock, Timestamp};
use taskmint_verifier::connections::{Connections, Guard};
use taskmint_verifier::{PeerSvid, Refused, StatusCheck, verify_x509};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use crate::world::{Statuses, World, chain};

struct Stage {
    world: World,
    statuses: Arc<Statuses>,
    connections: Connections,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let statuses: Arc<Statuses> = Arc::default();
        let status: Arc<dyn StatusCheck> = Arc::<Statuses>::clone(&statuses);
        let connections = Connections::new(Arc::new(world.clock.clone()), Some(status));
        Self {
            world,
            statuses,
            connections,
        }
    }

    fn peer(&self, index: u64) -> PeerSvid {
        let leaf = self.world.task("/agent", index);
        verify_x509(&chain(&leaf), &self.world.bundles(), self.world.now()).unwrap()
    }

    fn open(&self, index: u64) -> Guard {
        self.connections.register(&self.peer(index))
    }

    fn end(&self, index: u64) {
        let place = self.world.binding(index).place;
        self.statuses.end(place);
        self.connections
            .close(place, &Refused::new("TASK_ENDED", "the task has ended"));
    }
}

#[tokio::test]
async fn an_end_closes_all_connections_of_its_task_and_no_other() {
    let stage = Stage::new();
    let (first, second, other) = (stage.open(1), stage.open(1), stage.open(2));
    assert_eq!(stage.connections.len(), 3);
    stage.end(1);
    assert_eq!(first.closed().await.reason, "TASK_ENDED");
    assert_eq!(second.closed().await.reason, "TASK_ENDED");
    assert_eq!(other.check(), None);
    drop((first, second, other));
    assert!(
        stage.connections.is_empty(),
        "a guard takes itself off the register"
    );
}

#[tokio::test]
async fn a_task_that_ended_between_handshake_and_registration_is_closed_from_the_start() {
    let stage = Stage::new();
    let peer = stage.peer(1);
    stage.end(1);
    let guard = stage.connections.register(&peer);
    assert_eq!(guard.check().unwrap().reason, "TASK_ENDED");
    assert!(guard.token().is_cancelled());
}

#[tokio::test]
async fn a_recheck_closes_what_is_refused_by_now() {
    let stage = Stage::new();
    let (ended, live) = (stage.open(1), stage.open(2));
    stage.statuses.end(stage.world.binding(1).place);
    assert_eq!(ended.check(), None, "nobody said so yet");
    stage.connections.recheck();
    assert_eq!(ended.check().unwrap().reason, "TASK_ENDED");
    assert_eq!(live.check(), None);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let stage = Stage::new();
    let guard = stage.open(1);
    stage.world.clock.advance(Duration::from_millis(600_980));
    assert_eq!(guard.check(), None, "the last second counts");
    let closed = guard.closed();
    stage.world.clock.advance(Duration::from_millis(20));
    assert_eq!(closed.await.reason, "SVID_EXPIRED");
}

#[tokio::test]
async fn a_guarded_stream_breaks_off_in_the_middle_of_a_read() {
    let stage = Stage::new();
    let (mut near, far) = duplex(64);
    let mut stream = stage.open(1).guard(far);
    near.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    let reader = tokio::spawn(async move {
        let read = stream.read(&mut [0]).await;
        (read, stream)
    });
    // The read waits by now, or will find the end when it begins: either way it must not hang.
    tokio::task::yield_now().await;
    stage.end(1);
    let (read, mut stream) = reader.await.unwrap();
    let error = read.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    assert_eq!(error.to_string(), "the task has ended");
    assert!(
        stream.write_all(b"y").await.is_err(),
        "nothing is sent any more"
    );
    assert!(stream.shutdown().await.is_ok(), "but for the goodbye");
}

#[tokio::test]
async fn a_guarded_stream_breaks_off_when_the_certificate_expires() {
    let stage = Stage::new();
    stage.world.clock.advance(Duration::from_millis(1));
    let (_near, far) = duplex(64);
    let guard = stage.open(1);
    stage.world.clock.advance(Duration::from_millis(600_950));
    let mut stream = guard.guard(far);
    let clock = stage.world.clock.clone();
    let (read, ()) = tokio::join!(stream.read_u8(), async move {
        clock.advance(Duration::from_millis(100));
    });
    assert_eq!(
        read.unwrap_err().to_string(),
        "the peer's certificate has expired"
    );
}

/// The wall clock, where time passes as tokio's does.
struct Paused(Timestamp, tokio::time::Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        self.0 + self.1.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_opened_just_before_its_certificate_ends_is_closed_in_time() {
    let stage = Stage::new();
    let mut peer = stage.peer(1);
    let begun = tokio::time::Instant::now();
    let left = Duration::from_millis(3);
    peer.not_after = stage.world.now().floor_to_second();
    let start = peer.not_after + Duration::from_secs(1);
    let clock = Paused(start - left, begun);
    let connections = Connections::new(Arc::new(clock), None);
    let (_near, far) = duplex(64);
    let mut stream = connections.register(&peer).guard(far);
    assert!(stream.read_u8().await.is_err());
    assert!(begun.elapsed() >= left);
    assert!(
        begun.elapsed() < left + Duration::from_millis(3),
        "{:?} late",
        begun.elapsed() - left
    );
    assert_eq!(
        connections.register(&peer).closed().await.reason,
        "SVID_EXPIRED"
    );
}

#[test]
fn an_end_costs_the_same_among_many_connections() {
    let stage = Stage::new();
    let peer = stage.peer(1);
    let many: Vec<_> = (0..20_000_u64)
        .map(|index| {
            let mut peer = peer.clone();
            peer.binding = Some(stage.world.binding(index));
            stage.connections.register(&peer)
        })
        .collect();
    let began = std::time::Instant::now();
    for index in 0..1000 {
        stage.end(index);
    }
    // Looking through all of them would take twenty million steps.
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        many.iter().filter(|guard| guard.check().is_some()).count(),
        1000
    );
}
