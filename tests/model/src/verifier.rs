//! A verifier: the rules of `taskmint_status::Watcher`, over the model's values.
//!
//! It is written anew, from the protocol, and shares no code with the watcher: the replay holds the
//! two against each other.

use crate::history::{Chain, Head, Place, Record, Statuses};
use crate::{Guard, Guards, MAX_AGE, Tick};

/// What reaches a verifier, with what a relay did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// A head. `answer`: with the nonce that the verifier waits for.
    Head {
        /// What it says.
        head: Head,
        /// Whether it signs the nonce.
        answer: bool,
        /// Whether a relay made it.
        forged: bool,
    },
    /// A checkpoint of a position. `forged`: with maps in which all is valid beside it.
    Checkpoint {
        /// Of which log.
        generation: u8,
        /// Position and hash.
        chain: Chain,
        /// Whether its maps were exchanged.
        forged: bool,
    },
    /// A record, true or made up: nothing in it tells.
    Record {
        /// Its sequence number.
        sequence: u8,
        /// What it says.
        record: Record,
    },
}

/// Why a place is refused: the stable names of `taskmint_status::Refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The task has ended.
    TaskEnded,
    /// Its hour is over.
    BelowFloor,
    /// It is of another log.
    OtherLog,
    /// Nothing has been received.
    NotSynced,
    /// The nonce has not been answered.
    NonceUnanswered,
    /// The newest head is too old.
    Stale,
    /// The server's clock ran ahead.
    ClockJumped,
    /// The log contradicts itself.
    Forked,
}

impl Refusal {
    /// The stable name.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TaskEnded => "TASK_ENDED",
            Self::BelowFloor => "BUCKET_BELOW_FLOOR",
            Self::OtherLog => "LOG_UNKNOWN",
            Self::NotSynced => "STATUS_NOT_SYNCED",
            Self::NonceUnanswered => "STATUS_NONCE_UNANSWERED",
            Self::Stale => "STATUS_STALE",
            Self::ClockJumped => "CLOCK_JUMPED",
            Self::Forked => "LOG_FORKED",
        }
    }
}

/// A frame was refused: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// One verifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verifier {
    /// Whether frames reach it.
    pub connected: bool,
    /// When the nonce that it waits for was sent.
    pub asked: Option<i8>,
    /// The position that it acknowledged last: it travels, and outlives the process.
    pub acknowledged: Option<(u8, u8)>,
    anchor: Option<Anchor>,
    fresh: Option<i8>,
    jumped: bool,
    log: Option<Log>,
    forked: bool,
}

/// The server's clock beside one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Anchor {
    sent: i8,
    server: i8,
    epoch: u8,
    position: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Log {
    generation: u8,
    synced: Option<Synced>,
    held: Option<(Head, i8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Synced {
    chain: Chain,
    statuses: Statuses,
    /// The chain with the records that wait for a head.
    staged: Chain,
}

impl Verifier {
    /// Makes a connection, with a new nonce.
    pub fn connect(&mut self, now: Tick) {
        self.disconnect();
        self.connected = true;
        self.anchor = None;
        self.asked = Some(own(now));
    }

    /// Sends a new nonce on the same connection.
    pub fn ask(&mut self, now: Tick) {
        self.asked = Some(own(now));
    }

    /// The process dies, and another one is started in its place. What it acknowledged may still
    /// be on its way.
    pub fn restart(&mut self) {
        *self = Self {
            acknowledged: self.acknowledged,
            ..Self::default()
        };
    }

    /// Takes a frame. After a fault nothing arrives until the next connection.
    ///
    /// # Errors
    /// That it was refused.
    pub fn take(&mut self, frame: Frame, guards: Guards, now: Tick) -> Result<(), Fault> {
        if !self.connected {
            return Ok(());
        }
        let before = self.position();
        let result = match frame {
            Frame::Head {
                head,
                answer,
                forged,
            } => self.on_head(head, answer, forged, guards, now),
            Frame::Checkpoint {
                generation,
                chain,
                forged,
            } => self.on_checkpoint(generation, chain, forged, guards, now),
            Frame::Record { sequence, record } => self.on_record(sequence, record, guards, now),
        };
        if self.position() != before {
            self.acknowledged = self.position().map(|(log, chain)| (log, chain.len()));
        }
        if result.is_err() {
            self.disconnect();
        }
        result
    }

    /// The answer for a place.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, place: Place, guards: Guards, now: Tick) -> Result<(), Refusal> {
        let log = self.log.ok_or(Refusal::NotSynced)?;
        if place.generation != log.generation {
            return Err(Refusal::OtherLog);
        }
        let synced = log.synced.ok_or(Refusal::NotSynced)?;
        if guards.keep(Guard::Floor) && place.bucket < synced.statuses.floor {
            return Err(Refusal::BelowFloor);
        }
        if synced.statuses.is_ended(place.bucket) {
            return Err(Refusal::TaskEnded);
        }
        if self.forked {
            return Err(Refusal::Forked);
        }
        match self.fresh {
            None if self.jumped => Err(Refusal::ClockJumped),
            None if self.anchor.is_none() => Err(Refusal::NonceUnanswered),
            None => Err(Refusal::NotSynced),
            Some(signed) if guards.keep(Guard::Staleness) && own(now) - signed > MAX_AGE => {
                Err(Refusal::Stale)
            }
            Some(_) => Ok(()),
        }
    }

    /// Log and chain of what is applied.
    #[must_use]
    pub fn position(&self) -> Option<(u8, Chain)> {
        let log = self.log?;
        Some((log.generation, log.synced?.chain))
    }

    /// Log and chain with the records that wait.
    #[must_use]
    pub fn staged(&self) -> Option<(u8, Chain)> {
        let log = self.log?;
        Some((log.generation, log.synced?.staged))
    }

    /// Whether it saw the log contradict itself.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.forked
    }

    /// Forgets how stale it is, once it is: equal states are then searched once.
    pub fn settle_age(&mut self, now: Tick) {
        let stale = own(now) - MAX_AGE - 1;
        self.fresh = self.fresh.map(|signed| signed.max(stale));
    }

    /// What is of this connection goes: what waits, and the nonce.
    fn disconnect(&mut self) {
        self.connected = false;
        self.asked = None;
        if let Some(log) = &mut self.log {
            log.held = None;
            if let Some(synced) = &mut log.synced {
                synced.staged = synced.chain;
            }
        }
    }

    fn on_head(
        &mut self,
        head: Head,
        answer: bool,
        forged: bool,
        guards: Guards,
        now: Tick,
    ) -> Result<(), Fault> {
        if forged && guards.keep(Guard::HeadSignature) {
            return Err(Fault);
        }
        let log = self.follow(head.generation)?;
        let applied = log.synced.map(|synced| synced.chain);
        if applied.is_some_and(|at| at.len() == head.chain.len() && at != head.chain) {
            return self.fork();
        }
        self.anchor_to(head, answer, guards, now);
        self.settle(head, own(now), guards, now)?;
        self.settle_held(guards, now)
    }

    fn on_checkpoint(
        &mut self,
        generation: u8,
        chain: Chain,
        forged: bool,
        guards: Guards,
        now: Tick,
    ) -> Result<(), Fault> {
        if forged && guards.keep(Guard::CheckpointDigest) {
            return Err(Fault);
        }
        let log = self.follow(generation)?;
        let mut statuses = chain.statuses();
        if forged {
            statuses = statuses.without_ends();
        }
        if let Some(synced) = log.synced {
            if chain.len() < synced.chain.len() {
                return Err(Fault);
            }
            if chain.len() == synced.chain.len() {
                return if chain == synced.chain {
                    self.settle_held(guards, now)
                } else {
                    self.fork()
                };
            }
            if !synced.statuses.leads_to(statuses) {
                return self.fork();
            }
        }
        log.synced = Some(Synced {
            chain,
            statuses,
            staged: chain,
        });
        self.settle_held(guards, now)
    }

    fn on_record(
        &mut self,
        sequence: u8,
        record: Record,
        guards: Guards,
        now: Tick,
    ) -> Result<(), Fault> {
        if self.forked {
            return Err(Fault);
        }
        let log = self.log.as_mut().ok_or(Fault)?;
        let synced = log.synced.as_mut().ok_or(Fault)?;
        let (applied, last) = (synced.chain.len(), synced.staged.len());
        if sequence > last + 1 || last == Chain::MAX {
            return Err(Fault);
        }
        if sequence > last {
            synced.staged = synced.staged.then(record);
        } else if sequence > applied && synced.staged.record(sequence) != Some(record) {
            return Err(Fault);
        }
        self.settle_held(guards, now)
    }

    /// The log that a signed statement is about, in place of an older generation's.
    fn follow(&mut self, generation: u8) -> Result<&mut Log, Fault> {
        let known = self.log.map_or(0, |log| log.generation);
        if generation < known {
            return Err(Fault);
        }
        if generation > known {
            self.log = None;
            (self.anchor, self.fresh, self.forked) = (None, None, false);
        }
        if self.forked {
            return Err(Fault);
        }
        Ok(self.log.get_or_insert(Log {
            generation,
            synced: None,
            held: None,
        }))
    }

    fn fork(&mut self) -> Result<(), Fault> {
        self.forked = true;
        Err(Fault)
    }

    fn anchor_to(&mut self, head: Head, answer: bool, guards: Guards, now: Tick) {
        let epoch = head.chain.epoch();
        let anchored = |sent| Anchor {
            sent,
            server: head.time,
            epoch,
            position: head.chain.len(),
        };
        let known = self.anchor.map_or(epoch, |anchor| anchor.epoch);
        if known < epoch && guards.keep(Guard::EpochNonce) {
            self.anchor = None;
        }
        if !guards.keep(Guard::Nonce) {
            // The first head of a connection is taken to be new.
            self.anchor.get_or_insert(anchored(own(now)));
        } else if answer && let Some(sent) = self.asked.take() {
            self.jumped = false;
            self.anchor = Some(anchored(sent));
        }
    }

    /// Applies what a head covers, and counts it; or keeps it until its records are there.
    fn settle(&mut self, head: Head, arrived: i8, guards: Guards, now: Tick) -> Result<(), Fault> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let (at, newer) = (
            head.chain.len(),
            log.held.is_none_or(|(held, _)| {
                (held.chain.len(), held.time) <= (head.chain.len(), head.time)
            }),
        );
        let Some(synced) = log
            .synced
            .as_mut()
            .filter(|synced| at <= synced.staged.len())
        else {
            if newer {
                log.held = Some((head, arrived));
            }
            return Ok(());
        };
        if at < synced.chain.len() {
            return Ok(());
        }
        let there = synced.staged.prefix(at);
        if there != head.chain && guards.keep(Guard::LogHash) {
            let applied = at == synced.chain.len();
            synced.staged = synced.chain;
            return if applied { self.fork() } else { Err(Fault) };
        }
        for record in there.records().skip(usize::from(synced.chain.len())) {
            synced.statuses.apply(record);
        }
        synced.chain = head.chain;
        if there != head.chain {
            synced.staged = head.chain;
        }
        self.count(head, arrived, guards, now);
        Ok(())
    }

    fn settle_held(&mut self, guards: Guards, now: Tick) -> Result<(), Fault> {
        match self.log.as_mut().and_then(|log| log.held.take()) {
            Some((head, arrived)) => self.settle(head, arrived, guards, now),
            None => Ok(()),
        }
    }

    /// A head whose position is applied says how fresh all that is, by one's own clock.
    fn count(&mut self, head: Head, arrived: i8, guards: Guards, now: Tick) {
        let Some(anchor) = self.anchor else { return };
        if guards.keep(Guard::EpochNonce) && anchor.epoch != head.chain.epoch() {
            return;
        }
        if guards.keep(Guard::AnsweredPosition) && head.chain.len() < anchor.position {
            return;
        }
        let signed = anchor.sent + head.time - anchor.server;
        if signed > arrived {
            (self.anchor, self.fresh, self.jumped) = (None, None, true);
            return;
        }
        self.fresh = Some(self.fresh.map_or(signed, |fresh| fresh.max(signed)));
        self.settle_age(now);
    }
}

/// An instant of the one true time, read from a verifier's own clock, which runs with it.
fn own(now: Tick) -> i8 {
    now as i8
}
