//! Many small secrets share few pages: RLIMIT_MEMLOCK bounds what a process may hold of these, to
//! 8 MiB by default.

#![expect(unsafe_code, reason = "hands out parts of a region")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protection::{Protection, best, note};
use crate::region::{Region, wipe};

/// What is handed out is a multiple of this many octets, and aligned to it.
pub(crate) const UNIT: usize = 64;
const UNITS: usize = 256;
const CHUNK: usize = UNIT * UNITS;

/// Where all small secrets of the process live.
pub(crate) static ARENA: Arena = Arena::new(None);

/// Regions, and which units of them are taken. Its records lie on the ordinary heap: they say where
/// secrets are, and nothing of them.
pub(crate) struct Arena {
    chunks: Mutex<Vec<Chunk>>,
    /// Of a test's own arena; otherwise the process's.
    best: Option<Protection>,
}

struct Chunk {
    region: Region,
    taken: [bool; UNITS],
}

/// A part of a region, all zeroes at first; wiped and given back when dropped.
pub(crate) struct Slot {
    at: NonNull<u8>,
    len: usize,
    home: Home,
}

enum Home {
    Chunk(&'static Arena),
    /// Too long to share.
    Own(Region),
}

// SAFETY: a slot owns its octets; whoever hands out references into them answers for sharing.
unsafe impl Send for Slot {}
// SAFETY: as above; it has no state of its own that changes.
unsafe impl Sync for Slot {}

impl Arena {
    pub(crate) const fn new(best: Option<Protection>) -> Self {
        Self {
            chunks: Mutex::new(Vec::new()),
            best,
        }
    }

    /// At least `len` octets.
    pub(crate) fn take(&'static self, len: usize) -> Slot {
        if len > CHUNK {
            let region = self.map(len);
            return Slot {
                at: region.start(),
                len: region.len(),
                home: Home::Own(region),
            };
        }
        let units = len.div_ceil(UNIT).max(1);
        let mut chunks = self.chunks();
        let at = match chunks.iter_mut().find_map(|chunk| chunk.take(units)) {
            Some(at) => at,
            None => {
                let mut chunk = Chunk {
                    region: self.map(CHUNK),
                    taken: [false; UNITS],
                };
                let at = chunk.take(units).unwrap_or_else(|| no_memory(len));
                chunks.push(chunk);
                at
            }
        };
        Slot {
            at,
            len: units * UNIT,
            home: Home::Chunk(self),
        }
    }

    fn give_back(&self, at: NonNull<u8>, len: usize) {
        let mut chunks = self.chunks();
        let Some(index) = chunks.iter().position(|chunk| chunk.holds(at)) else {
            return;
        };
        let empty = chunks
            .get_mut(index)
            .is_some_and(|chunk| chunk.give_back(at, len));
        // One is kept, so that a key that comes and goes does not map and unmap.
        if empty && chunks.len() > 1 {
            chunks.swap_remove(index);
        }
    }

    fn map(&self, len: usize) -> Region {
        let region = Region::map(len, self.best.unwrap_or_else(best));
        let region = region.unwrap_or_else(|_| no_memory(len));
        if self.best.is_none() {
            note(region.protection());
        }
        region
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn mapped(&self) -> usize {
        self.chunks().iter().map(|chunk| chunk.region.len()).sum()
    }
}

impl Chunk {
    /// The first run of free units that is long enough.
    fn take(&mut self, units: usize) -> Option<NonNull<u8>> {
        let first = self
            .taken
            .windows(units)
            .position(|run| run.iter().all(|taken| !taken))?;
        self.taken.get_mut(first..first + units)?.fill(true);
        // SAFETY: `first` is a unit of this region.
        Some(unsafe { self.region.start().add(first * UNIT) })
    }

    fn holds(&self, at: NonNull<u8>) -> bool {
        self.offset(at).is_some()
    }

    fn offset(&self, at: NonNull<u8>) -> Option<usize> {
        let offset = at
            .addr()
            .get()
            .checked_sub(self.region.start().addr().get());
        offset.filter(|offset| *offset < CHUNK)
    }

    /// Says whether nothing is taken any more.
    fn give_back(&mut self, at: NonNull<u8>, len: usize) -> bool {
        if let Some(offset) = self.offset(at) {
            let first = offset / UNIT;
            if let Some(run) = self.taken.get_mut(first..first + len / UNIT) {
                run.fill(false);
            }
        }
        !self.taken.contains(&true)
    }
}

impl Slot {
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.at
    }

    /// Octets from [`Slot::start`] on.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match &self.home {
            Home::Chunk(arena) => {
                // SAFETY: the range is this slot's, and its owner is gone.
                unsafe { wipe(self.at, self.len) };
                arena.give_back(self.at, self.len);
            }
            // It wipes itself.
            Home::Own(region) => debug_assert!(region.start() == self.at),
        }
    }
}

/// As an ordinary allocation ends that finds none.
fn no_memory(len: usize) -> ! {
    handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>()))
}
