//! What bounds callers: connections in all and by uid, calls by process.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use taskmint_model::Process;

use crate::settings::Limits;

/// Slots for connections, or for watches.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    max: u32,
    max_per_uid: u32,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: u32,
    by_uid: HashMap<u32, u32>,
}

/// A slot that is taken, until it is dropped.
pub(crate) struct Slot {
    slots: Slots,
    uid: u32,
}

/// How often each process calls.
pub(crate) struct Rates(RateLimiter<Process, DashMapStateStore<Process>, DefaultClock>);

impl Slots {
    /// So many in all, and so many of them by one uid.
    pub(crate) fn new(max: u32, max_per_uid: u32) -> Self {
        Self(Arc::new(Inner {
            max,
            max_per_uid,
            taken: Mutex::default(),
        }))
    }

    /// A slot for `uid`; none if all are taken.
    pub(crate) fn take(&self, uid: u32) -> Option<Slot> {
        let mut taken = self.0.taken.lock();
        let of_uid = taken.by_uid.get(&uid).copied().unwrap_or(0);
        if taken.all >= self.0.max || of_uid >= self.0.max_per_uid {
            return None;
        }
        taken.all += 1;
        taken.by_uid.insert(uid, of_uid + 1);
        Some(Slot {
            slots: self.clone(),
            uid,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_uid) = taken.by_uid.get_mut(&self.uid) {
            *of_uid = of_uid.saturating_sub(1);
            if *of_uid == 0 {
                taken.by_uid.remove(&self.uid);
            }
        }
    }
}

impl Rates {
    pub(crate) fn new(limits: &Limits) -> Self {
        let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(limits.calls_per_second))
            .allow_burst(at_least_one(limits.burst));
        Self(RateLimiter::dashmap(quota))
    }

    /// Counts a call of a process.
    ///
    /// # Errors
    /// After how long it may call, where that is not now.
    pub(crate) fn check(&self, process: Process) -> Result<(), Duration> {
        let taken = self.0.check_key(&process);
        taken.map_err(|not| not.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets processes that have not called for a while.
    pub(crate) fn tidy(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_cannot_take_all_slots() {
        let slots = Slots::new(3, 2);
        let first = slots.take(1).unwrap();
        let _second = slots.take(1).unwrap();
        assert!(slots.take(1).is_none());
        let _other = slots.take(2).unwrap();
        assert!(slots.take(3).is_none());
        drop(first);
        assert!(slots.take(3).is_some());
    }

    #[test]
    fn one_process_cannot_call_without_end() {
        let rates = Rates::new(&Limits {
            calls_per_second: 1,
            burst: 3,
            ..Limits::default()
        });
        let process = |pid| Process {
            pid,
            start_time: 1,
            boot_id: [0; 16],
        };
        let tried = (0..10).map(|_| rates.check(process(1)));
        assert_eq!(tried.filter(Result::is_ok).count(), 3);
        let wait = rates.check(process(1)).unwrap_err();
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1));
        rates.check(process(2)).unwrap();
    }
}
