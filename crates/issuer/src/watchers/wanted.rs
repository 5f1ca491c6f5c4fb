//! Positions that somebody waits for: what makes frames say `prompt`, and who is woken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Watchers;

/// Positions that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Wants {
    highest: AtomicU64,
    /// By position, then by number.
    tallies: Mutex<BTreeMap<(u64, u64), Arc<Tally>>>,
    next: AtomicU64,
    /// Goes up whenever somebody comes, leaves, or a relay says who is behind it.
    shuffles: AtomicU64,
}

/// How many have reached a position since one caller waits for it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    reached: AtomicUsize,
    needed: AtomicUsize,
    /// Told when as many have reached it as are needed.
    pub(crate) done: Notify,
}

/// As long as it lives, frames at or beyond its position are prompt.
#[derive(Debug)]
pub(crate) struct Wanting {
    watchers: Arc<Watchers>,
    key: (u64, u64),
    pub(crate) tally: Arc<Tally>,
}

impl Wants {
    pub(super) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// Somebody went from `before` to `through`.
    pub(super) fn heard(&self, before: u64, through: u64) {
        if before >= self.highest() {
            return;
        }
        let passed = (before.saturating_add(1), 0)..=(through, u64::MAX);
        for tally in self.tallies.lock().range(passed).map(|(_, tally)| tally) {
            tally.one_more();
        }
    }

    pub(super) fn shuffled(&self) {
        self.shuffles.fetch_add(1, Ordering::AcqRel);
    }
}

impl Tally {
    fn one_more(&self) {
        let reached = self.reached.fetch_add(1, Ordering::AcqRel) + 1;
        if reached >= self.needed.load(Ordering::Acquire) {
            self.done.notify_one();
        }
    }

    /// How many reached it until now.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Acquire)
    }

    /// [`done`](Self::done) is told once `more` have reached it since `reached`.
    pub(crate) fn need(&self, reached: usize, more: usize) {
        self.needed.store(reached + more, Ordering::Release);
    }
}

impl Watchers {
    /// Asks for prompt acknowledgements of `position`, unless `most` callers do already.
    pub(crate) fn want(self: &Arc<Self>, position: u64, most: usize) -> Option<Wanting> {
        let wants = &self.wants;
        let key = (position, wants.next.fetch_add(1, Ordering::Relaxed));
        let tally = Arc::<Tally>::default();
        let mut tallies = wants.tallies.lock();
        if tallies.len() >= most {
            return None;
        }
        tallies.insert(key, Arc::clone(&tally));
        wants.publish(&tallies);
        Some(Wanting {
            watchers: Arc::clone(self),
            key,
            tally,
        })
    }

    /// Goes up whenever somebody comes, leaves, or a relay says who is behind it.
    pub(crate) fn shuffles(&self) -> u64 {
        self.wants.shuffles.load(Ordering::Acquire)
    }
}

impl Wants {
    fn publish(&self, tallies: &BTreeMap<(u64, u64), Arc<Tally>>) {
        let highest = tallies.last_key_value();
        let highest = highest.map_or(0, |((position, _), _)| *position);
        self.highest.store(highest, Ordering::Release);
    }
}

impl Wanting {
    pub(crate) fn position(&self) -> u64 {
        self.key.0
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        let wants = &self.watchers.wants;
        let mut tallies = wants.tallies.lock();
        tallies.remove(&self.key);
        wants.publish(&tallies);
    }
}
