//! A map as a server keeps it: its digest and its packed form at hand, made anew only where
//! something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pack::{PackedChunk, pack};
use super::{MapError, Status, StatusMap, digest};
use crate::checkpoint::BucketDigest;

/// One bucket's map, for checkpoints.
#[derive(Clone, Debug, Default)]
pub struct ServedMap {
    map: StatusMap,
    made: BTreeMap<u32, Made>,
    /// Chunks that were set since `made`, and so are to be looked at.
    changed: BTreeSet<u32>,
    whole: Option<Whole>,
}

/// What was made of one chunk.
#[derive(Clone, Debug)]
struct Made {
    digest: [u8; 32],
    packed: PackedChunk,
}

/// What was made of all.
#[derive(Clone, Debug)]
struct Whole {
    digest: [u8; 32],
    packed: Arc<[u8]>,
}

impl From<StatusMap> for ServedMap {
    fn from(map: StatusMap) -> Self {
        let changed = map.chunks().map(|(number, _)| number).collect();
        Self {
            map,
            changed,
            ..Self::default()
        }
    }
}

impl ServedMap {
    /// Sets the status at an index, unless it is ended: ends are final.
    ///
    /// # Errors
    /// [`MapError::Index`] when `index` is over 40 bits.
    pub fn set(&mut self, index: u64, status: Status) -> Result<(), MapError> {
        let (number, _) = super::chunk_of(index)?;
        if self.map.get(index) != Status::Ended && self.map.set(index, status)? != status {
            self.changed.insert(number);
            self.whole = None;
        }
        Ok(())
    }

    /// The statuses.
    #[must_use]
    pub fn map(&self) -> &StatusMap {
        &self.map
    }

    /// How many chunks [`refresh`](Self::refresh) has to make anew.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Digests and packs what changed.
    pub fn refresh(&mut self) {
        for number in std::mem::take(&mut self.changed) {
            match self.map.chunks.get(&number) {
                Some(chunk) => {
                    let (digest, packed) = (chunk.digest(), chunk.pack());
                    self.made.insert(number, Made { digest, packed });
                }
                None => drop(self.made.remove(&number)),
            }
        }
        if self.whole.is_none() {
            let made = self.made.iter();
            self.whole = Some(Whole {
                digest: digest(made.clone().map(|(number, made)| (*number, made.digest))),
                packed: pack(made.map(|(number, made)| (*number, &made.packed))).into(),
            });
        }
    }

    /// What a checkpoint says of the map, and its packed form; none for one in which all is valid,
    /// or before it was [refreshed](Self::refresh).
    #[must_use]
    pub fn served(&self, bucket: u32) -> Option<(BucketDigest, Arc<[u8]>)> {
        let whole = self.whole.as_ref()?;
        let chunks = self.made.len() as u32;
        let digest = whole.digest;
        (chunks > 0).then(|| {
            let entry = BucketDigest {
                bucket,
                chunks,
                digest,
            };
            (entry, Arc::clone(&whole.packed))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_chunks_that_changed_are_made_anew() {
        let mut map = StatusMap::new();
        for index in 0..10 {
            map.set(index * 20_000, Status::Ended).unwrap();
        }
        let mut served = ServedMap::from(map);
        assert_eq!(served.served(7), None, "nothing is made yet");
        assert_eq!(served.changed(), 10);
        served.refresh();
        assert_eq!(served.changed(), 0);
        served.set(40_001, Status::Ended).unwrap();
        served.set(40_001, Status::Valid).unwrap();
        served.set(20_000, Status::Suspended).unwrap();
        assert_eq!(served.changed(), 1, "what ended stays so");
        assert_eq!(served.served(7), None, "what is made is no longer so");
    }

    #[test]
    fn a_map_in_which_all_is_valid_again_is_not_served() {
        let mut served = ServedMap::default();
        served.set(5, Status::Suspended).unwrap();
        served.refresh();
        assert!(served.served(7).is_some());
        served.set(5, Status::Valid).unwrap();
        served.refresh();
        assert_eq!(served.served(7), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_says_what_a_map_made_at_once_says(
            first in proptest::collection::vec((0..100_000_u64, 0..3_u8), 0..60),
            steps in proptest::collection::vec((0..100_000_u64, 0..3_u8, any::<bool>()), 0..60),
        ) {
            let status = |bits: u8| Status::from_bits(bits).unwrap();
            let mut map = StatusMap::new();
            for (index, bits) in first {
                map.set(index, status(bits)).unwrap();
            }
            let mut served = ServedMap::from(map.clone());
            for (index, bits, refresh) in steps {
                if map.get(index) != Status::Ended {
                    map.set(index, status(bits)).unwrap();
                }
                served.set(index, status(bits)).unwrap();
                if refresh {
                    served.refresh();
                }
            }
            served.refresh();
            prop_assert_eq!(served.map(), &map);
            let whole = BucketDigest::of(7, &map).map(|entry| (entry, Arc::from(map.pack())));
            prop_assert_eq!(served.served(7), whole);
        }
    }
}
