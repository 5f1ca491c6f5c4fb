//! The real bytes of what the model speaks of, and the real watcher that is given them.
//!
//! Every record, head and checkpoint is a function of the model's value: the same history has the
//! same bytes, so that signatures are made and checked once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha256};
use taskmint_status::checkpoint::{BucketDigest, PackedMap};
use taskmint_status::head::SIGNATURE_LEN;
use taskmint_status::place::HOUR_MS;
use taskmint_status::record::ChainHash;
use taskmint_status::{
    self as status, BootTime, Cause, Change, Checkpoint, Config, Delta, Generation, HeadKeys,
    KeyId, LogId, Millis, Now, SignedCheckpoint, SignedHead, SignerChain, Slot, StatusMap,
    StatusView, Verdict, WallTime, Watcher,
};

use crate::history::{Bucket, Chain, Head, Place, Record, Statuses};
use crate::{Frame, MAX_AGE, Tick};

/// Milliseconds in a tick: well above the drift allowance of a second, which the model has none of.
const TICK: u64 = 10_000;
/// The first of the model's two hours.
const HOUR: u32 = 495_000;
/// Where in its hour each place is: not in the first chunk.
const INDEX: u64 = 20_000;
/// The model's clocks begin here, a little into the first hour.
const START: u64 = HOUR as u64 * HOUR_MS + 1_000_000;

/// The log's key, and somebody else's.
pub(super) struct Keys {
    log: SigningKey,
    relay: SigningKey,
    signed: RefCell<HashMap<Vec<u8>, [u8; SIGNATURE_LEN]>>,
    checked: RefCell<HashMap<Vec<u8>, bool>>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let key = |scalar: u8| SigningKey::from_slice(&[scalar; 32]).unwrap();
        Self {
            log: key(1),
            relay: key(2),
            signed: RefCell::default(),
            checked: RefCell::default(),
        }
    }

    /// A relay knows the key's name, and signs with its own.
    fn sign(&self, message: &[u8], forged: bool) -> [u8; SIGNATURE_LEN] {
        let key = if forged { &self.relay } else { &self.log };
        let fresh = || {
            let signature: Signature = key.sign(message);
            signature.to_bytes().into()
        };
        let named = [message, &[u8::from(forged)]].concat();
        *self.signed.borrow_mut().entry(named).or_insert_with(fresh)
    }

    fn id(&self) -> KeyId {
        let point = self.log.verifying_key().to_sec1_point(false);
        KeyId(Sha256::digest(point.as_bytes()).into())
    }
}

impl HeadKeys for Keys {
    fn verify(&self, key: &KeyId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let check = || {
            let signature = Signature::from_slice(signature).ok();
            *key == self.id()
                && signature.is_some_and(|s| self.log.verifying_key().verify(message, &s).is_ok())
        };
        let named = [message, &signature[..]].concat();
        *self.checked.borrow_mut().entry(named).or_insert_with(check)
    }
}

/// An instant of the one true time, on a verifier's clocks: its wall clock is an hour off.
pub(super) fn now(tick: Tick) -> Now {
    Now {
        boot: BootTime(5_000_000 + u64::from(tick) * TICK),
        wall: WallTime(START + HOUR_MS + u64::from(tick) * TICK),
    }
}

pub(super) fn place(place: Place) -> status::Place {
    slot(place.bucket).in_log(log(place.generation))
}

fn slot(bucket: Bucket) -> Slot {
    Slot::new(HOUR + u32::from(bucket), INDEX).unwrap()
}

fn log(generation: u8) -> LogId {
    LogId([generation; 8])
}

fn generation(number: u8) -> Generation {
    Generation::new(number).unwrap()
}

/// The newest record of a chain.
fn record(chain: Chain, sequence: u8, record: Record) -> status::Record {
    let end = |bucket| Change::End {
        slot: slot(bucket),
        task: [bucket + 1; 16],
        cause: Cause::REVOKED,
    };
    status::Record {
        sequence: u64::from(sequence),
        epoch: u32::from(chain.epoch()),
        time: WallTime(START + u64::from(sequence)),
        change: match record {
            Record::End(bucket) => end(bucket),
            Record::Floor => Change::Floor { bucket: HOUR + 1 },
            Record::Epoch => Change::Epoch,
        },
    }
}

fn hash(number: u8, chain: Chain) -> ChainHash {
    let genesis = ChainHash::genesis(log(number), generation(number));
    (1..=chain.len()).fold(genesis, |hash, at| {
        let record = record(chain.prefix(at), at, chain.record(at).unwrap());
        hash.then(&record.encode())
    })
}

fn maps(statuses: Statuses) -> BTreeMap<u32, StatusMap> {
    let ended = (0..2).filter(|bucket| statuses.is_ended(*bucket));
    ended
        .map(|bucket| {
            let mut map = StatusMap::new();
            map.set(INDEX, status::Status::Ended).unwrap();
            (slot(bucket).bucket(), map)
        })
        .collect()
}

fn head(model: Head, nonce: Option<[u8; 16]>) -> status::Head {
    let time = START.checked_add_signed(i64::from(model.time) * TICK as i64);
    status::Head {
        log: log(model.generation),
        generation: generation(model.generation),
        previous: (model.generation > 1).then(|| (log(1), generation(1))),
        epoch: u32::from(model.chain.epoch()),
        sequence: u64::from(model.chain.len()),
        log_hash: hash(model.generation, model.chain),
        floor: HOUR + u32::from(model.chain.statuses().floor),
        largest_limit_hours: 24,
        max_age: Millis(MAX_AGE as u32 * TICK as u32),
        time: WallTime(time.unwrap()),
        signer: SignerChain::default(),
        nonce,
    }
}

fn checkpoint(number: u8, chain: Chain) -> (Checkpoint, Vec<PackedMap>) {
    let maps = maps(chain.statuses());
    let digests = maps.iter();
    let checkpoint = Checkpoint {
        log: log(number),
        generation: generation(number),
        epoch: u32::from(chain.epoch()),
        sequence: u64::from(chain.len()),
        log_hash: hash(number, chain),
        floor: HOUR + u32::from(chain.statuses().floor),
        time: WallTime(START),
        signer: SignerChain::default(),
        buckets: digests
            .filter_map(|(bucket, map)| BucketDigest::of(*bucket, map))
            .collect(),
    };
    let packed = maps.iter().map(|(bucket, map)| PackedMap {
        bucket: *bucket,
        bytes: map.pack(),
    });
    let packed = packed.collect();
    (checkpoint, packed)
}

/// A real watcher, and the view that is published from it.
pub(super) struct Real<'k> {
    keys: &'k Keys,
    pub(super) watcher: Watcher,
    pub(super) view: StatusView,
    nonce: [u8; 16],
    nonces: u8,
}

impl<'k> Real<'k> {
    pub(super) fn new(keys: &'k Keys) -> Self {
        Self {
            keys,
            watcher: Watcher::new(Config::default()),
            view: StatusView::new(),
            nonce: [0; 16],
            nonces: 0,
        }
    }

    pub(super) fn restart(&mut self) {
        let nonces = self.nonces;
        *self = Self {
            nonces,
            ..Self::new(self.keys)
        };
    }

    pub(super) fn connect(&mut self, tick: Tick) {
        let nonce = self.draw();
        // What it would resume from is the relay's to know: frames come as the model says.
        let _hello = self.watcher.connected(nonce, now(tick));
        self.view.publish(&[], self.watcher.freshness());
    }

    pub(super) fn ask(&mut self, tick: Tick) {
        let nonce = self.draw();
        self.watcher.ask(nonce, now(tick));
        self.view.publish(&[], self.watcher.freshness());
    }

    /// Takes a frame, after `staged`, which is what the model holds; says whether it was refused.
    pub(super) fn take(&mut self, frame: Frame, staged: Option<(u8, Chain)>, tick: Tick) -> bool {
        let frame = self.frame(frame, staged);
        let step = self.watcher.on_frame(frame, self.keys, now(tick));
        self.view.publish(&step.applied, self.watcher.freshness());
        step.fault.is_some()
    }

    /// The watcher's answer; the view's must be the same, but for the reason of one that was told
    /// nothing.
    pub(super) fn check(&self, model: Place, tick: Tick) -> Result<(), &'static str> {
        let answer = |verdict| match verdict {
            Verdict::Valid => Ok(()),
            Verdict::Refused(refusal) => Err(refusal.reason()),
        };
        let (place, now) = (place(model), now(tick));
        let watcher = answer(self.watcher.status(place, now));
        let view = answer(self.view.status(place, now));
        assert!(
            watcher == view || view == Err("STATUS_NOT_SYNCED") && watcher.is_err(),
            "the watcher says {watcher:?}, its view {view:?}"
        );
        watcher
    }

    /// Generation, position and hash of what is applied.
    pub(super) fn position(&self) -> Option<(u8, u64, ChainHash)> {
        let at = self.watcher.resume_position()?;
        Some((at.generation.get(), at.sequence, at.hash))
    }

    fn draw(&mut self) -> [u8; 16] {
        self.nonces += 1;
        self.nonce = [self.nonces; 16];
        self.nonce
    }

    fn frame(&self, frame: Frame, staged: Option<(u8, Chain)>) -> status::watcher::Frame {
        match frame {
            Frame::Head {
                head: model,
                answer,
                forged,
            } => {
                let bytes = head(model, answer.then_some(self.nonce)).encode().unwrap();
                status::watcher::Frame::Head(SignedHead {
                    signature: self.keys.sign(&bytes, forged),
                    bytes: bytes.to_vec(),
                    key: self.keys.id(),
                })
            }
            Frame::Checkpoint {
                generation,
                chain,
                forged,
            } => {
                let (checkpoint, mut maps) = checkpoint(generation, chain);
                let bytes = checkpoint.encode().unwrap();
                if forged {
                    for map in &mut maps {
                        map.bytes = StatusMap::new().pack();
                    }
                }
                let signed = SignedCheckpoint {
                    signature: self.keys.sign(&bytes, false),
                    bytes,
                    key: self.keys.id(),
                };
                status::watcher::Frame::Checkpoint { signed, maps }
            }
            Frame::Record {
                sequence,
                record: model,
            } => {
                let before = staged.map_or(Chain::EMPTY, |(_, chain)| chain);
                let chain = before.prefix(sequence - 1).then(model);
                let record = record(chain, sequence, model);
                status::watcher::Frame::Delta(Delta::new(vec![record]).unwrap())
            }
        }
    }
}

/// What the model says is applied, in the real watcher's terms.
pub(super) fn position(model: Option<(u8, Chain)>) -> Option<(u8, u64, ChainHash)> {
    model.map(|(number, chain)| (number, u64::from(chain.len()), hash(number, chain)))
}
