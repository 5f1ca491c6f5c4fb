//! How well secrets of this process are protected.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::region::Region;

/// What keeps others from reading secrets; the better, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protection {
    /// Nothing: only tests settle for that.
    Ordinary,
    /// Kept out of dumps and children. The kernel refused to lock it.
    Unlocked,
    /// Kept out of dumps, children and swap. The kernel refused `memfd_secret`.
    Locked,
    /// Mapped for this process alone: even the kernel has no other way to it.
    Secret,
}

const ALL: [Protection; 4] = [
    Protection::Ordinary,
    Protection::Unlocked,
    Protection::Locked,
    Protection::Secret,
];

/// Processes settle once, before their first secret.
static BEST: AtomicU8 = AtomicU8::new(Protection::Secret as u8);
static WEAKEST: AtomicU8 = AtomicU8::new(Protection::Secret as u8);
static WEAKEST_SCRATCH: AtomicU8 = AtomicU8::new(Protection::Locked as u8);

/// The weakest protection that any box, buffer or stack of this process got so far; its text says
/// what is no longer covered. Tries once what the kernel gives, so that a start can log it.
pub fn protection() -> Protection {
    static TRIED: OnceLock<()> = OnceLock::new();
    TRIED.get_or_init(|| {
        note(Region::map(1, best()).map_or(Protection::Ordinary, |region| region.protection()));
    });
    of(WEAKEST.load(Ordering::Relaxed))
}

/// The weakest protection that any [`Scratch`](crate::Scratch) got so far: `Locked`, or less where
/// RLIMIT_MEMLOCK has no room for it.
pub fn scratch_protection() -> Protection {
    of(WEAKEST_SCRATCH.load(Ordering::Relaxed))
}

/// Uses no better protection than this from now on, to show what is found without it.
#[cfg(any(test, feature = "control"))]
pub fn settle_for(best: Protection) {
    BEST.store(best as u8, Ordering::Relaxed);
}

pub(crate) fn best() -> Protection {
    of(BEST.load(Ordering::Relaxed))
}

pub(crate) fn note(got: Protection) {
    WEAKEST.fetch_min(got as u8, Ordering::Relaxed);
}

pub(crate) fn note_scratch(got: Protection) {
    WEAKEST_SCRATCH.fetch_min(got as u8, Ordering::Relaxed);
}

fn of(value: u8) -> Protection {
    ALL.get(usize::from(value))
        .copied()
        .unwrap_or(Protection::Ordinary)
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => {
                "secrets are in memory that no dump, no swap, no child and no `/proc/PID/mem` holds"
            }
            Self::Locked => {
                "the kernel refused memfd_secret: root, and whoever may trace this process, can \
                 read secrets in `/proc/PID/mem`; dumps, swap and children do not hold them"
            }
            Self::Unlocked => {
                "the kernel refused memfd_secret, and locking beyond RLIMIT_MEMLOCK: root, and \
                 whoever may trace this process, can read secrets in `/proc/PID/mem`, and they may \
                 reach swap; dumps and children do not hold them"
            }
            Self::Ordinary => {
                "secrets are in ordinary memory: dumps, swap, children and `/proc/PID/mem` hold them"
            }
        })
    }
}
