//! Watchers behind a relay, by the relay's word.

use std::collections::{BTreeMap, HashSet};

use taskmint_id::SpiffeId;

use super::{AckRefused, check};

/// The most watchers behind one relay.
pub const MAX_RELAYED: usize = 4096;

/// The longest name of a watcher, in octets.
pub const MAX_NAME: usize = 256;

/// What a relay says of one watcher behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The relay's own number for it.
    pub number: u32,
    /// Who it is: with the first mention.
    pub who: Option<Introduced>,
    /// What it has applied.
    pub sequence: u64,
    /// It is gone.
    pub left: bool,
}

/// Who a watcher behind a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduced {
    /// What the relay attested it to be.
    pub spiffe_id: SpiffeId,
    /// What it calls itself.
    pub name: String,
    /// Whether ends are waited for until it has applied them.
    pub waited_for: bool,
}

/// Everybody behind one relay.
#[derive(Debug, Default)]
pub(super) struct Relay {
    known: BTreeMap<u32, Known>,
    /// What each has applied of whom nothing else is said.
    rest: u64,
    /// How many stand elsewhere.
    apart: usize,
    /// How many are waited for.
    waited_for: usize,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) spiffe_id: SpiffeId,
    pub(super) name: String,
    pub(super) waited_for: bool,
    /// Where it stands, if elsewhere than the rest.
    apart: Option<u64>,
}

impl Known {
    fn stands_at(&self, rest: u64) -> u64 {
        self.apart.unwrap_or(rest)
    }
}

impl Relay {
    /// The common word: everybody stands at `sequence`. Returns what all have applied; with nobody
    /// there, whatever.
    pub(super) fn all_at(&mut self, sequence: u64, sent: u64) -> Result<u64, AckRefused> {
        if self.known.is_empty() {
            return Ok(u64::MAX);
        }
        if self.apart > 0 {
            return self.rest_at(&[], sequence, sent);
        }
        check(sequence, self.rest, sent)?;
        self.rest = sequence;
        Ok(match self.waited_for {
            0 => u64::MAX,
            _ => sequence,
        })
    }

    /// Takes in one mention; returns who came, if the watcher is new. `room` says whether one more
    /// may be waited for.
    pub(super) fn place(
        &mut self,
        one: &Relayed,
        room: bool,
        sent: u64,
    ) -> Result<Option<&Known>, AckRefused> {
        let rest = self.rest;
        if let Some(known) = self.known.get_mut(&one.number) {
            check(one.sequence, known.stands_at(rest), sent)?;
            self.apart += usize::from(known.apart.is_none());
            known.apart = Some(one.sequence);
            return Ok(None);
        }
        let who = one.who.as_ref();
        let who = who.ok_or(AckRefused::NotIntroduced(one.number))?;
        if who.name.len() > MAX_NAME {
            return Err(AckRefused::LongName);
        }
        if self.known.len() >= MAX_RELAYED {
            return Err(AckRefused::TooManyRelayed);
        }
        check(one.sequence, 0, sent)?;
        self.apart += 1;
        let waited_for = who.waited_for && room;
        self.waited_for += usize::from(waited_for);
        Ok(Some(self.known.entry(one.number).or_insert(Known {
            number: one.number,
            spiffe_id: who.spiffe_id.clone(),
            name: who.name.clone(),
            waited_for,
            apart: Some(one.sequence),
        })))
    }

    /// Everybody who was not mentioned stands at `sequence`. Returns what all who are waited for
    /// have applied.
    pub(super) fn rest_at(
        &mut self,
        mentioned: &[Relayed],
        sequence: u64,
        sent: u64,
    ) -> Result<u64, AckRefused> {
        let mentioned: HashSet<u32> = mentioned.iter().map(|one| one.number).collect();
        let mut through = u64::MAX;
        for known in self.known.values_mut() {
            if !mentioned.contains(&known.number) {
                check(sequence, known.stands_at(self.rest), sent)?;
                self.apart -= usize::from(known.apart.is_some());
                known.apart = None;
            }
            if known.waited_for {
                through = through.min(known.stands_at(sequence));
            }
        }
        self.rest = sequence;
        Ok(through)
    }

    /// Takes one out; returns it and what it had applied.
    pub(super) fn leave(&mut self, number: u32) -> Option<(Known, u64)> {
        let known = self.known.remove(&number)?;
        self.apart -= usize::from(known.apart.is_some());
        self.waited_for -= usize::from(known.waited_for);
        let sequence = known.stands_at(self.rest);
        Some((known, sequence))
    }

    pub(super) fn each(&self, mut take: impl FnMut(&Known, u64)) {
        for known in self.known.values() {
            take(known, known.stands_at(self.rest));
        }
    }

    /// How many are waited for.
    pub(super) fn waited_for(&self) -> usize {
        self.waited_for
    }

    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}
