//! A revocation log without an issuer: real records, real chain, heads that a P-256 key has signed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use taskmint_fanout::{Admission, Allowance, Checkpoint, Head, Key, Source, Start};
use taskmint_model::{Clock as _, SystemClock, Timestamp};
use taskmint_status::record::{Cause, Change, Record};
use taskmint_status::{ChainHash, Generation, LogId, Millis, Slot, WallTime, head};
use taskmint_wire::revocation as wire;
use tonic::Status;

const LOG: LogId = LogId([7; 8]);

/// The bucket that all ends are in.
const BUCKET: u32 = 500_000;

/// One publication: records, and the head over them.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) first: u64,
    pub(crate) records: Bytes,
    pub(crate) head: Head,
}

/// Writes the log.
pub(crate) struct Writer {
    key: EcdsaKeyPair,
    certificate: Bytes,
    random: SystemRandom,
    sequence: u64,
    hash: ChainHash,
    newest: u64,
}

impl Writer {
    /// An empty log, signed by this key.
    pub(crate) fn new(pkcs8: &[u8], certificate: Vec<u8>) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
        Ok(Self {
            key: key.ok().context("not a key")?,
            certificate: certificate.into(),
            random: SystemRandom::new(),
            sequence: 0,
            hash: ChainHash::genesis(LOG, Generation::FIRST),
            newest: 0,
        })
    }

    /// The position of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.sequence + 1
    }

    /// Ends so many tasks.
    pub(crate) fn end(&mut self, count: u64) -> anyhow::Result<Event> {
        let first = self.sequence + 1;
        let mut records = Vec::new();
        for sequence in first..first + count {
            let mut task = [0; 16];
            task[..8].copy_from_slice(&sequence.to_be_bytes());
            let change = Change::End {
                slot: Slot::new(BUCKET, sequence).context("no slot")?,
                task,
                cause: Cause::COMPLETED,
            };
            let record = Record {
                sequence,
                epoch: 1,
                time: WallTime(self.newest),
                change,
            };
            let record = record.encode();
            self.hash = self.hash.then(&record);
            records.extend_from_slice(&record);
        }
        self.sequence += count;
        Ok(Event {
            first,
            records: records.into(),
            head: self.head(None)?,
        })
    }

    fn head(&mut self, nonce: Option<[u8; 16]>) -> anyhow::Result<Head> {
        self.newest = self.newest.max(SystemClock.now().millis());
        let says = head::Head {
            log: LOG,
            generation: Generation::FIRST,
            previous: None,
            epoch: 1,
            sequence: self.sequence,
            log_hash: self.hash,
            floor: 0,
            largest_limit_hours: 24,
            max_age: Millis(10_000),
            time: WallTime(self.newest),
            signer: head::SignerChain::default(),
            nonce,
        };
        let body = says.encode()?.to_vec();
        let signature = self.key.sign(&self.random, &body).ok();
        Ok(Head {
            sequence: self.sequence,
            at: Timestamp::from_millis(self.newest),
            body: body.into(),
            signature: signature.context("cannot sign")?.as_ref().to_vec().into(),
            key: Key {
                revision: 1,
                certificate: self.certificate.clone(),
            },
        })
    }
}

/// Lets everybody in.
pub(crate) struct Open;

/// A watcher's place: what it was sent, and what it has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Place {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Place {
    pub(crate) fn sent(&self, sequence: u64) {
        self.sent.store(sequence, Ordering::Relaxed);
    }

    /// # Errors
    /// For what was never sent, or goes back.
    pub(crate) fn acknowledge(&self, said: &wire::Acknowledge) -> Result<(), Status> {
        let sent = self.sent.load(Ordering::Relaxed);
        let before = self.acknowledged.swap(said.sequence, Ordering::Relaxed);
        if said.sequence > sent || said.sequence < before {
            return Err(Status::invalid_argument("never sent"));
        }
        Ok(())
    }
}

impl Source for Open {
    type Peer = ();
    type Watcher = Place;

    async fn open(&self, (): &(), open: wire::Open) -> Result<Admission<Place>, Status> {
        Ok(Admission {
            log: 0,
            watcher: Place::default(),
            start: Start::After(open.sequence),
            allowance: Allowance::workload(),
        })
    }

    async fn checkpoint(&self, _: u64) -> Result<Arc<Checkpoint>, Status> {
        Err(Status::internal("no watcher falls behind so far"))
    }

    async fn answer(&self, _: [u8; 16]) -> Result<Head, Status> {
        Err(Status::internal("no watcher asks"))
    }

    fn prompts(&self, _: &Place, _: u64) -> bool {
        false
    }

    fn sent(&self, place: &Place, sequence: u64) {
        place.sent(sequence);
    }

    fn acknowledge(&self, place: &Place, said: wire::Acknowledge) -> Result<(), Status> {
        place.acknowledge(&said)
    }
}

/// Anybody who has shown an SVID.
pub(crate) fn anybody(session: &rustls::ServerConnection) -> io::Result<()> {
    match session.peer_certificates() {
        Some([_, ..]) => Ok(()),
        _ => Err(io::Error::other("a watcher needs an svid")),
    }
}
