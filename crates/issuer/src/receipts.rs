//! Receipts: who has heard of an end, and by when nobody accepts the task any more (P18).
//!
//! The instant is the later of two. Verifiers that watch refuse once the last head without the end
//! is too old to be believed; those that don't, once whatever was minted has expired. Neither
//! depends on who is connected. Where something is not known, what stands in for it is later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_lifecycle::Changes;
use taskmint_model::{EndTrace, State, Task, TaskKind, Timestamp};
use taskmint_store::{Change, Commit, Promise};
use tokio::time::Instant;

use crate::Issuer;
use crate::live::Ending;
use crate::refused::{RefusalKind, Refused};
use crate::watchers::{Heard, Names, Pending, Wanting};

/// How long a wait lasts unless it says otherwise.
pub const WAIT: Duration = Duration::from_secs(30);

/// The longest wait.
pub const MAX_WAIT: Duration = Duration::from_secs(5 * 60);

/// The most waits at once.
const MAX_WAITS: usize = 4_096;

/// The most of them through one node, so that its workloads leave some to others.
const MAX_WAITS_OF_NODE: usize = 256;

/// Among so many waits one is over by then, most likely.
const FULL: Duration = Duration::from_secs(1);

/// The least pause between two receipts of one wait.
const PAUSE: Duration = Duration::from_millis(50);

/// Those who left are looked at again this often: time alone takes them off the list.
const LOOK: Duration = Duration::from_secs(1);

/// How long after an end its wait may begin, if it was announced with the end.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// Of more than so many credentials under one task, the last expiry is bounded and not looked for.
const MAX_MINTS: usize = 4_096;

/// What verifiers were promised at most before promises were noted.
const UNKNOWN_PROMISE: Duration = Duration::from_secs(6 * 60);

/// Who has heard of an end, and by when nobody accepts the task any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the revocation log. Everything at or after it refuses the task, and everything
    /// below it that ended with it.
    pub position: u64,
    /// When the task ended.
    pub ended_at: Timestamp,
    /// Who has applied it, and who has not.
    pub heard: Heard,
    /// From this instant on every verifier refuses the task and everything below it that ended with
    /// it, whoever is connected. New handshakes and tokens, that is: connections which are open at
    /// services that don't watch stay open.
    pub dead_everywhere_by: Timestamp,
    /// Nothing more will come of the wait.
    pub is_final: bool,
}

/// A wait for everybody to hear of an end.
#[derive(Debug)]
pub struct Waiting {
    issuer: Arc<Issuer>,
    task: Task,
    wanting: Wanting,
    _share: Option<Share>,
    until: Instant,
    pending: Pending,
    shuffles: u64,
    /// Somebody applied it, came, or left since the last receipt was made.
    dirty: bool,
    looked: Instant,
    told: Option<[usize; 3]>,
    is_over: bool,
}

/// One wait of a node; given back when dropped.
#[derive(Debug)]
struct Share {
    issuer: Arc<Issuer>,
    node: SpiffeId,
}

/// Announces that an end that is about to be written will be waited for.
#[derive(Debug)]
pub struct Announced(Option<Wanting>);

impl Issuer {
    /// The receipt of a task's end, as of now. Names the first few of each list.
    ///
    /// # Errors
    /// `NOT_ENDED`.
    pub fn receipt(&self, task: &Task) -> Result<Receipt, Refused> {
        self.receipt_naming(task, Names::PROGRESS)
    }

    fn receipt_naming(&self, task: &Task, names: Names) -> Result<Receipt, Refused> {
        let State::Ended { at, trace, .. } = &task.state else {
            let message = "the task has not ended, so nobody can have heard of its end";
            return Err(Refused::new(RefusalKind::State, "NOT_ENDED", message).fix("end it first"));
        };
        let now = self.clock.now();
        let position = self.position_of(trace);
        Ok(Receipt {
            position,
            ended_at: *at,
            heard: self.watchers.heard(position, names, now),
            dead_everywhere_by: self.dead_by(task, trace, position, now),
            is_final: false,
        })
    }

    /// Ends that a version before this one wrote, and those of a log before this one, lie at or
    /// before where this process began.
    fn position_of(&self, trace: &EndTrace) -> u64 {
        trace.position.unwrap_or(self.bounds.began_at)
    }

    fn dead_by(&self, task: &Task, trace: &EndTrace, position: u64, now: Timestamp) -> Timestamp {
        let believed = self.signed.last_without(position, now) + self.promised_span();
        // Heads of an earlier process leave out whatever ended since.
        let believed = believed.max(self.bounds.promised_until);
        let expiry = trace.last_expiry.unwrap_or(task.times.limit);
        if expiry == Timestamp::default() {
            return believed;
        }
        believed.max(expiry + self.settings.leeway)
    }

    /// How long a verifier may believe a head that is signed now.
    fn promised_span(&self) -> Duration {
        self.settings.max_age + self.settings.drift_allowance
    }

    /// Waits until everybody who is waited for has applied the end of a task, and says how far they
    /// are meanwhile. While it waits, frames ask for prompt acknowledgements. `node` is whose agent
    /// asks, if one does.
    ///
    /// # Errors
    /// `NOT_ENDED`, `TOO_LONG` beyond [`MAX_WAIT`], `TOO_MANY_WAITS`.
    pub fn wait(
        self: &Arc<Self>,
        node: Option<&SpiffeId>,
        task: Task,
        timeout: Option<Duration>,
    ) -> Result<Waiting, Refused> {
        let timeout = timeout.unwrap_or(WAIT);
        if timeout > MAX_WAIT {
            let message = format!("a wait lasts at most {} s", MAX_WAIT.as_secs());
            return Err(Refused::new(RefusalKind::Invalid, "TOO_LONG", message)
                .fix("wait again when the time is up"));
        }
        let position = self.receipt_naming(&task, Names::NONE)?.position;
        let is_announced = self.watchers.wanted() >= position;
        let share = node.map(|node| Share::take(self, node)).transpose()?;
        let wanting = self.watchers.want(position, MAX_WAITS);
        let wanting = wanting.ok_or_else(too_many_waits)?;
        let now = Instant::now();
        let mut waiting = Waiting {
            issuer: Arc::clone(self),
            task,
            pending: self.watchers.pending(position),
            shuffles: self.watchers.shuffles(),
            wanting,
            _share: share,
            until: now + timeout,
            dirty: false,
            looked: now,
            told: None,
            is_over: false,
        };
        waiting.look_for_pending();
        // The head that covers the end has left by now, and asked for no hurry.
        if waiting.pending.len() > 0 && !is_announced {
            self.signed.nudge();
        }
        Ok(waiting)
    }

    /// The next end will be waited for: frames ask for prompt acknowledgements from its head on,
    /// so that the wait needs no head of its own. To be held until the end is written.
    pub fn announce_wait(&self) -> Announced {
        Announced(self.watchers.want(self.newest() + 1, MAX_WAITS))
    }

    /// Writes into the ends that are about to be committed what bounds them. Nothing is minted
    /// under them until the returned value is dropped.
    ///
    /// # Errors
    /// When what was minted under them can't be read.
    pub(crate) async fn trace_ends(
        &self,
        changes: &mut Changes,
        now: Timestamp,
    ) -> Result<Ending<'_>, Refused> {
        let ended = changes.tasks.iter().map(|(task, _)| task);
        let ended: Vec<_> = ended.filter(|task| task.is_ended()).collect();
        let ending = self.live.ending(ended.iter().map(|task| task.id).collect());
        // First what is being recorded, then what is on record: nothing slips from the one to the
        // other in between.
        let moving = ended.iter().map(|task| ending.last_expiry(task.id));
        let moving: Vec<_> = moving.collect();
        let places = ended.iter().map(|task| task.place).collect();
        let longest = self.store.longest_credential().await?;
        let recorded = self.store.last_expiries(places, MAX_MINTS).await?;
        let mut last = HashMap::new();
        for ((task, moving), recorded) in ended.iter().zip(moving).zip(recorded) {
            let recorded = recorded.unwrap_or_else(|| latest_expiry(task, longest, now));
            last.insert(task.id, recorded.max(moving));
        }
        // Deepest first, so that each hands up what it got from below.
        let mut upward: Vec<_> = ended
            .iter()
            .map(|task| (task.depth, task.id, task.parent))
            .collect();
        upward.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id, parent) in upward {
            let below = last.get(&id).copied().unwrap_or_default();
            if let Some(above) = parent.and_then(|parent| last.get_mut(&parent)) {
                *above = below.max(*above);
            }
        }
        for (task, _) in &mut changes.tasks {
            if let State::Ended { trace, .. } = &mut task.state {
                trace.last_expiry = last.get(&task.id).copied();
            }
        }
        Ok(ending)
    }

    /// Says durably how long verifiers may believe the heads to come, before the first is signed.
    pub(crate) async fn promise(&self) -> Result<(), Refused> {
        let promise = Promise {
            span: self.promised_span(),
            earlier_until: self.bounds.promised_until,
        };
        let commit = Commit {
            changes: vec![Change::Promise(promise)],
            ..Commit::default()
        };
        self.store.commit(commit).await?;
        Ok(())
    }
}

/// What this process can't know of those before it, and so bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The log's newest position when it began.
    pub(crate) began_at: u64,
    /// Until when a verifier may believe a head that was signed before.
    pub(crate) promised_until: Timestamp,
}

impl Bounds {
    pub(crate) fn new(began_at: u64, before: Option<Promise>, now: Timestamp) -> Self {
        let (span, earlier) = match before {
            Some(before) => (before.span, before.earlier_until),
            // Nothing was signed before the first record.
            None if began_at == 0 => (Duration::ZERO, now),
            None => (UNKNOWN_PROMISE, now),
        };
        Self {
            began_at,
            promised_until: earlier.max(now + span),
        }
    }
}

impl Share {
    fn take(issuer: &Arc<Issuer>, node: &SpiffeId) -> Result<Self, Refused> {
        let mut waits = issuer.waits.lock();
        let waiting = waits.entry(node.clone()).or_default();
        if *waiting >= MAX_WAITS_OF_NODE {
            return Err(too_many_waits());
        }
        *waiting += 1;
        Ok(Self {
            issuer: Arc::clone(issuer),
            node: node.clone(),
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut waits = self.issuer.waits.lock();
        if let Some(waiting) = waits.get_mut(&self.node) {
            *waiting -= 1;
            if *waiting == 0 {
                waits.remove(&self.node);
            }
        }
    }
}

/// The latest expiry that anything minted under a task so far can have.
fn latest_expiry(task: &Task, longest: Option<Duration>, now: Timestamp) -> Timestamp {
    let limit = task.times.limit;
    match task.kind {
        // What they have lasts as long as they do.
        TaskKind::Node | TaskKind::Server => limit,
        TaskKind::Explicit | TaskKind::Implicit => {
            longest.map_or(limit, |span| limit.min(now + span))
        }
    }
}

fn too_many_waits() -> Refused {
    let message = "too many wait already";
    Refused::new(RefusalKind::Exhausted, "TOO_MANY_WAITS", message).retry_after(FULL)
}

impl Announced {
    /// The end is written; its wait may begin within a moment.
    pub fn linger(self) {
        let Some(wanting) = self.0 else { return };
        tokio::spawn(async move {
            tokio::time::sleep(ANNOUNCED).await;
            drop(wanting);
        });
    }
}

impl Waiting {
    /// The next receipt: the first at once, further ones when the counts change, at most every
    /// 50 ms, and a final one, complete or not, with more names. Nothing after it.
    pub async fn next(&mut self) -> Option<Receipt> {
        while !self.is_over {
            if let Some(receipt) = self.look() {
                return Some(receipt);
            }
            let pause = Instant::now() + PAUSE;
            tokio::select! {
                () = self.wanting.tally.done.notified() => {}
                () = tokio::time::sleep_until(pause.min(self.until)) => {}
            }
        }
        None
    }

    fn look(&mut self) -> Option<Receipt> {
        let now = Instant::now();
        let is_late = now >= self.until;
        self.dirty |= self.look_for_pending();
        let since = now.duration_since(self.looked);
        // The last to hear ends the wait at once; all before may wait for each other.
        let is_due = self.dirty && (self.pending.len() == 0 || since >= PAUSE);
        if !(is_due || is_late || self.told.is_none() || since >= LOOK) {
            return None;
        }
        (self.dirty, self.looked) = (false, now);
        let mut receipt = self.receipt(Names::PROGRESS)?;
        let heard = &receipt.heard;
        let counts = [
            heard.applied_count,
            heard.applied_by_relay_count,
            heard.not_yet_count,
        ];
        if is_late || heard.is_complete() {
            receipt = self.receipt(Names::FINAL)?;
            receipt.is_final = true;
            self.is_over = true;
            return Some(receipt);
        }
        if self.told.replace(counts) == Some(counts) {
            return None;
        }
        Some(receipt)
    }

    /// Whether anybody applied it, came, or left since the last look.
    fn look_for_pending(&mut self) -> bool {
        let watchers = self.issuer.watchers();
        let reached = self.wanting.tally.reached();
        let shuffles = watchers.shuffles();
        let mut changed = shuffles != self.shuffles;
        if changed {
            self.shuffles = shuffles;
            self.pending = watchers.pending(self.wanting.position());
        } else {
            changed = self.pending.shrink();
        }
        self.wanting.tally.need(reached, self.pending.len());
        changed
    }

    fn receipt(&mut self, names: Names) -> Option<Receipt> {
        let receipt = self.issuer.receipt_naming(&self.task, names).ok();
        self.is_over |= receipt.is_none();
        receipt
    }
}
