//! The revocation service: frames out, acknowledgements in.
//!
//! One task for each watcher; what it sends is read from the log from its own cursor, so a slow
//! watcher costs a cursor and, once it is too far behind, a checkpoint. Never a queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use taskmint_id::{Kind, SpiffeId};
use taskmint_issuer::watchers::{self, Acknowledge, Introduced, Listed, NewWatcher, Relayed};
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

/// How many watchers are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) watchers: watchers::Most,
    /// A watcher further behind than this gets a checkpoint.
    pub(crate) behind: u64,
}

/// The revocation service over an issuer.
#[derive(Clone)]
pub(crate) struct RevocationService {
    pub(crate) issuer: Arc<Issuer>,
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
        let watcher = NewWatcher {
            is_node: spiffe_id.kind() == Kind::Node,
            waited_for: issuer.waits_for(&spiffe_id),
            spiffe_id,
            name: open.name.clone(),
            instance: octets("instance", &open.instance)?,
        };
        let listed = issuer.watchers().enter(watcher, service.most.watchers, now);
        let listed = listed.map_err(|too_many| {
            deny(
                Code::ResourceExhausted,
                "TOO_MANY_WATCHERS",
                too_many.to_string(),
            )
        })?;
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
                    Some(watch_request::Message::Acknowledge(ack)) => self.acknowledge(ack)?,
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

    fn acknowledge(&self, ack: wire::Acknowledge) -> Result<(), Status> {
        let relayed = ack.relayed.into_iter().map(|one| self.relayed(one));
        let said = Acknowledge {
            sequence: ack.sequence,
            relayed: relayed.collect::<Result<_, _>>()?,
            relayed_sequence: ack.relayed_sequence,
        };
        let taken = self.listed.acknowledge(&said, self.issuer.now());
        taken.map_err(|why| BadField::new("acknowledge", why).into())
    }

    fn relayed(&self, one: wire::Relayed) -> Result<Relayed, BadField> {
        let who = match &*one.spiffe_id {
            "" => None,
            text => {
                let id = SpiffeId::parse(text);
                let id = id.map_err(|e| BadField::new("acknowledge.relayed.spiffe_id", e))?;
                Some(Introduced {
                    waited_for: one.waited_for || self.issuer.waits_for(&id),
                    spiffe_id: id,
                    name: one.name,
                })
            }
        };
        Ok(Relayed {
            number: one.number,
            who,
            sequence: one.sequence,
            left: one.left,
        })
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
        let wanted = self.issuer.watchers().wanted();
        let response = wire::WatchResponse {
            frame: Some(frame),
            prompt: wanted > self.listed.acknowledged() && wanted <= self.cursor,
        };
        self.listed.sent(self.cursor);
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

fn nonce(nonce: &[u8]) -> Result<Option<[u8; 16]>, BadField> {
    octets("nonce", nonce)
}

fn octets(field: &'static str, octets: &[u8]) -> Result<Option<[u8; 16]>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    octets
        .try_into()
        .map(Some)
        .map_err(|_| BadField::new(field, "must have 16 octets"))
}
