//! The two clocks that freshness is held against.

use std::sync::Arc;

use rustix::time::{ClockId, Timespec, clock_gettime};
use taskmint_model::{Clock, Timestamp};
use taskmint_status::{BootTime, Now, WallTime};

/// Where readings of both clocks come from.
pub trait Clocks: Send + Sync + 'static {
    /// Both, read together.
    fn now(&self) -> Now;
}

/// The machine's own: `CLOCK_BOOTTIME`, which goes on while the machine sleeps as
/// `std::time::Instant` does not, and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClocks;

/// The wall clock of both.
pub(super) struct Wall(pub(super) Arc<dyn Clocks>);

impl Clocks for SystemClocks {
    fn now(&self) -> Now {
        Now {
            boot: BootTime(millis(clock_gettime(ClockId::Boottime))),
            // Some milliseconds behind at most, for a quarter of the price, and read with each check
            // of a credential. It serves to notice jumps, of which those of a second are the least.
            wall: WallTime(millis(clock_gettime(ClockId::RealtimeCoarse))),
        }
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        wall(self.0.now())
    }
}

pub(super) fn wall(now: Now) -> Timestamp {
    Timestamp::from_millis(now.wall.0)
}

fn millis(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let millis = u64::try_from(at.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(millis)
}
