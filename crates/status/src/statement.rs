//! What the log's key signs, whichever kind it is: heads and checkpoints say the same of a position,
//! and two of them that can't both be true prove a fork (protocol P15).

use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::clock::WallTime;
use crate::head::{Head, HeadError, HeadKeys, KeyId, SignedHead, SignerChain};
use crate::place::{Generation, LogId};
use crate::record::ChainHash;

/// What a head or a checkpoint says of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub generation: Generation,
    /// The fencing epoch of the writer.
    pub epoch: u32,
    /// The newest record's sequence number.
    pub sequence: u64,
    /// The hash over all records up to there.
    pub log_hash: ChainHash,
    /// The floor at that position.
    pub floor: u32,
    /// The server's clock when it was signed.
    pub time: WallTime,
    /// The signer's journal after this signature's entry.
    pub signer: SignerChain,
}

impl Statement {
    /// Whether no honest log can have made both: it is one log in a generation, with one hash and one
    /// floor at a position, and neither floor nor epoch, nor time within an epoch, ever goes back.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        if self.log != other.log {
            return self.generation == other.generation;
        }
        let (earlier, later) = match self.sequence <= other.sequence {
            true => (self, other),
            false => (other, self),
        };
        if earlier.sequence == later.sequence {
            return earlier.log_hash != later.log_hash || earlier.floor != later.floor;
        }
        earlier.epoch > later.epoch
            || earlier.floor > later.floor
            || earlier.epoch == later.epoch && earlier.time > later.time
    }
}

impl From<&Head> for Statement {
    fn from(head: &Head) -> Self {
        Self {
            log: head.log,
            generation: head.generation,
            epoch: head.epoch,
            sequence: head.sequence,
            log_hash: head.log_hash,
            floor: head.floor,
            time: head.time,
            signer: head.signer,
        }
    }
}

impl From<&Checkpoint> for Statement {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            log: checkpoint.log,
            generation: checkpoint.generation,
            epoch: checkpoint.epoch,
            sequence: checkpoint.sequence,
            log_hash: checkpoint.log_hash,
            floor: checkpoint.floor,
            time: checkpoint.time,
            signer: checkpoint.signer,
        }
    }
}

/// A statement whose signature was checked, and how it travelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it says.
    pub says: Statement,
    /// As it came.
    pub signed: Signed,
}

/// A head or a checkpoint as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    /// A head.
    Head(SignedHead),
    /// A checkpoint, without its maps.
    Checkpoint(SignedCheckpoint),
}

/// Neither a head nor a checkpoint, or nobody's who may sign one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// As a head.
    #[error("head refused")]
    Head(#[from] HeadError),
    /// As a checkpoint.
    #[error("checkpoint refused")]
    Checkpoint(#[from] CheckpointError),
}

impl Signed {
    /// Takes the parts off the wire; the tag that the octets begin with says which kind it is.
    ///
    /// # Errors
    /// As [`SignedHead::from_parts`], or [`SignedCheckpoint::from_parts`] for what isn't tagged as a
    /// head.
    pub fn from_parts(
        bytes: Vec<u8>,
        signature: &[u8],
        key: &[u8],
    ) -> Result<Self, StatementError> {
        Ok(match bytes.starts_with(Head::TAG) {
            true => Self::Head(SignedHead::from_parts(bytes, signature, key)?),
            false => Self::Checkpoint(SignedCheckpoint::from_parts(bytes, signature, key)?),
        })
    }

    /// The octets that the signature is over, the signature, and whose it is.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8], KeyId) {
        match self {
            Self::Head(head) => (&head.bytes, &head.signature, head.key),
            Self::Checkpoint(checkpoint) => {
                (&checkpoint.bytes, &checkpoint.signature, checkpoint.key)
            }
        }
    }

    /// Checks the signature, then reads what it says.
    ///
    /// # Errors
    /// As [`SignedHead::open`] and [`SignedCheckpoint::open`].
    pub fn open(&self, keys: &dyn HeadKeys) -> Result<Statement, StatementError> {
        Ok(match self {
            Self::Head(head) => head.open(keys)?.head().into(),
            Self::Checkpoint(checkpoint) => checkpoint.open(keys)?.checkpoint().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            log: LogId([1; 8]),
            generation: Generation::FIRST,
            epoch: 3,
            sequence: 10,
            log_hash: ChainHash([4; 32]),
            floor: 5,
            time: WallTime(1_000),
            signer: SignerChain::default(),
        }
    }

    #[test]
    fn what_one_log_can_have_said_does_not_contradict() {
        let one = statement();
        let next = Statement {
            sequence: 11,
            log_hash: ChainHash([5; 32]),
            floor: 6,
            time: WallTime(1_001),
            ..one
        };
        // A new writer's clock may be behind, and a heartbeat is later over the same records.
        let fenced = Statement {
            epoch: 4,
            time: WallTime(1),
            ..next
        };
        let heartbeat = Statement {
            time: WallTime(9_000),
            ..one
        };
        let restored = Statement {
            log: LogId([2; 8]),
            generation: Generation::new(2).unwrap(),
            ..one
        };
        for other in [one, next, fenced, heartbeat, restored] {
            assert!(!one.contradicts(&other), "{other:?}");
            assert!(!other.contradicts(&one), "{other:?}");
        }
    }

    #[test]
    fn each_thing_that_no_log_says_contradicts_whichever_came_first() {
        let one = statement();
        let later = Statement {
            sequence: 11,
            ..one
        };
        for other in [
            Statement {
                log: LogId([2; 8]),
                ..one
            },
            Statement {
                log_hash: ChainHash([5; 32]),
                ..one
            },
            Statement { floor: 6, ..one },
            Statement { floor: 4, ..later },
            Statement { epoch: 2, ..later },
            Statement {
                time: WallTime(999),
                ..later
            },
        ] {
            assert!(one.contradicts(&other), "{other:?}");
            assert!(other.contradicts(&one), "{other:?}");
        }
    }
}
