//! What a watcher may say of the log that it has followed, and how it is told that the server stops.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::SystemClock;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{Open, Statement, WatchRequest, WatchResponse};
use taskmint_wire::{admin, node};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::World;
use crate::node::{Key, Node, UID, caller, connect, reason, request_id};

const SOON: Duration = Duration::from_secs(20);

/// A watch by hand.
pub(crate) struct Watching {
    _say: mpsc::Sender<WatchRequest>,
    frames: Streaming<WatchResponse>,
}

impl Watching {
    pub(crate) async fn open(world: &World, node: &Node, open: Open) -> Self {
        let address = world.server.watch_address.to_string();
        let trust_domain = "example.org".parse().unwrap();
        let channel = connect(&node.identity, &node.trust, &trust_domain, &address).await;
        let (say, said) = mpsc::channel(4);
        let message = Some(Message::Open(open));
        say.send(WatchRequest { message }).await.unwrap();
        let mut client = RevocationClient::new(channel).max_decoding_message_size(16 << 20);
        let frames = client.watch(ReceiverStream::new(said)).await.unwrap();
        Self {
            _say: say,
            frames: frames.into_inner(),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Frame, Status> {
        let frame = tokio::time::timeout(SOON, self.frames.message()).await;
        let frame = frame.expect("no frame came")?;
        Ok(frame.expect("a stream that ends says why").frame.unwrap())
    }

    pub(crate) async fn ending(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// Where the log stands, as one says that has applied everything.
pub(crate) fn applied(world: &World) -> Open {
    let store = world.server.issuer.store();
    let (identity, position) = (store.identity(), *store.position().borrow());
    Open {
        log_id: identity.log.0.to_vec().into(),
        generation: identity.generation.into(),
        epoch: identity.epoch,
        sequence: position.sequence,
        log_hash: position.hash.to_vec().into(),
        name: "by hand".to_owned(),
        ..Default::default()
    }
}

/// A task that ends at once: one record, at least.
async fn end_one(node: &mut Node) {
    let began = node.begin(UID, 7, Key::new().spki());
    let began = node.client.begin_task(began).await.unwrap().into_inner();
    let end = node::EndTaskRequest {
        task_id: began.task.unwrap().id,
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 7)),
        request_id: request_id(),
        ..Default::default()
    };
    node.client.end_task(end).await.unwrap();
}

async fn world() -> (World, Node) {
    let mut world = World::durable("", Arc::new(SystemClock)).await;
    world.entry("agent", UID, true).await;
    let token = world.token("n1").await;
    let mut node = Node::join(&token).await;
    end_one(&mut node).await;
    (world, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_another_log_or_of_the_future_is_told_so() {
    let (mut world, node) = world().await;
    let good = applied(&world);
    let with = |change: &dyn Fn(&mut Open)| {
        let mut open = good.clone();
        change(&mut open);
        open
    };
    let future = Code::FailedPrecondition;
    let cases = [
        (with(&|o| o.sequence += 1), future, "AHEAD_OF_LOG"),
        (with(&|o| o.epoch += 1), future, "EPOCH_AHEAD"),
        (
            with(&|o| o.log_id = vec![1; 8].into()),
            future,
            "UNKNOWN_LOG",
        ),
        (with(&|o| o.generation += 1), future, "UNKNOWN_LOG"),
        (
            with(&|o| {
                o.log_id = vec![1; 8].into();
                o.generation += 1;
            }),
            future,
            "GENERATION_AHEAD",
        ),
        (
            with(&|o| o.log_hash = vec![1; 32].into()),
            future,
            "OTHER_HISTORY",
        ),
        // The log has moved on since.
        (
            with(&|o| {
                o.sequence -= 1;
                o.log_hash = vec![1; 32].into();
            }),
            future,
            "OTHER_HISTORY",
        ),
        // It saw so before, wherever the log stands by now.
        (with(&|o| o.forked = true), future, "OTHER_HISTORY"),
        // Of two logs of one generation it had come to follow the other one.
        (
            with(&|o| {
                o.forked = true;
                o.log_id = vec![1; 8].into();
            }),
            future,
            "OTHER_HISTORY",
        ),
        // Before it had applied anything; what it shows is nobody's.
        (
            with(&|o| {
                o.forked = true;
                (o.sequence, o.log_hash) = (0, vec![].into());
                o.shown = vec![Statement::default(); 9];
            }),
            future,
            "OTHER_HISTORY",
        ),
        (
            with(&|o| o.log_id = vec![1; 7].into()),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            with(&|o| o.instance = vec![1; 15].into()),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
    ];
    for (open, code, expected) in cases {
        let status = Watching::open(&world, &node, open).await.ending().await;
        assert_eq!((status.code(), &*reason(&status)), (code, expected));
    }
    // The operators are told, whichever way it came; the story of many at once is kept once.
    let request = admin::ListDenialsRequest { page_size: 100 };
    let listed = world.admin.list_denials(request).await.unwrap();
    let denials = listed.into_inner().denials;
    let reasons: Vec<_> = denials.iter().map(|one| &*one.reason).collect();
    assert_eq!(reasons, ["AHEAD_OF_LOG"], "one story of one watcher");
    assert!(!denials[0].message.contains("proof"), "{denials:?}");
    assert_eq!(world.server.issuer.watchers().contradictions(), 10);
    // A log that a restore has replaced is left behind, with the fork that was in it.
    for forked in [false, true] {
        let replaced = with(&|o| {
            o.log_id = vec![1; 8].into();
            (o.generation, o.forked) = (0, forked);
        });
        let first = Watching::open(&world, &node, replaced).await.next().await;
        assert!(matches!(first.unwrap(), Frame::Checkpoint(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_goes_on_where_it_was_though_the_server_restarted() {
    let (world, mut node) = world().await;
    let before = applied(&world);
    for _ in 0..3 {
        end_one(&mut node).await;
    }
    let world = world.go_away().await.come_back().await;
    let mut open = before.clone();
    open.nonce = vec![5; 16].into();
    let mut watching = Watching::open(&world, &node, open).await;
    let Frame::Delta(delta) = watching.next().await.unwrap() else {
        panic!("records, and no checkpoint");
    };
    assert_eq!(delta.first, before.sequence + 1);
    assert!(matches!(watching.next().await.unwrap(), Frame::Head(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_to_its_watchers() {
    let (world, node) = world().await;
    let mut watching = Watching::open(&world, &node, applied(&world)).await;
    watching.next().await.unwrap();
    let (ending, _folder) = tokio::join!(watching.ending(), world.stop());
    assert_eq!(
        (ending.code(), &*reason(&ending)),
        (Code::Unavailable, "STOPPING")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_watchers_cost_is_measured() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (world, node) = world().await;
    let mut watching = Watching::open(&world, &node, Open::default()).await;
    watching.next().await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(world.server.http_address)
        .await
        .unwrap();
    let ask = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    for line in [
        "taskmint_watch_connections 1",
        "taskmint_watch_checkpoints_total 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in {text}"
        );
    }
}
