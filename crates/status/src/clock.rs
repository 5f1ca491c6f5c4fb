//! Instants as arguments: two clocks that must not be mixed up.

use std::fmt;

/// An instant on the wall clock: milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

impl WallTime {
    /// This instant moved later; stops at the end of the range.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// An instant on `CLOCK_BOOTTIME`: milliseconds since this host booted.
///
/// It goes on while the host sleeps, which `std::time::Instant` does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Milliseconds from `earlier` to here; zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`.
    pub boot: BootTime,
    /// `CLOCK_REALTIME`.
    pub wall: WallTime,
}

impl Now {
    /// How far the wall clock is ahead of the boot clock: constant unless one of them jumps.
    pub(crate) fn offset(self) -> i128 {
        i128::from(self.wall.0) - i128::from(self.boot.0)
    }
}

/// A span in milliseconds, as heads carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u32);

impl From<Millis> for std::time::Duration {
    fn from(span: Millis) -> Self {
        Self::from_millis(u64::from(span.0))
    }
}
