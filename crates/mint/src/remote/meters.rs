//! What an operator wants to know of the signer.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start; read at any time.
#[derive(Debug, Default)]
pub struct Meters {
    losses: AtomicU64,
    requests: AtomicU64,
    frames: AtomicU64,
    refused: AtomicU64,
}

/// What [`Meters`] show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterReadings {
    /// How often there was no signer any more, or none could be had.
    pub losses: u64,
    /// Grants and signatures asked for.
    pub requests: u64,
    /// Frames that they went out in.
    pub frames: u64,
    /// Requests refused because too many were waiting.
    pub refused: u64,
}

impl Meters {
    /// Now.
    pub fn read(&self) -> MeterReadings {
        MeterReadings {
            losses: self.losses.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    pub(super) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, requests: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, requests: usize) {
        self.refused.fetch_add(requests as u64, Ordering::Relaxed);
    }
}
