//! The places of those who are shown to the server, and what is to be said of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use taskmint_id::SpiffeId;
use taskmint_wire::revocation as wire;
use tokio::time::Instant;

use super::Instance;

/// Octets of introductions in one word: with where a thousand others stand it is still far below
/// what the server reads as one message.
const INTRODUCTIONS: usize = 24 << 10;

/// Watchers that have left and are known again when they come back.
const REMEMBERED: usize = 1024;

/// Watchers that are shown at most, so that a word about all of them is still one message; half as
/// many of those that nobody waits for.
pub(super) const SHOWN: usize = 2048;

/// Everybody's places, and what was said of them.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The stream to the server that speaks now.
    pub(super) stream: u64,
    /// Which log, by the number that the relay gave it.
    pub(super) log: u64,
    next: u32,
    /// Those who are shown.
    pub(super) seats: BTreeMap<u32, Place>,
    /// Their numbers, by what they are known by when they come back.
    pub(super) present: HashMap<(Instance, SpiffeId), u32>,
    /// They were introduced, and the server has not been told.
    pub(super) left: Vec<u32>,
    remembered: VecDeque<(Instance, SpiffeId, u32)>,
    /// What the agent's own verifier has applied.
    pub(super) own: u64,
    /// The newest head on this stream: nothing beyond it can be acknowledged there.
    pub(super) headed: Option<u64>,
    /// There is something to say; and something that is not to wait.
    pub(super) changed: bool,
    pub(super) is_news: bool,
    /// How many who are waited for have not applied what is wanted.
    pub(super) missing: usize,
    /// What all who are waited for had applied at the last word, and when that was.
    pub(super) told: u64,
    pub(super) told_at: Option<Instant>,
}

/// A shown watcher's place.
#[derive(Debug)]
pub(super) struct Place {
    seat: Arc<Seat>,
    pub(super) who: Who,
    instance: Option<Instance>,
    pub(super) is_introduced: bool,
}

/// How far a watcher is.
#[derive(Debug)]
pub(super) struct Seat {
    /// 0 for who is not shown.
    pub(super) number: u32,
    pub(super) log: u64,
    pub(super) is_own: bool,
    pub(super) sent: AtomicU64,
    pub(super) acknowledged: AtomicU64,
}

/// A watcher as the server is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) struct Who {
    pub(in crate::relay) spiffe_id: SpiffeId,
    pub(in crate::relay) name: String,
    pub(in crate::relay) waited_for: bool,
}

impl State {
    /// The relay's word: cumulative, and the newest there is.
    pub(super) fn word(&mut self, now: Instant) -> wire::Acknowledge {
        let headed = self.headed.unwrap_or(0);
        let own = self.own.min(headed);
        let all = self.seats.values();
        let most = all.map(|place| place.seat.stands(headed)).max();
        let rest = most.unwrap_or(own);
        let gone = self.left.drain(..).map(|number| wire::Relayed {
            number,
            left: true,
            ..wire::Relayed::default()
        });
        let mut relayed: Vec<_> = gone.collect();
        let (mut room, mut through, mut more) = (INTRODUCTIONS, own, false);
        for place in self.seats.values_mut() {
            let mut one = wire::Relayed {
                number: place.seat.number,
                sequence: place.seat.stands(headed),
                ..wire::Relayed::default()
            };
            if place.who.waited_for {
                through = through.min(one.sequence);
            }
            if !place.is_introduced {
                let octets = place.who.octets();
                if octets > room {
                    more = true;
                    continue;
                }
                room -= octets;
                place.is_introduced = true;
                place.who.introduce(&mut one);
            } else if one.sequence == rest {
                continue;
            }
            relayed.push(one);
        }
        (self.changed, self.is_news) = (more, more);
        (self.told, self.told_at) = (through, Some(now));
        wire::Acknowledge {
            sequence: own,
            relayed,
            relayed_sequence: rest,
            ..wire::Acknowledge::default()
        }
    }

    pub(super) fn has_room(&self, who: &Who) -> bool {
        let most = if who.waited_for { SHOWN } else { SHOWN / 2 };
        let has_room = self.seats.len() < most;
        if !has_room && who.waited_for {
            tracing::warn!(
                watcher = %who.spiffe_id, name = who.name, most,
                "too many watchers to tell the server of all; nobody waits for this one"
            );
        }
        has_room
    }

    pub(super) fn number(&mut self, who: &Who, instance: Option<Instance>) -> u32 {
        if let Some(instance) = instance {
            let is = |one: &(Instance, SpiffeId, u32)| one.0 == instance && one.1 == who.spiffe_id;
            let at = self.remembered.iter().position(is);
            let known = at.and_then(|at| self.remembered.remove(at));
            if let Some((.., number)) = known
                && !self.seats.contains_key(&number)
            {
                return number;
            }
        }
        // Never one that is taken, even after four billion; and 0 is nobody's.
        loop {
            self.next = self.next.wrapping_add(1).max(1);
            if !self.seats.contains_key(&self.next) {
                return self.next;
            }
        }
    }

    pub(super) fn seat(
        &mut self,
        seat: Arc<Seat>,
        who: Who,
        instance: Option<Instance>,
        wanted: u64,
    ) {
        let number = seat.number;
        if let Some(instance) = instance {
            self.present
                .insert((instance, who.spiffe_id.clone()), number);
        }
        let place = Place {
            seat,
            who,
            instance,
            is_introduced: false,
        };
        self.missing += usize::from(place.is_missing(wanted));
        self.seats.insert(number, place);
    }

    pub(super) fn unseat(&mut self, number: u32, wanted: u64) {
        let Some(place) = self.seats.remove(&number) else {
            return;
        };
        let missing = usize::from(place.is_missing(wanted));
        self.missing = self.missing.saturating_sub(missing);
        if place.is_introduced {
            self.left.push(number);
        }
        let Some(instance) = place.instance else {
            return;
        };
        let key = (instance, place.who.spiffe_id);
        self.present.remove(&key);
        if self.remembered.len() >= REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((key.0, key.1, number));
    }

    /// The place of a watcher, unless it is not shown, or another one has it by now.
    pub(super) fn place_of(&self, seat: &Arc<Seat>) -> Option<&Place> {
        let place = self.seats.get(&seat.number)?;
        Arc::ptr_eq(&place.seat, seat).then_some(place)
    }

    /// Whether it is waited for and has not applied what is wanted.
    pub(super) fn is_missing(&self, seat: &Arc<Seat>, wanted: u64) -> bool {
        match seat.is_own {
            true => self.own < wanted,
            false => self
                .place_of(seat)
                .is_some_and(|place| place.is_missing(wanted)),
        }
    }

    pub(super) fn count_missing(&mut self, wanted: u64) {
        let own = usize::from(self.own < wanted);
        let missing = |place: &&Place| place.is_missing(wanted);
        self.missing = own + self.seats.values().filter(missing).count();
    }
}

impl Place {
    fn is_missing(&self, wanted: u64) -> bool {
        self.who.waited_for && self.seat.acknowledged() < wanted
    }
}

impl Seat {
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    fn stands(&self, headed: u64) -> u64 {
        self.acknowledged().min(headed)
    }
}

impl Who {
    /// About as many as an introduction has on the wire.
    fn octets(&self) -> usize {
        self.name.len() + self.spiffe_id.to_string().len() + 32
    }

    fn introduce(&self, one: &mut wire::Relayed) {
        one.name.clone_from(&self.name);
        one.spiffe_id = self.spiffe_id.to_string();
        one.waited_for = self.waited_for;
    }
}
