//! A revocation log that plays its part: whole frames with signatures that nobody made.

use prost::Message as _;
use taskmint_status::{
    ChainHash, Checkpoint, Generation, Head, LogId, Millis, SignerChain, WallTime,
};
use taskmint_wire::revocation::revocation_server::Revocation;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{self as wire, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::fake::Fake;

pub(crate) type Answer = Result<WatchResponse, Status>;

/// The log, who follows it, and what was said.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) opened: Vec<wire::Open>,
    pub(crate) nonces: Vec<Vec<u8>>,
    pub(crate) acknowledged: Vec<wire::Acknowledge>,
    /// Streams that nobody has left.
    pub(crate) streams: Vec<mpsc::UnboundedSender<Answer>>,
    pub(crate) refuse: Option<Status>,
    restores: u8,
    sequence: u64,
    time: u64,
}

pub(crate) fn record(number: u64) -> [u8; 64] {
    let mut record = [0; 64];
    record[8..16].copy_from_slice(&number.to_be_bytes());
    record
}

fn response(frame: Frame, prompt: bool) -> Answer {
    Ok(WatchResponse {
        frame: Some(frame),
        prompt,
    })
}

impl Log {
    fn generation(&self) -> Generation {
        Generation::new(1 + self.restores).unwrap()
    }

    fn id(&self) -> LogId {
        LogId([1 + self.restores; 8])
    }

    pub(crate) fn head(&mut self, nonce: Option<[u8; 16]>) -> wire::Head {
        self.time += 1;
        let head = Head {
            log: self.id(),
            generation: self.generation(),
            previous: None,
            epoch: 1,
            sequence: self.sequence,
            log_hash: ChainHash([self.restores; 32]),
            floor: 0,
            largest_limit_hours: 24,
            max_age: Millis(30_000),
            time: WallTime(1_000_000 + self.time),
            signer: SignerChain::default(),
            nonce,
        };
        wire::Head {
            body: head.encode().unwrap().to_vec().into(),
            signature: vec![3; 64].into(),
            key_certificate: b"certificate".to_vec().into(),
        }
    }

    fn checkpoint(&self) -> wire::Checkpoint {
        let checkpoint = Checkpoint {
            log: self.id(),
            generation: self.generation(),
            epoch: 1,
            sequence: self.sequence,
            log_hash: ChainHash([self.restores; 32]),
            floor: 0,
            time: WallTime(1_000_000 + self.time),
            signer: SignerChain::default(),
            buckets: Vec::new(),
        };
        wire::Checkpoint {
            body: checkpoint.encode().unwrap().into(),
            signature: vec![3; 64].into(),
            key_certificate: b"certificate".to_vec().into(),
            maps: Vec::new(),
        }
    }

    fn tell(&mut self, answer: impl Fn() -> Answer) {
        self.streams.retain(|stream| stream.send(answer()).is_ok());
    }

    /// Adds records, and tells everybody.
    pub(crate) fn grow(&mut self, by: u64, prompt: bool) {
        let first = self.sequence + 1;
        self.sequence += by;
        let last = self.sequence;
        let records: Vec<_> = (first..=last).flat_map(record).collect();
        let delta = wire::Delta {
            records: records.into(),
            first,
            last,
        };
        self.tell(|| response(Frame::Delta(delta.clone()), false));
        let head = self.head(None);
        self.tell(|| response(Frame::Head(head.clone()), prompt));
    }

    /// Sends something to everybody that is no part of the log.
    pub(crate) fn blurt(&mut self, frame: &Frame) {
        self.tell(|| response(frame.clone(), false));
    }

    /// Another log takes its place.
    pub(crate) fn restore(&mut self) {
        self.restores += 1;
        self.sequence += 10;
        self.streams.clear();
    }

    fn open(&mut self, open: wire::Open, stream: &mpsc::UnboundedSender<Answer>) {
        let same = *open.log_id == self.id().0;
        if same && open.sequence > 0 {
            let first = open.sequence + 1;
            let records: Vec<_> = (first..=self.sequence).flat_map(record).collect();
            if !records.is_empty() {
                let delta = wire::Delta {
                    records: records.into(),
                    first,
                    last: self.sequence,
                };
                drop(stream.send(response(Frame::Delta(delta), false)));
            }
        } else {
            drop(stream.send(response(Frame::Checkpoint(self.checkpoint()), false)));
        }
        let head = self.head(None);
        drop(stream.send(response(Frame::Head(head), false)));
        self.opened.push(open);
        self.streams.push(stream.clone());
    }

    fn hear(&mut self, said: WatchRequest, stream: &mpsc::UnboundedSender<Answer>) {
        match said.message.unwrap() {
            Message::Open(open) => self.open(open, stream),
            Message::Acknowledge(said) => self.acknowledged.push(said),
            Message::Nonce(asked) => {
                self.nonces.push(asked.nonce.to_vec());
                let nonce = asked.nonce.as_ref().try_into().unwrap();
                let head = self.head(Some(nonce));
                drop(stream.send(response(Frame::Head(head), false)));
            }
        }
    }
}

#[tonic::async_trait]
impl Revocation for Fake {
    type WatchStream = UnboundedReceiverStream<Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if let Some(refused) = self.state(|state| state.log.refuse.clone()) {
            return Err(refused);
        }
        let (out, frames) = mpsc::unbounded_channel();
        let (fake, out) = (self.clone(), out);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                assert!(request.encoded_len() < 64 << 10);
                fake.state(|state| state.log.hear(request, &out));
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(frames)))
    }
}
