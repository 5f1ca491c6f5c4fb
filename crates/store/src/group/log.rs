//! What a commit appends to the revocation log.

use std::sync::Arc;

use taskmint_model::Timestamp;
use taskmint_status::map::chunk_of;
use taskmint_status::{ChainHash, Change as LogChange, Record, Status, WallTime};

use super::Draft;
use crate::commit::{CommitError, Malformed, StatusChange};
use crate::rows::{self, Key, Row};

impl Draft<'_, '_> {
    pub(super) fn status(&mut self, change: &StatusChange) -> Result<(), CommitError> {
        let slot = self.slot(change.place)?;
        let (number, position) =
            chunk_of(slot.index()).map_err(|_| Malformed::ForeignLog(change.place))?;
        let key = Key::Status(slot.bucket(), number);
        let mut chunk = rows::chunk(self, &key)?.unwrap_or_default();
        // Ended: neither a second end nor a way back (contract line 4).
        if Arc::make_mut(&mut chunk).set(position, change.status) == Status::Ended {
            return Err(Malformed::Ended(change.place).into());
        }
        let task = change.task.octets();
        let said = match change.status {
            Status::Valid => LogChange::Resume { slot, task },
            Status::Suspended => LogChange::Suspend { slot, task },
            Status::Ended => {
                let cause = change.cause.ok_or(Malformed::NoCause(change.place))?;
                self.ended.push(slot);
                LogChange::End { slot, task, cause }
            }
        };
        self.put(key, Row::Status(chunk));
        self.append(said, change.at);
        Ok(())
    }

    pub(super) fn floor(&mut self, bucket: u32, at: Timestamp) -> Result<(), CommitError> {
        if bucket > at.hour() {
            return Err(Malformed::FloorAhead(bucket).into());
        }
        // Two sweeps that meet: the later one finds it done.
        if bucket <= self.ledger.floor {
            return Ok(());
        }
        self.append(LogChange::Floor { bucket }, at);
        self.ledger.floor = bucket;
        let kept_from = self
            .ledger
            .sequence
            .saturating_sub(self.group.retention.log);
        self.ledger.trimmed = self.ledger.trimmed.max(kept_from);
        Ok(())
    }

    pub(super) fn append(&mut self, change: LogChange, at: Timestamp) {
        let sequence = self.ledger.sequence + 1;
        let epoch = self.group.identity.epoch;
        let record = Record {
            sequence,
            epoch,
            time: WallTime(at.millis()),
            change,
        };
        self.ledger.hash = ChainHash(self.ledger.hash).then(&record.encode()).0;
        self.ledger.sequence = sequence;
        self.put(Key::Log(sequence), Row::Log(record.into()));
    }
}
