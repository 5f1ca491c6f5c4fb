//! A watcher's cursor: what it is sent next.
//!
//! Chosen only when there is room for it, so that it is always what is newest then. Most of the
//! time that is the very bytes that everybody gets.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use taskmint_model::Timestamp;
use taskmint_status::delta::MAX_RECORDS;
use taskmint_status::record::RECORD_LEN;
use taskmint_wire::revocation as wire;
use tokio::time::Instant;
use tonic::Status;

use crate::arena::SEGMENT;
use crate::feed::Tip;
use crate::frame::{self, Checkpoint, Head};
use crate::lane::Shared;
use crate::nonces::{Nonce, Nonces, Pending};
use crate::outgoing::Outgoing;
use crate::{Admission, Source, Start};

/// An admitted watcher.
pub(crate) struct Follow<S: Source> {
    watcher: S::Watcher,
    cursor: Cursor,
    /// The head that it is on its way to, over records that don't fit in one message.
    target: Option<Target>,
    checkpoint: Option<Loading>,
    nonces: Nonces,
}

/// What a watcher has been sent.
struct Cursor {
    /// Of which log; none needs a checkpoint.
    log: Option<u64>,
    /// Everything up to here.
    sequence: u64,
    /// The publication that it saw last.
    number: u64,
    /// The time of its newest head.
    newest: Timestamp,
    /// The key that it knows.
    key: u64,
}

struct Loading {
    log: u64,
    pending: Pending<Arc<Checkpoint>>,
}

/// A head that a watcher is to get.
enum Target {
    /// The newest of all.
    Tip(Arc<Tip>),
    /// The one that answers its nonce, beside the newest of all at that time.
    Answer(Arc<Tip>, Head),
}

enum Choice {
    Nothing,
    Checkpoint,
    Target(Target),
}

impl Target {
    fn head(&self) -> &Head {
        match self {
            Self::Tip(tip) => &tip.head,
            Self::Answer(_, head) => head,
        }
    }

    /// What was newest when it was chosen: of the same log and run of records.
    fn tip(&self) -> &Tip {
        match self {
            Self::Tip(tip) | Self::Answer(tip, _) => tip,
        }
    }
}

impl<S: Source> Follow<S> {
    pub(crate) fn new(
        admission: Admission<S::Watcher>,
        nonce: Option<Nonce>,
        now: Instant,
    ) -> Self {
        let (log, sequence) = match admission.start {
            Start::After(sequence) => (Some(admission.log), sequence),
            Start::Checkpoint => (None, 0),
        };
        Self {
            watcher: admission.watcher,
            cursor: Cursor {
                log,
                sequence,
                number: 0,
                newest: Timestamp::default(),
                key: 0,
            },
            target: None,
            checkpoint: None,
            nonces: Nonces::new(admission.allowance, nonce, now),
        }
    }

    pub(crate) fn acknowledge(&self, source: &S, said: wire::Acknowledge) -> Result<(), Status> {
        source.acknowledge(&self.watcher, said)
    }

    pub(crate) fn ask(&mut self, nonce: Nonce) -> Result<(), Status> {
        self.nonces.add(nonce)
    }

    /// When to look again, if nothing else happens.
    pub(crate) fn deadline(&mut self, lane: &Shared<S>, now: Instant) -> Option<Instant> {
        self.nonces.deadline(lane.settings.hold, now)
    }

    /// What to send now: at most one message's worth of records, or a checkpoint.
    pub(crate) fn next(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        now: Instant,
    ) -> Result<Option<Outgoing>, Status> {
        loop {
            if let Some(loading) = &mut self.checkpoint {
                let Poll::Ready(checkpoint) = loading.pending.as_mut().poll(cx) else {
                    return Ok(None);
                };
                return Ok(Some(self.loaded(lane, &*checkpoint?)));
            }
            let choice = match self.target.take() {
                Some(target) => Choice::Target(target),
                None => self.choose(cx, lane, now)?,
            };
            match choice {
                Choice::Nothing => return Ok(None),
                Choice::Checkpoint => self.load(lane),
                Choice::Target(target) => match self.advance(lane, target) {
                    Some(outgoing) => return Ok(Some(outgoing)),
                    None => self.load(lane),
                },
            }
        }
    }

    fn choose(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        now: Instant,
    ) -> Result<Choice, Status> {
        // Before the first publication there is nothing to stand on.
        let Some(tip) = lane.feed.tip() else {
            return Ok(Choice::Nothing);
        };
        if self.cursor.log != Some(tip.log) {
            return Ok(Choice::Checkpoint);
        }
        self.nonces.poll(cx, &lane.source, now)?;
        if let Some(answer) = self.nonces.answer() {
            if self.cursor.is_past(answer) {
                self.nonces.ask_again(&lane.source, now);
                self.nonces.poll(cx, &lane.source, now)?;
            } else if answer.sequence <= tip.sequence() {
                let answer = answer.clone();
                return Ok(Choice::Target(Target::Answer(tip, answer)));
            } else {
                // Its records are still on their way into the feed.
                return Ok(Choice::Nothing);
            }
        }
        if tip.number == self.cursor.number || self.nonces.holds(lane.settings.hold, now) {
            return Ok(Choice::Nothing);
        }
        if self.cursor.is_past(&tip.head) {
            self.cursor.number = tip.number;
            return Ok(Choice::Nothing);
        }
        Ok(Choice::Target(Target::Tip(tip)))
    }

    /// Goes on to a head. `None`: what leads there is gone.
    fn advance(&mut self, lane: &Shared<S>, target: Target) -> Option<Outgoing> {
        let (from, to) = (self.cursor.sequence, target.head().sequence);
        let behind = to.checked_sub(from)?;
        if behind > lane.settings.behind || self.cursor.log != Some(target.tip().log) {
            return None;
        }
        if behind > SEGMENT as u64 {
            let upto = to.min(from + MAX_RECORDS as u64);
            let slices = lane.feed.slices(target.tip().era, from, upto)?;
            let mut header = Vec::new();
            frame::put_delta_header(&mut header, from + 1, upto);
            self.cursor.sequence = upto;
            self.target = Some(target);
            let header = [Bytes::from(header)];
            return Some(Outgoing::many(header.into_iter().chain(slices)));
        }
        let prompt = lane.source.prompts(&self.watcher, to);
        let ready = match &target {
            Target::Tip(tip) if tip.from == from && tip.head.key.revision == self.cursor.key => {
                tip.follow(prompt)
            }
            _ => None,
        };
        let outgoing = match ready {
            Some(ready) => ready,
            None => self.encode(lane, &target, prompt)?,
        };
        self.arrive(lane, &target);
        Some(Outgoing::one(outgoing))
    }

    /// A frame for this watcher alone: what is between its cursor and the head, and the head.
    fn encode(&self, lane: &Shared<S>, target: &Target, prompt: bool) -> Option<Bytes> {
        let (from, head) = (self.cursor.sequence, target.head());
        let records = usize::try_from(head.sequence - from).ok()? * RECORD_LEN;
        let key = head.key.certificate.len();
        // Not more than it needs: a slow watcher may hold it for a while.
        let mut into = Vec::with_capacity(records + head.body.len() + key + 160);
        if from < head.sequence {
            frame::put_delta_header(&mut into, from + 1, head.sequence);
            lane.feed
                .copy(target.tip().era, from, head.sequence, &mut into)?;
        }
        frame::put_head(
            &mut into,
            head,
            head.key.revision != self.cursor.key,
            prompt,
        );
        Some(into.into())
    }

    fn arrive(&mut self, lane: &Shared<S>, target: &Target) {
        let head = target.head();
        lane.source.sent(&self.watcher, head.sequence);
        lane.metrics.frames.add(1);
        let cursor = &mut self.cursor;
        (cursor.sequence, cursor.newest, cursor.key) = (head.sequence, head.at, head.key.revision);
        match target {
            Target::Tip(tip) => cursor.number = tip.number,
            Target::Answer(..) => self.nonces.answered(),
        }
    }

    fn load(&mut self, lane: &Shared<S>) {
        let (log, source) = (lane.feed.log(), Arc::clone(&lane.source));
        // Not behind what it has, and not so far behind that another one would follow at once.
        let has = match self.cursor.log == Some(log) {
            true => self.cursor.sequence,
            false => 0,
        };
        let newest = lane.feed.position();
        let least = newest.saturating_sub(lane.settings.behind).max(has);
        let pending: Pending<_> = Box::pin(async move { source.checkpoint(least).await });
        self.checkpoint = Some(Loading { log, pending });
    }

    fn loaded(&mut self, lane: &Shared<S>, checkpoint: &Checkpoint) -> Outgoing {
        let log = self.checkpoint.take().map(|loading| loading.log);
        lane.source.sent(&self.watcher, checkpoint.sequence);
        lane.metrics.checkpoints.add(1);
        let cursor = &mut self.cursor;
        if cursor.log != log {
            // Of another log: its heads begin anew.
            cursor.newest = Timestamp::default();
        }
        (cursor.log, cursor.sequence) = (log, checkpoint.sequence);
        (cursor.key, cursor.number) = (checkpoint.revision, 0);
        Outgoing::one(checkpoint.frame.clone())
    }
}

impl Cursor {
    /// Whether this head would lead back.
    fn is_past(&self, head: &Head) -> bool {
        head.sequence < self.sequence || head.at < self.newest
    }
}
