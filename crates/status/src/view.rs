//! The copy of the statuses that many threads read without locks while one task writes it.
//!
//! Chunks are arrays of atomic words, changed in place; the table that finds them is immutable and
//! replaced whole when a chunk or bucket comes or goes. Table and freshness are published together,
//! after the words: whoever sees a fresh head sees everything that it covers.

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
    published: ArcSwap<Published>,
}

#[derive(Debug)]
struct Published {
    table: Arc<Table>,
    freshness: Freshness,
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
        let freshness = Freshness::closed(Refusal::NotSynced);
        let nothing = Published {
            table: Arc::default(),
            freshness,
        };
        Self {
            published: ArcSwap::from_pointee(nothing),
        }
    }

    /// The answer for a place: the same as [`Watcher::status`](crate::watcher::Watcher::status)
    /// gave when this was published.
    pub fn status(&self, place: Place, now: Now) -> Verdict {
        let published = self.published.load();
        decide(
            published.table.lookup(place),
            place,
            &published.freshness,
            now,
        )
    }

    /// The bare status at a bucket and index, whatever log, floor and freshness say: for lists and
    /// displays, not for accepting a credential.
    #[must_use]
    pub fn get(&self, bucket: u32, index: u64) -> Status {
        self.published.load().table.get(bucket, index)
    }

    /// Whether statuses may be believed at this instant.
    ///
    /// # Errors
    /// Why they may not.
    pub fn check(&self, now: Now) -> Result<(), Refusal> {
        self.published.load().freshness.check(now)
    }

    /// Takes over what a watcher applied, and its freshness. One task calls this.
    pub fn publish(&self, applied: &[Applied], freshness: Freshness) {
        let mut table = Arc::clone(&self.published.load().table);
        for change in applied {
            if let Some(other) = table.after(change) {
                table = Arc::new(other);
            }
        }
        self.published
            .store(Arc::new(Published { table, freshness }));
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
        let first = self.buckets.first()?.0;
        let chunks = find(&self.buckets, bucket, bucket.checked_sub(first)?)?;
        find(chunks, chunk, chunk).map(|words| &**words)
    }

    /// The table that a change makes necessary; `None` when it was made in place.
    fn after(&self, change: &Applied) -> Option<Self> {
        match change {
            Applied::Reset(snapshot) => Some(Self::of(snapshot)),
            Applied::Floor { bucket } => Some(self.above(*bucket)),
            Applied::Status { place, status, .. } => self.set(*place, *status),
        }
    }

    fn set(&self, place: Place, status: Status) -> Option<Self> {
        let (chunk, position) = chunk_of(place.index()).ok()?;
        if self.log != Some(place.log()) {
            return None;
        }
        if let Some(words) = self.words(place.bucket(), chunk) {
            words.set(position, status);
            return None;
        }
        if status == Status::Valid {
            return None;
        }
        let words = Words::default();
        words.set(position, status);
        Some(self.with(place.bucket(), chunk, Arc::new(words)))
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

/// The value of `key` in a sorted list, which is at `guess` unless the list has holes.
fn find<T>(list: &[(u32, T)], key: u32, guess: u32) -> Option<&T> {
    match list.get(guess as usize) {
        Some((there, value)) if *there == key => Some(value),
        _ => {
            let at = list.binary_search_by_key(&key, |(key, _)| *key).ok()?;
            list.get(at).map(|(_, value)| value)
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
