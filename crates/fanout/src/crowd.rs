//! All connections of one lane, to be woken together.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::slot::Slot;

/// The connections of one lane.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    /// Another whenever somebody came or left.
    version: u64,
    /// In the order in which they came: neighbours were made at the same time, and lie side by side
    /// in memory.
    slots: BTreeMap<u64, Arc<Slot>>,
}

/// A connection's membership; over when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Arc<Crowd>,
    number: u64,
    slot: Arc<Slot>,
}

/// What the one who wakes them all works from: a copy, so that no lock is held meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    version: u64,
    slots: Vec<Arc<Slot>>,
}

impl Crowd {
    pub(crate) fn enter(self: &Arc<Self>) -> Member {
        let slot = Arc::new(Slot::default());
        let mut members = self.members.lock();
        members.next += 1;
        members.version += 1;
        let number = members.next;
        members.slots.insert(number, Arc::clone(&slot));
        Member {
            crowd: Arc::clone(self),
            number,
            slot,
        }
    }

    /// Wakes everybody who has room for what is new.
    pub(crate) fn tell(&self, roster: &mut Roster) {
        self.update(roster);
        roster.slots.iter().for_each(|slot| slot.tell());
    }

    /// Wakes everybody.
    pub(crate) fn ring(&self, roster: &mut Roster) {
        self.update(roster);
        roster.slots.iter().for_each(|slot| slot.ring());
    }

    fn update(&self, roster: &mut Roster) {
        let members = self.members.lock();
        if members.version != roster.version {
            roster.version = members.version;
            roster.slots.clear();
            roster.slots.extend(members.slots.values().cloned());
        }
    }
}

impl Member {
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.crowd.members.lock();
        members.version += 1;
        members.slots.remove(&self.number);
    }
}
