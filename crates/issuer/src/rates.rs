//! How many credentials an entry may have in a time: one that is used wildly must not take the
//! signer and the disk away from all others.

use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use taskmint_model::EntryId;

use crate::refused::{RefusalKind, Refused};

/// Entries above this many are looked through for those that were not used lately.
const MANY: usize = 100_000;

/// A token bucket for each entry.
#[derive(Debug)]
pub(crate) struct EntryRates(DefaultKeyedRateLimiter<EntryId>);

impl EntryRates {
    /// So many a second, and so many at once after a pause.
    pub(crate) fn new((per_second, burst): (u32, u32)) -> Self {
        let one = NonZeroU32::MIN;
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(one))
            .allow_burst(NonZeroU32::new(burst).unwrap_or(one));
        Self(DefaultKeyedRateLimiter::keyed(quota))
    }

    /// Takes one credential.
    ///
    /// # Errors
    /// `RATE_LIMITED`, with when to try again.
    pub(crate) fn take(&self, entry: EntryId) -> Result<(), Refused> {
        if self.0.len() > MANY {
            self.0.retain_recent();
        }
        self.0.check_key(&entry).map_err(|not| {
            let wait = not.wait_time_from(DefaultClock::default().now());
            let message = "too many credentials of one entry in too short a time";
            Refused::new(RefusalKind::Exhausted, "RATE_LIMITED", message).retry_after(wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_entry_has_its_burst_and_others_have_theirs() {
        let rates = EntryRates::new((1, 3));
        let [one, two] = [1, 2].map(|n| EntryId::from_octets([n; 16]));
        (0..3).for_each(|_| rates.take(one).unwrap());
        let refused = rates.take(one).unwrap_err();
        assert_eq!(refused.reason, "RATE_LIMITED");
        assert!(refused.fix.starts_with("try again in "), "{}", refused.fix);
        // One a second, and three are gone just now.
        let wait = refused.retry_after.unwrap();
        assert!(
            wait > Duration::from_millis(500) && wait <= Duration::from_secs(1),
            "{wait:?}"
        );
        rates.take(two).unwrap();
    }
}
