//! A server of which there are two: both have its log and its keys, and tell different stories. A
//! relay that plays one and then the other is found out, and its verifiers close for good (P15).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::StatusCheck as _;
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::revocation_server::{Revocation, RevocationServer};
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{WatchRequest, WatchResponse};
use taskmint_wire::{admin, task};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::checkpoint::watching;
use crate::harness::World;
use crate::node::{Node, connect, reason};
use crate::public::{Workload, joined};
use crate::restore::until;
use crate::watching::{Watching, applied};

/// Longer than a verifier leaves a forked log alone.
const SOON: Duration = Duration::from_secs(60);

/// A relay between a verifier and two servers. Clones share what it plays.
#[derive(Clone)]
struct Relay {
    one: Channel,
    two: Channel,
    /// Whether heads of the second are played in place of all that the first one says.
    plays_two: Arc<AtomicBool>,
    /// How often a verifier came.
    opened: Arc<AtomicUsize>,
    /// How many heads of the first server passed.
    heads: Arc<AtomicUsize>,
}

type Passed = mpsc::Sender<Result<WatchResponse, Status>>;

impl Relay {
    async fn serve(node: &Node, one: &World, two: &World) -> (Self, PathBuf) {
        let trust_domain = "example.org".parse().unwrap();
        let channel = async |world: &World| {
            let address = world.server.watch_address.to_string();
            connect(&node.identity, &node.trust, &trust_domain, &address).await
        };
        let relay = Self {
            one: channel(one).await,
            two: channel(two).await,
            plays_two: Arc::default(),
            opened: Arc::default(),
            heads: Arc::default(),
        };
        let path = one.folder.path().join("relay.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let service = RevocationServer::new(relay.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        (relay, path)
    }

    /// Passes on what the first says, while that is played.
    async fn pass_one(self, mut frames: Streaming<WatchResponse>, out: Passed) {
        while let Some(frame) = frames.next().await {
            if self.plays_two.load(Ordering::SeqCst) {
                continue;
            }
            let is_head = |frame: &WatchResponse| matches!(frame.frame, Some(Frame::Head(_)));
            let passed = usize::from(frame.as_ref().is_ok_and(is_head));
            if out.send(frame).await.is_err() {
                return;
            }
            self.heads.fetch_add(passed, Ordering::SeqCst);
        }
    }

    /// Passes on the heads of the second, while they are played.
    async fn pass_two(self, mut frames: Streaming<WatchResponse>, out: Passed) {
        while let Some(Ok(frame)) = frames.next().await {
            let is_head = matches!(frame.frame, Some(Frame::Head(_)));
            if is_head
                && self.plays_two.load(Ordering::SeqCst)
                && out.send(Ok(frame)).await.is_err()
            {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Revocation for Relay {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let mut said = request.into_inner();
        let open = said.message().await?.unwrap();
        let (out, passed) = mpsc::channel(64);
        let client = |channel: &Channel| {
            RevocationClient::new(channel.clone()).max_decoding_message_size(16 << 20)
        };
        let rest = said.map_while(Result::ok);
        let of_one = futures::StreamExt::chain(tokio_stream::iter([open.clone()]), rest);
        let frames = client(&self.one).watch(of_one).await?.into_inner();
        tokio::spawn(self.clone().pass_one(frames, out.clone()));
        // It answers the same nonce: nothing about its heads is old. Who comes back with another
        // history than its own is sent away.
        let of_two =
            futures::StreamExt::chain(tokio_stream::iter([open]), futures::stream::pending());
        if let Ok(frames) = client(&self.two).watch(of_two).await {
            tokio::spawn(self.clone().pass_two(frames.into_inner(), out));
        }
        Ok(Response::new(ReceiverStream::new(passed)))
    }
}

/// What the operators are told, once they are.
async fn story(world: &mut World, reason: &str) -> admin::Denial {
    let told = async {
        loop {
            let request = admin::ListDenialsRequest { page_size: 100 };
            let listed = world.admin.list_denials(request).await.unwrap();
            let mut denials = listed.into_inner().denials.into_iter();
            if let Some(told) = denials.find(|denial| denial.reason == reason) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap()
}

async fn revoke(world: &mut World, of: &Workload) {
    let end = task::EndRequest {
        task_id: of.id.clone(),
        ..Default::default()
    };
    world.admin.revoke_task(end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_is_shown_two_histories_closes_and_stays_closed_while_the_log_goes_on() {
    let lines = "tasks.lease = \"1h\"\nrevocation.heartbeat = \"500ms\"";
    let mut world = World::durable(lines, Arc::new(SystemClock)).await;
    let mut node = joined(&mut world).await;
    let mut tasks = Vec::new();
    for pid in 1..8 {
        tasks.push(Workload::begin(&mut node, pid).await);
    }
    // Somebody copies the server's disk, and starts both.
    let away = world.go_away().await;
    let copy = away.twin();
    let mut world = away.come_back().await;
    let mut twin = copy.come_back().await;

    let (relay, path) = Relay::serve(&node, &world, &twin).await;
    let options = Options::new("example.org".parse().unwrap(), Source::Relay(path), "v");
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let watch = Watch::start(options, node.trust.clone(), clocks, entropy).unwrap();
    let live = tasks.pop().unwrap().binding();
    until(&watch, &live, None).await;

    // Of one position each has its own record; the first is further on.
    for over in &tasks[..3] {
        revoke(&mut world, over).await;
    }
    until(&watch, &tasks[2].binding(), Some("TASK_ENDED")).await;
    relay.plays_two.store(true, Ordering::SeqCst);
    revoke(&mut twin, &tasks[5]).await;
    until(&watch, &live, Some("LOG_FORKED")).await;

    // The server hears of it by the verifier's next connection, and need not take its word.
    let told = story(&mut world, "OTHER_HISTORY").await;
    assert!(told.message.ends_with("has proof of it"), "{told:?}");
    let shown = told
        .detail
        .iter()
        .filter(|line| line.starts_with("shown: position "));
    assert_eq!(shown.count(), 2, "{told:?}");

    // From here on the relay is honest again. The log goes on, and for anybody else it counts.
    relay.plays_two.store(false, Ordering::SeqCst);
    let (opened, heads) = (
        relay.opened.load(Ordering::SeqCst),
        relay.heads.load(Ordering::SeqCst),
    );
    revoke(&mut world, &tasks[3]).await;
    let fresh = watching(&world, &node, node.identity.clone(), Arc::new(SystemClocks));
    until(&fresh, &live, None).await;
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let came_back = async {
        // A new connection by itself, and heads of the first over it.
        while relay.opened.load(Ordering::SeqCst) == opened
            || relay.heads.load(Ordering::SeqCst) < heads + 1
        {
            looks.tick().await;
            let refused = watch.check(&live).unwrap_err();
            assert_eq!(refused.reason, "LOG_FORKED");
        }
    };
    tokio::time::timeout(SOON, came_back).await.unwrap();
    revoke(&mut world, &tasks[4]).await;
    until(&fresh, &tasks[4].binding(), Some("TASK_ENDED")).await;
    for _ in 0..200 {
        looks.tick().await;
        let refused = watch.check(&live).unwrap_err();
        assert_eq!(refused.reason, "LOG_FORKED");
    }
    fresh.check(&live).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_was_set_back_hears_so_from_who_comes_back() {
    let mut world = World::durable("tasks.lease = \"1h\"", Arc::new(SystemClock)).await;
    let mut node = joined(&mut world).await;
    let mut tasks = Vec::new();
    for pid in 1..9 {
        tasks.push(Workload::begin(&mut node, pid).await);
    }
    let away = world.go_away().await;
    let copy = away.twin();
    let mut world = away.come_back().await;
    for over in &tasks[..3] {
        revoke(&mut world, over).await;
    }
    let heard = applied(&world);
    let _first = world.stop().await;

    let mut old = copy.come_back().await;
    let come_back = async |old: &World| {
        let status = Watching::open(old, &node, heard.clone())
            .await
            .ending()
            .await;
        reason(&status)
    };
    assert_eq!(come_back(&old).await, "AHEAD_OF_LOG");
    story(&mut old, "AHEAD_OF_LOG").await;
    // It goes on, past where the watcher was: with other records.
    for over in &tasks[4..] {
        revoke(&mut old, over).await;
    }
    assert_eq!(come_back(&old).await, "OTHER_HISTORY");
    assert_eq!(old.server.issuer.watchers().contradictions(), 2);
}
