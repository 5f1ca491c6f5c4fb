//! All of it together: one true time, the server, what a relay knows, verifiers, and what a client
//! was told.

use crate::history::{Bucket, Chain, Head, Place, Record};
use crate::server::Server;
use crate::verifier::{Fault, Frame, Verifier};
use crate::{Guard, Guards, MAX_AGE, Tick};

/// The instant from which on the first hour is over.
pub const HOUR_ENDS: Tick = 1;

/// What a world can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; a server that runs signs a head.
    Tick,
    /// The server opens a task at the place of a bucket.
    Mint(Bucket),
    /// The server writes the end of the task there.
    End(Bucket),
    /// The server writes that the first hour is over.
    RaiseFloor,
    /// The disk has it; acknowledged, signed and pushed follow.
    Sync,
    /// The server dies.
    Crash,
    /// It is started again, with a clock that is this far from the true time.
    Start {
        /// Ticks ahead.
        clock: i8,
    },
    /// It is stopped, a backup of this position put in place, and started again.
    Restore {
        /// Records in the backup.
        to: u8,
    },
    /// A verifier connects, with a new nonce.
    Connect(usize),
    /// A verifier sends a new nonce.
    Ask(usize),
    /// The server gets a verifier's nonce, and signs it.
    Answer(usize),
    /// A frame reaches a verifier.
    Deliver(usize, Frame),
    /// The server gets a verifier's newest acknowledgement.
    Acknowledge(usize),
    /// A verifier's process is replaced by a new one.
    Restart(usize),
}

/// What a client was told about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The end's position.
    pub position: u8,
    /// `dead_everywhere_by`, in true time, as far as verifiers that watch go.
    pub dead_by: Tick,
    /// Who applied it by its own word: a bit for each verifier.
    applied: u8,
}

impl Receipt {
    /// Whether it names this verifier among those that applied it.
    #[must_use]
    pub fn is_applied(&self, verifier: usize) -> bool {
        self.applied & 1 << verifier != 0
    }
}

/// What is known of a place outside of any server: for the properties alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fate {
    /// A credential with it left the server.
    pub handed: bool,
    /// Two credentials of two tasks did.
    pub twice: bool,
    /// Its issuance was on disk at some time.
    pub recorded: bool,
    /// Its end was acknowledged.
    pub receipt: Option<Receipt>,
}

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The one true time.
    pub now: Tick,
    /// The server.
    pub server: Server,
    /// Every head that was signed: what relays know, ascending. Whatever was sent once can be
    /// delivered at any time, any number of times, in any order, or never.
    pub heads: Vec<Head>,
    /// Verifiers.
    pub verifiers: Vec<Verifier>,
    /// For each verifier, the heads that sign the nonce for which it waits, ascending.
    pub answers: Vec<Vec<Head>>,
    /// Crashes so far.
    pub crashes: u8,
    /// Restarts of verifiers so far.
    pub restarts: u8,
    fates: [Fate; 4],
}

impl World {
    /// A world that begins, with tasks at these buckets' places.
    #[must_use]
    pub fn new(verifiers: usize, minted: [bool; 2], guards: Guards) -> Self {
        let mut world = Self {
            now: 0,
            server: Server::new(1, minted),
            heads: Vec::new(),
            verifiers: vec![Verifier::default(); verifiers],
            answers: vec![Vec::new(); verifiers],
            crashes: 0,
            restarts: 0,
            fates: [Fate::default(); 4],
        };
        world.note_minted();
        world.sign(guards);
        world
    }

    /// Does one thing.
    ///
    /// # Errors
    /// That a verifier refused the frame that it was given: the world went on all the same.
    pub fn step(&mut self, action: Action, guards: Guards) -> Result<(), Fault> {
        match action {
            Action::Tick => self.tick(guards),
            Action::Mint(bucket) => self.mint(bucket, guards),
            Action::End(bucket) => {
                self.server.write(Record::End(bucket));
                self.written(guards);
            }
            Action::RaiseFloor => {
                self.server.write(Record::Floor);
                self.written(guards);
            }
            Action::Sync => {
                self.server.sync();
                self.note_minted();
                self.publish(guards);
            }
            Action::Crash => {
                self.server.crash();
                self.crashes += 1;
            }
            Action::Start { clock } => {
                self.server.start(clock);
                self.publish(guards);
            }
            Action::Restore { to } => self.restore(to, guards),
            Action::Connect(at) => self.with(at, |verifier, now| verifier.connect(now)),
            Action::Ask(at) => self.with(at, |verifier, now| verifier.ask(now)),
            Action::Restart(at) => {
                self.with(at, |verifier, _| verifier.restart());
                self.restarts += 1;
            }
            Action::Answer(at) => {
                let head = self.server.head(guards, self.now);
                if let Some(answers) = self.answers.get_mut(at) {
                    insert(answers, head);
                }
            }
            Action::Acknowledge(at) => self.acknowledge(at),
            Action::Deliver(at, frame) => return self.deliver(at, frame, guards),
        }
        Ok(())
    }

    /// Whether a verifier accepts a credential with this place, now.
    #[must_use]
    pub fn accepts(&self, verifier: usize, place: Place, guards: Guards) -> bool {
        self.verifiers
            .get(verifier)
            .is_some_and(|verifier| verifier.check(place, guards, self.now).is_ok())
    }

    /// What happened to a place.
    #[must_use]
    pub fn fate(&self, place: Place) -> Fate {
        self.fates
            .get(fate_index(place))
            .copied()
            .unwrap_or_default()
    }

    /// The positions that a relay knows: checkpoints of them can be had.
    pub fn positions(&self) -> impl Iterator<Item = (u8, Chain)> {
        let mut known: Vec<_> = self
            .heads
            .iter()
            .map(|head| (head.generation, head.chain))
            .collect();
        known.sort_unstable();
        known.dedup();
        known.into_iter()
    }

    fn tick(&mut self, guards: Guards) {
        self.now += 1;
        for verifier in &mut self.verifiers {
            verifier.settle_age(self.now);
        }
        if self.server.up {
            self.sign(guards);
        }
    }

    fn mint(&mut self, bucket: Bucket, guards: Guards) {
        let place = self.server.place(bucket);
        if let Some(fate) = self.fates.get_mut(fate_index(place)) {
            fate.twice |= fate.handed;
        }
        self.server.mint(bucket);
        self.written(guards);
    }

    /// Something was written. With the guard it shows when it is synced, and not before.
    fn written(&mut self, guards: Guards) {
        if !guards.keep(Guard::DurableBeforeVisible) {
            self.hand_out();
            self.publish(guards);
        }
    }

    /// What is visible is signed, and the ends in it are acknowledged.
    fn publish(&mut self, guards: Guards) {
        self.sign(guards);
        let visible = self.server.visible(guards);
        for (at, record) in visible.records().enumerate() {
            if let Record::End(bucket) = record {
                self.receipt(self.server.place(bucket), at as u8 + 1);
            }
        }
    }

    fn sign(&mut self, guards: Guards) {
        let head = self.server.head(guards, self.now);
        insert(&mut self.heads, head);
    }

    /// The last head without this end was signed at this instant at the latest: within a run the
    /// server knows it, and heads of earlier runs came before its start.
    fn receipt(&mut self, place: Place, position: u8) {
        let dead_by = self.now + MAX_AGE as Tick;
        let receipt = Receipt {
            position,
            dead_by,
            applied: 0,
        };
        if let Some(fate) = self.fates.get_mut(fate_index(place)) {
            fate.receipt.get_or_insert(receipt);
        }
    }

    fn restore(&mut self, to: u8, guards: Guards) {
        let old = [self.server.place(0), self.server.place(1)];
        self.server.restore(to, guards);
        self.crashes += 1;
        if self.server.generation != old[0].generation {
            // The restore ends them all, also those that only the lost log knew. Nobody can apply
            // these ends: the log is gone.
            for place in old {
                if self.fate(place).handed {
                    self.receipt(place, Chain::MAX + 1);
                }
            }
        }
        self.note_minted();
        self.sign(guards);
    }

    /// What is on disk is known to have been, and its credentials are out.
    fn note_minted(&mut self) {
        self.hand_out();
        for bucket in [0, 1] {
            let place = self.server.place(bucket);
            if self.server.has(bucket, true)
                && let Some(fate) = self.fates.get_mut(fate_index(place))
            {
                fate.recorded = true;
            }
        }
    }

    fn hand_out(&mut self) {
        for bucket in [0, 1] {
            let place = self.server.place(bucket);
            if self.server.has(bucket, false)
                && let Some(fate) = self.fates.get_mut(fate_index(place))
            {
                fate.handed = true;
            }
        }
    }

    fn with(&mut self, at: usize, act: impl FnOnce(&mut Verifier, Tick)) {
        if let (Some(verifier), Some(answers)) =
            (self.verifiers.get_mut(at), self.answers.get_mut(at))
        {
            act(verifier, self.now);
            // A head that signs a nonce of before is no more than a head.
            answers.clear();
        }
    }

    fn deliver(&mut self, at: usize, frame: Frame, guards: Guards) -> Result<(), Fault> {
        let (Some(verifier), Some(answers)) =
            (self.verifiers.get_mut(at), self.answers.get_mut(at))
        else {
            return Ok(());
        };
        let result = verifier.take(frame, guards, self.now);
        if verifier.asked.is_none() {
            answers.clear();
        }
        result
    }

    /// A receipt names who acknowledged: cumulative, of the log that the server has, and of no
    /// position that it never sent.
    fn acknowledge(&mut self, at: usize) {
        let word = self.verifiers.get(at).and_then(|v| v.acknowledged);
        let Some((generation, position)) = word else {
            return;
        };
        if generation != self.server.generation || position > self.server.written.len() {
            return;
        }
        for place in [self.server.place(0), self.server.place(1)] {
            let fate = self.fates.get_mut(fate_index(place));
            if let Some(receipt) = fate.and_then(|fate| fate.receipt.as_mut())
                && receipt.position <= position
            {
                receipt.applied |= 1 << at;
            }
        }
    }
}

fn insert(heads: &mut Vec<Head>, head: Head) {
    if let Err(at) = heads.binary_search(&head) {
        heads.insert(at, head);
    }
}

fn fate_index(place: Place) -> usize {
    usize::from(place.generation.saturating_sub(1)) * 2 + usize::from(place.bucket)
}
