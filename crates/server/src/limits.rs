//! How often a node, an entry or an administrator may ask, and how much may be in hand at a time
//! (bounded keys, so that names cost nothing). What is too much is refused before it costs anything:
//! early, never late.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};
use parking_lot::Mutex;
use taskmint_config::RateLimits;
use taskmint_id::SpiffeId;
use tonic::{Code, Status};

/// Keys above this many are looked through for old ones.
const MANY: usize = 10_000;

/// Attestations that may be tried in one second: each costs signatures and a write.
const ATTESTATIONS: u32 = 50;

/// Credentials that are being issued at the same time: what the disk and the signer do in a small
/// fraction of a second.
const IN_HAND: usize = 4096;

/// The share of it that one node can have, so that others find room.
const IN_HAND_OF_NODE: usize = IN_HAND / 4;

/// When there is room again, most likely.
const SOON: Duration = Duration::from_millis(100);

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    hand: Arc<Mutex<Hand>>,
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
            hand: Arc::default(),
            nodes: DefaultKeyedRateLimiter::keyed(quota(node.per_second, node.burst)),
            callers: DefaultKeyedRateLimiter::keyed(quota(caller.per_second, caller.burst)),
            attestations: DefaultDirectRateLimiter::direct(quota(ATTESTATIONS, ATTESTATIONS)),
        }
    }

    /// Takes one call of a node from its rate.
    pub(crate) fn node(&self, id: &SpiffeId) -> Result<(), Status> {
        keyed(&self.nodes, &id.to_string(), NonZeroU32::MIN)
    }

    /// Takes `items` credentials from a node's rate, of which its call was one, and holds them in
    /// hand until the guard is dropped.
    pub(crate) fn items(&self, id: &SpiffeId, items: usize) -> Result<InHand, Status> {
        let id = id.to_string();
        let more = u32::try_from(items.saturating_sub(1)).unwrap_or(u32::MAX);
        if let Some(more) = NonZeroU32::new(more) {
            keyed(&self.nodes, &id, more)?;
        }
        let mut hand = self.hand.lock();
        let own = hand.nodes.get(&id).copied().unwrap_or(0);
        if hand.total + items > IN_HAND || own + items > IN_HAND_OF_NODE {
            return Err(late(SOON));
        }
        hand.total += items;
        hand.nodes.insert(id.clone(), own + items);
        Ok(InHand {
            hand: Arc::clone(&self.hand),
            id,
            items,
        })
    }

    /// Takes one call of an administrator from its rate.
    pub(crate) fn caller(&self, name: &str) -> Result<(), Status> {
        keyed(&self.callers, &name.to_owned(), NonZeroU32::MIN)
    }

    /// Takes one attestation.
    pub(crate) fn attestation(&self) -> Result<(), Status> {
        self.attestations
            .check()
            .map_err(|not| late(not.wait_time_from(DefaultClock::default().now())))
    }
}

/// What is being worked on.
#[derive(Debug, Default)]
struct Hand {
    total: usize,
    nodes: HashMap<String, usize>,
}

/// Credentials that are being issued for a node; no more once dropped.
#[derive(Debug)]
pub(crate) struct InHand {
    hand: Arc<Mutex<Hand>>,
    id: String,
    items: usize,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut hand = self.hand.lock();
        hand.total -= self.items;
        let left = hand.nodes.get(&self.id).map_or(0, |own| own - self.items);
        if left == 0 {
            hand.nodes.remove(&self.id);
        } else {
            hand.nodes.insert(self.id.clone(), left);
        }
    }
}

/// Takes so many of a key's rate, all or none.
fn keyed(
    limiter: &DefaultKeyedRateLimiter<String>,
    key: &String,
    many: NonZeroU32,
) -> Result<(), Status> {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    let taken = limiter.check_key_n(key, many).map_err(|_| too_many(many))?;
    taken.map_err(|not| late(not.wait_time_from(DefaultClock::default().now())))
}

fn too_many(many: NonZeroU32) -> Status {
    // A call for several takes one of them by itself.
    let items = many.saturating_add(1);
    let denied = taskmint_wire::Denied::new(
        Code::ResourceExhausted,
        "RATE_LIMITED",
        format!("{items} at once are more than this node's burst"),
    );
    denied.fix("ask for fewer in one call").into()
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

#[cfg(test)]
mod tests {
    use taskmint_config::Rate;

    use super::*;

    fn limits(burst: u32) -> Limits {
        let rate = Rate {
            per_second: 1,
            burst,
        };
        Limits::new(&RateLimits {
            per_node: rate,
            per_caller: rate,
            per_entry: rate,
        })
    }

    fn node(name: &str) -> SpiffeId {
        format!("spiffe://example.org/taskmint/node/t/{name}")
            .parse()
            .unwrap()
    }

    #[test]
    fn a_batch_costs_as_much_as_its_items() {
        let (limits, one) = (limits(100), node("one"));
        limits.node(&one).unwrap();
        drop(limits.items(&one, 100).unwrap());
        assert!(limits.node(&one).is_err());
        assert!(limits.node(&node("two")).is_ok());
    }

    #[test]
    fn a_batch_above_the_burst_is_refused_and_says_so() {
        let refused = limits(10).items(&node("one"), 100).unwrap_err();
        assert!(refused.message().contains("burst"), "{refused:?}");
    }

    #[test]
    fn one_node_leaves_room_for_others_and_gives_it_back() {
        let limits = limits(1_000_000);
        let (greedy, other) = (node("greedy"), node("other"));
        let held = limits.items(&greedy, IN_HAND_OF_NODE).unwrap();
        assert!(limits.items(&greedy, 1).is_err());
        drop(limits.items(&other, 1).unwrap());
        drop(held);
        drop(limits.items(&greedy, 1).unwrap());
        assert!(limits.hand.lock().nodes.is_empty());
    }

    #[test]
    fn all_together_have_a_bound() {
        let limits = limits(1_000_000);
        let nodes: Vec<_> = (0..5).map(|n| node(&format!("n{n}"))).collect();
        let held: Vec<_> = nodes[..4]
            .iter()
            .map(|node| limits.items(node, IN_HAND_OF_NODE).unwrap())
            .collect();
        assert!(limits.items(&nodes[4], 1).is_err());
        drop(held);
        assert!(limits.items(&nodes[4], 1).is_ok());
    }
}
