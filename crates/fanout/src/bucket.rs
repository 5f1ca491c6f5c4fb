//! A token bucket: how often one watcher may have something signed for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::Allowance;

/// Tokens that come back with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// What one token takes to come back.
    each: Duration,
    /// When the bucket would be full: up to `burst` tokens ahead of now.
    full_at: Instant,
    burst: u32,
}

impl Bucket {
    pub(crate) fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            each: Duration::from_secs(1) / allowance.nonces_per_second.max(1),
            full_at: now,
            burst: allowance.nonces_at_once.max(1),
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When the next one comes back.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.max(now) + self.each;
        let most = self.each * self.burst;
        if full_at > now + most {
            return Err(full_at - most);
        }
        self.full_at = full_at;
        Ok(())
    }

    /// When there is a token to take.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let full_at = self.full_at.max(now) + self.each;
        (full_at - self.each * self.burst).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let start = Instant::now();
        let allowance = Allowance {
            nonces_at_once: 3,
            nonces_per_second: 5,
            ..Allowance::workload()
        };
        let mut bucket = Bucket::new(allowance, start);
        for _ in 0..3 {
            bucket.take(start).unwrap();
        }
        let next = start + Duration::from_millis(200);
        assert_eq!(bucket.take(start), Err(next));
        assert_eq!(bucket.next(start), next);
        bucket.take(next).unwrap();
        assert!(bucket.take(next).is_err());
        let rested = start + Duration::from_secs(60);
        for _ in 0..3 {
            bucket.take(rested).unwrap();
        }
        assert!(
            bucket.take(rested).is_err(),
            "rest earns no more than a burst"
        );
    }
}
