//! Jitter: what many do at the same time must not come back at the same time.

use std::time::Duration;

use taskmint_model::Entropy;

/// A number from 0 to 1.
pub(crate) fn fraction(entropy: &dyn Entropy) -> f64 {
    f64::from(u32::from_be_bytes(entropy.array())) / f64::from(u32::MAX)
}

/// Sixteen octets that name a request, never all zero.
pub(crate) fn request_id(entropy: &dyn Entropy) -> Vec<u8> {
    let mut id: [u8; 16] = entropy.array();
    id[0] |= 1;
    id.to_vec()
}

/// Pauses between attempts: each twice as long as the one before, half of it by chance.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next pause.
    pub(crate) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let pause = self.next.mul_f64(0.5 + 0.5 * fraction(entropy));
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// It went well: begin anew.
    pub(crate) fn reset(&mut self) {
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
}
