//! What keeps ended tasks ended, each of which can be taken away.

/// A rule of the protocol, on the side that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Verifier: a head counts only if the log's key signed it (P15).
    HeadSignature,
    /// Verifier: a checkpoint's maps must have the digests that it signs (P16).
    CheckpointDigest,
    /// Verifier: records must hash to a signed head (P16).
    LogHash,
    /// Verifier: buckets below the floor are refused (P16).
    Floor,
    /// Verifier: the server's clock is tied to one's own by a nonce, not by arrival (P17).
    Nonce,
    /// Verifier: another epoch needs a nonce of its own, as it may be another machine's clock.
    EpochNonce,
    /// Verifier: heads from before the answer to the nonce don't count (P18).
    AnsweredPosition,
    /// Verifier: a head that is too old by one's own clock doesn't count (P17).
    Staleness,
    /// Server: nothing leaves before it is on disk (P28).
    DurableBeforeVisible,
    /// Server: a restore begins a new log of a higher generation (P14).
    GenerationAfterRestore,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HeadSignature,
        Self::CheckpointDigest,
        Self::LogHash,
        Self::Floor,
        Self::Nonce,
        Self::EpochNonce,
        Self::AnsweredPosition,
        Self::Staleness,
        Self::DurableBeforeVisible,
        Self::GenerationAfterRestore,
    ];
}

/// The guards that stand: all of them, or all but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// The one that is taken away.
    pub without: Option<Guard>,
}

impl Guards {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// All but this one.
    #[must_use]
    pub fn without(guard: Guard) -> Self {
        Self {
            without: Some(guard),
        }
    }

    /// Whether this one stands.
    #[must_use]
    pub fn keep(self, guard: Guard) -> bool {
        self.without != Some(guard)
    }
}
