//! Random scripts of a server that tells the truth and a relay that doesn't.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::world::{HOUR, MAX_AGE, World};
use crate::map::Status;
use crate::record::Change;
use crate::verdict::Verdict;
use crate::watcher::{Applied, Config, Frame, Wish};

const PLACES: u64 = 6;
const DRIFT_ALLOWANCE: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
enum Act {
    End(u64),
    Suspend(u64),
    Resume(u64),
    Heartbeat,
    Answer,
    Checkpoint,
    Floor,
    Epoch,
    Deliver,
    Drop,
    Duplicate,
    Swap,
    Replay(usize),
    Forge(usize, u8),
    Reconnect,
    Ask,
    Pass(u64),
    JumpWall(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (0..PLACES).prop_map(Act::End),
        1 => (0..PLACES).prop_map(Act::Suspend),
        1 => (0..PLACES).prop_map(Act::Resume),
        5 => Just(Act::Heartbeat),
        4 => Just(Act::Answer),
        2 => Just(Act::Checkpoint),
        1 => Just(Act::Floor),
        1 => Just(Act::Epoch),
        16 => Just(Act::Deliver),
        1 => Just(Act::Drop),
        1 => Just(Act::Duplicate),
        1 => Just(Act::Swap),
        2 => any::<usize>().prop_map(Act::Replay),
        1 => (any::<usize>(), 1_u8..).prop_map(|(at, by)| Act::Forge(at, by)),
        2 => Just(Act::Reconnect),
        2 => Just(Act::Ask),
        4 => (0..12_000_u64).prop_map(Act::Pass),
        1 => (0..100_000_u64).prop_map(Act::JumpWall),
    ];
    proptest::collection::vec(act, 1..120)
}

struct Play {
    world: World,
    wire: VecDeque<Frame>,
    sent: Vec<Frame>,
    nonce: Option<[u8; 16]>,
    /// For each place, when the last head without its end was signed; `None` while it lives.
    ended: [Option<Covered>; PLACES as usize],
    last_head: Option<(u64, u64)>,
    drift: i64,
}

#[derive(Clone, Copy)]
struct Covered {
    sequence: u64,
    last_head_without: Option<u64>,
}

impl Play {
    fn new(drift: i64) -> Self {
        Self {
            world: World::new(Config::default()),
            wire: VecDeque::new(),
            sent: Vec::new(),
            nonce: None,
            ended: [None; PLACES as usize],
            last_head: None,
            drift,
        }
    }

    fn send(&mut self, frame: Frame) {
        self.sent.push(frame.clone());
        self.wire.push_back(frame);
    }

    fn sign(&mut self, nonce: Option<[u8; 16]>) {
        self.last_head = Some((self.world.server.sequence(), self.world.now.boot.0));
        let head = self.world.server.head(nonce);
        self.send(head);
    }

    fn deliver(&mut self, frame: Frame) {
        let step = self.world.step(frame);
        for change in &step.applied {
            if let Applied::Status { place, status, .. } = change {
                let ended = self.ended[place.index() as usize].is_some();
                assert!(*status != Status::Ended || ended, "ended without an end");
            }
        }
        // A relay can't make an honest log look forked.
        assert_eq!(self.world.watcher.forked_at(), None, "{:?}", step.fault);
    }

    fn act(&mut self, act: Act) {
        let server = &mut self.world.server;
        match act {
            Act::End(index) => {
                let frame = server.end(index);
                let sequence = server.sequence();
                let last_head_without = self.last_head.map(|(_, at)| at);
                let covered = Covered {
                    sequence,
                    last_head_without,
                };
                self.ended[index as usize].get_or_insert(covered);
                self.send(frame);
            }
            Act::Suspend(index) => {
                let frame = server.suspend(index);
                self.send(frame);
            }
            Act::Resume(index) => {
                let frame = server.resume(index);
                self.send(frame);
            }
            Act::Floor if server.floor == HOUR => {
                // Below every place of the test: what it refuses is another test's matter.
                let frame = server.write(Change::Floor { bucket: HOUR });
                self.send(frame);
            }
            Act::Floor => {}
            Act::Epoch => {
                server.epoch += 1;
                let frame = server.write(Change::Epoch);
                self.send(frame);
            }
            Act::Heartbeat => self.sign(None),
            Act::Answer => {
                let nonce = self.nonce;
                self.sign(nonce);
            }
            Act::Checkpoint => {
                let frame = server.checkpoint();
                self.send(frame);
            }
            Act::Deliver => {
                if let Some(frame) = self.wire.pop_front() {
                    self.deliver(frame);
                }
            }
            Act::Drop => drop(self.wire.pop_front()),
            Act::Duplicate => self.wire.extend(self.wire.front().cloned()),
            Act::Swap => {
                if self.wire.len() > 1 {
                    self.wire.swap(0, 1);
                }
            }
            Act::Replay(at) => {
                if !self.sent.is_empty() {
                    let frame = self.sent[at % self.sent.len()].clone();
                    self.deliver(frame);
                }
            }
            Act::Forge(at, by) => {
                if let Some(mut frame) = self.wire.pop_front() {
                    forge(&mut frame, at, by);
                    self.deliver(frame);
                }
            }
            Act::Reconnect => self.reconnect(),
            Act::Ask => {
                if self.world.watcher.tick(self.world.now) == Wish::Nonce {
                    let nonce = self.world.nonce();
                    self.world.watcher.ask(nonce, self.world.now);
                    self.nonce = Some(nonce);
                }
            }
            Act::Pass(millis) => {
                self.world.pass(millis);
                let drift = millis as i64 * self.drift / 1_000_000;
                let time = &mut self.world.server.time.0;
                *time = time.saturating_add_signed(drift);
            }
            Act::JumpWall(millis) => self.world.now.wall.0 += millis,
        }
    }

    fn reconnect(&mut self) {
        let nonce = self.world.nonce();
        let hello = self.world.watcher.connected(nonce, self.world.now);
        self.nonce = Some(nonce);
        self.wire.clear();
        let first = match hello.resume {
            Some(at) => self.world.server.after(at.sequence),
            None => Some(self.world.server.checkpoint()),
        };
        first.into_iter().for_each(|frame| self.send(frame));
    }

    /// Protocol P18: once this long has passed since the last head without an end, nobody accepts;
    /// and who has applied it doesn't either.
    fn check(&self) {
        let now = self.world.now;
        let position = self.world.watcher.resume_position();
        for (index, ended) in self.ended.iter().enumerate() {
            let Some(ended) = ended else { continue };
            let place = self.world.server.place(index as u64);
            if self.world.watcher.status(place, now) != Verdict::Valid {
                continue;
            }
            let applied = position.is_some_and(|at| at.sequence >= ended.sequence);
            assert!(!applied, "accepted what it knows to be over");
            let last = ended.last_head_without.expect("accepted without any head");
            let dead = last + MAX_AGE + DRIFT_ALLOWANCE;
            assert!(
                now.boot.0 <= dead,
                "accepted {} ms too late",
                now.boot.0 - dead
            );
        }
    }
}

fn forge(frame: &mut Frame, at: usize, by: u8) {
    let bytes = match frame {
        Frame::Head(head) => &mut head.bytes,
        Frame::Checkpoint { signed, maps } => match maps.first_mut() {
            Some(map) if at.is_multiple_of(2) => &mut map.bytes,
            _ => &mut signed.bytes,
        },
        Frame::Delta(delta) => {
            let mut bytes = delta.encode();
            let at = at % bytes.len();
            bytes[at] ^= by;
            if let Ok(forged) = crate::delta::Delta::decode(&bytes) {
                *delta = forged;
            }
            return;
        }
    };
    let at = at % bytes.len();
    bytes[at] ^= by;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_relay_gets_an_ended_task_accepted_for_longer_than_the_bound(
        acts in acts(),
        drift in -400_i64..=400,
    ) {
        let mut play = Play::new(drift);
        for act in acts {
            play.act(act);
            play.check();
        }
        // Once the relay is honest again, the verifier is in step after one connection.
        play.reconnect();
        play.act(Act::Answer);
        while let Some(frame) = play.wire.pop_front() {
            let step = play.world.step(frame);
            prop_assert_eq!(step.fault, None);
        }
        for index in 0..PLACES {
            let truth = play.world.server.maps.get(&HOUR).map_or(Status::Valid, |map| map.get(index));
            let answer = play.world.status(index);
            match truth {
                Status::Valid => prop_assert_eq!(answer, Ok(())),
                Status::Ended => prop_assert_eq!(answer, Err("TASK_ENDED")),
                Status::Suspended => prop_assert_eq!(answer, Err("TASK_SUSPENDED")),
            }
        }
    }

    #[test]
    fn a_verifier_that_hears_nothing_says_no(acts in acts()) {
        let mut play = Play::new(0);
        for act in acts {
            play.act(act);
        }
        play.world.pass(MAX_AGE + 1);
        for index in 0..PLACES {
            prop_assert!(play.world.status(index).is_err());
        }
    }
}
