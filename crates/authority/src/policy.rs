//! Sealed configuration: what the authority refuses whoever asks (P23).

use std::time::Duration;

use taskmint_id::{Kind, TrustDomain};
use taskmint_mint::{Class, Facts, Refusal};
use taskmint_model::{Entry, Timestamp};
use taskmint_status::place::bucket_end;
use taskmint_status::{LogId, Place};

/// Fixed when the authority starts. Nothing that comes with a request widens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The one trust domain whose names it signs.
    pub trust_domain: TrustDomain,
    /// Longest lifetimes.
    pub caps: Caps,
    /// How far a request's times may lie off the authority's own clock: 60 s.
    pub clock_skew: Duration,
    /// How far ahead of its clock a task's limit may lie when it grants one (P4).
    pub max_limit: Duration,
    /// The most that a head may promise to stay fresh (P17): whoever could promise a year would
    /// keep verifiers from ever closing.
    pub max_head_age: Duration,
    /// How long a CRL or a status list may count: a list is news for those who don't watch, and
    /// whoever could make one last would keep them from ever hearing of an end.
    pub max_list_age: Duration,
    /// `public_url` of the trust domain (P21), without a slash at its end. Status lists are named below it or not at all, so
    /// that nobody sends validators to a list of his own.
    pub public_url: Option<String>,
}

/// Longest lifetimes, first to last second. Backdating (P33) counts, so leave it room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// X.509-SVIDs of workloads.
    pub workload: Duration,
    /// X.509-SVIDs of nodes.
    pub node: Duration,
    /// X.509-SVIDs of servers.
    pub server: Duration,
    /// JWT-SVIDs.
    pub jwt: Duration,
    /// The authority's own certificates: CAs and the log's key.
    pub authority: Duration,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Default for Caps {
    /// One hour for workloads and tokens, one day for nodes and servers, ten years for CAs.
    fn default() -> Self {
        Self {
            workload: Duration::from_secs(HOUR + MINUTE),
            node: Duration::from_secs(DAY + MINUTE),
            server: Duration::from_secs(DAY + MINUTE),
            jwt: Duration::from_secs(HOUR + MINUTE),
            authority: Duration::from_secs(3653 * DAY),
        }
    }
}

impl Caps {
    /// The cap on X.509-SVIDs of a class.
    pub fn x509(&self, class: Class) -> Duration {
        match class {
            Class::Workload => self.workload,
            Class::Node => self.node,
            Class::Server => self.server,
        }
    }
}

impl Policy {
    /// The defaults for a trust domain without a public address.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            caps: Caps::default(),
            clock_skew: Duration::from_secs(MINUTE),
            max_limit: Entry::MAX_LIMIT,
            max_head_age: Duration::from_secs(5 * MINUTE),
            max_list_age: Duration::from_secs(HOUR + MINUTE),
            public_url: None,
        }
    }

    /// Facts that no grant may be made for, whatever the time is.
    pub(crate) fn check_facts(&self, facts: &Facts) -> Result<(), Refusal> {
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

    /// A limit that may be granted now: ahead, but not too far.
    pub(crate) fn check_limit(&self, limit: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        let latest = now + self.max_limit + self.clock_skew;
        if limit > latest {
            return Err(Refusal::PastLimit {
                not_after: limit,
                limit: latest,
            });
        }
        Ok(())
    }

    /// A time that the authority's own clock bears out.
    pub(crate) fn check_clock(&self, at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        let off = at.since(now).max(now.since(at));
        if off > self.clock_skew {
            Err(Refusal::Clock(at))
        } else {
            Ok(())
        }
    }

    /// First and last second of a credential of a task.
    pub(crate) fn check_lifetime(
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

    /// The one address at which the status of `place` may be said to lie (P21).
    pub(crate) fn check_status_uri(&self, uri: &str, place: Place) -> Result<(), Refusal> {
        if self.status_uri(place.log(), place.bucket()).as_deref() != Some(uri) {
            return Err(Refusal::StatusUri(uri.chars().take(128).collect()));
        }
        Ok(())
    }

    /// Where the status list of a bucket is published, if at all (P21).
    pub(crate) fn status_uri(&self, log: LogId, bucket: u32) -> Option<String> {
        let url = self.public_url.as_ref()?;
        Some(format!("{url}/status/{log}/{bucket}"))
    }

    /// First and last second of a list.
    pub(crate) fn check_list(
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
