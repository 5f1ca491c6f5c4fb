//! Where every counter of a store stands.

use std::time::Duration;

use taskmint_model::Timestamp;
use taskmint_status::{ChainHash, Generation, LogId};

use crate::chain::AUDIT_START;
use crate::port::LogPosition;

/// Where every counter of a store stands: one row, rewritten with every group of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Sequence number of the newest log record; 0 before the first.
    pub sequence: u64,
    /// The log's chain hash there.
    pub hash: [u8; 32],
    /// Log records up to this one are gone; 0 if none is.
    pub trimmed: u64,
    /// Buckets below this hour are gone.
    pub floor: u32,
    /// Number of the newest audit record; 0 before the first.
    pub audit: u64,
    /// The audit log's chain hash there.
    pub audit_hash: [u8; 32],
    /// Number of the newest denial; 0 before the first.
    pub denials: u64,
    /// Number of the newest issuance; 0 before the first.
    pub issuances: u64,
    /// The bundle's sequence number; the first is 1.
    pub bundle: u64,
    /// The longest that a workload's credential was to last when it was minted. None: some were
    /// minted before this was noted.
    pub longest: Option<Duration>,
    /// How long verifiers may believe a head, as it was said last.
    pub promise: Option<Promise>,
}

/// How long verifiers may believe a head (P18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// After its time, for a head signed from now on.
    pub span: Duration,
    /// Until when, for all heads signed under earlier promises.
    pub earlier_until: Timestamp,
}

/// How much is kept of what no bucket sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Log records kept at least; older ones go when the floor moves.
    pub log: u64,
    /// Denials kept at most.
    pub denials: u64,
}

impl Ledger {
    /// The ledger of a new log.
    pub fn new(log: LogId, generation: Generation) -> Self {
        Self {
            sequence: 0,
            hash: ChainHash::genesis(log, generation).0,
            trimmed: 0,
            floor: 0,
            audit: 0,
            audit_hash: AUDIT_START,
            denials: 0,
            issuances: 0,
            bundle: 1,
            longest: Some(Duration::ZERO),
            promise: None,
        }
    }

    /// Where the revocation log stands.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            sequence: self.sequence,
            hash: self.hash,
            floor: self.floor,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            log: 100_000,
            denials: 10_000,
        }
    }
}
