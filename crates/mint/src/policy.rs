//! What an authority refuses whoever asks (P23), as it is told at its start.

use std::time::Duration;

use taskmint_id::TrustDomain;
use taskmint_model::Entry;

use crate::request::Class;

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
}
