//! How long to wait before the next attempt: who is cut off together must not come back together.

use std::time::Duration;

use taskmint_model::Entropy;

/// A peer that asks for a longer pause than this is asked again all the same.
const LONGEST_TOLD: Duration = Duration::from_secs(60);

/// Pauses between attempts: each twice as long as the one before, half of it by chance.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next pause.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let pause = self.next.mul_f64(0.5 + 0.5 * entropy.fraction());
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// The next pause, after a peer said how long to wait at least: that long, up to a minute, and
    /// then as long as [`Self::next`] says, so that not all come back in the same instant.
    pub fn next_after(&mut self, told: Option<Duration>, entropy: &dyn Entropy) -> Duration {
        told.unwrap_or_default().min(LONGEST_TOLD) + self.next(entropy)
    }

    /// It went well: begin anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_testkit::SeededEntropy;

    #[test]
    fn pauses_grow_to_a_bound_and_none_is_like_the_other() {
        let entropy = SeededEntropy::new(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        let pauses: Vec<_> = (0..12).map(|_| backoff.next(&entropy)).collect();
        assert!(pauses[0] >= Duration::from_millis(50) && pauses[0] <= Duration::from_millis(100));
        assert!(
            pauses[11] >= Duration::from_millis(7_500) && pauses[11] <= Duration::from_secs(15)
        );
        assert_ne!(pauses[10], pauses[11]);
        backoff.reset();
        assert!(backoff.next(&entropy) <= Duration::from_millis(100));
    }

    #[test]
    fn nobody_comes_back_sooner_than_told_nor_with_all_others() {
        let pauses = |told: Option<Duration>| {
            let pause = |seed| {
                let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
                backoff.next_after(told, &SeededEntropy::new(seed))
            };
            [pause(1), pause(2)]
        };
        let told = Duration::from_secs(7);
        let [one, other] = pauses(Some(told));
        assert!(one > told && one <= told + Duration::from_millis(100));
        assert_ne!(one, other);
        assert!(pauses(None)[0] <= Duration::from_millis(100));
        assert!(pauses(Some(Duration::from_secs(86_400)))[0] <= Duration::from_secs(61));
    }
}
