//! What a watcher refuses in what it is sent.

use crate::checkpoint::CheckpointError;
use crate::head::HeadError;
use crate::place::{Generation, LogId};

/// Why a frame was refused. After any fault the connection is closed and made anew from
/// [`Watcher::resume_position`](super::Watcher::resume_position).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A head that nobody signed who may, or that can't be read.
    #[error("head refused")]
    Head(#[from] HeadError),
    /// A checkpoint that nobody signed who may, that can't be read, or with other maps.
    #[error("checkpoint refused")]
    Checkpoint(#[from] CheckpointError),
    /// A log that was replaced by a restore.
    #[error("log generation {found} is older than {known}")]
    LowerGeneration {
        /// What the frame says.
        found: Generation,
        /// What the watcher follows.
        known: Generation,
    },
    /// Another log than the one that the configuration names, of the same generation.
    #[error("log {found} is not the expected one")]
    OtherLog {
        /// What the frame says.
        found: LogId,
    },
    /// Records before any checkpoint.
    #[error("records came before a checkpoint")]
    NoCheckpoint,
    /// A checkpoint of an earlier position than what is applied: a relay's replay.
    #[error("checkpoint of position {found} is behind {applied}")]
    CheckpointBehind {
        /// What the checkpoint stands for.
        found: u64,
        /// What the watcher has applied.
        applied: u64,
    },
    /// Records are missing.
    #[error("record {found} does not follow {last}")]
    Gap {
        /// The newest record held.
        last: u64,
        /// The first of those that came.
        found: u64,
    },
    /// Records that don't hash to the signed head, or that differ from those sent before.
    #[error("records up to {sequence} do not hash to their signed head")]
    Forged {
        /// The head's position.
        sequence: u64,
    },
    /// Too many records without a head that covers them.
    #[error("too many records wait for a signed head")]
    TooManyPending,
    /// A head or record of a writer that has been fenced off.
    #[error("epoch {found} is older than {known}")]
    Fenced {
        /// What the frame says.
        found: u32,
        /// The newest epoch seen.
        known: u32,
    },
    /// Signed statements that contradict each other. Final until a new generation.
    #[error("the log contradicts itself at position {sequence}")]
    Fork {
        /// Where.
        sequence: u64,
    },
}

impl Fault {
    /// The stable name, for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Head(HeadError::Signature) => "HEAD_SIGNATURE_INVALID",
            Self::Head(_) => "HEAD_MALFORMED",
            Self::Checkpoint(CheckpointError::Signature) => "CHECKPOINT_SIGNATURE_INVALID",
            Self::Checkpoint(
                CheckpointError::MapCount
                | CheckpointError::Map { .. }
                | CheckpointError::Digest { .. },
            ) => "CHECKPOINT_MAP_MISMATCH",
            Self::Checkpoint(_) => "CHECKPOINT_MALFORMED",
            Self::LowerGeneration { .. } => "LOG_GENERATION_LOWER",
            Self::OtherLog { .. } => "LOG_UNEXPECTED",
            Self::NoCheckpoint => "CHECKPOINT_MISSING",
            Self::CheckpointBehind { .. } => "CHECKPOINT_BEHIND",
            Self::Gap { .. } => "RECORDS_MISSING",
            Self::Forged { .. } => "RECORDS_FORGED",
            Self::TooManyPending => "RECORDS_TOO_MANY_PENDING",
            Self::Fenced { .. } => "EPOCH_FENCED",
            Self::Fork { .. } => "LOG_FORKED",
        }
    }

    /// Whether no new connection helps: the watcher stays closed until a new generation.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Fork { .. })
    }
}
