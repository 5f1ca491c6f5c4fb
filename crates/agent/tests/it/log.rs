//! A revocation log that plays its part: whole frames, with signatures that nobody made unless a
//! test has them signed.

use prost::Message as _;
use taskmint_model::{Clock as _, SystemClock, SystemEntropy};
use taskmint_status::extension::HEAD_SIGNING_OID;
use taskmint_status::{
    Cause, ChainHash, Change, Checkpoint, Generation, Head, LogId, Millis, Record, SignerChain,
    TaskBinding, WallTime,
};
use taskmint_testkit::{LeafSpec, TestCa, TestKey};
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
    /// Says nothing more, and answers nothing.
    pub(crate) mute: bool,
    restores: u8,
    sequence: u64,
    time: u64,
    signed: Option<Signed>,
}

/// What makes a log that a verifier believes: a key that the CA certified, the true hash, the true
/// time.
struct Signed {
    key: TestKey,
    certificate: Vec<u8>,
    hash: ChainHash,
    max_age: Millis,
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

    /// Signs everything from here on, under heads that count for `max_age`, in milliseconds.
    pub(crate) fn sign(&mut self, ca: &TestCa, max_age: u32) {
        let key = TestKey::generate(&SystemEntropy);
        let unused = taskmint_id::SpiffeId::new(ca.trust_domain(), "/unused").unwrap();
        let mut spec = LeafSpec::svid(&unused, SystemClock.now());
        spec.uris.clear();
        spec.common_name = Some("log key".to_owned());
        spec.extended_usages = vec![HEAD_SIGNING_OID.to_vec()];
        self.signed = Some(Signed {
            certificate: ca.certify(&spec, &key),
            key,
            hash: ChainHash::genesis(self.id(), self.generation()),
            max_age: Millis(max_age),
        });
    }

    fn hash(&self) -> ChainHash {
        let made_up = ChainHash([self.restores; 32]);
        self.signed.as_ref().map_or(made_up, |signed| signed.hash)
    }

    fn now(&self) -> WallTime {
        match &self.signed {
            Some(_) => WallTime(SystemClock.now().millis()),
            None => WallTime(1_000_000 + self.time),
        }
    }

    fn signature(&self, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        match &self.signed {
            Some(signed) => (signed.key.sign(body), signed.certificate.clone()),
            None => (vec![3; 64], b"certificate".to_vec()),
        }
    }

    pub(crate) fn head(&mut self, nonce: Option<[u8; 16]>) -> wire::Head {
        self.time += 1;
        let max_age = self.signed.as_ref().map(|signed| signed.max_age);
        let head = Head {
            log: self.id(),
            generation: self.generation(),
            previous: None,
            epoch: 1,
            sequence: self.sequence,
            log_hash: self.hash(),
            floor: 0,
            largest_limit_hours: 24,
            max_age: max_age.unwrap_or(Millis(30_000)),
            time: self.now(),
            signer: SignerChain::default(),
            nonce,
        };
        let body = head.encode().unwrap().to_vec();
        let (signature, certificate) = self.signature(&body);
        wire::Head {
            body: body.into(),
            signature: signature.into(),
            key_certificate: certificate.into(),
        }
    }

    fn checkpoint(&self) -> wire::Checkpoint {
        let checkpoint = Checkpoint {
            log: self.id(),
            generation: self.generation(),
            epoch: 1,
            sequence: self.sequence,
            log_hash: self.hash(),
            floor: 0,
            time: self.now(),
            signer: SignerChain::default(),
            buckets: Vec::new(),
        };
        let body = checkpoint.encode().unwrap();
        let (signature, certificate) = self.signature(&body);
        wire::Checkpoint {
            body: body.into(),
            signature: signature.into(),
            key_certificate: certificate.into(),
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

    /// Ends a task in a log that is signed, and tells everybody.
    pub(crate) fn end(&mut self, binding: &TaskBinding) {
        self.sequence += 1;
        let record = Record {
            sequence: self.sequence,
            epoch: 1,
            time: self.now(),
            change: Change::End {
                slot: binding.place.slot(),
                task: binding.task,
                cause: Cause::REVOKED,
            },
        };
        let octets = record.encode();
        let signed = self.signed.as_mut().unwrap();
        signed.hash = signed.hash.then(&octets);
        let delta = wire::Delta {
            records: octets.to_vec().into(),
            first: self.sequence,
            last: self.sequence,
        };
        self.tell(|| response(Frame::Delta(delta.clone()), false));
        let head = self.head(None);
        self.tell(|| response(Frame::Head(head.clone()), false));
    }

    /// Signs another past than the one that was told, and tells everybody.
    pub(crate) fn fork(&mut self) {
        self.signed.as_mut().unwrap().hash = ChainHash([9; 32]);
        let head = self.head(None);
        self.tell(|| response(Frame::Head(head.clone()), false));
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
        if self.mute {
            return;
        }
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
