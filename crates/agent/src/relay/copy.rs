//! What comes from the server, put where verifiers get it from. Bytes are kept as they came; of
//! them only what says where they belong is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use taskmint_fanout::{Checkpoint, FeedError, Head, Key};
use taskmint_model::Timestamp;
use taskmint_status::delta::MAX_RECORDS;
use taskmint_status::head::SIGNATURE_LEN;
use taskmint_status::record::RECORD_LEN;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_response::Frame;

use super::{KEEP, Log, Relay, Tip};

/// A head with somebody's nonce is for all, too, if it has news or theirs is older than this, in
/// milliseconds: nonces of some are not to cost all the others a frame each.
const OLD: u64 = 500;

/// What can't be passed on. The stream is over by it, and another one begins.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("a frame is empty")]
    Empty,
    #[error("a head is malformed")]
    Head(#[from] taskmint_status::head::HeadError),
    #[error("a checkpoint is malformed")]
    Checkpoint(#[from] taskmint_status::checkpoint::CheckpointError),
    #[error("a signature has {0} octets")]
    Signature(usize),
    #[error("records are malformed")]
    Records,
    #[error("nothing says whose signature a head bears")]
    Uncertified,
    #[error("{at} follows {position}")]
    Gap { position: u64, at: u64 },
    #[error("a head is of another log")]
    OtherLog,
    #[error(transparent)]
    Feed(#[from] FeedError),
}

/// Copies one stream from the server.
pub(super) struct Copy<'a> {
    relay: &'a Relay,
    /// The newest key of all streams, so that one certificate keeps its number.
    key: &'a mut Option<Key>,
    /// This stream has named it.
    is_named: bool,
    /// A head has come on this stream.
    pub(super) has_head: bool,
    /// How old a head may be and still count, by the newest.
    pub(super) max_age: Duration,
}

impl<'a> Copy<'a> {
    pub(super) fn new(relay: &'a Relay, key: &'a mut Option<Key>) -> Self {
        Self {
            relay,
            key,
            is_named: false,
            has_head: false,
            max_age: Duration::ZERO,
        }
    }

    /// Takes in a frame.
    pub(super) fn take(&mut self, response: wire::WatchResponse) -> Result<(), Unfit> {
        match response.frame.ok_or(Unfit::Empty)? {
            Frame::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            Frame::Delta(delta) => self.delta(&delta),
            Frame::Head(head) => self.head(head, response.prompt),
        }
    }

    fn checkpoint(&mut self, checkpoint: wire::Checkpoint) -> Result<(), Unfit> {
        let says = taskmint_status::Checkpoint::decode(&checkpoint.body)?;
        self.name(&checkpoint.key_certificate);
        let log = Log {
            id: says.log,
            generation: says.generation,
        };
        let ready = Checkpoint::new(says.sequence, 0, checkpoint);
        self.relay.keep(log, says.epoch, ready);
        Ok(())
    }

    fn delta(&self, delta: &wire::Delta) -> Result<(), Unfit> {
        let feed = &self.relay.feed;
        let (position, octets) = (feed.position(), delta.records.len());
        let count = octets / RECORD_LEN;
        let last = delta.first.checked_add(count as u64);
        let fits = octets.is_multiple_of(RECORD_LEN) && (1..=MAX_RECORDS).contains(&count);
        if !fits || delta.first == 0 || last != delta.last.checked_add(1) {
            return Err(Unfit::Records);
        }
        if delta.first > position + 1 {
            return Err(Unfit::Gap {
                position,
                at: delta.first,
            });
        }
        // After a newer checkpoint come records that are here already.
        let here = usize::try_from(position + 1 - delta.first).unwrap_or(count);
        let new = delta.records.get(here.min(count) * RECORD_LEN..);
        Ok(feed.append(new.unwrap_or_default())?)
    }

    fn head(&mut self, head: wire::Head, prompt: bool) -> Result<(), Unfit> {
        let says = taskmint_status::Head::decode(&head.body)?;
        if head.signature.len() != SIGNATURE_LEN {
            return Err(Unfit::Signature(head.signature.len()));
        }
        self.name(&head.key_certificate);
        let key = self.key.clone().filter(|_| self.is_named);
        let signed = Head {
            sequence: says.sequence,
            at: Timestamp::from_millis(says.time.0),
            body: head.body,
            signature: head.signature,
            key: key.ok_or(Unfit::Uncertified)?,
        };
        let log = Log {
            id: says.log,
            generation: says.generation,
        };
        if self.relay.known.borrow().log != Some(log) {
            return Err(Unfit::OtherLog);
        }
        self.relay.pass_on(&says, signed, prompt)?;
        self.has_head = true;
        self.max_age = Duration::from_millis(says.max_age.0.into());
        Ok(())
    }

    fn name(&mut self, certificate: &Bytes) {
        if certificate.is_empty() {
            return;
        }
        self.is_named = true;
        let known = self.key.as_ref();
        if known.is_none_or(|key| key.certificate != *certificate) {
            *self.key = Some(Key {
                revision: known.map_or(1, |key| key.revision + 1),
                // Its own: not a slice that keeps all of a checkpoint.
                certificate: Bytes::copy_from_slice(certificate),
            });
        }
    }
}

impl Relay {
    /// Keeps a checkpoint. One of another log, or one from which what is here does not lead on,
    /// begins everything anew.
    fn keep(&self, log: Log, epoch: u32, checkpoint: Checkpoint) {
        let (position, sequence) = (self.feed.position(), checkpoint.sequence);
        let anew = self.anew.swap(false, Ordering::SeqCst);
        let known = self.known.borrow().clone();
        let goes_on = known.log == Some(log) && known.tip.is_some();
        let first = known.checkpoint.as_ref().map_or(0, |first| first.sequence);
        if goes_on && sequence < first {
            // The server's is older than what is here, and what is here leads on.
            return;
        }
        let leads_on = sequence <= position && position - sequence <= KEEP;
        let is_other = known.log != Some(log);
        let number = known.number + u64::from(is_other);
        if is_other {
            // First: nobody who has applied the one before is taken for one who follows this one.
            self.behind.other_log(number);
        }
        // Before the feed begins anew: who is sent to a checkpoint then gets this one.
        self.known.send_modify(|known| {
            known.checkpoint = Some(Arc::new(checkpoint));
            known.log = Some(log);
            known.number = number;
            known.epoch = epoch;
            if !(goes_on && leads_on) {
                known.tip = None;
            }
        });
        tracing::debug!(sequence, position, anew, "a checkpoint of the log");
        if goes_on && leads_on {
            return;
        }
        self.feed.restart(number, sequence);
    }

    fn pass_on(&self, says: &taskmint_status::Head, head: Head, prompt: bool) -> Result<(), Unfit> {
        let position = self.feed.position();
        if head.sequence > position {
            let at = head.sequence;
            return Err(Unfit::Gap { position, at });
        }
        // Before anybody behind can have applied it.
        let is_wanted = self.behind.headed(head.sequence, prompt);
        let known = self.known.borrow().clone();
        let newest = known.tip;
        let is_news = is_wanted
            || newest.is_none_or(|newest| {
                let aged = newest.at.millis().saturating_add(OLD);
                head.sequence > newest.sequence || head.at.millis() > aged
            });
        // After an answer that went to all, a new stream begins with what was signed before it.
        let is_older = newest.is_some_and(|newest| {
            says.epoch == known.epoch && head.sequence == newest.sequence && head.at < newest.at
        });
        let is_for_all = head.sequence == position && !is_older;
        // One that stands before what is here comes after a newer checkpoint was asked for.
        if is_for_all && (says.nonce.is_none() || is_news) {
            if let Err(why) = self.feed.publish(&[], head.clone()) {
                // A new epoch's clock is behind the one before: nothing here leads on to it.
                self.forget();
                return Err(why.into());
            }
            self.known.send_modify(|known| {
                known.epoch = says.epoch;
                known.tip = Some(Tip {
                    sequence: head.sequence,
                    at: head.at,
                    hash: says.log_hash,
                });
            });
        }
        self.known
            .send_if_modified(|known| known.trouble.take().is_some());
        if let Some(nonce) = says.nonce {
            self.nonces.answer(&nonce, &head);
        }
        Ok(())
    }

    /// Nothing of what is here leads on: it goes with the next checkpoint.
    pub(super) fn forget(&self) {
        self.anew.store(true, Ordering::SeqCst);
        self.known.send_modify(|known| known.tip = None);
    }
}

#[cfg(test)]
mod tests;
