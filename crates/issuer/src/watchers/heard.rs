//! Who has applied a position, and who has not: the lists of a receipt (P18).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use taskmint_id::SpiffeId;
use taskmint_model::Timestamp;

use super::{Seat, Watchers};

/// One whose acknowledgement is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hearer {
    /// What it was attested to be.
    pub spiffe_id: SpiffeId,
    /// What it calls itself.
    pub name: String,
    /// What it has applied.
    pub sequence: u64,
    /// The relay by whose word this is known.
    pub relay: Option<SpiffeId>,
    /// When it left, if it did: it may go on believing what it heard for a while.
    pub left_at: Option<Timestamp>,
}

/// Who of those waited for has applied a position. The lists name the first of each, in the order
/// in which they came; the counts are whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// By their own word.
    pub applied: Vec<Hearer>,
    /// By their relay's.
    pub applied_by_relay: Vec<Hearer>,
    /// Not yet, as far as is known.
    pub not_yet: Vec<Hearer>,
    /// How many have, by their own word.
    pub applied_count: usize,
    /// How many have, by their relay's.
    pub applied_by_relay_count: usize,
    /// How many have not.
    pub not_yet_count: usize,
}

/// How many are named in each list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub(crate) applied: usize,
    pub(crate) not_yet: usize,
}

/// Connected watchers that have not applied a position yet, or somebody behind them has not.
#[derive(Debug)]
pub(crate) struct Pending {
    position: u64,
    seats: Vec<Arc<Seat>>,
}

impl Names {
    /// Only counts.
    pub(crate) const NONE: Self = Self {
        applied: 0,
        not_yet: 0,
    };
    /// While somebody waits, and in the answer to an end.
    pub(crate) const PROGRESS: Self = Self {
        applied: 32,
        not_yet: 32,
    };
    /// At last.
    pub(crate) const FINAL: Self = Self {
        applied: 1_000,
        not_yet: 10_000,
    };
}

impl Heard {
    /// Whether nobody is left to wait for.
    pub fn is_complete(&self) -> bool {
        self.not_yet_count == 0
    }

    fn count(&mut self, position: u64, sequence: u64, by_relay: bool) -> (&mut Vec<Hearer>, bool) {
        let (list, count) = match (sequence >= position, by_relay) {
            (false, _) => (&mut self.not_yet, &mut self.not_yet_count),
            (true, false) => (&mut self.applied, &mut self.applied_count),
            (true, true) => (&mut self.applied_by_relay, &mut self.applied_by_relay_count),
        };
        *count += 1;
        (list, sequence < position)
    }
}

impl Watchers {
    /// Who has applied `position`, of those waited for.
    pub(crate) fn heard(&self, position: u64, names: Names, now: Timestamp) -> Heard {
        let mut heard = Heard::default();
        let mut roll = self.roll.lock();
        roll.forget_departed(now);
        // Most ends are asked about at once, when nobody can have heard of them: what that costs
        // must not depend on how many watch.
        let nobody = position > self.newest.load(Ordering::Acquire);
        let most = |pending: bool| {
            if pending {
                names.not_yet
            } else {
                names.applied
            }
        };
        for seat in roll.seats() {
            if nobody && heard.not_yet.len() >= names.not_yet {
                break;
            }
            if let Some(relay) = &seat.relay {
                relay.lock().each(|known, sequence| {
                    if !known.waited_for {
                        return;
                    }
                    let (list, pending) = heard.count(position, sequence, true);
                    if list.len() < most(pending) {
                        list.push(Hearer {
                            spiffe_id: known.spiffe_id.clone(),
                            name: known.name.clone(),
                            sequence,
                            relay: Some(seat.spiffe_id.clone()),
                            left_at: None,
                        });
                    }
                });
            }
            if !seat.waited_for {
                continue;
            }
            let sequence = seat.acknowledged.load(Ordering::Acquire);
            let (list, pending) = heard.count(position, sequence, false);
            if list.len() < most(pending) {
                list.push(Hearer {
                    spiffe_id: seat.spiffe_id.clone(),
                    name: seat.name.clone(),
                    sequence,
                    relay: None,
                    left_at: None,
                });
            }
        }
        for departed in roll.departed() {
            if departed.sequence >= position {
                continue;
            }
            if nobody && heard.not_yet.len() >= names.not_yet {
                break;
            }
            let (list, pending) = heard.count(position, departed.sequence, false);
            if list.len() < most(pending) {
                list.push(Hearer {
                    spiffe_id: departed.spiffe_id.clone(),
                    name: departed.name.clone(),
                    sequence: departed.sequence,
                    relay: departed.relay.clone(),
                    left_at: Some(departed.left_at),
                });
            }
        }
        if nobody {
            heard.not_yet_count = roll.waited_for();
        }
        heard
    }

    /// Connected watchers that have not applied `position`, or who speak for one that has not.
    pub(crate) fn pending(&self, position: u64) -> Pending {
        let roll = self.roll.lock();
        let mut pending = Pending {
            position,
            seats: roll
                .seats()
                .filter(|seat| seat.waited_for)
                .cloned()
                .collect(),
        };
        drop(roll);
        pending.shrink();
        pending
    }
}

impl Pending {
    /// Drops those who have applied it meanwhile; says whether there were any.
    pub(crate) fn shrink(&mut self) -> bool {
        let before = self.seats.len();
        self.seats
            .retain(|seat| seat.through.load(Ordering::Acquire) < self.position);
        self.seats.len() < before
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }
}
