//! A relay that lies, over a real socket: whatever it does to the stream, its verifiers refuse an
//! ended task in time (P17). What each lie is found out by has its tests in `taskmint-status`; here
//! is shown that the watch which does the reading believes none of them either.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use taskmint_model::SystemEntropy;
use taskmint_status::BootTime;
use taskmint_verifier::StatusCheck as _;
use taskmint_verifier::tls::Trust;
use taskmint_verifier::watch::{Clocks as _, Options, Source, Watch};
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::revocation_server::{Revocation, RevocationServer};
use taskmint_wire::revocation::watch_response::Frame;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::log::{FakeLog, HandClocks, MAX_AGE};
use crate::world::World;

const SOON: Duration = Duration::from_secs(60);

/// What a relay does to what passes through it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    /// Records are altered: the end is another task's.
    Forge,
    /// Records don't arrive.
    Drop,
    /// Heads arrive before the records that they cover, and those after the next ones.
    Reorder,
    /// Heads say another time, under the signature that they had.
    Restamp,
    /// Everything arrives this much later.
    Delay(Duration),
    /// Everything arrives after this much more than the time since the lie began.
    Slow(f64),
    /// Nothing arrives any more, and the stream stays open.
    Freeze,
    /// The last head arrives again and again.
    Repeat,
}

/// A relay. Clones share what it lies.
#[derive(Clone)]
struct Relay {
    upstream: PathBuf,
    clocks: Arc<HandClocks>,
    /// And since when.
    lie: Arc<Mutex<(Lie, BootTime)>>,
}

/// What it holds back of one stream.
#[derive(Default)]
struct Held {
    /// With when each came.
    frames: VecDeque<(BootTime, wire::WatchResponse)>,
    last_head: Option<wire::WatchResponse>,
}

impl Relay {
    fn serve(log: &FakeLog, clocks: &Arc<HandClocks>, folder: &std::path::Path) -> (Self, PathBuf) {
        let relay = Self {
            upstream: log.serve_in(folder),
            clocks: Arc::clone(clocks),
            lie: Arc::new(Mutex::new((Lie::None, clocks.now().boot))),
        };
        let path = folder.join("relay.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let service = RevocationServer::new(relay.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        (relay, path)
    }

    fn lie(&self, lie: Lie) {
        *self.lie.lock() = (lie, self.clocks.now().boot);
    }

    async fn channel(&self) -> Channel {
        let endpoint = taskmint_client::Endpoint::Unix(self.upstream.clone());
        taskmint_client::connect(&endpoint).await.unwrap()
    }
}

impl Held {
    /// What a frame becomes, now or later.
    fn take(&mut self, frame: wire::WatchResponse, lie: Lie, now: BootTime) {
        let is_head = matches!(frame.frame, Some(Frame::Head(_)));
        let is_delta = matches!(frame.frame, Some(Frame::Delta(_)));
        if is_head {
            self.last_head = Some(frame.clone());
        }
        match lie {
            Lie::Freeze | Lie::Repeat => {}
            Lie::Drop if is_delta => {}
            Lie::Forge if is_delta => self.frames.push_back((now, altered(frame))),
            Lie::Restamp if is_head => self.frames.push_back((now, altered(frame))),
            Lie::Reorder if is_head => self.frames.push_front((now, frame)),
            _ => self.frames.push_back((now, frame)),
        }
    }

    /// What leaves now.
    fn give(&mut self, (lie, since): (Lie, BootTime), now: BootTime) -> Vec<wire::WatchResponse> {
        if lie == Lie::Repeat {
            return self.last_head.clone().into_iter().collect();
        }
        let elapsed = |since: BootTime| Duration::from_millis(now.since(since));
        let late = match lie {
            Lie::Delay(by) => by,
            Lie::Slow(by) => elapsed(since).mul_f64(by),
            // Until the next records are here.
            Lie::Reorder if self.frames.len() < 4 => return Vec::new(),
            _ => Duration::ZERO,
        };
        let mut given = Vec::new();
        while let Some((came, _)) = self.frames.front()
            && elapsed(*came) >= late
        {
            given.extend(self.frames.pop_front().map(|(_, frame)| frame));
        }
        given
    }
}

/// With one octet changed, and the same signature.
fn altered(mut response: wire::WatchResponse) -> wire::WatchResponse {
    let change = |octets: &Bytes, at: usize| {
        let mut octets = octets.to_vec();
        octets[at] ^= 1;
        Bytes::from(octets)
    };
    match &mut response.frame {
        // In the place of the task.
        Some(Frame::Delta(delta)) => delta.records = change(&delta.records, 40),
        Some(Frame::Head(head)) => head.body = change(&head.body, head.body.len() - 20),
        _ => {}
    }
    response
}

#[tonic::async_trait]
impl Revocation for Relay {
    type WatchStream = UnboundedReceiverStream<Result<wire::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut client = RevocationClient::new(self.channel().await);
        let said = request.into_inner().map_while(Result::ok);
        let frames = client.watch(said).await?.into_inner();
        let (out, passed) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().pass(frames, out));
        Ok(Response::new(UnboundedReceiverStream::new(passed)))
    }
}

impl Relay {
    async fn pass(
        self,
        frames: impl Stream<Item = Result<wire::WatchResponse, Status>> + Unpin,
        out: mpsc::UnboundedSender<Result<wire::WatchResponse, Status>>,
    ) {
        let mut frames = frames;
        let mut held = Held::default();
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    Some(Ok(frame)) => {
                        let lie = self.lie.lock().0;
                        held.take(frame, lie, self.clocks.now().boot);
                    }
                    _ => return,
                },
                () = out.closed() => return,
                _ = looks.tick() => {
                    let lie = *self.lie.lock();
                    for frame in held.give(lie, self.clocks.now().boot) {
                        if out.send(Ok(frame)).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// A verifier behind a relay that has been honest so far.
struct Stage {
    world: World,
    clocks: Arc<HandClocks>,
    log: FakeLog,
    relay: Relay,
    watch: Watch,
    _folder: tempfile::TempDir,
}

/// By when everybody refuses a task that has ended: the age that a head may have, and what clocks
/// may drift apart.
const BOUND: Duration = Duration::from_millis(MAX_AGE.as_millis() as u64 + 1_000);

impl Stage {
    async fn honest() -> Self {
        let world = World::new();
        let clocks = HandClocks::of(&world);
        let log = FakeLog::new(&world, &clocks);
        let folder = tempfile::tempdir().unwrap();
        let (relay, path) = Relay::serve(&log, &clocks, folder.path());
        let options = Options::new(world.trust_domain.clone(), Source::Relay(path), "test");
        let trust = Trust::new(world.bundles());
        let own = Arc::<HandClocks>::clone(&clocks);
        let watch = Watch::start(options, trust, own, Arc::new(SystemEntropy)).unwrap();
        tokio::time::timeout(SOON, watch.synced()).await.unwrap();
        Self {
            world,
            clocks,
            log,
            relay,
            watch,
            _folder: folder,
        }
    }

    fn accepts(&self) -> bool {
        self.watch.check(&self.world.binding(1)).is_ok()
    }

    /// Time goes on, with a heartbeat each second. What is to arrive has a moment for that; the
    /// less of it does, the sooner a verifier refuses.
    async fn pass(&self, span: Duration, each: impl Fn()) {
        for _ in 0..span.as_secs() {
            self.clocks.pass(Duration::from_secs(1));
            self.log.heartbeat();
            tokio::time::sleep(Duration::from_millis(5)).await;
            each();
        }
    }

    /// The task ends while the relay lies: nobody may accept it beyond the bound, ever again.
    async fn end(&self) {
        self.log.end(&self.world, 1);
        self.pass(BOUND, || ()).await;
        self.clocks.pass(Duration::from_millis(1));
        let (lie, _) = *self.relay.lie.lock();
        let refused = || assert!(!self.accepts(), "{lie:?}");
        refused();
        self.pass(Duration::from_secs(60), refused).await;
    }
}

#[tokio::test]
async fn an_honest_relay_keeps_its_verifiers_open_and_passes_an_end_on() {
    let stage = Stage::honest().await;
    let open = || assert!(stage.accepts());
    stage.pass(Duration::from_secs(60), open).await;
    stage.log.end(&stage.world, 1);
    let heard = async {
        while stage.accepts() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, heard).await.unwrap();
    let refused = stage.watch.check(&stage.world.binding(1)).unwrap_err();
    assert_eq!(refused.reason, "TASK_ENDED");
}

#[tokio::test]
async fn a_relay_that_forges_drops_or_reorders_hides_no_end_beyond_the_bound() {
    for lie in [Lie::Forge, Lie::Drop, Lie::Reorder, Lie::Restamp] {
        let stage = Stage::honest().await;
        stage.relay.lie(lie);
        stage.end().await;
    }
}

#[tokio::test]
async fn a_relay_that_freezes_or_repeats_hides_no_end_beyond_the_bound() {
    for lie in [Lie::Freeze, Lie::Repeat] {
        let stage = Stage::honest().await;
        stage.relay.lie(lie);
        assert!(stage.accepts(), "it has just heard");
        stage.end().await;
    }
}

#[tokio::test]
async fn a_relay_that_delays_steadily_is_late_for_no_end() {
    for by in [20, 40, 600] {
        let stage = Stage::honest().await;
        stage.relay.lie(Lie::Delay(Duration::from_secs(by)));
        // Heads come steadily by now, if at all.
        stage.pass(Duration::from_secs(90), || ()).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn a_relay_that_plays_slowly_falls_behind_no_further_than_the_bound() {
    for by in [0.1, 0.5] {
        let stage = Stage::honest().await;
        stage.relay.lie(Lie::Slow(by));
        stage.pass(Duration::from_secs(400), || ()).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn verifiers_come_back_when_their_relay_is_honest_again() {
    let stage = Stage::honest().await;
    stage.relay.lie(Lie::Freeze);
    stage.pass(BOUND * 2, || ()).await;
    assert!(!stage.accepts());
    stage.relay.lie(Lie::None);
    // Its connection was silent for long: the next one is made within some (real) seconds.
    let heard = async {
        while !stage.accepts() {
            stage.pass(Duration::from_secs(1), || ()).await;
        }
    };
    tokio::time::timeout(SOON, heard).await.unwrap();
}
