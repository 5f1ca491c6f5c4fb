//! A log without an issuer: heads that say what they are, records that say where they belong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use taskmint_fanout::{
    Admission, Allowance, Checkpoint, Fanout, Feed, Head, Key, Settings, Source, Start,
};
use taskmint_model::Timestamp;
use taskmint_wire::{Denied, revocation as wire};
use tokio::sync::Notify;
use tonic::{Code, Status};

/// A log that a test writes by hand.
pub(crate) struct Log {
    pub(crate) feed: Feed,
    /// The time of the newest head: it goes up with each.
    time: AtomicU64,
    pub(crate) revision: AtomicU64,
    /// What the newest checkpoint covers.
    pub(crate) checkpoint: AtomicU64,
    /// Octets of each checkpoint, at least.
    pub(crate) checkpoint_octets: AtomicUsize,
    made: Mutex<Option<(u64, Arc<Checkpoint>)>>,
    pub(crate) acknowledged: Mutex<BTreeMap<String, u64>>,
    pub(crate) sent: Mutex<BTreeMap<String, u64>>,
    /// Positions up to here are waited for.
    pub(crate) wanted: AtomicU64,
    pub(crate) most: AtomicUsize,
    /// Heads for nonces are signed when this is notified, if set.
    pub(crate) slow_signer: Mutex<Option<Arc<Notify>>>,
    pub(crate) signed: AtomicU64,
    open: Arc<AtomicUsize>,
    /// Heads are signed one after the other.
    signing: Mutex<()>,
}

pub(crate) struct Place {
    pub(crate) name: String,
    open: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn record(sequence: u64) -> [u8; 64] {
    let mut record = [0; 64];
    record[..8].copy_from_slice(&sequence.to_be_bytes());
    record
}

pub(crate) fn records(from: u64, to: u64) -> Vec<u8> {
    (from..=to).flat_map(record).collect()
}

impl Log {
    /// A log that starts after `position`, and keeps `keep` records.
    pub(crate) fn new(position: u64, keep: u64) -> Arc<Self> {
        let log = Self {
            feed: Feed::new(position, keep),
            time: AtomicU64::new(1),
            revision: AtomicU64::new(1),
            checkpoint: AtomicU64::new(position),
            checkpoint_octets: AtomicUsize::new(16),
            made: Mutex::default(),
            acknowledged: Mutex::default(),
            sent: Mutex::default(),
            wanted: AtomicU64::new(0),
            most: AtomicUsize::new(usize::MAX),
            slow_signer: Mutex::default(),
            signed: AtomicU64::new(0),
            open: Arc::default(),
            signing: Mutex::default(),
        };
        Arc::new(log)
    }

    pub(crate) fn fanout(self: &Arc<Self>, settings: Settings) -> Fanout<Self> {
        Fanout::new(Arc::clone(self), self.feed.clone(), settings)
    }

    /// Appends so many records, and tells everybody.
    pub(crate) fn end(&self, count: u64) -> u64 {
        let _signing = self.signing.lock();
        let from = self.feed.position();
        let head = self.head(from + count, None);
        self.feed
            .publish(&records(from + 1, from + count), head)
            .unwrap();
        from + count
    }

    /// A head over `sequence`, a millisecond after the one before.
    pub(crate) fn head(&self, sequence: u64, nonce: Option<[u8; 16]>) -> Head {
        let at = self.time.fetch_add(1, Ordering::SeqCst) + 1;
        let mut body = sequence.to_be_bytes().to_vec();
        body.extend(at.to_be_bytes());
        body.extend(nonce.unwrap_or_default());
        let revision = self.revision.load(Ordering::SeqCst);
        Head {
            sequence,
            at: Timestamp::from_millis(at),
            body: body.into(),
            signature: vec![9; 64].into(),
            key: Key {
                revision,
                certificate: revision.to_be_bytes().to_vec().into(),
            },
        }
    }

    /// How many watchers are let in at present.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Source for Log {
    type Peer = &'static str;
    type Watcher = Place;

    async fn open(
        &self,
        peer: &&'static str,
        open: wire::Open,
    ) -> Result<Admission<Place>, Status> {
        if self.open() >= self.most.load(Ordering::SeqCst) {
            let many = Denied::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", "too many");
            return Err(many.into());
        }
        let newest = self.feed.position();
        if open.sequence > newest {
            let ahead = Denied::new(Code::FailedPrecondition, "AHEAD_OF_LOG", "not written yet");
            return Err(ahead.into());
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        let relay = *peer == "relay";
        Ok(Admission {
            log: 0,
            watcher: Place {
                name: open.name,
                open: Arc::clone(&self.open),
            },
            start: match open.sequence {
                0 => Start::Checkpoint,
                sequence => Start::After(sequence),
            },
            allowance: if relay {
                Allowance::relay()
            } else {
                Allowance::workload()
            },
        })
    }

    async fn checkpoint(&self, least: u64) -> Result<Arc<Checkpoint>, Status> {
        let sequence = self.checkpoint.load(Ordering::SeqCst).max(least);
        let revision = self.revision.load(Ordering::SeqCst);
        let mut made = self.made.lock();
        if let Some((at, made)) = &*made
            && (*at, made.sequence) == (revision, sequence)
        {
            return Ok(Arc::clone(made));
        }
        let mut body = sequence.to_be_bytes().to_vec();
        body.resize(self.checkpoint_octets.load(Ordering::SeqCst).max(8), 0);
        let message = wire::Checkpoint {
            body: body.into(),
            key_certificate: revision.to_be_bytes().to_vec().into(),
            ..Default::default()
        };
        let new = Arc::new(Checkpoint::new(sequence, revision, message));
        *made = Some((revision, Arc::clone(&new)));
        Ok(new)
    }

    async fn answer(&self, nonce: [u8; 16]) -> Result<Head, Status> {
        let slow = self.slow_signer.lock().clone();
        let head = {
            let _signing = self.signing.lock();
            self.head(self.feed.position(), Some(nonce))
        };
        if let Some(slow) = slow {
            slow.notified().await;
        }
        self.signed.fetch_add(1, Ordering::SeqCst);
        Ok(head)
    }

    fn prompts(&self, place: &Place, sequence: u64) -> bool {
        let wanted = self.wanted.load(Ordering::SeqCst);
        let acknowledged = self.acknowledged.lock().get(&place.name).copied();
        wanted <= sequence && acknowledged.unwrap_or(0) < wanted
    }

    fn sent(&self, place: &Place, sequence: u64) {
        self.sent.lock().insert(place.name.clone(), sequence);
    }

    fn acknowledge(&self, place: &Place, said: wire::Acknowledge) -> Result<(), Status> {
        let sent = self.sent.lock().get(&place.name).copied().unwrap_or(0);
        if said.sequence > sent {
            let never = Denied::new(Code::InvalidArgument, "NEVER_SENT", "it was never sent");
            return Err(never.into());
        }
        self.acknowledged
            .lock()
            .insert(place.name.clone(), said.sequence);
        Ok(())
    }
}
