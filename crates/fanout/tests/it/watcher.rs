//! A watcher that is an ordinary gRPC client, and holds what it hears against what it may hear.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use taskmint_fanout::{Lane, Source};
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{Acknowledge, Nonce, Open, WatchRequest, WatchResponse};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A client on a duplex pipe to a lane.
pub(crate) async fn client<S: Source>(
    lane: &Lane<S>,
    peer: S::Peer,
    endpoint: Endpoint,
) -> RevocationClient<Channel> {
    let (near, far) = tokio::io::duplex(64 << 10);
    lane.serve(far, peer);
    over(near, endpoint).await
}

pub(crate) async fn over<IO>(io: IO, endpoint: Endpoint) -> RevocationClient<Channel>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_| {
        let io = io.take().ok_or_else(|| std::io::Error::other("once only"));
        std::future::ready(io)
    });
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    RevocationClient::new(channel).max_decoding_message_size(64 << 20)
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://watch")
}

/// A watch, and what it has heard.
pub(crate) struct Watcher {
    pub(crate) requests: mpsc::UnboundedSender<WatchRequest>,
    pub(crate) frames: Streaming<WatchResponse>,
    pub(crate) heard: Heard,
}

/// What a watcher has heard; anything out of order ends the test.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Records up to here.
    pub(crate) sequence: Option<u64>,
    /// The newest head's position.
    pub(crate) head: Option<u64>,
    pub(crate) at: u64,
    pub(crate) heads: usize,
    pub(crate) checkpoints: usize,
    pub(crate) deltas: usize,
    pub(crate) nonces: Vec<[u8; 16]>,
    /// Which keys were named, in order.
    pub(crate) keys: Vec<u64>,
    pub(crate) prompts: Vec<u64>,
}

pub(crate) fn open(name: &str, sequence: u64) -> Open {
    Open {
        name: name.to_owned(),
        sequence,
        ..Default::default()
    }
}

pub(crate) fn said(message: Message) -> WatchRequest {
    WatchRequest {
        message: Some(message),
    }
}

impl Watcher {
    pub(crate) async fn open(client: &mut RevocationClient<Channel>, open: Open) -> Self {
        let (requests, stream) = mpsc::unbounded_channel();
        let heard = Heard {
            sequence: Some(open.sequence).filter(|sequence| *sequence > 0),
            ..Heard::default()
        };
        requests.send(said(Message::Open(open))).unwrap();
        let frames = client.watch(UnboundedReceiverStream::new(stream)).await;
        Self {
            requests,
            frames: frames.unwrap().into_inner(),
            heard,
        }
    }

    pub(crate) fn acknowledge(&self, sequence: u64) {
        let message = Acknowledge {
            sequence,
            ..Default::default()
        };
        self.requests
            .send(said(Message::Acknowledge(message)))
            .unwrap();
    }

    pub(crate) fn nonce(&self, nonce: [u8; 16]) {
        let nonce = nonce.to_vec().into();
        let message = Message::Nonce(Nonce { nonce });
        self.requests.send(said(message)).unwrap();
    }

    /// Listens until it has a head at or beyond `sequence`.
    pub(crate) async fn until(&mut self, sequence: u64) {
        let heard = self.listen(|heard| heard.head >= Some(sequence)).await;
        heard.unwrap();
    }

    /// Listens until `enough`, or until the stream ends.
    pub(crate) async fn listen(&mut self, enough: impl Fn(&Heard) -> bool) -> Result<(), Status> {
        let listen = async {
            while !enough(&self.heard) {
                match self.frames.message().await? {
                    Some(frame) => self.heard.take(frame),
                    None => return Err(Status::ok("the stream ended")),
                }
            }
            Ok(())
        };
        tokio::time::timeout(SOON, listen).await.unwrap()
    }

    /// Listens until the stream ends; how it did.
    pub(crate) async fn ending(&mut self) -> Status {
        self.listen(|_| false).await.unwrap_err()
    }
}

impl Heard {
    fn take(&mut self, response: WatchResponse) {
        match response.frame.unwrap() {
            Frame::Checkpoint(checkpoint) => {
                self.checkpoints += 1;
                let sequence = u64::from_be_bytes(checkpoint.body[..8].try_into().unwrap());
                assert!(
                    self.sequence.is_none_or(|had| had <= sequence),
                    "it leads back"
                );
                self.sequence = Some(sequence);
                self.key(&checkpoint.key_certificate);
            }
            Frame::Delta(delta) => {
                self.deltas += 1;
                assert!(!delta.records.is_empty() && delta.records.len() <= 4096 * 64);
                let mut next = self.sequence.expect("a start") + 1;
                assert_eq!(delta.first, next, "a gap, or twice");
                for record in delta.records.chunks(64) {
                    assert_eq!(record[..8], next.to_be_bytes(), "a gap, or twice");
                    next += 1;
                }
                assert_eq!(delta.last, next - 1);
                self.sequence = Some(next - 1);
            }
            Frame::Head(head) => {
                let number =
                    |at: usize| u64::from_be_bytes(head.body[at..at + 8].try_into().unwrap());
                let (sequence, at) = (number(0), number(8));
                assert_eq!(
                    Some(sequence),
                    self.sequence,
                    "the head is not where the records end"
                );
                assert!(at >= self.at, "time goes back");
                (self.head, self.at) = (Some(sequence), at);
                self.heads += 1;
                let nonce: [u8; 16] = head.body[16..32].try_into().unwrap();
                if nonce != [0; 16] {
                    self.nonces.push(nonce);
                }
                self.key(&head.key_certificate);
                if response.prompt {
                    self.prompts.push(sequence);
                }
            }
        }
    }

    fn key(&mut self, certificate: &[u8]) {
        if !certificate.is_empty() {
            self.keys
                .push(u64::from_be_bytes(certificate.try_into().unwrap()));
        }
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason(status: &Status) -> String {
    taskmint_wire::denial_of(status).map_or_else(|| format!("{status:?}"), |(reason, _)| reason)
}

/// Waits until something is so.
pub(crate) async fn becomes(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap();
}

/// A pipe, for those who speak HTTP/2 by hand.
pub(crate) fn pipe<S: Source>(lane: &Lane<S>, peer: S::Peer, room: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(room);
    lane.serve(far, peer);
    near
}
