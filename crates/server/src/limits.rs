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
use taskmint_wire::Denied;
use tokio::time::Instant;
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

/// How long a call is in hand before one was measured; and the least and the most that a caller is
/// told to wait for room.
const IN_HAND_FOR: Duration = Duration::from_millis(100);
const ROOM_IN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    hand: Arc<Mutex<Hand>>,
    /// The most that a node may ask for at once, and how long it takes until it may have one more.
    burst: usize,
    each: Duration,
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
            burst: usize::try_from(node.burst).unwrap_or(usize::MAX).max(1),
            each: Duration::from_secs(1) / node.per_second.max(1),
            nodes: DefaultKeyedRateLimiter::keyed(quota(node.per_second, node.burst)),
            callers: DefaultKeyedRateLimiter::keyed(quota(caller.per_second, caller.burst)),
            attestations: DefaultDirectRateLimiter::direct(quota(ATTESTATIONS, ATTESTATIONS)),
        }
    }

    /// Takes one call of a node from its rate.
    pub(crate) fn node(&self, id: &SpiffeId) -> Result<(), Status> {
        keyed(
            &self.nodes,
            &id.to_string(),
            NonZeroU32::MIN,
            Duration::ZERO,
        )
    }

    /// Takes `items` credentials from a node's rate, of which its call was one, and holds them in
    /// hand until the guard is dropped.
    pub(crate) fn items(&self, id: &SpiffeId, items: usize) -> Result<InHand, Status> {
        let id = id.to_string();
        if items > self.burst {
            return Err(too_many(items));
        }
        let more = u32::try_from(items.saturating_sub(1)).unwrap_or(u32::MAX);
        if let Some(more) = NonZeroU32::new(more) {
            // A call takes one of its items by itself, and will again.
            keyed(&self.nodes, &id, more, self.each)?;
        }
        let mut hand = self.hand.lock();
        let own = hand.nodes.get(&id).copied().unwrap_or(0);
        if hand.total + items > IN_HAND || own + items > IN_HAND_OF_NODE {
            return Err(late(hand.room_in()));
        }
        hand.total += items;
        hand.nodes.insert(id.clone(), own + items);
        Ok(InHand {
            hand: Arc::clone(&self.hand),
            id,
            items,
            since: Instant::now(),
        })
    }

    /// Takes one call of an administrator from its rate.
    pub(crate) fn caller(&self, name: &str) -> Result<(), Status> {
        keyed(
            &self.callers,
            &name.to_owned(),
            NonZeroU32::MIN,
            Duration::ZERO,
        )
    }

    /// Takes one attestation.
    pub(crate) fn attestation(&self) -> Result<(), Status> {
        self.attestations
            .check()
            .map_err(|not| late(not.wait_time_from(DefaultClock::default().now())))
    }
}

/// What is being worked on.
#[derive(Debug)]
struct Hand {
    total: usize,
    nodes: HashMap<String, usize>,
    /// How long calls are in hand, the later ones counting more.
    usual: Duration,
}

impl Default for Hand {
    fn default() -> Self {
        Self {
            total: 0,
            nodes: HashMap::new(),
            usual: IN_HAND_FOR,
        }
    }
}

impl Hand {
    /// What is in hand now is done after so long, if it takes as long as what was before.
    fn room_in(&self) -> Duration {
        self.usual.clamp(ROOM_IN.0, ROOM_IN.1)
    }
}

/// Credentials that are being issued for a node; no more once dropped.
#[derive(Debug)]
pub(crate) struct InHand {
    hand: Arc<Mutex<Hand>>,
    id: String,
    items: usize,
    since: Instant,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut hand = self.hand.lock();
        hand.total -= self.items;
        hand.usual = (hand.usual * 7 + self.since.elapsed()) / 8;
        let left = hand.nodes.get(&self.id).map_or(0, |own| own - self.items);
        if left == 0 {
            hand.nodes.remove(&self.id);
        } else {
            hand.nodes.insert(self.id.clone(), left);
        }
    }
}

/// Takes so many of a key's rate, all or none. `again` is the time for what asking again costs beside
/// them.
fn keyed(
    limiter: &DefaultKeyedRateLimiter<String>,
    key: &String,
    many: NonZeroU32,
    again: Duration,
) -> Result<(), Status> {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    let taken = limiter.check_key_n(key, many);
    let many = usize::try_from(many.get()).unwrap_or(usize::MAX);
    let taken = taken.map_err(|_| too_many(many))?;
    taken.map_err(|not| late(not.wait_time_from(DefaultClock::default().now()) + again))
}

fn too_many(items: usize) -> Status {
    let denied = Denied::new(
        Code::ResourceExhausted,
        "RATE_LIMITED",
        format!("{items} at once are more than this node's burst"),
    );
    denied.fix("ask for fewer in one call").into()
}

fn late(wait: Duration) -> Status {
    let wait = wait.max(Duration::from_millis(1));
    let denied = Denied::new(
        Code::ResourceExhausted,
        "RATE_LIMITED",
        "too many calls in too short a time",
    );
    denied
        .fix(format!("try again in {} ms", wait.as_millis()))
        .retry_after(wait)
        .into()
}

#[cfg(test)]
mod tests {
    use taskmint_config::Rate;
    use taskmint_wire::retry_after_of;

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
        let wait = retry_after_of(&limits.node(&one).unwrap_err()).unwrap();
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1));
        assert!(limits.node(&node("two")).is_ok());
    }

    #[test]
    fn what_is_told_to_wait_gets_in_then() {
        let rate = Rate {
            per_second: 100,
            burst: 10,
        };
        let limits = Limits::new(&RateLimits {
            per_node: rate,
            per_caller: rate,
            per_entry: rate,
        });
        let one = node("one");
        let ask = || limits.node(&one).and_then(|()| limits.items(&one, 10));
        drop(ask().unwrap());
        // There is room for the call, but not for its items.
        std::thread::sleep(Duration::from_millis(15));
        let wait = retry_after_of(&ask().unwrap_err()).unwrap();
        std::thread::sleep(wait);
        drop(ask().unwrap());
    }

    #[test]
    fn a_batch_above_the_burst_is_refused_and_says_so() {
        let refused = limits(10).items(&node("one"), 100).unwrap_err();
        assert!(refused.message().contains("burst"), "{refused:?}");
        // No waiting helps.
        assert_eq!(retry_after_of(&refused), None);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_promised_by_how_long_calls_take() {
        let limits = limits(1_000_000);
        for _ in 0..64 {
            let held = limits.items(&node("n"), 1).unwrap();
            tokio::time::advance(Duration::from_millis(800)).await;
            drop(held);
        }
        let _held = limits.items(&node("n"), IN_HAND_OF_NODE).unwrap();
        let refused = limits.items(&node("n"), 1).unwrap_err();
        let wait = retry_after_of(&refused).unwrap();
        assert!(
            wait.abs_diff(Duration::from_millis(800)) < Duration::from_millis(10),
            "{wait:?}"
        );
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
