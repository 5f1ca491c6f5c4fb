//! A watcher's nonces: answered one after the other, and not more often than it may.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use taskmint_wire::{BadField, Denied};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::bucket::Bucket;
use crate::frame::Head;
use crate::{Allowance, Source};

/// What is being waited for, of a source.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

pub(crate) type Nonce = [u8; 16];

/// Nonces that wait for their turn, 4 KiB: more are no use to anybody.
const MOST_WAITING: usize = 256;

/// The nonces of one watcher.
pub(crate) struct Nonces {
    waiting: VecDeque<Nonce>,
    bucket: Bucket,
    asked: Option<Asked>,
    /// The first head of a stream answers its nonce (P17): others wait for it, however long.
    is_first: bool,
}

/// The nonce whose turn it is.
struct Asked {
    nonce: Nonce,
    since: Instant,
    answer: Answer,
}

enum Answer {
    Pending(Pending<Head>),
    Signed(Head),
}

impl Nonces {
    pub(crate) fn new(allowance: Allowance, first: Option<Nonce>, now: Instant) -> Self {
        Self {
            waiting: first.into_iter().collect(),
            bucket: Bucket::new(allowance, now),
            asked: None,
            is_first: first.is_some(),
        }
    }

    pub(crate) fn add(&mut self, nonce: Nonce) -> Result<(), Status> {
        if self.waiting.len() >= MOST_WAITING {
            let message = "more nonces than can be answered in time";
            return Err(Denied::new(Code::ResourceExhausted, "TOO_MANY_NONCES", message).into());
        }
        self.waiting.push_back(nonce);
        Ok(())
    }

    /// Asks for the next answer if it is time, and looks whether it has come.
    pub(crate) fn poll<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &Arc<S>,
        now: Instant,
    ) -> Result<(), Status> {
        if self.asked.is_none() && !self.waiting.is_empty() && self.bucket.take(now).is_ok() {
            self.asked = self.waiting.pop_front().map(|nonce| Asked {
                nonce,
                since: now,
                answer: Answer::Pending(ask(source, nonce)),
            });
        }
        if let Some(asked) = &mut self.asked
            && let Answer::Pending(pending) = &mut asked.answer
            && let Poll::Ready(head) = pending.as_mut().poll(cx)
        {
            asked.answer = Answer::Signed(head?);
        }
        Ok(())
    }

    /// The answer that has come.
    pub(crate) fn answer(&self) -> Option<&Head> {
        match &self.asked.as_ref()?.answer {
            Answer::Signed(head) => Some(head),
            Answer::Pending(_) => None,
        }
    }

    /// The answer was sent.
    pub(crate) fn answered(&mut self) {
        self.asked = None;
        self.is_first = false;
    }

    /// The answer came too late to be sent in order: the same nonce has its turn again.
    pub(crate) fn ask_again<S: Source>(&mut self, source: &Arc<S>, now: Instant) {
        if let Some(asked) = &mut self.asked {
            asked.since = now;
            asked.answer = Answer::Pending(ask(source, asked.nonce));
        }
    }

    /// Whether other heads have to wait. One that was signed later must not be sent earlier: heads
    /// of a stream go back neither in time nor in position. A slow signer is not waited for beyond
    /// `hold`, or it would delay the news of ends.
    pub(crate) fn holds(&self, hold: Duration, now: Instant) -> bool {
        self.is_first
            || self
                .asked
                .as_ref()
                .is_some_and(|asked| now < asked.since + hold)
    }

    /// When to look again, if nothing else happens.
    pub(crate) fn deadline(&mut self, hold: Duration, now: Instant) -> Option<Instant> {
        match &self.asked {
            Some(asked) => Some(asked.since + hold).filter(|at| *at > now),
            None if self.waiting.is_empty() => None,
            None => Some(self.bucket.next(now)),
        }
    }
}

fn ask<S: Source>(source: &Arc<S>, nonce: Nonce) -> Pending<Head> {
    let source = Arc::clone(source);
    Box::pin(async move { source.answer(nonce).await })
}

/// Reads a nonce; empty means none.
pub(crate) fn nonce(octets: &[u8]) -> Result<Option<Nonce>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    let nonce = octets.try_into().map(Some);
    nonce.map_err(|_| BadField::new("nonce", "must have 16 octets"))
}
