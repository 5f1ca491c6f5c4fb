//! Who follows the log through this relay, how far each is, and the relay's word for all of them
//! (P18): where most stand, and who came, left or stands elsewhere.

mod seats;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_wire::{BadField, revocation as wire};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::denial::Denial;
use crate::limits::Slot;
pub(super) use seats::Who;
use seats::{Seat, State};

/// How soon a word follows the one before, where somebody waits for it or somebody came or left.
const PROMPT: Duration = Duration::from_millis(5);

/// And where nobody does.
const LAZY: Duration = Duration::from_secs(1);

pub(super) type Instance = [u8; 16];

/// Everybody behind the relay.
#[derive(Debug)]
pub(super) struct Behind {
    state: Mutex<State>,
    /// The highest position that the server waits for, 0 if none. Changes under the lock.
    wanted: AtomicU64,
    said: Arc<Notify>,
}

/// A watcher that comes.
pub(super) struct Newcomer {
    pub(super) kind: Kind,
    pub(super) instance: Option<Instance>,
    /// The log that it was let in for.
    pub(super) log: u64,
    /// What it had applied when it came.
    pub(super) applied: u64,
    /// None for the agent's own.
    pub(super) slot: Option<Slot>,
}

/// Whose watch it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// The agent's.
    Own,
    /// A workload's with an entry.
    Workload(Who),
    /// Somebody's whom no entry names: nobody waits for it, and it has no name to be shown by.
    Unnamed,
}

/// A verifier that follows the log through the relay; leaves when dropped.
pub(crate) struct Watcher {
    behind: Arc<Behind>,
    seat: Arc<Seat>,
    _slot: Option<Slot>,
}

impl Behind {
    pub(super) fn new(said: Arc<Notify>) -> Self {
        Self {
            state: Mutex::default(),
            wanted: AtomicU64::new(0),
            said,
        }
    }

    /// Lets a watcher in. One that was here before, by its instance, has its number again; where
    /// its old connection is still here, that one counts no more.
    pub(super) fn enter(self: &Arc<Self>, new: Newcomer) -> Watcher {
        let state = &mut *self.state.lock();
        let mut seat = Seat {
            number: 0,
            log: new.log,
            is_own: new.kind == Kind::Own,
            sent: AtomicU64::new(new.applied),
            acknowledged: AtomicU64::new(0),
        };
        let mut shown = None;
        if let Kind::Workload(who) = new.kind
            && state.log == new.log
        {
            if let Some(instance) = new.instance
                && let Some(before) = state.present.get(&(instance, who.spiffe_id.clone()))
            {
                state.unseat(*before, self.wanted());
            }
            if state.has_room(&who) {
                seat.number = state.number(&who, new.instance);
                shown = Some(who);
            }
        }
        let seat = Arc::new(seat);
        if let Some(who) = shown {
            state.seat(Arc::clone(&seat), who, new.instance, self.wanted());
            self.news(state);
        }
        Watcher {
            behind: Arc::clone(self),
            seat,
            _slot: new.slot,
        }
    }

    /// A new stream to the server, which knows nobody yet.
    pub(super) fn begin(&self, stream: u64) {
        let state = &mut *self.state.lock();
        state.stream = stream;
        state.headed = None;
        state.left.clear();
        (state.told, state.told_at) = (0, None);
        state
            .seats
            .values_mut()
            .for_each(|place| place.is_introduced = false);
    }

    /// Another log, by its number: whoever is here follows the one before, and has to come anew.
    pub(super) fn other_log(&self, number: u64) {
        let state = &mut *self.state.lock();
        state.log = number;
        state.seats.clear();
        state.present.clear();
        state.left.clear();
        (state.own, state.missing) = (0, 0);
        state.headed = None;
        self.wanted.store(0, Ordering::Release);
    }

    /// The server has sent a head, and says whether somebody waits for it to be acknowledged. Says
    /// whether that is news.
    pub(super) fn headed(&self, sequence: u64, prompt: bool) -> bool {
        let state = &mut *self.state.lock();
        let is_first = state.headed.is_none();
        state.headed = state.headed.max(Some(sequence));
        let is_wanted = prompt && self.wanted.fetch_max(sequence, Ordering::AcqRel) < sequence;
        if is_wanted {
            state.count_missing(sequence);
        }
        if is_first || prompt {
            state.changed = true;
            state.is_news |= is_first;
            self.said.notify_waiters();
        }
        is_wanted
    }

    /// Whether the server waits for this watcher to acknowledge a head at `sequence`.
    pub(super) fn prompts(&self, watcher: &Watcher, sequence: u64) -> bool {
        let wanted = self.wanted();
        wanted > watcher.seat.acknowledged() && wanted <= sequence
    }

    /// When something is to be said on this stream.
    pub(super) fn due(&self, stream: u64, now: Instant) -> Option<Instant> {
        let state = self.state.lock();
        if state.stream != stream || state.headed.is_none() || !state.changed {
            return None;
        }
        let is_waited_for = state.told < self.wanted();
        let Some(last) = state.told_at else {
            return Some(now);
        };
        Some(match is_waited_for {
            true if state.missing == 0 => now,
            true => last + PROMPT,
            false if state.is_news => last + PROMPT,
            false => last + LAZY,
        })
    }

    /// The relay's word: cumulative, and the newest there is.
    pub(super) fn word(&self, now: Instant) -> wire::Acknowledge {
        self.state.lock().word(now)
    }

    fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    fn news(&self, state: &mut State) {
        (state.changed, state.is_news) = (true, true);
        self.said.notify_waiters();
    }
}

impl Watcher {
    /// It is being sent everything up to here.
    pub(super) fn sent(&self, sequence: u64) {
        self.seat.sent.fetch_max(sequence, Ordering::AcqRel);
    }

    /// It says that it has applied everything up to here.
    ///
    /// # Errors
    /// What can't be true: its stream is to end.
    pub(super) fn acknowledge(&self, sequence: u64) -> Result<(), Status> {
        let (seat, behind) = (&self.seat, &*self.behind);
        let state = &mut *behind.state.lock();
        if seat.log != state.log {
            let message = "another log has taken the place of this one";
            return Err(Denial::new(Code::Unavailable, "LOG_REPLACED", message).status());
        }
        let (sent, before) = (seat.sent.load(Ordering::Acquire), seat.acknowledged());
        if sequence > sent {
            let why = format!("{sequence} was never sent; {sent} was the last");
            return Err(BadField::new("acknowledge", why).into());
        }
        if sequence < before {
            let why = format!("{sequence} was acknowledged before; {before} is the newest");
            return Err(BadField::new("acknowledge", why).into());
        }
        if sequence == before {
            return Ok(());
        }
        let wanted = behind.wanted();
        let is_missing = state.is_missing(seat, wanted);
        seat.acknowledged.store(sequence, Ordering::Release);
        if seat.is_own {
            state.own = state.own.max(sequence);
        } else if state.place_of(seat).is_none() {
            // Nobody is told of it.
            return Ok(());
        }
        if is_missing && wanted <= sequence {
            state.missing = state.missing.saturating_sub(1);
        }
        state.changed = true;
        behind.said.notify_waiters();
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let state = &mut *self.behind.state.lock();
        if state.place_of(&self.seat).is_some() {
            state.unseat(self.seat.number, self.behind.wanted());
            self.behind.news(state);
        }
    }
}

#[cfg(test)]
mod tests;
