//! The revocation service: frames out, acknowledgements in.
//!
//! One task for each watcher; what it sends is read from the log from its own cursor, so a slow
//! watcher costs a cursor and, once it is too far behind, a checkpoint. Never a queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_issuer::{Issuer, LogFrame, LogStart, SignedLog};
use taskmint_model::Timestamp;
use taskmint_status::Delta;
use taskmint_wire::BadField;
use taskmint_wire::revocation::revocation_server::Revocation;
use taskmint_wire::revocation::{self as wire, watch_request, watch_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::connection::Connection;
use crate::refusal::{deny, status};

/// How long a watcher may take to say what it wants.
const OPEN: Duration = Duration::from_secs(10);

/// How long a watcher may leave a frame unread before it is dropped.
const UNREAD: Duration = Duration::from_secs(60);

/// The least pause between two nonces of one watcher: each costs a signature.
const NONCE_PAUSE: Duration = Duration::from_millis(200);

/// Who follows the log, and how far.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Watcher>>,
}

/// One watcher as operators see it.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) name: String,
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_at: Timestamp,
    pub(crate) connected_at: Timestamp,
}

/// Takes a watcher off the list when dropped.
struct Listed {
    watchers: Arc<Watchers>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.watchers.open.lock().remove(&self.number);
    }
}

impl Watchers {
    /// Everybody who follows now.
    pub(crate) fn list(&self) -> Vec<Watcher> {
        let mut all: Vec<_> = self.open.lock().values().cloned().collect();
        all.sort_by(|a, b| (&a.spiffe_id, &a.name).cmp(&(&b.spiffe_id, &b.name)));
        all
    }

    pub(crate) fn count(&self) -> usize {
        self.open.lock().len()
    }

    fn enter(self: &Arc<Self>, watcher: Watcher, most: Most) -> Result<Listed, Status> {
        let mut open = self.open.lock();
        let same = open
            .values()
            .filter(|other| other.spiffe_id == watcher.spiffe_id)
            .count();
        if open.len() >= most.watchers || same >= most.per_identity {
            let message = "too many watchers; connect through the agent of the node";
            return Err(deny(Code::ResourceExhausted, "TOO_MANY_WATCHERS", message));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(number, watcher);
        Ok(Listed {
            watchers: Arc::clone(self),
            number,
        })
    }

    /// Acknowledgements are cumulative; one that goes back, or ahead of what was sent, is a fault
    /// of the watcher and ends its stream.
    fn acknowledge(&self, number: u64, sequence: u64, sent: u64, at: Timestamp) -> bool {
        match self.open.lock().get_mut(&number) {
            Some(watcher) if (watcher.acknowledged..=sent).contains(&sequence) => {
                watcher.acknowledged = sequence;
                watcher.acknowledged_at = at;
                true
            }
            _ => false,
        }
    }
}

/// How many watchers are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) watchers: usize,
    pub(crate) per_identity: usize,
    /// A watcher further behind than this gets a checkpoint.
    pub(crate) behind: u64,
}

/// The revocation service over an issuer.
#[derive(Clone)]
pub(crate) struct RevocationService {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) most: Most,
    pub(crate) stop: tokio_util::sync::CancellationToken,
}

#[tonic::async_trait]
impl Revocation for RevocationService {
    type WatchStream = ReceiverStream<Result<wire::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request
            .extensions()
            .get::<Connection>()
            .and_then(|c| c.peer.clone());
        let message = "a watcher needs an SVID of this trust domain";
        let peer = peer.ok_or_else(|| deny(Code::Unauthenticated, "NO_SVID", message))?;
        let (frames, stream) = mpsc::channel(8);
        let service = self.clone();
        let id = peer.spiffe_id.clone();
        tokio::spawn(async move {
            let stop = service.stop.clone();
            let follow = Follow::open(service, id, request.into_inner(), frames.clone());
            let outcome = tokio::select! {
                outcome = follow => outcome,
                () = stop.cancelled() => Err(deny(Code::Unavailable, "STOPPING", "the server stops")),
            };
            if let Err(status) = outcome {
                drop(frames.try_send(Err(status)));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One watcher being served.
struct Follow {
    issuer: Arc<Issuer>,
    frames: mpsc::Sender<Result<wire::WatchResponse, Status>>,
    /// Everything up to here was sent.
    cursor: u64,
    /// Time of the newest head that was sent.
    newest: Timestamp,
    /// Which certificate of the log's key was sent.
    key_sent: u64,
    behind: u64,
    listed: Listed,
}

impl Follow {
    async fn open(
        service: RevocationService,
        spiffe_id: SpiffeId,
        mut requests: Streaming<wire::WatchRequest>,
        frames: mpsc::Sender<Result<wire::WatchResponse, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(OPEN, requests.message()).await;
        let first =
            first.map_err(|_| deny(Code::DeadlineExceeded, "TOO_LATE", "no open came"))??;
        let Some(watch_request::Message::Open(open)) = first.and_then(|first| first.message) else {
            return Err(BadField::new("message", "the first must be an open").into());
        };
        taskmint_model::bounded("name", &open.name, 256).map_err(|e| BadField::new("name", e))?;
        let issuer = service.issuer;
        let now = issuer.now();
        let watcher = Watcher {
            spiffe_id,
            name: open.name.clone(),
            acknowledged: 0,
            acknowledged_at: now,
            connected_at: now,
        };
        let listed = service.watchers.enter(watcher, service.most)?;
        let behind = service.most.behind;
        let newest = Timestamp::default();
        let mut follow = Self {
            issuer,
            frames,
            cursor: 0,
            newest,
            key_sent: 0,
            behind,
            listed,
        };
        follow.begin(&open).await?;
        follow.follow(requests).await
    }

    /// Brings the watcher to the newest position, and answers its nonce.
    async fn begin(&mut self, open: &wire::Open) -> Result<(), Status> {
        let identity = self.issuer.store().identity();
        let same_log = *open.log_id == identity.log.0 && open.sequence > 0;
        let start = if same_log {
            self.issuer.resume_at(open.sequence).await.map_err(status)?
        } else {
            LogStart::Checkpoint
        };
        match start {
            LogStart::After(sequence) => self.cursor = sequence,
            LogStart::Checkpoint => self.send_checkpoint().await?,
        }
        let nonce = nonce(&open.nonce)?;
        self.send_head_for(nonce).await
    }

    async fn follow(mut self, mut requests: Streaming<wire::WatchRequest>) -> Result<(), Status> {
        let mut heads = self.issuer.heads();
        let mut last_nonce = tokio::time::Instant::now();
        loop {
            tokio::select! {
                changed = heads.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let head = heads.borrow_and_update().clone();
                    if let Some(head) = head {
                        self.send_up_to(&head).await?;
                    }
                }
                request = requests.message() => match request?.and_then(|r| r.message) {
                    Some(watch_request::Message::Acknowledge(ack)) => self.acknowledge(&ack)?,
                    Some(watch_request::Message::Nonce(wire::Nonce { nonce: octets })) => {
                        tokio::time::sleep_until(last_nonce + NONCE_PAUSE).await;
                        last_nonce = tokio::time::Instant::now();
                        self.send_head_for(nonce(&octets)?).await?;
                    }
                    Some(watch_request::Message::Open(_)) => {
                        return Err(BadField::new("message", "the stream is open already").into());
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    fn acknowledge(&self, ack: &wire::Acknowledge) -> Result<(), Status> {
        let at = self.issuer.now();
        let watchers = &self.listed.watchers;
        if watchers.acknowledge(self.listed.number, ack.sequence, self.cursor, at) {
            return Ok(());
        }
        let why = format!(
            "{} was never sent, or was acknowledged before",
            ack.sequence
        );
        Err(BadField::new("acknowledge.sequence", why).into())
    }

    async fn send_head_for(&mut self, nonce: Option<[u8; 16]>) -> Result<(), Status> {
        let head = self.issuer.sign_head(nonce).await.map_err(status)?;
        self.send_up_to(&head).await
    }

    /// Sends what the head covers, then the head.
    async fn send_up_to(&mut self, head: &Arc<SignedLog>) -> Result<(), Status> {
        if head.sequence < self.cursor || head.at < self.newest {
            // A nonce was answered at a later position meanwhile.
            return Ok(());
        }
        self.newest = head.at;
        let behind = head.sequence - self.cursor;
        let deltas = match behind {
            0 => Some(Vec::new()),
            _ if behind > self.behind => None,
            _ => self
                .issuer
                .deltas(self.cursor, head.sequence)
                .await
                .map_err(status)?,
        };
        match deltas {
            Some(deltas) => {
                for delta in deltas {
                    self.send(&delta).await?;
                }
                self.cursor = head.sequence;
                self.send(&LogFrame::Head(Arc::clone(head))).await
            }
            None => {
                self.send_checkpoint().await?;
                // The checkpoint stands at or after that head; the next one covers it.
                let head = self.issuer.sign_head(None).await.map_err(status)?;
                let deltas = self.issuer.deltas(self.cursor, head.sequence).await;
                for delta in deltas.map_err(status)?.unwrap_or_default() {
                    self.send(&delta).await?;
                }
                self.cursor = head.sequence;
                self.send(&LogFrame::Head(head)).await
            }
        }
    }

    async fn send_checkpoint(&mut self) -> Result<(), Status> {
        let checkpoint = self.issuer.checkpoint().await.map_err(status)?;
        if let LogFrame::Checkpoint { sequence, .. } = &checkpoint {
            self.cursor = *sequence;
        }
        self.send(&checkpoint).await
    }

    async fn send(&mut self, frame: &LogFrame) -> Result<(), Status> {
        let frame = match frame {
            LogFrame::Checkpoint {
                body,
                signature,
                maps,
                ..
            } => {
                let maps = maps.iter().map(|(bucket, data)| wire::Map {
                    bucket: *bucket,
                    data: Bytes::from(data.clone()),
                });
                let certificate = self.issuer.log_key_certificate().await.map_err(status)?;
                watch_response::Frame::Checkpoint(wire::Checkpoint {
                    body: Bytes::from(body.clone()),
                    signature: Bytes::from(signature.clone()),
                    key_certificate: Bytes::from(certificate),
                    maps: maps.collect(),
                })
            }
            LogFrame::Delta(records) => {
                let ends = (records.first(), records.last());
                let (first, last) = (
                    ends.0.map_or(0, |r| r.sequence),
                    ends.1.map_or(0, |r| r.sequence),
                );
                let delta = Delta::new(records.clone())
                    .map_err(|e| deny(Code::Internal, "FAULT", e.to_string()))?;
                let records = Bytes::from(delta.encode());
                watch_response::Frame::Delta(wire::Delta {
                    records,
                    first,
                    last,
                })
            }
            LogFrame::Head(head) => {
                let mut certificate = Vec::new();
                if self.key_sent != head.key_revision {
                    certificate = self.issuer.log_key_certificate().await.map_err(status)?;
                    self.key_sent = head.key_revision;
                }
                watch_response::Frame::Head(wire::Head {
                    body: Bytes::from(head.body.clone()),
                    signature: Bytes::from(head.signature.clone()),
                    key_certificate: Bytes::from(certificate),
                })
            }
        };
        let response = wire::WatchResponse {
            frame: Some(frame),
            prompt: false,
        };
        match tokio::time::timeout(UNREAD, self.frames.send(Ok(response))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the watcher went away")),
            Err(_) => Err(deny(
                Code::ResourceExhausted,
                "TOO_SLOW",
                "the watcher does not read",
            )),
        }
    }
}

fn nonce(octets: &[u8]) -> Result<Option<[u8; 16]>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    octets
        .try_into()
        .map(Some)
        .map_err(|_| BadField::new("nonce", "must have 16 octets"))
}
