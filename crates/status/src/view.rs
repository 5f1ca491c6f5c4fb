//! The copy of the statuses that many threads read without locks while one task writes it.
//!
//! Chunks are arrays of atomic words, changed in place; the table that finds them is immutable and
//! replaced whole when a chunk or bucket comes or goes. A reader loads the freshness before the
//! statuses and the writer stores the statuses before the freshness: whoever sees a fresh head sees
//! everything that it covers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::map::{CHUNK_LEN, Chunk, Status, StatusMap, chunk_of};
use crate::place::{LogId, Place};
use crate::verdict::{Refusal, Verdict, decide};
use crate::watcher::{Applied, Freshness, Snapshot};

const WORDS: usize = CHUNK_LEN / 8;
const STATUSES_PER_WORD: u16 = 32;

/// Statuses and their freshness, for any number of readers and one writer.
#[derive(Debug)]
pub struct StatusView {
    table: ArcSwap<Table>,
    freshness: ArcSwap<Freshness>,
}

impl Default for StatusView {
    fn default() -> Self {
        Self::new()
    }
}

impl StatusView {
    /// A view that refuses everything, as nothing was published yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::default()),
            freshness: ArcSwap::from_pointee(Freshness::closed(Refusal::NotSynced)),
        }
    }

    /// The answer for a place: the same as [`Watcher::status`](crate::watcher::Watcher::status)
    /// gave when this was published.
    pub fn status(&self, place: Place, now: Now) -> Verdict {
        let freshness = self.freshness.load();
        decide(self.table.load().lookup(place), place, &freshness, now)
    }

    /// The bare status at a bucket and index, whatever log, floor and freshness say: for lists and
    /// displays, not for accepting a credential.
    #[must_use]
    pub fn get(&self, bucket: u32, index: u64) -> Status {
        self.table.load().get(bucket, index)
    }

    /// Whether statuses may be believed at this instant.
    ///
    /// # Errors
    /// Why they may not.
    pub fn check(&self, now: Now) -> Result<(), Refusal> {
        self.freshness.load().check(now)
    }

    /// Takes over what a watcher applied, then its freshness. One task calls this.
    pub fn publish(&self, applied: &[Applied], freshness: Freshness) {
        for change in applied {
            self.apply(change);
        }
        self.freshness.store(Arc::new(freshness));
    }

    fn apply(&self, change: &Applied) {
        match change {
            Applied::Reset(snapshot) => self.table.store(Arc::new(Table::of(snapshot))),
            Applied::Floor { bucket } => {
                let table = self.table.load();
                self.table.store(Arc::new(table.above(*bucket)));
            }
            Applied::Status { place, status, .. } => self.set(*place, *status),
        }
    }

    fn set(&self, place: Place, status: Status) {
        let Ok((chunk, position)) = chunk_of(place.index()) else {
            return;
        };
        let table = self.table.load();
        if table.log != Some(place.log()) {
            return;
        }
        if let Some(words) = table.words(place.bucket(), chunk) {
            words.set(position, status);
        } else if status != Status::Valid {
            let words = Words::default();
            words.set(position, status);
            self.table
                .store(Arc::new(table.with(place.bucket(), chunk, Arc::new(words))));
        }
    }
}

/// Finds a chunk by bucket and number. Both lists are sorted.
#[derive(Clone, Debug, Default)]
struct Table {
    log: Option<LogId>,
    floor: u32,
    buckets: Vec<(u32, Arc<Chunks>)>,
}

type Chunks = Vec<(u32, Arc<Words>)>;

impl Table {
    fn of(snapshot: &Snapshot) -> Self {
        let bucket = |(bucket, map): (&u32, &StatusMap)| {
            let chunks: Chunks = map
                .chunks()
                .map(|(number, chunk)| (number, Arc::new(Words::from(chunk))))
                .collect();
            (*bucket, Arc::new(chunks))
        };
        Self {
            log: Some(snapshot.log),
            floor: snapshot.floor,
            buckets: snapshot.maps.iter().map(bucket).collect(),
        }
    }

    fn lookup(&self, place: Place) -> Result<Status, Refusal> {
        match self.log {
            None => Err(Refusal::NotSynced),
            Some(log) if log != place.log() => Err(Refusal::OtherLog),
            Some(_) if place.bucket() < self.floor => Err(Refusal::BelowFloor),
            Some(_) => Ok(self.get(place.bucket(), place.index())),
        }
    }

    fn get(&self, bucket: u32, index: u64) -> Status {
        let Ok((chunk, position)) = chunk_of(index) else {
            return Status::Ended;
        };
        self.words(bucket, chunk)
            .map_or(Status::Valid, |words| words.get(position))
    }

    fn words(&self, bucket: u32, chunk: u32) -> Option<&Words> {
        let at = self
            .buckets
            .binary_search_by_key(&bucket, |(bucket, _)| *bucket)
            .ok()?;
        let (_, chunks) = self.buckets.get(at)?;
        let at = chunks
            .binary_search_by_key(&chunk, |(chunk, _)| *chunk)
            .ok()?;
        chunks.get(at).map(|(_, words)| &**words)
    }

    /// With one more chunk; the others are shared.
    fn with(&self, bucket: u32, chunk: u32, words: Arc<Words>) -> Self {
        let mut table = self.clone();
        match table
            .buckets
            .binary_search_by_key(&bucket, |(bucket, _)| *bucket)
        {
            Err(at) => table
                .buckets
                .insert(at, (bucket, Arc::new(vec![(chunk, words)]))),
            Ok(at) => {
                if let Some((_, chunks)) = table.buckets.get_mut(at) {
                    let chunks = Arc::make_mut(chunks);
                    let at = chunks.partition_point(|(number, _)| *number < chunk);
                    chunks.insert(at, (chunk, words));
                }
            }
        }
        table
    }

    fn above(&self, floor: u32) -> Self {
        let live = self
            .buckets
            .iter()
            .filter(|(bucket, _)| *bucket >= floor)
            .cloned();
        Self {
            log: self.log,
            floor: floor.max(self.floor),
            buckets: live.collect(),
        }
    }
}

/// A chunk that is read while it is written.
struct Words([AtomicU64; WORDS]);

impl Default for Words {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words")
    }
}

impl From<&Chunk> for Words {
    fn from(chunk: &Chunk) -> Self {
        let words = Self::default();
        let (octets, _) = chunk.as_bytes().as_chunks::<8>();
        for (word, octets) in words.0.iter().zip(octets) {
            word.store(u64::from_le_bytes(*octets), Ordering::Relaxed);
        }
        words
    }
}

impl Words {
    fn get(&self, position: u16) -> Status {
        let word = self.0.get(usize::from(position / STATUSES_PER_WORD));
        let shift = position % STATUSES_PER_WORD * 2;
        let bits = word.map(|word| (word.load(Ordering::Acquire) >> shift & 3) as u8);
        // What should not be there reads as an end.
        bits.and_then(Status::from_bits).unwrap_or(Status::Ended)
    }

    fn set(&self, position: u16, status: Status) {
        let Some(word) = self.0.get(usize::from(position / STATUSES_PER_WORD)) else {
            return;
        };
        let shift = position % STATUSES_PER_WORD * 2;
        // One writer, so reading and storing apart loses nothing; one store, so that no reader sees
        // a status between the old and the new.
        let others = word.load(Ordering::Relaxed) & !(3 << shift);
        word.store(
            others | u64::from(status.bits()) << shift,
            Ordering::Release,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;
    use crate::place::Generation;

    const LOG: LogId = LogId([1; 8]);

    fn reset(floor: u32, maps: BTreeMap<u32, StatusMap>) -> Applied {
        let (generation, sequence) = (Generation::FIRST, 0);
        Applied::Reset(Arc::new(Snapshot {
            log: LOG,
            generation,
            sequence,
            floor,
            maps,
        }))
    }

    fn change(bucket: u32, index: u64, status: Status) -> Applied {
        let place = Place::new(LOG, bucket, index).unwrap();
        Applied::Status {
            place,
            task: [0; 16],
            status,
            cause: None,
        }
    }

    fn closed() -> Freshness {
        Freshness::closed(Refusal::Stale)
    }

    #[test]
    fn a_view_that_was_told_nothing_refuses() {
        let view = StatusView::new();
        let place = Place::new(LOG, 5, 6).unwrap();
        assert_eq!(
            view.status(place, Now::default()),
            Verdict::Refused(Refusal::NotSynced)
        );
    }

    #[test]
    fn other_logs_and_buckets_below_the_floor_are_refused() {
        let view = StatusView::new();
        view.publish(
            &[reset(5, BTreeMap::new()), change(9, 1, Status::Ended)],
            closed(),
        );
        let ask = |log, bucket, index| {
            view.status(Place::new(log, bucket, index).unwrap(), Now::default())
        };
        assert_eq!(
            ask(LogId([2; 8]), 9, 1),
            Verdict::Refused(Refusal::OtherLog)
        );
        assert_eq!(ask(LOG, 4, 1), Verdict::Refused(Refusal::BelowFloor));
        assert_eq!(ask(LOG, 9, 1), Verdict::Refused(Refusal::TaskEnded));
        assert_eq!(ask(LOG, 9, 2), Verdict::Refused(Refusal::Stale));
        view.publish(&[Applied::Floor { bucket: 10 }], closed());
        assert_eq!(ask(LOG, 9, 1), Verdict::Refused(Refusal::BelowFloor));
    }

    #[test]
    fn a_reader_beside_the_writer_never_sees_an_end_undone() {
        let view = Arc::new(StatusView::new());
        view.publish(&[reset(0, BTreeMap::new())], closed());
        let done = AtomicBool::new(false);
        let places = 200_000_u64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..places {
                    view.publish(&[change(7, index, Status::Ended)], closed());
                }
                done.store(true, Ordering::Release);
            });
            let mut ended = 0;
            while !done.load(Ordering::Acquire) || ended < places {
                if view.get(7, ended) == Status::Ended {
                    ended += 1;
                    assert_eq!(view.get(7, ended / 2), Status::Ended);
                }
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_view_says_what_the_maps_say(
            before in proptest::collection::vec((0..4_u32, 0..100_000_u64, 0..3_u8), 0..50),
            after in proptest::collection::vec((0..4_u32, 0..100_000_u64, 0..3_u8), 0..50),
        ) {
            let mut maps: BTreeMap<u32, StatusMap> = BTreeMap::new();
            for (bucket, index, bits) in &before {
                let status = Status::from_bits(*bits).unwrap();
                maps.entry(*bucket).or_default().set(*index, status).unwrap();
            }
            let view = StatusView::new();
            view.publish(&[reset(0, maps.clone())], closed());
            for (bucket, index, bits) in &after {
                let status = Status::from_bits(*bits).unwrap();
                maps.entry(*bucket).or_default().set(*index, status).unwrap();
                view.publish(&[change(*bucket, *index, status)], closed());
            }
            for (bucket, index, _) in before.iter().chain(&after) {
                prop_assert_eq!(view.get(*bucket, *index), maps[bucket].get(*index));
            }
        }
    }
}
