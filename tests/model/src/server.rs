//! The server: one writer on a disk, which may die at any instant.

use crate::history::{Bucket, Chain, Head, Place, Statuses};
use crate::{Guard, Guards, Record, Tick};

/// A server and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Whether it runs.
    pub up: bool,
    /// The generation of its log.
    pub generation: u8,
    /// The log as it was written.
    pub written: Chain,
    /// How much of it is on disk.
    pub synced: u8,
    /// How far its clock is from the true time. Another machine, another value.
    pub clock: i8,
    minted: [Option<Mint>; 2],
}

/// The record of an issuance, which is in the store but not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mint {
    /// How long the log was then: what a backup of that position holds.
    at: u8,
    synced: bool,
}

impl Server {
    /// A server that begins, with tasks at these buckets' places.
    #[must_use]
    pub fn new(generation: u8, minted: [bool; 2]) -> Self {
        let mint = Mint {
            at: 0,
            synced: true,
        };
        Self {
            up: true,
            generation,
            written: Chain::EMPTY,
            synced: 0,
            clock: 0,
            minted: minted.map(|minted| minted.then_some(mint)),
        }
    }

    /// The log as others may see it.
    #[must_use]
    pub fn visible(&self, guards: Guards) -> Chain {
        if guards.keep(Guard::DurableBeforeVisible) {
            self.durable()
        } else {
            self.written
        }
    }

    /// The log on disk.
    #[must_use]
    pub fn durable(&self) -> Chain {
        self.written.prefix(self.synced)
    }

    /// Whether something waits to be synced.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let waits = |mint: &Option<Mint>| mint.is_some_and(|mint| !mint.synced);
        self.written.len() > self.synced || self.minted.iter().any(waits)
    }

    /// Whether its store has a task at a bucket's place; `synced`: on disk.
    #[must_use]
    pub fn has(&self, bucket: Bucket, synced: bool) -> bool {
        let mint = self.minted.get(usize::from(bucket)).copied().flatten();
        mint.is_some_and(|mint| mint.synced || !synced)
    }

    /// Whether a task at a bucket's place can be ended.
    #[must_use]
    pub fn is_live(&self, bucket: Bucket) -> bool {
        let statuses: Statuses = self.written.statuses();
        self.has(bucket, false) && bucket >= statuses.floor && !statuses.is_ended(bucket)
    }

    /// The place of a bucket in its log.
    #[must_use]
    pub fn place(&self, bucket: Bucket) -> Place {
        Place {
            generation: self.generation,
            bucket,
        }
    }

    /// Signs what is visible.
    #[must_use]
    pub fn head(&self, guards: Guards, now: Tick) -> Head {
        Head {
            generation: self.generation,
            chain: self.visible(guards),
            time: now as i8 + self.clock,
        }
    }

    /// Writes a record, which is not on disk yet.
    pub fn write(&mut self, record: Record) {
        self.written = self.written.then(record);
    }

    /// Writes an issuance, which is not on disk yet.
    pub fn mint(&mut self, bucket: Bucket) {
        let at = self.written.len();
        if let Some(mint) = self.minted.get_mut(usize::from(bucket)) {
            *mint = Some(Mint { at, synced: false });
        }
    }

    /// Everything written is on disk.
    pub fn sync(&mut self) {
        self.synced = self.written.len();
        for mint in self.minted.iter_mut().flatten() {
            mint.synced = true;
        }
    }

    /// Power is cut: what is not on disk never was.
    pub fn crash(&mut self) {
        self.up = false;
        self.written = self.durable();
        for mint in &mut self.minted {
            *mint = mint.filter(|mint| mint.synced);
        }
    }

    /// A new writer begins: a new epoch, perhaps on another machine.
    pub fn start(&mut self, clock: i8) {
        self.up = true;
        self.clock = clock;
        self.write(Record::Epoch);
        self.sync();
    }

    /// A backup of a position takes the disk's place.
    pub fn restore(&mut self, to: u8, guards: Guards) {
        self.crash();
        if guards.keep(Guard::GenerationAfterRestore) {
            // All that ran has ended; what runs now has places of the new log.
            *self = Self::new(self.generation + 1, [false, true]);
            return;
        }
        self.written = self.written.prefix(to);
        self.synced = to;
        for mint in &mut self.minted {
            *mint = mint.filter(|mint| mint.at <= to);
        }
        self.start(0);
    }
}
