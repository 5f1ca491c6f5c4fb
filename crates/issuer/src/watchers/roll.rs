//! The list itself: who is connected, and who left a moment ago.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use taskmint_id::SpiffeId;
use taskmint_model::Timestamp;

use super::Seat;

/// Names a watcher across connections: its instance, or its relay's with the relay's number for it.
pub(super) type Key = ([u8; 16], Option<u32>);

/// One who is waited for, left, and may still believe what it heard.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) key: Option<Key>,
    pub(super) spiffe_id: SpiffeId,
    pub(super) name: String,
    pub(super) relay: Option<SpiffeId>,
    pub(super) sequence: u64,
    pub(super) left_at: Timestamp,
    pub(super) until: Timestamp,
}

/// Who is connected, in the order in which they came, and who left.
#[derive(Debug, Default)]
pub(super) struct Roll {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
    instances: HashMap<[u8; 16], u64>,
    identities: HashMap<SpiffeId, usize>,
    /// Those connected, or behind relays, whom somebody waits for.
    present: usize,
    departed: BTreeMap<u64, Departed>,
    departures: HashMap<Key, u64>,
}

impl Roll {
    pub(super) fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn count(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn count_of(&self, id: &SpiffeId) -> usize {
        self.identities.get(id).copied().unwrap_or_default()
    }

    /// How many are waited for, those who left included.
    pub(super) fn waited_for(&self) -> usize {
        self.present + self.departed.len()
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = &Arc<Seat>> {
        self.seats.values()
    }

    pub(super) fn departed(&self) -> impl Iterator<Item = &Departed> {
        self.departed.values()
    }

    pub(super) fn seat(&mut self, seat: Arc<Seat>) {
        if let Some(instance) = seat.instance {
            self.instances.insert(instance, seat.number);
        }
        *self.identities.entry(seat.spiffe_id.clone()).or_default() += 1;
        self.present += usize::from(seat.waited_for);
        self.seats.insert(seat.number, seat);
    }

    /// Takes a seat off the list, with everybody behind it; says whether it was there.
    pub(super) fn unseat(&mut self, seat: &Seat) -> bool {
        if self.seats.remove(&seat.number).is_none() {
            return false;
        }
        if let Some(instance) = seat.instance
            && self.instances.get(&instance) == Some(&seat.number)
        {
            self.instances.remove(&instance);
        }
        if let Some(count) = self.identities.get_mut(&seat.spiffe_id) {
            *count -= 1;
            if *count == 0 {
                self.identities.remove(&seat.spiffe_id);
            }
        }
        let behind = seat.relay.as_ref();
        let behind = behind.map_or(0, |relay| relay.lock().waited_for());
        self.present -= behind + usize::from(seat.waited_for);
        true
    }

    pub(super) fn has(&self, seat: &Seat) -> bool {
        self.seats.contains_key(&seat.number)
    }

    /// The connection of this instance, if it still counts as one. Nobody takes another's seat.
    pub(super) fn seated_as(&self, instance: [u8; 16], id: &SpiffeId) -> Option<Arc<Seat>> {
        let seat = self.seats.get(self.instances.get(&instance)?)?;
        (seat.spiffe_id == *id).then(|| Arc::clone(seat))
    }

    pub(super) fn wait_for_one_more(&mut self) {
        self.present += 1;
    }

    pub(super) fn stop_waiting_for_one(&mut self) {
        self.present -= 1;
    }

    pub(super) fn depart(&mut self, departed: Departed) {
        let number = self.next_number();
        if let Some(key) = departed.key
            && let Some(before) = self.departures.insert(key, number)
        {
            self.departed.remove(&before);
        }
        self.departed.insert(number, departed);
    }

    /// Whoever left is back, if it has the same identity.
    pub(super) fn return_of(&mut self, key: Key, id: &SpiffeId) {
        let Some(number) = self.departures.get(&key) else {
            return;
        };
        if self
            .departed
            .get(number)
            .is_some_and(|departed| departed.spiffe_id == *id)
        {
            self.departed.remove(number);
            self.departures.remove(&key);
        }
    }

    /// Those who left so long ago that they refuse everything by now.
    pub(super) fn forget_departed(&mut self, now: Timestamp) {
        while let Some(first) = self.departed.first_entry() {
            if first.get().until > now {
                return;
            }
            if let Some(key) = first.remove().key {
                self.departures.remove(&key);
            }
        }
    }
}
