//! What is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one fan-out.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) watchers: Gauge,
    pub(crate) octets: Count,
    pub(crate) frames: Count,
    pub(crate) checkpoints: Count,
    pub(crate) refused: Count,
    pub(crate) failed: Count,
    pub(crate) slow: Count,
    pub(crate) silent: Count,
}

/// All counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readings {
    /// Open connections, those in their handshake included.
    pub connections: u64,
    /// Open watches.
    pub watchers: u64,
    /// Octets written to connections.
    pub octets: u64,
    /// Heads sent, each with the records before it.
    pub frames: u64,
    /// Checkpoints sent.
    pub checkpoints: u64,
    /// Connections that found no room.
    pub refused: u64,
    /// Handshakes that failed or took too long.
    pub failed: u64,
    /// Watchers dropped because they did not read.
    pub slow: u64,
    /// Connections dropped because nobody answered at the other end.
    pub silent: u64,
}

impl Metrics {
    /// All counters, now.
    pub fn read(&self) -> Readings {
        Readings {
            connections: self.connections.get(),
            watchers: self.watchers.get(),
            octets: self.octets.get(),
            frames: self.frames.get(),
            checkpoints: self.checkpoints.get(),
            refused: self.refused.get(),
            failed: self.failed.get(),
            slow: self.slow.get(),
            silent: self.silent.get(),
        }
    }
}

/// Goes up only.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that is counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    gauge: fn(&Metrics) -> &Gauge,
}

impl Counted {
    pub(crate) fn new(metrics: &Arc<Metrics>, gauge: fn(&Metrics) -> &Gauge) -> Self {
        gauge(metrics).0.fetch_add(1, Ordering::Relaxed);
        Self {
            metrics: Arc::clone(metrics),
            gauge,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics)
            .0
            .fetch_sub(1, Ordering::Relaxed);
    }
}
