//! How old the newest head is, by the verifier's own clock (protocol P17).
//!
//! A nonce is sent at own instant `M0`; the head that signs it says server time `S0`. Whatever a
//! relay does in between, that head was signed after `M0`. So a head that says `S` was signed no
//! earlier than `M0 + S - S0`, and is at most `now - (M0 + S - S0)` old, however late it arrives.
//! `M0` is when the nonce was *sent*: measured at the answer's arrival, a relay that delays
//! everything by ten minutes, the answer included, would look fresh.
//!
//! The answer also says how long the log was after `M0`. Shorter ones don't count any more: what was
//! acknowledged before the nonce was sent is known to whoever opens by its answer.

use std::time::Duration;

use super::{Config, MAX_DRIFT_ALLOWANCE};
use crate::clock::{BootTime, Now, WallTime};
use crate::head::Head;
use crate::place::{HOUR_MS, bucket_of};
use crate::verdict::Refusal;

/// Whether statuses may be believed, as a value to hand to other threads.
#[derive(Clone, Copy, Debug)]
pub struct Freshness(State);

#[derive(Clone, Copy, Debug)]
enum State {
    Closed(Refusal),
    Open(Fresh),
}

#[derive(Clone, Copy, Debug)]
struct Fresh {
    /// The earliest own instant at which the newest counted head was signed. Before boot: negative.
    signed: i128,
    bound: i128,
    anchor: Anchor,
    /// Limit and leeway ahead of the server's clock, in milliseconds.
    reach: u64,
}

impl Freshness {
    pub(crate) fn closed(refusal: Refusal) -> Self {
        Self(State::Closed(refusal))
    }

    /// Whether statuses may be believed at this instant.
    ///
    /// # Errors
    /// Why they may not.
    pub fn check(&self, now: Now) -> Result<(), Refusal> {
        let fresh = match self.0 {
            State::Closed(refusal) => return Err(refusal),
            State::Open(fresh) => fresh,
        };
        if fresh.anchor.jumped(now) {
            return Err(Refusal::ClockJumped);
        }
        if now.boot > fresh.anchor.drifts {
            return Err(Refusal::DriftUsed);
        }
        if i128::from(now.boot.0) - fresh.signed > fresh.bound {
            return Err(Refusal::Stale);
        }
        Ok(())
    }

    /// How old the newest counted head is at most; `None` while there is none.
    #[must_use]
    pub fn age(&self, now: Now) -> Option<Duration> {
        let State::Open(fresh) = self.0 else {
            return None;
        };
        let millis = (i128::from(now.boot.0) - fresh.signed).max(0);
        Some(Duration::from_millis(
            u64::try_from(millis).unwrap_or(u64::MAX),
        ))
    }

    /// The last bucket in which a limit can lie by now: the largest limit ahead of the server's
    /// clock, which is a better witness than the verifier's own.
    #[must_use]
    pub fn furthest_bucket(&self, now: Now) -> u32 {
        let State::Open(fresh) = self.0 else { return 0 };
        let server = fresh.anchor.server.plus(now.boot.since(fresh.anchor.sent));
        bucket_of(server.plus(fresh.reach)).unwrap_or(u32::MAX)
    }
}

/// A comparison of the server's clock with ours.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    sent: BootTime,
    server: WallTime,
    epoch: u32,
    /// How long the log was when the server answered. A restarted verifier remembers nothing: an
    /// older checkpoint with an older head would undo what it had applied and acknowledged.
    sequence: u64,
    /// Wall clock minus boot clock when the nonce was sent, and how far they may part.
    offset: i128,
    tolerance: i128,
    /// The own instant at which the drift allowance is used up.
    drifts: BootTime,
}

impl Anchor {
    fn jumped(&self, now: Now) -> bool {
        (now.offset() - self.offset).abs() > self.tolerance || now.boot < self.sent
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: [u8; 16],
    at: Now,
}

/// Keeps nonces, the anchor, and the newest head's bound.
#[derive(Clone, Debug)]
pub(super) struct Timekeeper {
    staleness: Option<Duration>,
    leeway: Duration,
    drift_allowance: Duration,
    drift_rate: u32,
    tolerance: Duration,
    asked: Option<Asked>,
    anchor: Option<Anchor>,
    fresh: Option<Fresh>,
    /// Set by a jump, cleared by the next answer.
    jumped: bool,
    /// The anchor is so loose (its answer was slow) that a new one is worth asking for.
    loose: bool,
}

impl Timekeeper {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            staleness: config.staleness,
            leeway: config.leeway,
            drift_allowance: config.drift_allowance.min(MAX_DRIFT_ALLOWANCE),
            drift_rate: config.drift_rate,
            tolerance: config.wall_tolerance,
            asked: None,
            anchor: None,
            fresh: None,
            jumped: false,
            loose: false,
        }
    }

    /// A new connection: its heads count only once they are anchored to its own nonce. What was
    /// counted before stays counted, and ages.
    pub(super) fn connected(&mut self, nonce: [u8; 16], now: Now) {
        self.observe(now);
        self.anchor = None;
        self.ask(nonce, now);
    }

    pub(super) fn ask(&mut self, nonce: [u8; 16], now: Now) {
        self.observe(now);
        self.asked = Some(Asked { nonce, at: now });
    }

    /// Another log: nothing that was measured holds for its server's clock. The nonce asked still
    /// does.
    pub(super) fn forget(&mut self) {
        self.anchor = None;
        self.fresh = None;
    }

    /// Closes when a clock jumped since the nonce was sent.
    pub(super) fn observe(&mut self, now: Now) {
        let anchors = self
            .anchor
            .into_iter()
            .chain(self.fresh.map(|fresh| fresh.anchor));
        if anchors.into_iter().any(|anchor| anchor.jumped(now)) {
            self.close();
        }
        if self
            .asked
            .is_some_and(|asked| self.anchor_at(asked, WallTime(0), 0, 0).jumped(now))
        {
            self.asked = None;
        }
    }

    /// Whether a new nonce should be sent.
    pub(super) fn wants_nonce(&self, now: Now, max_age: u64) -> bool {
        if let Some(asked) = self.asked {
            // An answer that late is of no use: it would be stale on arrival.
            return now.boot.since(asked.at.boot) > max_age;
        }
        let half_used =
            |anchor: Anchor| now.boot.since(anchor.sent) > anchor.drifts.since(anchor.sent) / 2;
        self.loose || self.anchor.is_none_or(half_used)
    }

    /// Takes the answer to our nonce, if this head is one.
    pub(super) fn answer(&mut self, head: &Head, now: Now) {
        self.observe(now);
        if self.anchor.is_some_and(|anchor| anchor.epoch < head.epoch) {
            // Another epoch may be another machine's clock.
            self.anchor = None;
        }
        let Some(asked) = self.asked.filter(|asked| head.nonce == Some(asked.nonce)) else {
            return;
        };
        self.asked = None;
        self.jumped = false;
        self.anchor = Some(self.anchor_at(asked, head.time, head.epoch, head.sequence));
        let slack = now.boot.since(asked.at.boot);
        self.loose = slack > self.bound(head) / 4;
    }

    /// Counts a head whose position is applied.
    pub(super) fn count(&mut self, head: &Head, arrived: BootTime, now: Now) {
        self.observe(now);
        let counts =
            |anchor: &Anchor| anchor.epoch == head.epoch && anchor.sequence <= head.sequence;
        let Some(anchor) = self.anchor.filter(counts) else {
            return;
        };
        let arrived = i128::from(arrived.0);
        let signed =
            i128::from(anchor.sent.0) + i128::from(head.time.0) - i128::from(anchor.server.0);
        if signed > arrived + millis(self.drift_allowance) {
            // Signed in our future: the server's clock ran ahead since it answered.
            self.close();
            return;
        }
        // It was signed before it arrived, whatever the clocks say.
        let signed = signed.min(arrived);
        if self.fresh.is_some_and(|fresh| fresh.signed > signed) {
            return;
        }
        let limit = u64::from(head.largest_limit_hours) * HOUR_MS;
        let reach = limit.saturating_add(millis_u64(self.leeway));
        let bound = i128::from(self.bound(head));
        self.fresh = Some(Fresh {
            signed,
            bound,
            anchor,
            reach,
        });
    }

    pub(super) fn freshness(&self, synced: bool) -> Freshness {
        let refusal = match self.fresh {
            Some(fresh) if synced => return Freshness(State::Open(fresh)),
            _ if self.jumped => Refusal::ClockJumped,
            _ if !synced => Refusal::NotSynced,
            _ if self.anchor.is_none() => Refusal::NonceUnanswered,
            _ => Refusal::NotSynced,
        };
        Freshness::closed(refusal)
    }

    fn close(&mut self) {
        self.forget();
        self.jumped = true;
    }

    /// The trust domain's bound, or the verifier's own where that is stricter.
    fn bound(&self, head: &Head) -> u64 {
        let theirs = u64::from(head.max_age.0);
        self.staleness
            .map_or(theirs, |ours| millis_u64(ours).min(theirs))
    }

    fn anchor_at(&self, asked: Asked, server: WallTime, epoch: u32, sequence: u64) -> Anchor {
        let allowance = millis_u64(self.drift_allowance).saturating_mul(1_000_000);
        let lasts = allowance
            .checked_div(u64::from(self.drift_rate))
            .unwrap_or(u64::MAX);
        Anchor {
            sent: asked.at.boot,
            server,
            epoch,
            sequence,
            offset: asked.at.offset(),
            tolerance: millis(self.tolerance),
            drifts: BootTime(asked.at.boot.0.saturating_add(lasts)),
        }
    }
}

fn millis(span: Duration) -> i128 {
    i128::from(millis_u64(span))
}

fn millis_u64(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
