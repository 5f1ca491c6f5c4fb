//! Checkpoints: each made of the one before and what was recorded since, and shared by all who need
//! one while it is young. Deltas after it lead on to the newest head.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex as SyncMutex;
use taskmint_mint::{CheckpointRequest, Request};
use taskmint_model::Timestamp;
use taskmint_status::map::ServedMap;
use taskmint_status::{Change, Record, Slot, Status};
use taskmint_store::StatusSnapshot;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{DELTA, Signed, SignedCheckpoint};
use crate::Issuer;
use crate::refused::{RefusalKind, Refused};

/// A checkpoint is shared for as long as at most so many records came after it: one delta.
const MOST_BEHIND: u64 = DELTA as u64;

/// And for so long, unless nothing came after it.
const OLDEST: Duration = Duration::from_secs(1);

/// Reading the maps is cheaper than catching up over more records than these.
const MOST_REPLAYED: u64 = 100_000;

/// The newest checkpoint, and what the next one is made of.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    newest: SyncMutex<Option<Made>>,
    /// One builds; the others wait for it and share what it made.
    maps: Arc<Mutex<Maps>>,
}

#[derive(Debug, Clone)]
struct Made {
    checkpoint: Arc<SignedCheckpoint>,
    floor: u32,
    key_revision: u64,
    at: Timestamp,
}

/// The maps at a position, in memory from the first checkpoint on.
#[derive(Debug, Default)]
struct Maps {
    /// None: never read.
    sequence: Option<u64>,
    floor: u32,
    buckets: BTreeMap<u32, ServedMap>,
}

impl Issuer {
    /// A signed checkpoint, at most a second or one delta behind the newest record. All who ask
    /// share it, so that thousands of them cost what one does.
    ///
    /// # Errors
    /// When the store can't read or the authority can't sign.
    pub async fn checkpoint(&self) -> Result<Arc<SignedCheckpoint>, Refused> {
        self.checkpoint_from(0).await
    }

    /// As [`checkpoint`](Self::checkpoint), of this position or a later one: for a watcher that is
    /// there already, an earlier one would be of no use.
    ///
    /// # Errors
    /// As there.
    pub async fn checkpoint_from(&self, least: u64) -> Result<Arc<SignedCheckpoint>, Refused> {
        if let Some(young) = self.young_checkpoint(least) {
            return Ok(young);
        }
        let mut maps = Arc::clone(&self.signed.checkpoints.maps).lock_owned().await;
        if let Some(young) = self.young_checkpoint(least) {
            return Ok(young);
        }
        // Most of the work is done before heads have to wait for it.
        let newest = self.store.position().borrow().sequence;
        self.catch_up(&mut maps, newest).await?;
        let mut maps = refreshed(maps).await?;
        let mut signed = self.signed.signed.lock().await;
        for _ in 0..crate::begin::ATTEMPTS {
            let newest = self.store.position().borrow().sequence;
            self.sign_to(&mut signed, newest).await?;
            self.catch_up(&mut maps, signed.sequence).await?;
            // Maps that were read anew may be ahead.
            let position = maps.sequence.unwrap_or(0);
            self.sign_to(&mut signed, position).await?;
            if position == signed.sequence {
                return self.sign_checkpoint(&mut maps, &mut signed).await;
            }
        }
        Err(Refused::busy())
    }

    fn young_checkpoint(&self, least: u64) -> Option<Arc<SignedCheckpoint>> {
        let made = self.signed.checkpoints.newest.lock().clone()?;
        let position = *self.store.position().borrow();
        let now = self.clock.now();
        let behind = position.sequence.saturating_sub(made.checkpoint.sequence);
        let is_young = now >= made.at && now.since(made.at) <= OLDEST;
        // Records are trimmed only when the floor moves, so what comes after it is still there.
        let leads_on = made.floor == position.floor && behind <= MOST_BEHIND;
        let is_signed_by_current = made.key_revision == self.signed.key_revision();
        let usable = leads_on && is_signed_by_current && (behind == 0 || is_young);
        (usable && made.checkpoint.sequence >= least).then_some(made.checkpoint)
    }

    /// Brings the maps to a position, or reads them, at that one or a later.
    async fn catch_up(&self, maps: &mut Maps, upto: u64) -> Result<(), Refused> {
        while let Some(at) = maps.sequence
            && at < upto
            && upto - at <= MOST_REPLAYED
        {
            let wanted = usize::try_from(upto - at).unwrap_or(DELTA).min(DELTA);
            let records = self.store.records(at, wanted).await?;
            if records.first().is_none_or(|first| first.sequence != at + 1) {
                // They are gone.
                break;
            }
            for record in &records {
                maps.apply(record)?;
            }
        }
        if maps.sequence.is_none_or(|at| at < upto) {
            *maps = Maps::from(self.store.snapshot().await?);
        }
        Ok(())
    }

    async fn sign_checkpoint(
        &self,
        maps: &mut Maps,
        signed: &mut Signed,
    ) -> Result<Arc<SignedCheckpoint>, Refused> {
        maps.refresh();
        let served = maps
            .buckets
            .iter()
            .filter_map(|(bucket, map)| map.served(*bucket));
        let (digests, packed): (Vec<_>, Vec<_>) = served
            .map(|(digest, packed)| (digest, (digest.bucket, Bytes::from_owner(packed))))
            .unzip();
        let (sequence, floor) = (signed.sequence, maps.floor);
        let key = self.log_key(signed).await?;
        let key_revision = key.revision;
        let at = self.clock.now();
        // Times of what is signed never go back, though the wall clock may (P15).
        signed.at = signed.at.max(at);
        let request = CheckpointRequest {
            log: self.store.identity().log,
            sequence,
            floor,
            digests,
            at: signed.at,
        };
        let answer = self.sign(Request::Checkpoint(request)).await?;
        let checkpoint = Arc::new(SignedCheckpoint {
            sequence,
            body: answer.bytes.into(),
            signature: answer.signature.into(),
            key,
            maps: packed,
        });
        *self.signed.checkpoints.newest.lock() = Some(Made {
            checkpoint: Arc::clone(&checkpoint),
            floor,
            key_revision,
            at,
        });
        Ok(checkpoint)
    }
}

/// Packs what changed away from the runtime's threads: the first time that is all there is.
async fn refreshed(mut maps: OwnedMutexGuard<Maps>) -> Result<OwnedMutexGuard<Maps>, Refused> {
    let work = tokio::task::spawn_blocking(move || {
        maps.refresh();
        maps
    });
    work.await.map_err(|_| {
        let message = "the maps could not be packed";
        Refused::new(RefusalKind::Internal, "FAULT", message)
    })
}

impl Maps {
    fn apply(&mut self, record: &Record) -> Result<(), Refused> {
        match record.change {
            Change::End { slot, .. } => self.set(slot, Status::Ended)?,
            Change::Suspend { slot, .. } => self.set(slot, Status::Suspended)?,
            Change::Resume { slot, .. } => self.set(slot, Status::Valid)?,
            Change::Floor { bucket } => {
                self.floor = self.floor.max(bucket);
                self.buckets = self.buckets.split_off(&self.floor);
            }
            Change::Epoch => {}
        }
        self.sequence = Some(record.sequence);
        Ok(())
    }

    fn set(&mut self, slot: Slot, status: Status) -> Result<(), Refused> {
        if slot.bucket() < self.floor {
            return Ok(());
        }
        let map = self.buckets.entry(slot.bucket()).or_default();
        map.set(slot.index(), status)
            .map_err(|error| Refused::new(RefusalKind::Internal, "FAULT", error.to_string()))
    }

    fn refresh(&mut self) {
        self.buckets.values_mut().for_each(ServedMap::refresh);
    }
}

impl From<StatusSnapshot> for Maps {
    fn from(snapshot: StatusSnapshot) -> Self {
        let maps = snapshot.maps.into_iter();
        Self {
            sequence: Some(snapshot.position.sequence),
            floor: snapshot.position.floor,
            // Chunks are shared: what is copied is the list of them.
            buckets: maps
                .map(|(bucket, map)| (bucket, Arc::unwrap_or_clone(map).into()))
                .collect(),
        }
    }
}
