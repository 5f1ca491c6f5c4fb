//! The revocation log's frames as a relay passes them on: late, twice, never, in another order,
//! with bytes changed, spliced or made up.
//!
//! An input is a script for a server that tells the truth and a relay that doesn't; a verifier's
//! watch gets the frames as bytes. Whatever the relay does, no ended task is accepted for longer
//! than the bound, none at all once its end was applied, and no live one is taken for ended.

use std::collections::BTreeMap;

use prost::Message as _;
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::{
    BootTime, Cause, ChainHash, Change, Checkpoint, Config, Delta, Generation, Head, Millis, Now,
    Place, Record, Refusal, SignerChain, Status, StatusMap, StatusView, Verdict, WallTime, Watcher,
    Wish,
};
use taskmint_verifier::Trust;
use taskmint_verifier::watch::{LogKeys, read_frame};
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_response::Frame;

use crate::world::{LOG, WORLD};

/// How many tasks there are.
const PLACES: usize = 4;

/// The longest script: every act may sign, and a slow input is taken for one that hangs.
const ACTS: usize = 96;

const MAX_AGE: u64 = 30_000;

/// Plays a script of four octets for each act.
pub fn watch_frames(data: &[u8]) {
    let mut play = Play::new();
    let mut script = data;
    for _ in 0..ACTS {
        let Some((act, rest)) = script.split_first_chunk() else {
            break;
        };
        script = play.act(*act, rest);
        play.check();
    }
    play.end_in_step();
}

/// The server: what it says is true.
struct Server {
    records: Vec<Record>,
    hash: ChainHash,
    map: StatusMap,
    epoch: u32,
    /// Its own clock.
    time: WallTime,
    /// All that it has sent: a relay may pass on any of it at any time.
    sent: Vec<wire::WatchResponse>,
}

/// An end, for those who wait to see it accepted.
#[derive(Clone, Copy)]
struct Ended {
    sequence: u64,
    /// When the last head without it was signed.
    last_head: Option<BootTime>,
}

struct Play {
    server: Server,
    watcher: Watcher,
    view: StatusView,
    keys: LogKeys,
    trust: Trust,
    now: Now,
    nonces: u8,
    nonce: Option<[u8; 16]>,
    ended: [Option<Ended>; PLACES],
    last_head: Option<BootTime>,
}

impl Play {
    fn new() -> Self {
        let wall = WallTime(WORLD.now.millis());
        Self {
            server: Server {
                records: Vec::new(),
                hash: ChainHash::genesis(LOG, Generation::FIRST),
                map: StatusMap::new(),
                epoch: 1,
                time: wall,
                sent: Vec::new(),
            },
            watcher: Watcher::new(Config::default()),
            view: StatusView::new(),
            keys: LogKeys::new(WORLD.trust_domain.clone()),
            trust: Trust::new(WORLD.bundles.clone()),
            now: Now {
                boot: BootTime(5_000_000),
                wall,
            },
            nonces: 0,
            nonce: None,
            ended: [None; PLACES],
            last_head: None,
        }
    }

    /// One act; what is left of the script.
    fn act<'a>(&mut self, [act, a, b, c]: [u8; 4], rest: &'a [u8]) -> &'a [u8] {
        let (kind, extra) = (act & 15, act >> 4);
        let slot = WORLD.binding(u64::from(a) % PLACES as u64).place.slot();
        let task = [slot.index() as u8; 16];
        let number = u16::from_be_bytes([b, c]);
        match kind {
            0 => self.end(a),
            1 => self.server.write(Change::Suspend { slot, task }),
            2 => self.server.write(Change::Resume { slot, task }),
            3 => self.head(None),
            4 => self.head(self.nonce),
            5 => self.server.checkpoint(),
            6 => self.pass_on(a, |_| ()),
            7 => self.pass_on(a, |bytes| {
                let at = usize::from(number) % bytes.len().max(1);
                if let Some(octet) = bytes.get_mut(at) {
                    *octet ^= 1 << (extra % 8);
                }
            }),
            8 => {
                let (bytes, rest) = rest.split_at(usize::from(number).min(rest.len()));
                self.deliver(bytes);
                return rest;
            }
            9 => {
                self.now.boot.0 += u64::from(number);
                self.now.wall.0 += u64::from(number);
                self.server.time.0 += u64::from(number);
            }
            10 => self.now.wall.0 += u64::from(number),
            11 => self.connect(),
            12 => self.tick(),
            13 => {
                self.server.epoch += 1;
                self.server.write(Change::Epoch);
            }
            14 => self.splice(a, b, c, extra),
            _ => self.join(a, b),
        }
        rest
    }

    fn end(&mut self, a: u8) {
        let at = usize::from(a) % PLACES;
        let binding = WORLD.binding(at as u64);
        self.server.write(Change::End {
            slot: binding.place.slot(),
            task: binding.task,
            cause: Cause::REVOKED,
        });
        let (sequence, last_head) = (self.server.records.len() as u64, self.last_head);
        self.ended[at].get_or_insert(Ended {
            sequence,
            last_head,
        });
    }

    fn head(&mut self, nonce: Option<[u8; 16]>) {
        self.last_head = Some(self.now.boot);
        self.server.head(nonce);
    }

    /// Passes on what the server sent `back` frames ago, perhaps changed.
    fn pass_on(&mut self, back: u8, change: impl FnOnce(&mut Vec<u8>)) {
        let Some(frame) = self.sent(back) else { return };
        let mut bytes = frame.encode_to_vec();
        change(&mut bytes);
        self.deliver(&bytes);
    }

    fn sent(&self, back: u8) -> Option<wire::WatchResponse> {
        let sent = &self.server.sent;
        let at = sent.len().checked_sub(1 + usize::from(back))?;
        sent.get(at).cloned()
    }

    /// A frame with the signature, the body, the maps or the key of another.
    fn splice(&mut self, a: u8, b: u8, c: u8, extra: u8) {
        let frames = [a, b, c].map(|back| self.sent(back).and_then(|it| it.frame));
        let [Some(Frame::Head(mut head)), Some(other), _] = frames else {
            let [
                Some(Frame::Checkpoint(mut one)),
                Some(Frame::Checkpoint(other)),
                _,
            ] = frames
            else {
                return;
            };
            match extra % 3 {
                0 => one.maps = other.maps,
                1 => one.body = other.body,
                _ => one.signature = other.signature,
            }
            return self.deliver(&encoded(Frame::Checkpoint(one)));
        };
        match other {
            Frame::Head(other) if extra.is_multiple_of(2) => head.body = other.body,
            Frame::Head(other) => head.signature = other.signature,
            Frame::Checkpoint(other) if extra.is_multiple_of(2) => head.body = other.body,
            Frame::Checkpoint(other) => head.key_certificate = other.key_certificate,
            Frame::Delta(_) => return,
        }
        self.deliver(&encoded(Frame::Head(head)));
    }

    /// The records of two frames as one.
    fn join(&mut self, a: u8, b: u8) {
        let frames = [a, b].map(|back| self.sent(back).and_then(|it| it.frame));
        let [Some(Frame::Delta(mut one)), Some(Frame::Delta(other))] = frames else {
            return;
        };
        one.records = [one.records, other.records].concat().into();
        self.deliver(&encoded(Frame::Delta(one)));
    }

    /// What the watch does with bytes off the wire.
    fn deliver(&mut self, bytes: &[u8]) {
        let Ok(response) = wire::WatchResponse::decode(bytes) else {
            return;
        };
        let wall = taskmint_model::Timestamp::from_millis(self.now.wall.0);
        let Ok(frame) = read_frame(response, &mut self.keys, &self.trust, wall) else {
            return;
        };
        let step = self.watcher.on_frame(frame, &self.keys, self.now);
        self.view.publish(&step.applied, self.watcher.freshness());
        let forked = self.watcher.forked_at();
        assert_eq!(forked, None, "an honest log looks forked: {:?}", step.fault);
    }

    fn connect(&mut self) {
        let nonce = self.draw();
        self.keys.reconnected();
        let hello = self.watcher.connected(nonce, self.now);
        self.view.publish(&[], self.watcher.freshness());
        let resume = hello.resume.map(|at| at.sequence as usize);
        match resume {
            Some(known) => self.server.delta(known),
            None => self.server.checkpoint(),
        }
    }

    fn tick(&mut self) {
        if self.watcher.tick(self.now) == Wish::Nonce {
            let nonce = self.draw();
            self.watcher.ask(nonce, self.now);
        }
        self.view.publish(&[], self.watcher.freshness());
    }

    fn draw(&mut self) -> [u8; 16] {
        self.nonces += 1;
        *self.nonce.insert([self.nonces; 16])
    }

    fn verdict(&self, at: usize) -> Verdict {
        let place = WORLD.binding(at as u64).place;
        let verdict = self.watcher.status(place, self.now);
        assert_eq!(self.view.status(place, self.now), verdict);
        verdict
    }

    /// Protocol P17 and P18.
    fn check(&self) {
        let position = self.watcher.resume_position().map_or(0, |at| at.sequence);
        for (at, ended) in self.ended.iter().enumerate() {
            let verdict = self.verdict(at);
            let Some(ended) = ended else {
                assert_ne!(verdict, Verdict::Refused(Refusal::TaskEnded), "it lives");
                continue;
            };
            if verdict != Verdict::Valid {
                continue;
            }
            assert!(
                position < ended.sequence,
                "accepts what it knows to be over"
            );
            let last = ended.last_head.expect("accepts without any head");
            let drift = Config::default().drift_allowance.as_millis() as u64;
            assert!(self.now.boot.since(last) <= MAX_AGE + drift, "too late");
        }
        let elsewhere = Place::new(taskmint_status::LogId([8; 8]), WORLD.now.hour(), 1);
        let elsewhere = self.watcher.status(elsewhere.expect("a place"), self.now);
        assert_ne!(elsewhere, Verdict::Valid);
    }

    /// One connection over an honest relay, and the watch knows the truth.
    fn end_in_step(&mut self) {
        self.connect();
        self.pass_on(0, |_| ());
        self.head(self.nonce);
        self.pass_on(0, |_| ());
        self.check();
        for at in 0..PLACES {
            let expected = match self.server.map.get(at as u64) {
                Status::Valid => Verdict::Valid,
                Status::Suspended => Verdict::Refused(Refusal::TaskSuspended),
                Status::Ended => Verdict::Refused(Refusal::TaskEnded),
            };
            assert_eq!(self.verdict(at), expected);
        }
    }
}

impl Server {
    /// Writes and sends a record.
    fn write(&mut self, change: Change) {
        let record = Record {
            sequence: self.records.len() as u64 + 1,
            epoch: self.epoch,
            time: self.time,
            change,
        };
        self.hash = self.hash.then(&record.encode());
        self.records.push(record);
        let (slot, status) = match change {
            Change::End { slot, .. } => (slot, Status::Ended),
            Change::Suspend { slot, .. } => (slot, Status::Suspended),
            Change::Resume { slot, .. } => (slot, Status::Valid),
            _ => return self.delta(self.records.len() - 1),
        };
        if self.map.get(slot.index()) != Status::Ended {
            self.map.set(slot.index(), status).expect("room");
        }
        self.delta(self.records.len() - 1);
    }

    /// Sends the records after so many; nothing if there are none.
    fn delta(&mut self, known: usize) {
        let records = self.records.get(known..).unwrap_or_default().to_vec();
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return;
        };
        let (first, last) = (first.sequence, last.sequence);
        let delta = Delta::new(records).expect("contiguous");
        let records = delta.encode().into();
        self.send(Frame::Delta(wire::Delta {
            records,
            first,
            last,
        }));
    }

    fn head(&mut self, nonce: Option<[u8; 16]>) {
        let head = Head {
            log: LOG,
            generation: Generation::FIRST,
            previous: None,
            epoch: self.epoch,
            sequence: self.records.len() as u64,
            log_hash: self.hash,
            floor: WORLD.now.hour(),
            largest_limit_hours: 24,
            max_age: Millis(MAX_AGE as u32),
            time: self.time,
            signer: SignerChain::default(),
            nonce,
        };
        let body = head.encode().expect("a head").to_vec();
        let certificate = nonce.map(|_| WORLD.log_certificate.clone());
        self.send(Frame::Head(wire::Head {
            signature: WORLD.sign_for_log(&body).into(),
            body: body.into(),
            key_certificate: certificate.unwrap_or_default().into(),
        }));
    }

    fn checkpoint(&mut self) {
        let maps = BTreeMap::from([(WORLD.now.hour(), &self.map)]);
        let digests = maps
            .iter()
            .filter_map(|(hour, map)| BucketDigest::of(*hour, map));
        let checkpoint = Checkpoint {
            log: LOG,
            generation: Generation::FIRST,
            epoch: self.epoch,
            sequence: self.records.len() as u64,
            log_hash: self.hash,
            floor: WORLD.now.hour(),
            time: self.time,
            signer: SignerChain::default(),
            buckets: digests.collect(),
        };
        let body = checkpoint.encode().expect("a checkpoint");
        let packed = |digest: &BucketDigest| wire::Map {
            bucket: digest.bucket,
            data: self.map.pack().into(),
        };
        self.send(Frame::Checkpoint(wire::Checkpoint {
            signature: WORLD.sign_for_log(&body).into(),
            body: body.into(),
            key_certificate: WORLD.log_certificate.clone().into(),
            maps: checkpoint.buckets.iter().map(packed).collect(),
        }));
    }

    fn send(&mut self, frame: Frame) {
        self.sent.push(response(frame));
    }
}

fn response(frame: Frame) -> wire::WatchResponse {
    wire::WatchResponse {
        frame: Some(frame),
        prompt: false,
    }
}

fn encoded(frame: Frame) -> Vec<u8> {
    response(frame).encode_to_vec()
}
