//! Rates: how often a node or an administrator may ask (bounded keys, so that names cost nothing).

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};
use taskmint_config::RateLimits;
use taskmint_id::SpiffeId;
use tonic::{Code, Status};

/// Keys above this many are looked through for old ones.
const MANY: usize = 10_000;

/// Attestations that may be tried in one second: each costs signatures and a write.
const ATTESTATIONS: u32 = 50;

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    nodes: DefaultKeyedRateLimiter<String>,
    callers: DefaultKeyedRateLimiter<String>,
    attestations: DefaultDirectRateLimiter,
}

impl Limits {
    pub(crate) fn new(rates: &RateLimits) -> Self {
        let quota = |per_second: u32, burst: u32| {
            let one = NonZeroU32::MIN;
            let rate = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(one));
            rate.allow_burst(NonZeroU32::new(burst).unwrap_or(one))
        };
        let (node, caller) = (rates.per_node, rates.per_caller);
        Self {
            nodes: DefaultKeyedRateLimiter::keyed(quota(node.per_second, node.burst)),
            callers: DefaultKeyedRateLimiter::keyed(quota(caller.per_second, caller.burst)),
            attestations: DefaultDirectRateLimiter::direct(quota(ATTESTATIONS, ATTESTATIONS)),
        }
    }

    /// Takes one call of a node from its rate.
    pub(crate) fn node(&self, id: &SpiffeId) -> Result<(), Status> {
        keyed(&self.nodes, &id.to_string())
    }

    /// Takes one call of an administrator from its rate.
    pub(crate) fn caller(&self, name: &str) -> Result<(), Status> {
        keyed(&self.callers, &name.to_owned())
    }

    /// Takes one attestation.
    pub(crate) fn attestation(&self) -> Result<(), Status> {
        self.attestations
            .check()
            .map_err(|not| late(not.wait_time_from(DefaultClock::default().now())))
    }
}

fn keyed(limiter: &DefaultKeyedRateLimiter<String>, key: &String) -> Result<(), Status> {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    limiter
        .check_key(key)
        .map_err(|not| late(not.wait_time_from(DefaultClock::default().now())))
}

fn late(wait: Duration) -> Status {
    let denied = taskmint_wire::Denied::new(
        Code::ResourceExhausted,
        "RATE_LIMITED",
        "too many calls in too short a time",
    );
    denied
        .fix(format!("try again in {} ms", wait.as_millis().max(1)))
        .into()
}
