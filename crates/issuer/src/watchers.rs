//! Who follows the revocation log, and how far each has applied it (P18, P19).
//!
//! There may be tens of thousands, and each acknowledges whenever somebody waits: the common
//! acknowledgement is a few atomic writes, and only one that somebody waits for takes a lock.
//!
//! Who leaves without having applied an end may go on believing its last head for a while. So a
//! watcher that is waited for stays on the list for as long as that, unless it comes back: its
//! `instance` says that it is the same.

mod heard;
mod relayed;
mod roll;
#[cfg(test)]
mod tests;
mod wanted;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Clock, Timestamp};

pub use heard::{Heard, Hearer};
pub(crate) use heard::{Names, Pending};
use relayed::Relay;
pub use relayed::{Introduced, MAX_NAME, MAX_RELAYED, Relayed};
use roll::{Departed, Roll};
pub(crate) use wanted::Wanting;
use wanted::Wants;

/// Who follows the log, and how far. One per server.
pub struct Watchers {
    clock: Arc<dyn Clock>,
    /// How long after it left a watcher may still believe what it heard.
    lingering: Duration,
    roll: Mutex<Roll>,
    wants: Wants,
    /// The highest position that anybody has applied: no end after it was heard by anybody.
    newest: AtomicU64,
    /// How many were shown another history of the log.
    contradictions: AtomicU64,
}

/// A watcher that wants to be let in.
#[derive(Debug, Clone)]
pub struct NewWatcher {
    /// What it was attested to be.
    pub spiffe_id: SpiffeId,
    /// What it calls itself; at most [`MAX_NAME`] octets.
    pub name: String,
    /// Random, the same as long as its process keeps its statuses: so that one who comes back is
    /// known from another of the same name.
    pub instance: Option<[u8; 16]>,
    /// Whether ends are waited for until it has applied them. Nodes always are.
    pub waited_for: bool,
    /// A node may speak for the watchers behind it.
    pub is_node: bool,
}

/// How many watchers are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// At once.
    pub watchers: usize,
    /// With one SPIFFE ID.
    pub per_identity: usize,
    /// Waited for, those behind relays and those who just left included. Who comes beyond that is
    /// served, but nobody waits for it.
    pub waited_for: usize,
}

/// There are too many watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many watchers; connect through the agent of the node")]
pub struct TooMany;

/// What a watcher says that it has applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledge {
    /// Everything up to here. Cumulative.
    pub sequence: u64,
    /// Watchers behind a relay: those that came, left, or stand elsewhere than `relayed_sequence`.
    pub relayed: Vec<Relayed>,
    /// What every other watcher behind the relay has applied.
    pub relayed_sequence: u64,
}

/// An acknowledgement that can't be true. The watcher is at fault, and its stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckRefused {
    /// Ahead of what it was sent.
    #[error("{sequence} was never sent; {sent} was the last")]
    NeverSent {
        /// What it claims.
        sequence: u64,
        /// What it was sent.
        sent: u64,
    },
    /// Back behind what it acknowledged before.
    #[error("{sequence} was acknowledged before; {acknowledged} is the newest")]
    WentBack {
        /// What it claims.
        sequence: u64,
        /// What it claimed before.
        acknowledged: u64,
    },
    /// A workload speaks for others.
    #[error("only an agent speaks for other watchers")]
    NoRelay,
    /// Somebody is spoken for without having been introduced.
    #[error("watcher {0} was not introduced")]
    NotIntroduced(u32),
    /// More than [`MAX_RELAYED`] behind one relay.
    #[error("more than {MAX_RELAYED} watchers behind one relay")]
    TooManyRelayed,
    /// A relay that has come back on another connection speaks on the old one.
    #[error("the relay has come back on another connection")]
    Superseded,
    /// A name is longer than [`MAX_NAME`].
    #[error("a name has more than {MAX_NAME} octets")]
    LongName,
}

/// One watcher as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// What it was attested to be.
    pub spiffe_id: SpiffeId,
    /// What it calls itself.
    pub name: String,
    /// What it has applied.
    pub acknowledged: u64,
    /// When it last said so; for one behind a relay, when the relay last did.
    pub acknowledged_at: Timestamp,
    /// Since when it is there; for one behind a relay, since when the relay is.
    pub connected_at: Timestamp,
    /// Whether ends are waited for until it has applied them.
    pub waited_for: bool,
    /// The relay by whose word this is known.
    pub relay: Option<SpiffeId>,
}

/// A watcher's place on the list; leaves it when dropped.
#[derive(Debug)]
pub struct Listed {
    watchers: Arc<Watchers>,
    seat: Arc<Seat>,
}

/// What is known of a connected watcher.
#[derive(Debug)]
struct Seat {
    number: u64,
    spiffe_id: SpiffeId,
    name: String,
    instance: Option<[u8; 16]>,
    waited_for: bool,
    connected_at: Timestamp,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// Milliseconds since 1970.
    acknowledged_at: AtomicU64,
    /// What the watcher and everybody waited for behind it have applied.
    through: AtomicU64,
    /// Nodes alone have one.
    relay: Option<Mutex<Relay>>,
    /// As [`Most::waited_for`].
    most_waited_for: usize,
}

impl Watchers {
    /// Nobody yet. `lingering` is how long a verifier that is cut off may go on believing what it
    /// heard: the oldest head that it may believe, and its drift allowance.
    pub fn new(clock: Arc<dyn Clock>, lingering: Duration) -> Arc<Self> {
        Arc::new(Self {
            clock,
            lingering,
            roll: Mutex::default(),
            wants: Wants::default(),
            newest: AtomicU64::new(0),
            contradictions: AtomicU64::new(0),
        })
    }

    /// Lets a watcher in. One that was here before, by its instance, takes its own seat again.
    ///
    /// # Errors
    /// [`TooMany`]; or the name is longer than [`MAX_NAME`], which counts as that.
    pub fn enter(
        self: &Arc<Self>,
        new: NewWatcher,
        most: Most,
        now: Timestamp,
    ) -> Result<Listed, TooMany> {
        if new.name.len() > MAX_NAME {
            return Err(TooMany);
        }
        let mut roll = self.roll.lock();
        roll.forget_departed(now);
        self.take_up(&mut roll, &new, now);
        if roll.count() >= most.watchers || roll.count_of(&new.spiffe_id) >= most.per_identity {
            return Err(TooMany);
        }
        let wanted = new.waited_for || new.is_node;
        let waited_for = wanted && roll.waited_for() < most.waited_for;
        if wanted && !waited_for {
            tracing::warn!(
                watcher = %new.spiffe_id, name = new.name, most = most.waited_for,
                "too many watchers to wait for all; nobody waits for this one"
            );
        }
        let seat = Arc::new(Seat {
            number: roll.next_number(),
            spiffe_id: new.spiffe_id,
            name: new.name,
            instance: new.instance,
            waited_for,
            connected_at: now,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            acknowledged_at: AtomicU64::new(now.millis()),
            through: AtomicU64::new(0),
            relay: new.is_node.then(Mutex::default),
            most_waited_for: most.waited_for,
        });
        roll.seat(Arc::clone(&seat));
        self.wants.shuffled();
        Ok(Listed {
            watchers: Arc::clone(self),
            seat,
        })
    }

    /// Everybody who follows now, those behind relays after their relay.
    pub fn list(&self) -> Vec<Watcher> {
        let seats: Vec<_> = self.roll.lock().seats().cloned().collect();
        let mut all = Vec::with_capacity(seats.len());
        for seat in seats {
            let own = seat.watcher();
            if let Some(relay) = &seat.relay {
                relay.lock().each(|known, sequence| {
                    all.push(Watcher {
                        spiffe_id: known.spiffe_id.clone(),
                        name: known.name.clone(),
                        acknowledged: sequence,
                        waited_for: known.waited_for,
                        relay: Some(seat.spiffe_id.clone()),
                        ..own.clone()
                    });
                });
            }
            all.push(own);
        }
        all.sort_by(|a, b| {
            let key = |w: &'_ Watcher| (w.relay.clone(), w.spiffe_id.clone(), w.name.clone());
            key(a).cmp(&key(b))
        });
        all
    }

    /// Somebody was shown another history of the log (P15).
    pub(crate) fn contradicted(&self) {
        self.contradictions.fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody was shown another history of the log.
    pub fn contradictions(&self) -> u64 {
        self.contradictions.load(Ordering::Relaxed)
    }

    /// How many are connected; those behind relays don't count.
    pub fn count(&self) -> usize {
        self.roll.lock().count()
    }

    /// The highest position that somebody waits for, 0 if nobody does. A frame with a head at or
    /// beyond it is marked as prompt, for a watcher that has not acknowledged it.
    pub fn wanted(&self) -> u64 {
        self.wants.highest()
    }

    /// Whoever is back has not left: neither its old connection, which nobody has seen break yet,
    /// nor its departure counts.
    fn take_up(&self, roll: &mut Roll, new: &NewWatcher, now: Timestamp) {
        let Some(instance) = new.instance else {
            return;
        };
        if let Some(old) = roll.seated_as(instance, &new.spiffe_id) {
            self.unseat(roll, &old, now);
        }
        roll.return_of((instance, None), &new.spiffe_id);
    }

    fn unseat(&self, roll: &mut Roll, seat: &Seat, now: Timestamp) {
        if !roll.unseat(seat) {
            return;
        }
        let until = now + self.lingering;
        if let Some(relay) = &seat.relay {
            let mut relay = relay.lock();
            relay.each(|known, sequence| {
                if known.waited_for {
                    roll.depart(Departed {
                        key: seat.instance.map(|instance| (instance, Some(known.number))),
                        spiffe_id: known.spiffe_id.clone(),
                        name: known.name.clone(),
                        relay: Some(seat.spiffe_id.clone()),
                        sequence,
                        left_at: now,
                        until,
                    });
                }
            });
            relay.close();
        }
        if seat.waited_for {
            roll.depart(Departed {
                key: seat.instance.map(|instance| (instance, None)),
                spiffe_id: seat.spiffe_id.clone(),
                name: seat.name.clone(),
                relay: None,
                sequence: seat.acknowledged.load(Ordering::Acquire),
                left_at: now,
                until,
            });
        }
        self.wants.shuffled();
    }
}

impl Listed {
    /// What the watcher has been sent, once it has: it may acknowledge up to there.
    pub fn sent(&self, sequence: u64) {
        self.seat.sent.fetch_max(sequence, Ordering::AcqRel);
    }

    /// What the watcher has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.seat.acknowledged.load(Ordering::Acquire)
    }

    /// Whether ends are waited for until this watcher has applied them.
    pub fn is_waited_for(&self) -> bool {
        self.seat.waited_for
    }

    /// Takes in what the watcher says that it, and who is behind it, has applied.
    ///
    /// # Errors
    /// What can't be true: the stream is to end.
    pub fn acknowledge(&self, said: &Acknowledge, now: Timestamp) -> Result<(), AckRefused> {
        let seat = &*self.seat;
        let sent = seat.sent.load(Ordering::Acquire);
        let acknowledged = seat.acknowledged.load(Ordering::Acquire);
        check(said.sequence, acknowledged, sent)?;
        let mut through = said.sequence;
        if let Some(relay) = &seat.relay {
            through = through.min(self.relay(relay, said, sent, now)?);
        } else if !said.relayed.is_empty() {
            return Err(AckRefused::NoRelay);
        }
        seat.acknowledged.store(said.sequence, Ordering::Release);
        seat.acknowledged_at.store(now.millis(), Ordering::Relaxed);
        self.watchers.newest.fetch_max(
            said.sequence.max(said.relayed_sequence.min(sent)),
            Ordering::AcqRel,
        );
        let before = seat.through.swap(through, Ordering::AcqRel);
        if seat.waited_for && before < through {
            self.watchers.wants.heard(before, through);
        }
        Ok(())
    }

    /// Takes in a relay's word; returns what everybody waited for behind it has applied.
    fn relay(
        &self,
        relay: &Mutex<Relay>,
        said: &Acknowledge,
        sent: u64,
        now: Timestamp,
    ) -> Result<u64, AckRefused> {
        if said.relayed.is_empty() {
            return relay.lock().all_at(said.relayed_sequence, sent);
        }
        let seat = &*self.seat;
        // The list before the relay, as everywhere: who comes and leaves is counted there.
        let mut roll = self.watchers.roll.lock();
        if !roll.has(seat) {
            return Err(AckRefused::Superseded);
        }
        let mut relay = relay.lock();
        for one in &said.relayed {
            let key = seat.instance.map(|instance| (instance, Some(one.number)));
            if one.left {
                let Some((left, sequence)) = relay.leave(one.number) else {
                    continue;
                };
                if left.waited_for {
                    roll.stop_waiting_for_one();
                    roll.depart(Departed {
                        key,
                        spiffe_id: left.spiffe_id,
                        name: left.name,
                        relay: Some(seat.spiffe_id.clone()),
                        sequence,
                        left_at: now,
                        until: now + self.watchers.lingering,
                    });
                }
                continue;
            }
            let room = roll.waited_for() < seat.most_waited_for;
            if let Some(came) = relay.place(one, room, sent)? {
                if let Some(key) = key {
                    roll.return_of(key, &came.spiffe_id);
                }
                if came.waited_for {
                    roll.wait_for_one_more();
                }
            }
        }
        let through = relay.rest_at(&said.relayed, said.relayed_sequence, sent)?;
        let highest = said.relayed.iter().map(|one| one.sequence).max();
        let newest = highest.unwrap_or_default();
        self.watchers.newest.fetch_max(newest, Ordering::AcqRel);
        self.watchers.wants.shuffled();
        Ok(through)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let now = self.watchers.clock.now();
        let mut roll = self.watchers.roll.lock();
        roll.forget_departed(now);
        self.watchers.unseat(&mut roll, &self.seat, now);
    }
}

impl Seat {
    fn watcher(&self) -> Watcher {
        Watcher {
            spiffe_id: self.spiffe_id.clone(),
            name: self.name.clone(),
            acknowledged: self.acknowledged.load(Ordering::Acquire),
            acknowledged_at: Timestamp::from_millis(self.acknowledged_at.load(Ordering::Relaxed)),
            connected_at: self.connected_at,
            waited_for: self.waited_for,
            relay: None,
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers")
            .field("count", &self.count())
            .field("wanted", &self.wanted())
            .finish_non_exhaustive()
    }
}

fn check(sequence: u64, acknowledged: u64, sent: u64) -> Result<(), AckRefused> {
    if sequence > sent {
        return Err(AckRefused::NeverSent { sequence, sent });
    }
    if sequence < acknowledged {
        return Err(AckRefused::WentBack {
            sequence,
            acknowledged,
        });
    }
    Ok(())
}
