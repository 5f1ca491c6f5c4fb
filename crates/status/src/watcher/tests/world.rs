//! A server, a verifier's clocks, and a relay that does what a test says.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::checkpoint::{BucketDigest, Checkpoint, PackedMap, SignedCheckpoint};
use crate::clock::{BootTime, Millis, Now, WallTime};
use crate::delta::Delta;
use crate::head::{Head, HeadKeys, KeyId, SIGNATURE_LEN, SignedHead, SignerChain};
use crate::map::{Status, StatusMap};
use crate::place::{Generation, HOUR_MS, LogId, Place, Slot};
use crate::record::{Cause, ChainHash, Change, Record};
use crate::watcher::{Fault, Frame, Step, Watcher};

/// The hour in which a world begins.
pub(super) const HOUR: u32 = 495_000;
pub(super) const MAX_AGE: u64 = 30_000;
pub(super) const LOG: LogId = LogId([7; 8]);

/// A stand-in for ES256: who knows `secret` can sign, which no test's relay does.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let first: [u8; 32] = Sha256::new_with_prefix(self.0)
            .chain_update(message)
            .finalize()
            .into();
        let mut signature = [0; SIGNATURE_LEN];
        signature[..32].copy_from_slice(&first);
        signature
    }

    fn id(&self) -> KeyId {
        KeyId(Sha256::digest(self.0).into())
    }
}

impl HeadKeys for Key {
    fn verify(&self, key: &KeyId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        *key == self.id() && *signature == self.sign(message)
    }
}

/// The truth: a log, its maps and its key.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) key: Key,
    pub(super) log: LogId,
    pub(super) generation: Generation,
    pub(super) previous: Option<(LogId, Generation)>,
    pub(super) epoch: u32,
    pub(super) floor: u32,
    pub(super) records: Vec<Record>,
    pub(super) hash: ChainHash,
    pub(super) maps: BTreeMap<u32, StatusMap>,
    pub(super) time: WallTime,
}

impl Server {
    pub(super) fn new() -> Self {
        Self::restored(LOG, Generation::FIRST)
    }

    pub(super) fn restored(log: LogId, generation: Generation) -> Self {
        Self {
            key: Key([42; 32]),
            log,
            generation,
            previous: None,
            epoch: 1,
            floor: HOUR,
            records: Vec::new(),
            hash: ChainHash::genesis(log, generation),
            maps: BTreeMap::new(),
            time: WallTime(u64::from(HOUR) * HOUR_MS),
        }
    }

    pub(super) fn place(&self, index: u64) -> Place {
        Place::new(self.log, HOUR, index).unwrap()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.records.len() as u64
    }

    pub(super) fn write(&mut self, change: Change) -> Frame {
        let record = Record {
            sequence: self.sequence() + 1,
            epoch: self.epoch,
            time: self.time,
            change,
        };
        self.hash = self.hash.then(&record.encode());
        self.records.push(record);
        match change {
            Change::End { slot, .. } => self.set(slot, Status::Ended),
            Change::Suspend { slot, .. } => self.set(slot, Status::Suspended),
            Change::Resume { slot, .. } => self.set(slot, Status::Valid),
            Change::Floor { bucket } => {
                self.floor = bucket;
                self.maps = self.maps.split_off(&bucket);
            }
            Change::Epoch => {}
        }
        Frame::Delta(Delta::new(vec![record]).unwrap())
    }

    fn set(&mut self, slot: Slot, status: Status) {
        let map = self.maps.entry(slot.bucket()).or_default();
        if map.get(slot.index()) != Status::Ended {
            map.set(slot.index(), status).unwrap();
        }
    }

    pub(super) fn end(&mut self, index: u64) -> Frame {
        let slot = self.place(index).slot();
        self.write(Change::End {
            slot,
            task: [index as u8; 16],
            cause: Cause::REVOKED,
        })
    }

    pub(super) fn suspend(&mut self, index: u64) -> Frame {
        let slot = self.place(index).slot();
        self.write(Change::Suspend {
            slot,
            task: [index as u8; 16],
        })
    }

    pub(super) fn resume(&mut self, index: u64) -> Frame {
        let slot = self.place(index).slot();
        self.write(Change::Resume {
            slot,
            task: [index as u8; 16],
        })
    }

    pub(super) fn after(&self, sequence: u64) -> Option<Frame> {
        let records = self.records[sequence as usize..].to_vec();
        Delta::new(records).ok().map(Frame::Delta)
    }

    pub(super) fn unsigned_head(&self, nonce: Option<[u8; 16]>) -> Head {
        Head {
            log: self.log,
            generation: self.generation,
            previous: self.previous,
            epoch: self.epoch,
            sequence: self.sequence(),
            log_hash: self.hash,
            floor: self.floor,
            largest_limit_hours: 24,
            max_age: Millis(MAX_AGE as u32),
            time: self.time,
            signer: SignerChain::default(),
            nonce,
        }
    }

    pub(super) fn sign(&self, head: &Head) -> Frame {
        let bytes = head.encode().unwrap().to_vec();
        let signature = self.key.sign(&bytes);
        Frame::Head(SignedHead {
            bytes,
            signature,
            key: self.key.id(),
        })
    }

    pub(super) fn head(&self, nonce: Option<[u8; 16]>) -> Frame {
        self.sign(&self.unsigned_head(nonce))
    }

    pub(super) fn checkpoint(&self) -> Frame {
        let live = self.maps.iter().filter(|(_, map)| !map.is_all_valid());
        let checkpoint = Checkpoint {
            log: self.log,
            generation: self.generation,
            epoch: self.epoch,
            sequence: self.sequence(),
            log_hash: self.hash,
            floor: self.floor,
            time: self.time,
            signer: SignerChain::default(),
            buckets: live
                .clone()
                .filter_map(|(b, map)| BucketDigest::of(*b, map))
                .collect(),
        };
        let bytes = checkpoint.encode().unwrap();
        let signature = self.key.sign(&bytes);
        let signed = SignedCheckpoint {
            bytes,
            signature,
            key: self.key.id(),
        };
        let maps = live
            .map(|(b, map)| PackedMap {
                bucket: *b,
                bytes: map.pack(),
            })
            .collect();
        Frame::Checkpoint { signed, maps }
    }
}

/// A server and a verifier, with one true time that moves both their clocks.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) watcher: Watcher,
    pub(super) now: Now,
    nonces: u8,
}

impl World {
    /// The verifier's wall clock is an hour off: nothing may depend on it.
    pub(super) fn new(config: super::super::Config) -> Self {
        let server = Server::new();
        let now = Now {
            boot: BootTime(5_000_000),
            wall: server.time.plus(HOUR_MS),
        };
        Self {
            server,
            watcher: Watcher::new(config),
            now,
            nonces: 0,
        }
    }

    /// A world in which the watcher is connected, in step and fresh.
    pub(super) fn synced() -> Self {
        let mut world = Self::new(super::super::Config::default());
        world.connect();
        assert_eq!(world.status(1), Ok(()));
        world
    }

    pub(super) fn nonce(&mut self) -> [u8; 16] {
        self.nonces += 1;
        [self.nonces; 16]
    }

    pub(super) fn connect(&mut self) {
        let nonce = self.nonce();
        let hello = self.watcher.connected(nonce, self.now);
        let first = match hello.resume {
            Some(at) if at.log == self.server.log => self.server.after(at.sequence),
            _ => Some(self.server.checkpoint()),
        };
        for frame in first.into_iter().chain([self.server.head(Some(nonce))]) {
            assert_eq!(self.take(frame), None);
        }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now.boot.0 += millis;
        self.now.wall.0 += millis;
        self.server.time.0 += millis;
    }

    pub(super) fn step(&mut self, frame: Frame) -> Step {
        let key = self.server.key;
        self.watcher.on_frame(frame, &key, self.now)
    }

    pub(super) fn take(&mut self, frame: Frame) -> Option<Fault> {
        self.step(frame).fault
    }

    pub(super) fn take_all<const N: usize>(&mut self, frames: [Frame; N]) {
        for frame in frames {
            assert_eq!(self.take(frame), None);
        }
    }

    /// The stable reason for which an index of the world's hour is refused.
    pub(super) fn status(&self, index: u64) -> Result<(), &'static str> {
        self.ask(self.server.place(index))
    }

    pub(super) fn ask(&self, place: Place) -> Result<(), &'static str> {
        match self.watcher.status(place, self.now) {
            crate::verdict::Verdict::Valid => Ok(()),
            crate::verdict::Verdict::Refused(refusal) => Err(refusal.reason()),
        }
    }
}
