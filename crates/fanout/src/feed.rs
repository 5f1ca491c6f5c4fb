//! What all watchers follow: the newest records, and the newest head over them.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::RwLock;
use taskmint_status::record::RECORD_LEN;
use tokio::sync::watch;

use crate::arena::{Arena, SEGMENT};
use crate::frame::{self, Head};

/// The newest of one log, encoded once. Clones share it. One writer publishes, all lanes read.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    arena: RwLock<Arena>,
    tip: ArcSwapOption<Tip>,
    /// Rings once for each publication, in each lane; there it is passed on to the watchers.
    bell: watch::Sender<u64>,
}

/// Records or a head that don't follow what was published before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// There is a part of a record.
    #[error("{0} octets are no number of records")]
    Torn(usize),
    /// The records do not reach from the position before to the head's.
    #[error("records end at {end}, the head stands at {head}")]
    Gap {
        /// Where they end.
        end: u64,
        /// Where the head stands.
        head: u64,
    },
    /// The head is older than the one before.
    #[error("the head's time goes back")]
    Back,
}

/// The newest head, and what came with it.
#[derive(Debug)]
pub(crate) struct Tip {
    /// Which publication it is.
    pub(crate) number: u64,
    /// Of which run of records.
    pub(crate) era: u64,
    /// Of which log.
    pub(crate) log: u64,
    /// Where the head before it stood.
    pub(crate) from: u64,
    pub(crate) head: Head,
    /// The records since `from`, unless they are too many for one ready-made frame.
    records: Bytes,
    /// For those who stood at `from`: records and head in one piece; with and without a prompt.
    follow: [OnceLock<Bytes>; 2],
}

impl Tip {
    pub(crate) fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// What a watcher that has everything up to `from`, and knows the key, is sent. `None`: it is
    /// too much for one piece.
    pub(crate) fn follow(&self, prompt: bool) -> Option<Bytes> {
        let count = self.sequence() - self.from;
        if self.records.len() as u64 != count * RECORD_LEN as u64 {
            return None;
        }
        let ready = self.follow.get(usize::from(prompt))?.get_or_init(|| {
            let mut into = Vec::with_capacity(self.records.len() + 512);
            if count > 0 {
                frame::put_delta_header(&mut into, self.from + 1, self.sequence());
                into.extend_from_slice(&self.records);
            }
            frame::put_head(&mut into, &self.head, false, prompt);
            into.into()
        });
        Some(ready.clone())
    }
}

impl Feed {
    /// A feed that has nothing up to `position`, and keeps at least `keep` records after it.
    pub fn new(position: u64, keep: u64) -> Self {
        Self(Arc::new(Shared {
            arena: RwLock::new(Arena::new(position, keep)),
            tip: ArcSwapOption::empty(),
            bell: watch::Sender::new(0),
        }))
    }

    /// The newest record's position. There may be no head over it yet.
    pub fn position(&self) -> u64 {
        self.0.arena.read().end()
    }

    /// Adds records that no head covers yet: they are sent with the next head. Canonical octets,
    /// contiguous, the first right after [`position`](Self::position).
    ///
    /// # Errors
    /// [`FeedError::Torn`]; nothing is then added.
    pub fn append(&self, records: &[u8]) -> Result<(), FeedError> {
        if !records.len().is_multiple_of(RECORD_LEN) {
            return Err(FeedError::Torn(records.len()));
        }
        self.0.arena.write().append(records);
        Ok(())
    }

    /// Adds records, and the head that covers them and all before; then wakes every watcher. Of
    /// each of them only the newest head is sent, so one that is published without records is a
    /// heartbeat.
    ///
    /// # Errors
    /// [`FeedError`]; nothing is then published.
    pub fn publish(&self, records: &[u8], head: Head) -> Result<(), FeedError> {
        let shared = &*self.0;
        let count = (records.len() / RECORD_LEN) as u64;
        if !records.len().is_multiple_of(RECORD_LEN) {
            return Err(FeedError::Torn(records.len()));
        }
        let mut arena = shared.arena.write();
        let end = arena.end() + count;
        if end != head.sequence {
            return Err(FeedError::Gap {
                end,
                head: head.sequence,
            });
        }
        let last = shared.tip.load_full();
        if last.as_ref().is_some_and(|last| head.at < last.head.at) {
            return Err(FeedError::Back);
        }
        let mut new = records;
        let from = last.as_ref().map_or(arena.end(), |last| last.sequence());
        let mut since = Vec::new();
        arena.append(records);
        if from + count != end && end - from <= SEGMENT as u64 {
            // Some of it was appended before.
            if arena.copy(arena.era(), from, end, &mut since).is_some() {
                new = &since;
            }
        }
        let small = new.len() <= SEGMENT * RECORD_LEN;
        let number = *shared.bell.borrow() + 1;
        shared.tip.store(Some(Arc::new(Tip {
            number,
            era: arena.era(),
            log: arena.log(),
            from,
            head,
            records: if small {
                Bytes::copy_from_slice(new)
            } else {
                Bytes::new()
            },
            follow: Default::default(),
        })));
        drop(arena);
        shared.bell.send_replace(number);
        Ok(())
    }

    /// Starts over after `position`: another log, or the same one with a gap. Logs are numbered by
    /// the caller, the first is 0. A watcher of the same log goes on, with a checkpoint only where
    /// the records from its position on are not there; all others get one before the next head.
    pub fn restart(&self, log: u64, position: u64) {
        let mut arena = self.0.arena.write();
        arena.restart(log, position);
        self.0.tip.store(None);
    }

    pub(crate) fn tip(&self) -> Option<Arc<Tip>> {
        self.0.tip.load_full()
    }

    pub(crate) fn log(&self) -> u64 {
        self.0.arena.read().log()
    }

    pub(crate) fn bell(&self) -> watch::Receiver<u64> {
        self.0.bell.subscribe()
    }

    pub(crate) fn slices(&self, era: u64, after: u64, upto: u64) -> Option<Vec<Bytes>> {
        self.0.arena.read().slices(era, after, upto)
    }

    pub(crate) fn copy(&self, era: u64, after: u64, upto: u64, into: &mut Vec<u8>) -> Option<()> {
        self.0.arena.read().copy(era, after, upto, into)
    }
}

#[cfg(test)]
mod tests {
    use taskmint_model::Timestamp;

    use super::*;
    use crate::frame::Key;

    fn head(sequence: u64, at: u64) -> Head {
        Head {
            sequence,
            at: Timestamp::from_millis(at),
            body: Bytes::new(),
            signature: Bytes::new(),
            key: Key {
                revision: 1,
                certificate: Bytes::new(),
            },
        }
    }

    #[test]
    fn what_does_not_follow_is_not_published() {
        let feed = Feed::new(4, 100);
        let gap = FeedError::Gap { end: 5, head: 6 };
        assert_eq!(feed.publish(&[0; 64], head(6, 1)), Err(gap));
        assert_eq!(feed.publish(&[0; 65], head(5, 1)), Err(FeedError::Torn(65)));
        feed.publish(&[0; 64], head(5, 7)).unwrap();
        assert_eq!(feed.publish(&[0; 64], head(6, 6)), Err(FeedError::Back));
        assert_eq!(feed.position(), 5);
        assert_eq!(feed.tip().unwrap().number, 1);
    }

    #[test]
    fn records_that_came_before_their_head_are_part_of_what_is_ready() {
        let feed = Feed::new(0, 100);
        feed.publish(&[1; 64], head(1, 1)).unwrap();
        feed.append(&[2; 128]).unwrap();
        feed.publish(&[3; 64], head(4, 1)).unwrap();
        let tip = feed.tip().unwrap();
        assert_eq!((tip.from, tip.sequence()), (1, 4));
        assert_eq!(tip.records, [[2_u8; 64], [2; 64], [3; 64]].concat());
        assert!(tip.follow(false).is_some());
    }

    #[test]
    fn what_is_ready_is_made_once_for_all() {
        let feed = Feed::new(0, 100);
        feed.publish(&[1; 64], head(1, 1)).unwrap();
        let tip = feed.tip().unwrap();
        let (one, other) = (tip.follow(true).unwrap(), tip.follow(true).unwrap());
        assert_eq!(one.as_ptr(), other.as_ptr());
        assert_ne!(tip.follow(false).unwrap(), one);
    }
}
