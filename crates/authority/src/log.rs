//! Heads and checkpoints of the revocation log (P15, P16, P23).
//!
//! The position moves only forward, and only by records whose hash is computed here. So whoever
//! asks can't have two histories signed: what follows a position is decided by the first head that
//! covers it.

use std::time::Duration;

use taskmint_mint::journal::head_name;
use taskmint_mint::{CheckpointRequest, HeadRequest, LogStart, Refusal, SignerTail};
use taskmint_model::Timestamp;
use taskmint_status::clock::Millis;
use taskmint_status::place::MAX_LIMIT_HOURS;
use taskmint_status::{
    ChainHash, Change, Checkpoint, Generation, Head, LogId, Record, SignerChain, WallTime,
};

/// Where the log stands, by what was signed or said at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) log: LogId,
    pub(crate) generation: Generation,
    previous: Option<(LogId, Generation)>,
    epoch: u32,
    sequence: u64,
    hash: ChainHash,
    floor: u32,
    at: Timestamp,
}

impl LogState {
    /// As the store has it.
    pub(crate) fn start(start: &LogStart) -> Result<Self, Refusal> {
        let wrong = |what: &str| Refusal::Failed(format!("the log's {what} makes no sense"));
        let generation = Generation::new(start.generation).ok_or_else(|| wrong("generation"))?;
        let previous = match start.replaces {
            Some(log) => {
                let before = Generation::new(start.generation - 1);
                Some((log, before.ok_or_else(|| wrong("predecessor"))?))
            }
            None => None,
        };
        let hash = ChainHash(start.hash);
        if start.sequence == 0 && hash != ChainHash::genesis(start.log, generation) {
            return Err(wrong("hash before its first record"));
        }
        let LogStart {
            log,
            epoch,
            sequence,
            floor,
            at,
            ..
        } = *start;
        Ok(Self {
            log,
            generation,
            previous,
            epoch,
            sequence,
            hash,
            floor,
            at,
        })
    }

    /// Where the log stands once this head is signed.
    pub(crate) fn advanced(&self, request: &HeadRequest) -> Result<Self, Refusal> {
        self.check_log(request.log)?;
        if request.generation != self.generation.get() {
            return Err(Refusal::LogValue("generation".into()));
        }
        if request.epoch < self.epoch {
            return Err(Refusal::LogValue("epoch".into()));
        }
        if request.epoch == self.epoch && request.at < self.at {
            return Err(Refusal::LogValue("time".into()));
        }
        let mut next = *self;
        request
            .records
            .iter()
            .try_for_each(|record| next.append(record))?;
        if next.epoch > request.epoch {
            return Err(Refusal::LogValue("epoch".into()));
        }
        if request.floor != next.floor {
            return Err(Refusal::LogValue("floor".into()));
        }
        next.epoch = request.epoch;
        next.at = request.at;
        Ok(next)
    }

    fn append(&mut self, record: &Record) -> Result<(), Refusal> {
        if self.sequence.checked_add(1) != Some(record.sequence) {
            return Err(Refusal::Log {
                at: self.sequence,
                to: record.sequence,
            });
        }
        if record.epoch < self.epoch {
            return Err(Refusal::LogValue("epoch".into()));
        }
        if let Change::Floor { bucket } = record.change {
            if bucket < self.floor {
                return Err(Refusal::LogValue("floor".into()));
            }
            self.floor = bucket;
        }
        self.hash = self.hash.then(&record.encode());
        self.sequence = record.sequence;
        self.epoch = record.epoch;
        Ok(())
    }

    /// The head at this position.
    pub(crate) fn head(
        &self,
        request: &HeadRequest,
        max_limit: Duration,
        tail: &SignerTail,
    ) -> Result<Vec<u8>, Refusal> {
        let max_age = u32::try_from(request.max_age_ms).unwrap_or(u32::MAX);
        let head = Head {
            log: self.log,
            generation: self.generation,
            previous: self.previous,
            epoch: self.epoch,
            sequence: self.sequence,
            log_hash: self.hash,
            floor: self.floor,
            largest_limit_hours: hours(max_limit),
            max_age: Millis(max_age),
            time: WallTime(self.at.millis()),
            signer: signer_chain(tail),
            nonce: request.nonce,
        };
        let bytes = head
            .encode()
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(bytes.to_vec())
    }

    /// The checkpoint at this position, and no other.
    pub(crate) fn checkpoint(
        &self,
        request: CheckpointRequest,
        tail: &SignerTail,
    ) -> Result<Vec<u8>, Refusal> {
        let checkpoint = Checkpoint {
            log: self.log,
            generation: self.generation,
            epoch: self.epoch,
            sequence: self.sequence,
            log_hash: self.hash,
            floor: self.floor,
            time: WallTime(request.at.millis()),
            signer: signer_chain(tail),
            buckets: request.digests,
        };
        checkpoint
            .encode()
            .map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Whether the request is for a checkpoint here.
    pub(crate) fn check_checkpoint(&self, request: &CheckpointRequest) -> Result<(), Refusal> {
        self.check_log(request.log)?;
        if request.sequence != self.sequence {
            return Err(Refusal::Log {
                at: self.sequence,
                to: request.sequence,
            });
        }
        if request.floor != self.floor {
            return Err(Refusal::LogValue("floor".into()));
        }
        if request.at < self.at {
            return Err(Refusal::LogValue("time".into()));
        }
        Ok(())
    }

    /// What a head at this position is called in the journal.
    pub(crate) fn head_name(&self) -> [u8; 20] {
        head_name(&self.log.0, self.sequence, &self.hash.0)
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    fn check_log(&self, log: LogId) -> Result<(), Refusal> {
        if log == self.log {
            Ok(())
        } else {
            Err(Refusal::OtherLog(log))
        }
    }
}

/// A span in hours, rounded up: verifiers must not refuse what was granted.
fn hours(span: Duration) -> u16 {
    let hours = span.as_secs().div_ceil(3600);
    u16::try_from(hours)
        .unwrap_or(u16::MAX)
        .clamp(1, MAX_LIMIT_HOURS)
}

fn signer_chain(tail: &SignerTail) -> SignerChain {
    SignerChain {
        instance: tail.instance,
        counter: tail.counter,
        hash: tail.hash,
    }
}
