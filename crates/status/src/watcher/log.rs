//! One log as a watcher knows it: what is applied, what waits for a signed head, and what was
//! vouched for, so that a contradiction is seen. Knows no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Applied, Fault, Position, Snapshot};
use crate::checkpoint::Checkpoint;
use crate::clock::{BootTime, WallTime};
use crate::head::Head;
use crate::map::{Status, StatusMap};
use crate::place::{Generation, LogId, Slot};
use crate::record::{Cause, ChainHash, Change, Record};
use crate::statement::Shown;
use crate::verdict::Refusal;

/// Records that may wait for a head; a server signs one far more often.
pub(super) const MAX_PENDING: usize = 65_536;

/// Positions whose hash is remembered, to hold later statements against.
const MAX_MARKS: usize = 1024;

/// A head, as it was signed, and the own instant at which it came.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) head: Head,
    pub(super) shown: Arc<Shown>,
    pub(super) arrived: BootTime,
}

/// What became of a head.
pub(super) enum Settled {
    /// Its position is applied: it counts.
    Counts,
    /// Records up to it are still missing.
    Waits,
    /// Its position was passed before.
    Passed,
}

#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) id: LogId,
    pub(super) generation: Generation,
    marks: BTreeMap<u64, ChainHash>,
    newest: Option<(u64, u32, WallTime)>,
    held: Option<Held>,
    synced: Option<Synced>,
}

#[derive(Clone, Debug)]
struct Synced {
    sequence: u64,
    hash: ChainHash,
    epoch: u32,
    floor: u32,
    maps: BTreeMap<u32, StatusMap>,
    pending: VecDeque<(Record, ChainHash)>,
}

/// What holds at a position.
struct There {
    hash: ChainHash,
    epoch: u32,
    floor: u32,
}

impl Log {
    pub(super) fn new(id: LogId, generation: Generation) -> Self {
        let marks = BTreeMap::new();
        Self {
            id,
            generation,
            marks,
            newest: None,
            held: None,
            synced: None,
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced.is_some()
    }

    pub(super) fn position(&self) -> Option<Position> {
        let synced = self.synced.as_ref()?;
        Some(Position {
            log: self.id,
            generation: self.generation,
            sequence: synced.sequence,
            hash: synced.hash,
        })
    }

    /// Forgets what came over a connection and is not applied.
    pub(super) fn disconnect(&mut self) {
        self.held = None;
        if let Some(synced) = &mut self.synced {
            synced.pending.clear();
        }
    }

    pub(super) fn lookup(&self, slot: Slot) -> Result<Status, Refusal> {
        let synced = self.synced.as_ref().ok_or(Refusal::NotSynced)?;
        if slot.bucket() < synced.floor {
            return Err(Refusal::BelowFloor);
        }
        let map = synced.maps.get(&slot.bucket());
        Ok(map.map_or(Status::Valid, |map| map.get(slot.index())))
    }

    /// Holds a signed head against everything signed before; whether it is the newest.
    pub(super) fn vouch(&mut self, head: &Head) -> Result<bool, Fault> {
        self.mark(head.sequence, head.log_hash)?;
        let fork = Err(Fault::Fork {
            sequence: head.sequence,
        });
        if let Some((sequence, epoch, time)) = self.newest {
            let same_epoch = head.epoch == epoch;
            if head.sequence > sequence {
                if head.epoch < epoch {
                    return Err(Fault::Fenced {
                        found: head.epoch,
                        known: epoch,
                    });
                }
                // Time never goes back within an epoch (protocol P15).
                if same_epoch && head.time < time {
                    return fork;
                }
            }
            if head.sequence < sequence && (head.epoch > epoch || same_epoch && head.time > time) {
                return fork;
            }
        }
        let this = (head.sequence, head.epoch, head.time);
        let is_newest = self.newest.is_none_or(|newest| newest <= this);
        if is_newest {
            self.newest = Some(this);
        }
        Ok(is_newest)
    }

    /// Puts a checkpoint's maps in place of everything applied, unless they are what is applied.
    pub(super) fn load(
        &mut self,
        checkpoint: &Checkpoint,
        maps: BTreeMap<u32, StatusMap>,
        applied: &mut Vec<Applied>,
    ) -> Result<(), Fault> {
        self.mark(checkpoint.sequence, checkpoint.log_hash)?;
        if let Some(synced) = &self.synced {
            let (found, at) = (checkpoint.sequence, synced.sequence);
            if found < at {
                return Err(Fault::CheckpointBehind { found, applied: at });
            }
            if found == at {
                return Ok(());
            }
            if !synced.leads_to(checkpoint, &maps) {
                return Err(Fault::Fork { sequence: found });
            }
        }
        applied.push(Applied::Reset(Arc::new(Snapshot {
            log: self.id,
            generation: self.generation,
            sequence: checkpoint.sequence,
            floor: checkpoint.floor,
            maps: maps.clone(),
        })));
        self.synced = Some(Synced {
            sequence: checkpoint.sequence,
            hash: checkpoint.log_hash,
            epoch: checkpoint.epoch,
            floor: checkpoint.floor,
            maps,
            pending: VecDeque::new(),
        });
        Ok(())
    }

    /// Takes records that no head covers yet. Those already known are passed over.
    pub(super) fn stage(&mut self, records: &[Record]) -> Result<(), Fault> {
        let synced = self.synced.as_mut().ok_or(Fault::NoCheckpoint)?;
        for record in records {
            if let Err(fault) = synced.stage(record) {
                if !matches!(fault, Fault::Gap { .. }) {
                    synced.pending.clear();
                }
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Applies the records that `held` covers, if they are there and are the ones it signed.
    pub(super) fn settle(
        &mut self,
        held: &Held,
        applied: &mut Vec<Applied>,
    ) -> Result<Settled, Fault> {
        let head = &held.head;
        let Some(synced) = &mut self.synced else {
            return Ok(Settled::Waits);
        };
        if head.sequence < synced.sequence {
            return Ok(Settled::Passed);
        }
        let Some(there) = synced.at(head.sequence) else {
            return Ok(Settled::Waits);
        };
        if there.hash != head.log_hash {
            // The pending records carry no signature, so they are what is wrong; what is applied
            // was signed, and then the log forked.
            let sequence = head.sequence;
            let pending = sequence > synced.sequence;
            synced.pending.clear();
            return Err(if pending {
                Fault::Forged { sequence }
            } else {
                Fault::Fork { sequence }
            });
        }
        if head.epoch < there.epoch {
            return Err(Fault::Fenced {
                found: head.epoch,
                known: there.epoch,
            });
        }
        // The floor moves by a record only (protocol P16): a head can't move it.
        if head.floor != there.floor {
            return Err(Fault::Fork {
                sequence: head.sequence,
            });
        }
        while let Some((record, hash)) = synced.take_up_to(head.sequence) {
            applied.extend(synced.apply(self.id, &record));
            remember(&mut self.marks, record.sequence, hash)?;
        }
        Ok(Settled::Counts)
    }

    /// Keeps a head that waits for records, or the newer of two.
    pub(super) fn hold(&mut self, held: Held) {
        let key = |held: &Held| (held.head.sequence, held.head.time);
        if self
            .held
            .as_ref()
            .is_none_or(|other| key(other) <= key(&held))
        {
            self.held = Some(held);
        }
    }

    pub(super) fn take_held(&mut self) -> Option<Held> {
        self.held.take()
    }

    fn mark(&mut self, sequence: u64, hash: ChainHash) -> Result<(), Fault> {
        if let Some(synced) = &self.synced
            && synced.sequence == sequence
            && synced.hash != hash
        {
            return Err(Fault::Fork { sequence });
        }
        remember(&mut self.marks, sequence, hash)
    }
}

/// One position has one hash: another is a fork (protocol P15).
fn remember(
    marks: &mut BTreeMap<u64, ChainHash>,
    sequence: u64,
    hash: ChainHash,
) -> Result<(), Fault> {
    if *marks.entry(sequence).or_insert(hash) != hash {
        return Err(Fault::Fork { sequence });
    }
    while marks.len() > MAX_MARKS {
        marks.pop_first();
    }
    Ok(())
}

impl Synced {
    fn last(&self) -> (u64, ChainHash, u32) {
        self.pending
            .back()
            .map_or((self.sequence, self.hash, self.epoch), |(record, hash)| {
                (record.sequence, *hash, record.epoch)
            })
    }

    fn stage(&mut self, record: &Record) -> Result<(), Fault> {
        let (last, hash, epoch) = self.last();
        if record.sequence <= last {
            return self.compare(record);
        }
        if Some(record.sequence) != last.checked_add(1) {
            return Err(Fault::Gap {
                last,
                found: record.sequence,
            });
        }
        if record.epoch < epoch {
            return Err(Fault::Fenced {
                found: record.epoch,
                known: epoch,
            });
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(Fault::TooManyPending);
        }
        self.pending
            .push_back((*record, hash.then(&record.encode())));
        Ok(())
    }

    /// A record that came before must be the same; of applied ones only the hash is left, and they
    /// change nothing.
    fn compare(&self, record: &Record) -> Result<(), Fault> {
        let at = record.sequence.checked_sub(self.sequence + 1);
        let known = at.and_then(|at| self.pending.get(usize::try_from(at).ok()?));
        match known {
            Some((known, _)) if known != record => Err(Fault::Forged {
                sequence: record.sequence,
            }),
            _ => Ok(()),
        }
    }

    /// What holds at a position from the applied one on, if the records up to it are there.
    fn at(&self, sequence: u64) -> Option<There> {
        let more = usize::try_from(sequence.checked_sub(self.sequence)?).ok()?;
        let mut there = There {
            hash: self.hash,
            epoch: self.epoch,
            floor: self.floor,
        };
        if more > self.pending.len() {
            return None;
        }
        for (record, hash) in self.pending.iter().take(more) {
            (there.hash, there.epoch) = (*hash, record.epoch);
            if let Change::Floor { bucket } = record.change {
                there.floor = there.floor.max(bucket);
            }
        }
        Some(there)
    }

    fn take_up_to(&mut self, sequence: u64) -> Option<(Record, ChainHash)> {
        let (record, _) = self.pending.front()?;
        if record.sequence > sequence {
            return None;
        }
        let (record, hash) = self.pending.pop_front()?;
        (self.sequence, self.hash, self.epoch) = (record.sequence, hash, record.epoch);
        Some((record, hash))
    }

    fn apply(&mut self, log: LogId, record: &Record) -> Option<Applied> {
        match record.change {
            Change::End { slot, task, cause } => {
                self.set(log, slot, task, Status::Ended, Some(cause))
            }
            Change::Suspend { slot, task } => self.set(log, slot, task, Status::Suspended, None),
            Change::Resume { slot, task } => self.set(log, slot, task, Status::Valid, None),
            Change::Floor { bucket } => {
                if bucket <= self.floor {
                    return None;
                }
                self.floor = bucket;
                self.maps = self.maps.split_off(&bucket);
                Some(Applied::Floor { bucket })
            }
            Change::Epoch => None,
        }
    }

    fn set(
        &mut self,
        log: LogId,
        slot: Slot,
        task: [u8; 16],
        status: Status,
        cause: Option<Cause>,
    ) -> Option<Applied> {
        if slot.bucket() < self.floor {
            return None;
        }
        let map = self.maps.entry(slot.bucket()).or_default();
        // Ends are final: whatever a later record says.
        if map.get(slot.index()) != Status::Ended {
            map.set(slot.index(), status).ok()?;
            return Some(Applied::Status {
                place: slot.in_log(log),
                task,
                status,
                cause,
            });
        }
        None
    }

    /// Whether a later checkpoint of the same log can have come of this: the floor never falls and
    /// ends are final.
    fn leads_to(&self, checkpoint: &Checkpoint, maps: &BTreeMap<u32, StatusMap>) -> bool {
        let all_valid = StatusMap::new();
        checkpoint.floor >= self.floor
            && self
                .maps
                .range(checkpoint.floor..)
                .all(|(bucket, then)| maps.get(bucket).unwrap_or(&all_valid).keeps_ends_of(then))
    }
}
