//! Places handed out from blocks of indices that were reserved durably ahead (P28).
//!
//! A block is asked for while half of the one before is left, so that callers wait for the disk
//! only at a bucket's first. What a crash leaves unused of a block is never used: an index costs
//! two bits, a place handed out twice would let an end reach the wrong task.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;
use taskmint_store::StoreError;
use tokio::sync::oneshot;

/// Indices that are reserved at once.
pub(crate) const BLOCK: u64 = 4096;

/// What is left of every bucket's reserved blocks.
#[derive(Default)]
pub(crate) struct Places(Mutex<Stocks>);

#[derive(Default)]
struct Stocks {
    floor: u32,
    buckets: HashMap<u32, Stock>,
}

#[derive(Default)]
struct Stock {
    current: Range<u64>,
    next: Option<Range<u64>>,
    /// A block was asked for and has not come yet.
    asked: bool,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

/// An answer for someone who waits for a block.
pub(crate) type Wait = oneshot::Receiver<Result<(), StoreError>>;

impl Places {
    /// The next index, if one is left, and whether it is time to ask for another block.
    pub(crate) fn take(&self, bucket: u32) -> Option<(u64, bool)> {
        let mut stocks = self.0.lock();
        let stock = stocks.buckets.get_mut(&bucket)?;
        if stock.current.is_empty() {
            stock.current = stock.next.take()?;
        }
        let index = stock.current.next()?;
        let left = stock.current.end - stock.current.start;
        Some((
            index,
            left < BLOCK / 2 && stock.next.is_none() && !stock.asked,
        ))
    }

    /// Whether the caller shall ask for a block: nobody else has.
    pub(crate) fn ask(&self, bucket: u32) -> bool {
        let mut stocks = self.0.lock();
        let stock = stocks.buckets.entry(bucket).or_default();
        !std::mem::replace(&mut stock.asked, true)
    }

    /// Resolves when the bucket has indices again or can't get any; and whether the caller shall
    /// ask for a block.
    pub(crate) fn wait(&self, bucket: u32) -> (Wait, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut stocks = self.0.lock();
        let stock = stocks.buckets.entry(bucket).or_default();
        if !stock.current.is_empty() || stock.next.is_some() {
            // It came while the caller was on its way here.
            sender.send(Ok(())).ok();
            return (receiver, false);
        }
        stock.waiting.push(sender);
        (receiver, !std::mem::replace(&mut stock.asked, true))
    }

    /// Takes in a block that is reserved on disk, or the reason why there is none.
    pub(crate) fn answer(&self, bucket: u32, block: Result<Range<u64>, StoreError>) {
        let mut stocks = self.0.lock();
        // The group that reserved it may have moved the floor over it.
        let swept = bucket < stocks.floor;
        let block = if swept {
            Err(StoreError::BelowFloor(bucket))
        } else {
            block
        };
        let stock = stocks.buckets.entry(bucket).or_default();
        stock.asked = false;
        let answer = block.map(|block| {
            if stock.current.is_empty() && stock.next.is_none() {
                stock.current = block;
            } else {
                stock.next = Some(block);
            }
        });
        for waiting in stock.waiting.drain(..) {
            // Whoever gave up waiting left no index behind.
            waiting.send(answer.clone()).ok();
        }
        if answer.is_err() && stock.current.is_empty() && stock.next.is_none() {
            stocks.buckets.remove(&bucket);
        }
    }

    /// Forgets what is left of buckets below the floor.
    pub(crate) fn sweep(&self, floor: u32) {
        let mut stocks = self.0.lock();
        stocks.floor = floor;
        for (bucket, stock) in stocks.buckets.extract_if(|bucket, _| *bucket < floor) {
            for waiting in stock.waiting {
                waiting.send(Err(StoreError::BelowFloor(bucket))).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_asked_for_once_and_before_it_is_needed() {
        let places = Places::default();
        assert_eq!(places.take(1), None);
        let (mut wait, ask) = places.wait(1);
        assert!(ask);
        assert!(!places.wait(1).1, "asked already");
        places.answer(1, Ok(0..BLOCK));
        assert_eq!(wait.try_recv().unwrap().map_err(|_| ()), Ok(()));
        let asks: Vec<u64> = (0..BLOCK)
            .filter(|expected| {
                let (index, ask) = places.take(1).unwrap();
                assert_eq!(index, *expected);
                ask && places.ask(1)
            })
            .collect();
        assert_eq!(asks, [BLOCK / 2]);
        assert_eq!(places.take(1), None);
        places.answer(1, Ok(BLOCK..2 * BLOCK));
        assert_eq!(places.take(1), Some((BLOCK, false)));
    }

    #[test]
    fn a_refused_block_wakes_everyone_and_may_be_asked_for_again() {
        let places = Places::default();
        let (mut wait, _) = places.wait(1);
        places.answer(1, Err(StoreError::BucketFull(1)));
        assert!(matches!(
            wait.try_recv(),
            Ok(Err(StoreError::BucketFull(1)))
        ));
        assert!(places.wait(1).1);
    }

    #[test]
    fn a_swept_bucket_has_no_places_left() {
        let places = Places::default();
        assert!(places.ask(1) && places.ask(2));
        places.answer(1, Ok(0..BLOCK));
        places.answer(2, Ok(0..BLOCK));
        places.sweep(2);
        assert_eq!(places.take(1), None);
        assert!(places.take(2).is_some());
        places.answer(1, Ok(BLOCK..2 * BLOCK));
        assert_eq!(places.take(1), None, "reserved by the group that swept it");
    }
}
