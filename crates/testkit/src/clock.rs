//! A clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use taskmint_model::{Clock, Timestamp};

/// Stands still until it is moved. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Standing at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.millis())))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }

    /// Puts it anywhere, backwards too.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.millis(), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// An ordinary morning: 2026-06-20T10:00:00Z.
    fn default() -> Self {
        Self::new(Timestamp::from_secs(1_781_949_600))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_show_the_same_time_and_it_moves_only_by_hand() {
        let clock = ManualClock::default();
        let other = clock.clone();
        assert_eq!(clock.now().to_string(), "2026-06-20T10:00:00Z");
        clock.advance(Duration::from_millis(1500));
        assert_eq!(other.now().to_string(), "2026-06-20T10:00:01.5Z");
    }
}
