//! Sealed configuration: what the authority refuses whoever asks (P23).

use std::time::Duration;

use taskmint_id::Kind;
use taskmint_mint::{Class, Facts, Policy, Refusal};
use taskmint_model::Timestamp;
use taskmint_status::place::bucket_end;
use taskmint_status::{LogId, Place};

/// The checks that a [`Policy`] asks for.
pub(crate) trait Check {
    /// Facts that no grant may be made for, whatever the time is.
    fn check_facts(&self, facts: &Facts) -> Result<(), Refusal>;

    /// A limit that may be granted now: ahead, but not too far.
    fn check_limit(&self, limit: Timestamp, now: Timestamp) -> Result<(), Refusal>;

    /// A time that the authority's own clock bears out.
    fn check_clock(&self, at: Timestamp, now: Timestamp) -> Result<(), Refusal>;

    /// First and last second of a credential of a task.
    fn check_lifetime(
        &self,
        validity: (Timestamp, Timestamp),
        cap: Duration,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<(), Refusal>;

    /// The one address at which the status of `place` may be said to lie (P21).
    fn check_status_uri(&self, uri: &str, place: Place) -> Result<(), Refusal>;

    /// Where the status list of a bucket is published, if at all (P21).
    fn status_uri(&self, log: LogId, bucket: u32) -> Option<String>;

    /// First and last second of a list.
    fn check_list(&self, validity: (Timestamp, Timestamp), now: Timestamp) -> Result<(), Refusal>;
}

impl Check for Policy {
    fn check_facts(&self, facts: &Facts) -> Result<(), Refusal> {
        let id = &facts.spiffe_id;
        if id.trust_domain() != &self.trust_domain {
            return Err(Refusal::ForeignTrustDomain(id.clone()));
        }
        let kind = match facts.class {
            Class::Workload => Kind::Workload,
            Class::Node => Kind::Node,
            Class::Server => Kind::Server,
        };
        if id.kind() != kind {
            return Err(Refusal::Name {
                id: id.clone(),
                class: facts.class,
            });
        }
        let end = end_of(facts.place);
        if facts.limit >= end {
            return Err(Refusal::PastLimit {
                not_after: facts.limit,
                limit: end,
            });
        }
        Ok(())
    }

    fn check_limit(&self, limit: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        let latest = now + self.max_limit + self.clock_skew;
        if limit > latest {
            return Err(Refusal::PastLimit {
                not_after: limit,
                limit: latest,
            });
        }
        Ok(())
    }

    fn check_clock(&self, at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        let off = at.since(now).max(now.since(at));
        if off > self.clock_skew {
            Err(Refusal::Clock(at))
        } else {
            Ok(())
        }
    }

    fn check_lifetime(
        &self,
        (from, to): (Timestamp, Timestamp),
        cap: Duration,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.check_clock(from, now)?;
        check_cap((from, to), cap)?;
        if to > facts.limit || to >= end_of(facts.place) {
            return Err(Refusal::PastLimit {
                not_after: to,
                limit: facts.limit,
            });
        }
        Ok(())
    }

    fn check_status_uri(&self, uri: &str, place: Place) -> Result<(), Refusal> {
        if self.status_uri(place.log(), place.bucket()).as_deref() != Some(uri) {
            return Err(Refusal::StatusUri(uri.chars().take(128).collect()));
        }
        Ok(())
    }

    fn status_uri(&self, log: LogId, bucket: u32) -> Option<String> {
        let url = self.public_url.as_ref()?;
        Some(format!("{url}/status/{log}/{bucket}"))
    }

    fn check_list(
        &self,
        (from, to): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.check_clock(from, now)?;
        check_cap((from, to), self.max_list_age)
    }
}

/// At least a second, and at most the cap.
pub(crate) fn check_cap((from, to): (Timestamp, Timestamp), cap: Duration) -> Result<(), Refusal> {
    // Whole seconds are what gets signed: rounding both down must not gain one.
    let asked_secs = to.secs().saturating_sub(from.secs());
    if asked_secs == 0 || asked_secs > cap.as_secs() {
        return Err(Refusal::Lifetime {
            asked_secs,
            cap_secs: cap.as_secs(),
        });
    }
    Ok(())
}

/// The first instant at which nothing placed there is valid any more.
fn end_of(place: Place) -> Timestamp {
    Timestamp::from_millis(bucket_end(place.bucket()).0)
}
