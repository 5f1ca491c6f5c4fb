//! A revocation server with a log that a test writes, and clocks that a test moves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_model::Clock as _;
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::extension::HEAD_SIGNING_OID;
use taskmint_status::{
    BootTime, Cause, ChainHash, Change, Checkpoint, Delta, Generation, Head, Millis, Now, Record,
    SignerChain, Status, StatusMap, WallTime,
};
use taskmint_testkit::{LeafSpec, TestKey};
use taskmint_verifier::watch::Clocks;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::revocation_server::{Revocation, RevocationServer};
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Streaming};

use crate::world::{LOG, World};

pub(crate) const MAX_AGE: Duration = Duration::from_secs(30);

/// Both clocks, moved by hand; the server goes by the same wall clock unless a test moves it.
#[derive(Default)]
pub(crate) struct HandClocks {
    boot: AtomicU64,
    wall: AtomicU64,
}

impl HandClocks {
    pub(crate) fn of(world: &World) -> Arc<Self> {
        let clocks = Self::default();
        clocks.boot.store(5_000_000, Ordering::SeqCst);
        clocks
            .wall
            .store(world.clock.now().millis(), Ordering::SeqCst);
        Arc::new(clocks)
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.boot
            .fetch_add(span.as_millis() as u64, Ordering::SeqCst);
        self.jump(span);
    }

    pub(crate) fn jump(&self, span: Duration) {
        self.wall
            .fetch_add(span.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clocks for HandClocks {
    fn now(&self) -> Now {
        Now {
            boot: BootTime(self.boot.load(Ordering::SeqCst)),
            wall: WallTime(self.wall.load(Ordering::SeqCst)),
        }
    }
}

type Sender = mpsc::UnboundedSender<Result<wire::WatchResponse, tonic::Status>>;

struct Log {
    hour: u32,
    key: TestKey,
    certificate: Vec<u8>,
    records: Vec<Record>,
    hash: ChainHash,
    map: StatusMap,
    watchers: Vec<Sender>,
    heard: Vec<Message>,
    mute: bool,
}

/// The server. Clones share it.
#[derive(Clone)]
pub(crate) struct FakeLog {
    log: Arc<Mutex<Log>>,
    clocks: Arc<HandClocks>,
    news: watch::Sender<u64>,
}

impl FakeLog {
    pub(crate) fn new(world: &World, clocks: &Arc<HandClocks>) -> Self {
        let key = TestKey::generate(&world.entropy);
        let certificate = world.ca.certify(&log_key_spec(world), &key);
        Self::with_key(world, clocks, key, certificate)
    }

    pub(crate) fn with_key(
        world: &World,
        clocks: &Arc<HandClocks>,
        key: TestKey,
        certificate: Vec<u8>,
    ) -> Self {
        let log = Log {
            hour: world.now().hour(),
            key,
            certificate,
            records: Vec::new(),
            hash: ChainHash::genesis(LOG, Generation::FIRST),
            map: StatusMap::new(),
            watchers: Vec::new(),
            heard: Vec::new(),
            mute: false,
        };
        let (news, _) = watch::channel(0);
        Self {
            log: Arc::new(Mutex::new(log)),
            clocks: Arc::clone(clocks),
            news,
        }
    }

    /// Serves on a socket in `folder`.
    pub(crate) fn serve_in(&self, folder: &Path) -> PathBuf {
        let path = folder.join("log.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let server = tonic::transport::Server::builder().add_service(self.service());
        tokio::spawn(server.serve_with_incoming(incoming));
        path
    }

    pub(crate) fn service(&self) -> RevocationServer<Self> {
        RevocationServer::new(self.clone())
    }

    /// Ends the task of world's `binding(index)`: the record, then a head that covers it.
    pub(crate) fn end(&self, world: &World, index: u64) {
        let binding = world.binding(index);
        let (slot, task) = (binding.place.slot(), binding.task);
        self.write(Change::End {
            slot,
            task,
            cause: Cause::REVOKED,
        });
    }

    pub(crate) fn suspend(&self, world: &World, index: u64) {
        let binding = world.binding(index);
        self.write(Change::Suspend {
            slot: binding.place.slot(),
            task: binding.task,
        });
    }

    pub(crate) fn resume(&self, world: &World, index: u64) {
        let binding = world.binding(index);
        self.write(Change::Resume {
            slot: binding.place.slot(),
            task: binding.task,
        });
    }

    pub(crate) fn write(&self, change: Change) {
        let now = self.clocks.now().wall;
        let mut log = self.log.lock();
        let record = log.append(change, now);
        let head = log.head(None, now);
        log.send(delta(&[record]), true);
        log.send(head, false);
    }

    pub(crate) fn heartbeat(&self) {
        let mut log = self.log.lock();
        let head = log.head(None, self.clocks.now().wall);
        log.send(head, false);
    }

    /// Sends nothing more, and answers nothing.
    pub(crate) fn mute(&self, mute: bool) {
        self.log.lock().mute = mute;
    }

    /// Breaks all streams off.
    pub(crate) fn hang_up(&self) {
        self.log.lock().watchers.clear();
    }

    /// Waits until the watcher has said something for which `wanted` has an answer.
    pub(crate) async fn heard<T>(&self, wanted: impl Fn(&Message) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        loop {
            if let Some(found) = self.log.lock().heard.iter().rev().find_map(&wanted) {
                return found;
            }
            news.changed().await.unwrap();
        }
    }

    pub(crate) fn forget_heard(&self) {
        self.log.lock().heard.clear();
    }

    fn hear(&self, message: Message, watcher: &Sender) {
        let now = self.clocks.now().wall;
        let mut log = self.log.lock();
        log.heard.push(message.clone());
        self.news.send_modify(|count| *count += 1);
        if log.mute {
            return;
        }
        let answer = match &message {
            Message::Open(open) => {
                log.watchers.push(watcher.clone());
                let known = open.sequence as usize;
                if open.log_hash.is_empty() {
                    send(watcher, log.checkpoint(now), false);
                } else if known < log.records.len() {
                    send(watcher, delta(&log.records[known..]), false);
                }
                &open.nonce
            }
            Message::Nonce(nonce) => &nonce.nonce,
            Message::Acknowledge(_) => return,
        };
        let nonce = answer.as_ref().try_into().unwrap();
        send(watcher, log.head(Some(nonce), now), false);
    }
}

impl Log {
    fn append(&mut self, change: Change, now: WallTime) -> Record {
        let sequence = self.records.len() as u64 + 1;
        let record = Record {
            sequence,
            epoch: 1,
            time: now,
            change,
        };
        self.hash = self.hash.then(&record.encode());
        self.records.push(record);
        let (slot, status) = match change {
            Change::End { slot, .. } => (slot, Status::Ended),
            Change::Suspend { slot, .. } => (slot, Status::Suspended),
            Change::Resume { slot, .. } => (slot, Status::Valid),
            _ => return record,
        };
        if self.map.get(slot.index()) != Status::Ended {
            self.map.set(slot.index(), status).unwrap();
        }
        record
    }

    fn head(&self, nonce: Option<[u8; 16]>, now: WallTime) -> Frame {
        let head = Head {
            log: LOG,
            generation: Generation::FIRST,
            previous: None,
            epoch: 1,
            sequence: self.records.len() as u64,
            log_hash: self.hash,
            floor: self.hour,
            largest_limit_hours: 24,
            max_age: Millis(MAX_AGE.as_millis() as u32),
            time: now,
            signer: SignerChain::default(),
            nonce,
        };
        let body = head.encode().unwrap().to_vec();
        let signature = self.key.sign(&body).into();
        // Only an answer to a nonce names the key: the rest of the stream goes by that one.
        let key_certificate = nonce
            .map(|_| self.certificate.clone())
            .unwrap_or_default()
            .into();
        Frame::Head(wire::Head {
            body: body.into(),
            signature,
            key_certificate,
        })
    }

    fn checkpoint(&self, now: WallTime) -> Frame {
        let maps: BTreeMap<u32, &StatusMap> = [(self.hour, &self.map)].into_iter().collect();
        let digests = maps
            .iter()
            .filter_map(|(hour, map)| BucketDigest::of(*hour, map));
        let checkpoint = Checkpoint {
            log: LOG,
            generation: Generation::FIRST,
            epoch: 1,
            sequence: self.records.len() as u64,
            log_hash: self.hash,
            floor: self.hour,
            time: now,
            signer: SignerChain::default(),
            buckets: digests.collect(),
        };
        let body = checkpoint.encode().unwrap();
        let packed = |digest: &BucketDigest| wire::Map {
            bucket: digest.bucket,
            data: self.map.pack().into(),
        };
        Frame::Checkpoint(wire::Checkpoint {
            signature: self.key.sign(&body).into(),
            body: body.into(),
            key_certificate: self.certificate.clone().into(),
            maps: checkpoint.buckets.iter().map(packed).collect(),
        })
    }

    fn send(&mut self, frame: Frame, prompt: bool) {
        if !self.mute {
            self.watchers
                .retain(|watcher| send(watcher, frame.clone(), prompt));
        }
    }
}

fn send(watcher: &Sender, frame: Frame, prompt: bool) -> bool {
    watcher
        .send(Ok(wire::WatchResponse {
            frame: Some(frame),
            prompt,
        }))
        .is_ok()
}

fn delta(records: &[Record]) -> Frame {
    let delta = Delta::new(records.to_vec()).unwrap();
    let (first, last) = (records[0].sequence, records[records.len() - 1].sequence);
    Frame::Delta(wire::Delta {
        records: delta.encode().into(),
        first,
        last,
    })
}

pub(crate) fn log_key_spec(world: &World) -> LeafSpec {
    let mut spec = world.spec("/unused");
    spec.uris.clear();
    spec.common_name = Some("log key".to_owned());
    spec.extended_usages = vec![HEAD_SIGNING_OID.to_vec()];
    spec.not_after = world.now() + Duration::from_secs(24 * 3600);
    spec
}

#[tonic::async_trait]
impl Revocation for FakeLog {
    type WatchStream = UnboundedReceiverStream<Result<wire::WatchResponse, tonic::Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, tonic::Status> {
        let (sender, frames) = mpsc::unbounded_channel();
        let server = self.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            // Held by the register once it is in there, so that hanging up ends the stream.
            let (mut own, weak) = (Some(sender.clone()), sender.downgrade());
            drop(sender);
            while let Ok(Some(request)) = requests.message().await {
                let Some(sender) = weak.upgrade() else { return };
                server.hear(request.message.unwrap(), &sender);
                if !server.log.lock().mute {
                    own = None;
                }
            }
            drop(own);
        });
        Ok(Response::new(UnboundedReceiverStream::new(frames)))
    }
}

/// A stream of the test's own as tonic takes it.
pub(crate) struct Plain<S>(pub(crate) S);

impl<S> Connected for Plain<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
