//! What may happen in a search, and how often: small worlds that are searched whole.

use crate::{Guard, Tick};

/// Bounds of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Its name, for messages.
    pub name: &'static str,
    /// The last instant.
    pub horizon: Tick,
    /// How many verifiers there are.
    pub verifiers: usize,
    /// At which buckets' places a task is live at the start.
    pub minted: [bool; 2],
    /// At which it can be ended.
    pub ends: [bool; 2],
    /// At which a task can be begun.
    pub mints: [bool; 2],
    /// Whether the floor can be raised.
    pub floor: bool,
    /// Crashes and restores of the server.
    pub crashes: u8,
    /// How far ahead the clock can be of the machine that it is started on again.
    pub clocks: &'static [i8],
    /// Whether backups are restored.
    pub restores: bool,
    /// Restarts of verifiers.
    pub restarts: u8,
    /// Whether the relay makes frames up.
    pub forges: bool,
}

impl Scope {
    const QUIET: Self = Self {
        name: "quiet",
        horizon: 4,
        verifiers: 1,
        minted: [true, true],
        ends: [true, false],
        mints: [false, false],
        floor: false,
        crashes: 0,
        clocks: &[],
        restores: false,
        restarts: 0,
        forges: false,
    };

    /// A relay that delays, replays, drops, reorders and freezes.
    pub const RELAY: Self = Self {
        name: "relay",
        ..Self::QUIET
    };

    /// A relay that makes frames up besides.
    pub const FORGER: Self = Self {
        name: "forger",
        horizon: 3,
        forges: true,
        ..Self::QUIET
    };

    /// The first hour passes.
    pub const FLOOR: Self = Self {
        name: "floor",
        horizon: 3,
        floor: true,
        ..Self::QUIET
    };

    /// Verifiers are restarted.
    pub const RESTART: Self = Self {
        name: "restart",
        horizon: 3,
        restarts: 1,
        ..Self::QUIET
    };

    /// The server dies, and goes on as another machine with another clock.
    pub const CRASH: Self = Self {
        name: "crash",
        horizon: 3,
        minted: [true, false],
        crashes: 1,
        clocks: &[1],
        ..Self::QUIET
    };

    /// The server dies while it issues.
    pub const MINT: Self = Self {
        name: "mint",
        horizon: 2,
        minted: [false, false],
        mints: [true, false],
        crashes: 1,
        clocks: &[0],
        ..Self::QUIET
    };

    /// A backup is restored.
    pub const RESTORE: Self = Self {
        name: "restore",
        horizon: 3,
        minted: [true, false],
        mints: [false, true],
        crashes: 1,
        restores: true,
        ..Self::QUIET
    };

    /// Everything, which can't be searched whole.
    pub const WIDE: Self = Self {
        name: "wide",
        horizon: 6,
        verifiers: 2,
        minted: [true, false],
        ends: [true, true],
        mints: [false, true],
        floor: true,
        crashes: 2,
        clocks: &[0, 2],
        restores: true,
        restarts: 2,
        forges: true,
    };

    /// Those that are searched whole.
    pub const WHOLE: [Self; 7] = [
        Self::RELAY,
        Self::FORGER,
        Self::FLOOR,
        Self::RESTART,
        Self::CRASH,
        Self::MINT,
        Self::RESTORE,
    ];

    /// The same, some instants longer.
    #[must_use]
    pub fn longer(self, ticks: Tick) -> Self {
        Self {
            horizon: self.horizon + ticks,
            ..self
        }
    }

    /// The one in which a guard is missed.
    #[must_use]
    pub fn of(guard: Guard) -> Self {
        match guard {
            Guard::HeadSignature | Guard::CheckpointDigest | Guard::LogHash => Self::FORGER,
            Guard::Floor => Self::FLOOR,
            Guard::Nonce | Guard::Staleness => Self::RELAY,
            Guard::AnsweredPosition => Self::RESTART,
            Guard::EpochNonce | Guard::DurableBeforeVisible => Self::CRASH,
            Guard::GenerationAfterRestore => Self::RESTORE,
        }
    }
}
