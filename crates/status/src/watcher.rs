//! The verifier's side of the log: fed with frames, it answers for places or says why it can't.
//!
//! A relay stands between server and verifier and is not trusted. So nothing counts but what a
//! signed head covers: records wait until one does, then they are applied. Ends, too, wait for
//! their head, since a relay could otherwise end live tasks for good. Freshness is measured against
//! a nonce of our own, see [`Freshness`].
//!
//! The machine does no I/O: clock readings and nonces are arguments. The order of calls is
//! [`connected`](Watcher::connected) with a new nonce on each connection, whose answer is sent to
//! the server; [`on_frame`](Watcher::on_frame) for each frame; [`tick`](Watcher::tick) about once a
//! second. After each of them [`freshness`](Watcher::freshness) and the changes go to a
//! [`StatusView`](crate::view::StatusView), which other threads read.

mod fault;
mod freshness;
mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use fault::Fault;
pub use freshness::Freshness;
use freshness::Timekeeper;
use log::{Held, Log, Settled};

use crate::checkpoint::{PackedMap, SignedCheckpoint};
use crate::clock::Now;
use crate::delta::Delta;
use crate::head::{HeadKeys, SignedHead};
use crate::map::{Status, StatusMap};
use crate::place::{Generation, LogId, Place};
use crate::record::{Cause, ChainHash};
use crate::statement::{Shown, Signed};
use crate::verdict::{Refusal, Verdict, decide};

/// The largest [`Config::drift_allowance`]. A verifier may be stricter and never laxer: the instant
/// by which nobody accepts an ended task counts with it (protocol P18).
pub const MAX_DRIFT_ALLOWANCE: Duration = Duration::from_secs(2);

/// What a verifier insists on.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The log to follow, where it is known. Later generations replace it; without it the first
    /// signed one is followed.
    pub expected: Option<(LogId, Generation)>,
    /// How old the newest head may be. `None`: as old as the head itself allows; more than that is
    /// never allowed.
    pub staleness: Option<Duration>,
    /// Added where a place's hour is held against the largest limit.
    pub leeway: Duration,
    /// How far the server's clock and ours may part before statuses no longer count; at half of it
    /// a new nonce is due. More than [`MAX_DRIFT_ALLOWANCE`] counts as that; zero closes for good.
    pub drift_allowance: Duration,
    /// How fast they part at worst, in millionths. Zero: not at all.
    pub drift_rate: u32,
    /// How far wall clock and boot clock may part before that counts as a jump.
    pub wall_tolerance: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            expected: None,
            staleness: None,
            leeway: Duration::from_secs(60),
            drift_allowance: Duration::from_secs(1),
            drift_rate: 500,
            wall_tolerance: Duration::from_secs(1),
        }
    }
}

/// What the stream carries, taken off the wire.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Where to begin, with the maps of that position.
    Checkpoint {
        /// The signed digests.
        signed: SignedCheckpoint,
        /// One map for each bucket that the checkpoint lists, in its order.
        maps: Vec<PackedMap>,
    },
    /// Records, which count once a head covers them.
    Delta(Delta),
    /// A head: after records, as a heartbeat, or in answer to a nonce.
    Head(SignedHead),
}

/// A point in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// The newest record's sequence number.
    pub sequence: u64,
    /// The hash over all records up to it.
    pub hash: ChainHash,
}

/// A log that contradicted itself (protocol P15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The log that was followed.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// Where.
    pub sequence: u64,
    /// Two that were signed. They prove the fork by themselves where
    /// [`contradicts`](crate::Statement::contradicts) says so. What a checkpoint's maps, or records
    /// between two heads, were contradicted by is no statement: then it is the newest that was
    /// signed before, if there is one, and what did not stand beside all that was known.
    pub shown: Vec<Arc<Shown>>,
}

/// What to send on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// To be signed in a head.
    pub nonce: [u8; 16],
    /// Where to go on from; `None`: with a checkpoint.
    pub resume: Option<Position>,
    /// The log contradicted itself: to be reported upward (P15).
    pub fork: Option<Fork>,
}

/// All statuses at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// The position.
    pub sequence: u64,
    /// Buckets below it are refused.
    pub floor: u32,
    /// The buckets in which something is not valid.
    pub maps: BTreeMap<u32, StatusMap>,
}

/// A change that a signed head covers, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Everything before is replaced: after a checkpoint, and with a new log.
    Reset(Arc<Snapshot>),
    /// One place changed.
    Status {
        /// Where.
        place: Place,
        /// Whose.
        task: [u8; 16],
        /// To what.
        status: Status,
        /// Why it ended.
        cause: Option<Cause>,
    },
    /// Buckets below this one are refused from here on.
    Floor {
        /// The lowest bucket that still counts.
        bucket: u32,
    },
}

/// What came of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// What became certain, in log order. Not always empty beside a fault: a frame may complete
    /// what another one began.
    pub applied: Vec<Applied>,
    /// Why the frame, or one that waited for it, is refused. The connection is to be closed and
    /// made anew; [`Fault::Fork`] is final until a new generation.
    pub fault: Option<Fault>,
}

/// What a tick asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// A new nonce: draw one, hand it to [`Watcher::ask`] and send it.
    Nonce,
}

/// Follows one trust domain's log.
#[derive(Clone, Debug)]
pub struct Watcher {
    config: Config,
    time: Timekeeper,
    log: Option<Log>,
    /// The newest that was signed, wherever its records are.
    newest: Option<Arc<Shown>>,
    fork: Option<Fork>,
    acknowledged: Option<u64>,
    max_age: u64,
}

impl Watcher {
    /// A watcher that has heard nothing, and refuses everything.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let time = Timekeeper::new(&config);
        // Until a head says otherwise: how long an unanswered nonce is waited for.
        let max_age = 30_000;
        Self {
            config,
            time,
            log: None,
            newest: None,
            fork: None,
            acknowledged: None,
            max_age,
        }
    }

    /// A connection was made: `nonce`, freshly drawn, goes to the server with the result.
    ///
    /// Heads of this connection count once that nonce is answered. What counted before goes on to,
    /// until it is too old: a reconnect by itself closes nothing.
    pub fn connected(&mut self, nonce: [u8; 16], now: Now) -> Hello {
        self.time.connected(nonce, now);
        self.acknowledged = None;
        if let Some(log) = &mut self.log {
            log.disconnect();
        }
        Hello {
            nonce,
            resume: self.resume_position(),
            fork: self.fork.clone(),
        }
    }

    /// A new nonce was drawn because [`tick`](Self::tick) asked for one, and goes to the server.
    pub fn ask(&mut self, nonce: [u8; 16], now: Now) {
        self.time.ask(nonce, now);
    }

    /// Looks at the clocks: closes if one jumped, and says whether a new nonce is due.
    pub fn tick(&mut self, now: Now) -> Wish {
        self.time.observe(now);
        if self.time.wants_nonce(now, self.max_age) {
            Wish::Nonce
        } else {
            Wish::Nothing
        }
    }

    /// Takes a frame. Whatever comes of it, its changes and then the
    /// [`freshness`](Self::freshness) are to be published: a fork closes that, too.
    pub fn on_frame(&mut self, frame: Frame, keys: &dyn HeadKeys, now: Now) -> Step {
        self.time.observe(now);
        let mut outcome = Outcome {
            signed: self.newest.iter().cloned().collect(),
            ..Outcome::default()
        };
        let result = match frame {
            Frame::Checkpoint { signed, maps } => {
                self.on_checkpoint(signed, &maps, keys, now, &mut outcome)
            }
            Frame::Delta(delta) => self.on_delta(&delta, now, &mut outcome),
            Frame::Head(signed) => self.on_head(signed, keys, now, &mut outcome),
        };
        let Outcome { applied, signed } = outcome;
        if let Err(Fault::Fork { sequence }) = result {
            self.fork(sequence, &signed);
        }
        Step {
            applied,
            fault: result.err(),
        }
    }

    /// The first contradiction is the one that is reported.
    fn fork(&mut self, sequence: u64, signed: &[Arc<Shown>]) {
        if let (Some(log), None) = (&self.log, &self.fork) {
            self.fork = Some(Fork {
                log: log.id,
                generation: log.generation,
                sequence,
                shown: contradiction(signed),
            });
        }
    }

    /// The answer for a place. Threads beside the watcher's own ask a
    /// [`StatusView`](crate::view::StatusView), which answers the same.
    pub fn status(&self, place: Place, now: Now) -> Verdict {
        decide(self.lookup(place), place, &self.freshness(), now)
    }

    /// Whether statuses may be believed: to be published after each call that changed something.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        if self.fork.is_some() {
            return Freshness::closed(Refusal::Forked);
        }
        self.time
            .freshness(self.log.as_ref().is_some_and(Log::is_synced))
    }

    /// What is applied: where a new connection goes on from.
    #[must_use]
    pub fn resume_position(&self) -> Option<Position> {
        self.log.as_ref()?.position()
    }

    /// The position to acknowledge, if it moved since the last call on this connection. It stands
    /// for everything up to it.
    pub fn acknowledge(&mut self) -> Option<Position> {
        let position = self.resume_position()?;
        if self.acknowledged.replace(position.sequence) == Some(position.sequence) {
            return None;
        }
        Some(position)
    }

    /// Where the log contradicted itself, if it did: to be reported upward.
    #[must_use]
    pub fn forked_at(&self) -> Option<u64> {
        self.fork.as_ref().map(|fork| fork.sequence)
    }

    fn lookup(&self, place: Place) -> Result<Status, Refusal> {
        let log = self.log.as_ref().ok_or(Refusal::NotSynced)?;
        if place.log() != log.id {
            return Err(Refusal::OtherLog);
        }
        log.lookup(place.slot())
    }

    fn on_head(
        &mut self,
        signed: SignedHead,
        keys: &dyn HeadKeys,
        now: Now,
        outcome: &mut Outcome,
    ) -> Result<(), Fault> {
        let head = *signed.open(keys)?.head();
        let shown = outcome.judge(Shown {
            says: (&head).into(),
            signed: Signed::Head(signed),
        });
        let log = self.follow(head.log, head.generation, outcome)?;
        if log.vouch(&head)? {
            self.newest = Some(Arc::clone(&shown));
        }
        self.time.answer(&head, now);
        self.max_age = u64::from(head.max_age.0);
        let held = Held {
            head,
            shown,
            arrived: now.boot,
        };
        self.settle(held, now, outcome)?;
        self.settle_held(now, outcome)
    }

    fn on_checkpoint(
        &mut self,
        signed: SignedCheckpoint,
        maps: &[PackedMap],
        keys: &dyn HeadKeys,
        now: Now,
        outcome: &mut Outcome,
    ) -> Result<(), Fault> {
        let trusted = signed.open(keys)?;
        let checkpoint = trusted.checkpoint();
        let maps = checkpoint.unpack(maps)?;
        let shown = outcome.judge(Shown {
            says: checkpoint.into(),
            signed: Signed::Checkpoint(signed),
        });
        let log = self.follow(checkpoint.log, checkpoint.generation, outcome)?;
        log.load(checkpoint, maps, &mut outcome.applied)?;
        if self.newest.is_none() {
            self.newest = Some(shown);
        }
        self.settle_held(now, outcome)
    }

    fn on_delta(&mut self, delta: &Delta, now: Now, outcome: &mut Outcome) -> Result<(), Fault> {
        self.not_forked()?;
        self.log
            .as_mut()
            .ok_or(Fault::NoCheckpoint)?
            .stage(delta.records())?;
        self.settle_held(now, outcome)
    }

    fn not_forked(&self) -> Result<(), Fault> {
        match self.forked_at() {
            Some(sequence) => Err(Fault::Fork { sequence }),
            None => Ok(()),
        }
    }

    /// The log that a signed statement is about: the one followed, or a new one of a higher
    /// generation, which replaces it (protocol P14).
    fn follow(
        &mut self,
        id: LogId,
        generation: Generation,
        outcome: &mut Outcome,
    ) -> Result<&mut Log, Fault> {
        let known = match &self.log {
            Some(log) => Some((log.id, log.generation)),
            None => self.config.expected,
        };
        let replaced = match known {
            Some((_, known)) if generation < known => {
                return Err(Fault::LowerGeneration {
                    found: generation,
                    known,
                });
            }
            Some((known_id, known)) if generation == known && id != known_id => {
                return Err(match &self.log {
                    // Two logs of one generation, both signed.
                    Some(_) => Fault::Fork { sequence: 0 },
                    None => Fault::OtherLog { found: id },
                });
            }
            _ => self
                .log
                .as_ref()
                .is_none_or(|log| log.generation < generation),
        };
        if replaced {
            self.start(id, generation, &mut outcome.applied);
        }
        self.not_forked()?;
        Ok(self.log.get_or_insert_with(|| Log::new(id, generation)))
    }

    fn start(&mut self, id: LogId, generation: Generation, applied: &mut Vec<Applied>) {
        if self.log.is_some() {
            let (sequence, floor, maps) = (0, 0, BTreeMap::new());
            let empty = Snapshot {
                log: id,
                generation,
                sequence,
                floor,
                maps,
            };
            applied.push(Applied::Reset(Arc::new(empty)));
        }
        self.log = Some(Log::new(id, generation));
        (self.newest, self.fork) = (None, None);
        self.acknowledged = None;
        self.time.forget();
    }

    fn settle_held(&mut self, now: Now, outcome: &mut Outcome) -> Result<(), Fault> {
        match self.log.as_mut().and_then(Log::take_held) {
            Some(held) => self.settle(held, now, outcome),
            None => Ok(()),
        }
    }

    fn settle(&mut self, held: Held, now: Now, outcome: &mut Outcome) -> Result<(), Fault> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        outcome.signed.push(Arc::clone(&held.shown));
        match log.settle(&held, &mut outcome.applied)? {
            Settled::Counts => self.time.count(&held.head, held.arrived, now),
            Settled::Waits => log.hold(held),
            Settled::Passed => {}
        }
        Ok(())
    }
}

/// What comes of a frame while it is taken.
#[derive(Default)]
struct Outcome {
    applied: Vec<Applied>,
    /// The newest that was signed before, and what is held against all that is known.
    signed: Vec<Arc<Shown>>,
}

impl Outcome {
    fn judge(&mut self, shown: Shown) -> Arc<Shown> {
        let shown = Arc::new(shown);
        self.signed.push(Arc::clone(&shown));
        shown
    }
}

/// Two of these that contradict each other, or else the first and the last.
fn contradiction(signed: &[Arc<Shown>]) -> Vec<Arc<Shown>> {
    let contradicts = |one: &Arc<Shown>| {
        let mut others = signed.iter();
        let other = others.find(|other| one.says.contradicts(&other.says))?;
        Some(vec![Arc::clone(one), Arc::clone(other)])
    };
    signed.iter().find_map(contradicts).unwrap_or_else(|| {
        let ends = [signed.first(), signed.last()];
        let mut ends: Vec<_> = ends.into_iter().flatten().cloned().collect();
        ends.dedup();
        ends
    })
}
