//! The revocation log as watchers get it: signed heads, deltas, checkpoints.
//!
//! A record is visible only under a signed head, and a head is signed only over records that are
//! on disk (contract line 2).

mod checkpoints;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use checkpoints::Checkpoints;
use parking_lot::Mutex as SyncMutex;
use taskmint_mint::{HeadRequest, Request};
use taskmint_model::{AuthorityId, Timestamp, millis};
use taskmint_status::{Generation, Record};
use taskmint_store::LogPosition;
use tokio::sync::{Mutex, Notify, watch};

use crate::Issuer;
use crate::heads::Heads;
use crate::refused::{RefusalKind, Refused};

/// The most records of one delta.
const DELTA: usize = 4096;

/// How often it is noted how far the signer counted.
const EVIDENCE_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// The least pause before a head for which nothing changed.
const NUDGE_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A head with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLog {
    /// The position that it vouches for.
    pub sequence: u64,
    /// Its time: never earlier than that of a head signed before.
    pub at: Timestamp,
    /// Canonical bytes.
    pub body: Vec<u8>,
    /// Signature over them.
    pub signature: Vec<u8>,
    /// Whose.
    pub key: Arc<LogKey>,
}

/// The log's key, as heads and checkpoints name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    /// Goes up whenever the key, or its certificate, becomes another; never 0.
    pub revision: u64,
    /// DER, by a CA of the bundle.
    pub certificate: Bytes,
}

/// The whole state at a position, with its signature.
#[derive(Debug, Clone)]
pub struct SignedCheckpoint {
    /// The position.
    pub sequence: u64,
    /// Canonical bytes.
    pub body: Bytes,
    /// Signature over them.
    pub signature: Bytes,
    /// Whose.
    pub key: Arc<LogKey>,
    /// Packed maps by bucket.
    pub maps: Vec<(u32, Bytes)>,
}

/// Signs heads one after the other, and remembers what is active.
#[derive(Debug)]
pub(crate) struct Signer {
    /// Where the newest head stands; held while signing, so that heads never cross.
    signed: Mutex<Signed>,
    published: watch::Sender<Option<Arc<SignedLog>>>,
    key_revision: AtomicU64,
    active: SyncMutex<(Option<AuthorityId>, Option<AuthorityId>)>,
    heads: SyncMutex<Heads>,
    /// Told when a head is wanted though nothing changed.
    nudged: Notify,
    checkpoints: Checkpoints,
}

/// Where the newest head stands.
#[derive(Debug)]
struct Signed {
    sequence: u64,
    /// What the log's records say up to there.
    floor: u32,
    at: Timestamp,
    /// What signs, once something was signed with it.
    key: Option<Arc<LogKey>>,
}

impl Signer {
    pub(crate) fn new(position: LogPosition) -> Self {
        let LogPosition {
            sequence, floor, ..
        } = position;
        Self {
            signed: Mutex::new(Signed {
                sequence,
                floor,
                at: Timestamp::default(),
                key: None,
            }),
            published: watch::Sender::new(None),
            key_revision: AtomicU64::new(1),
            active: SyncMutex::new((None, None)),
            heads: SyncMutex::default(),
            nudged: Notify::new(),
            checkpoints: Checkpoints::default(),
        }
    }

    pub(crate) fn set_active(&self, ca: Option<AuthorityId>, jwt: Option<AuthorityId>) {
        *self.active.lock() = (ca, jwt);
    }

    pub(crate) fn active_ca(&self) -> Option<AuthorityId> {
        self.active.lock().0
    }

    pub(crate) fn active_jwt(&self) -> Option<AuthorityId> {
        self.active.lock().1
    }

    fn key_revision(&self) -> u64 {
        self.key_revision.load(Ordering::Relaxed)
    }

    /// No head that leaves out a durable `position` has a later time than this.
    pub(crate) fn last_without(&self, position: u64, now: Timestamp) -> Timestamp {
        self.heads.lock().last_without(position, now)
    }

    /// Asks for a head soon.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
    }
}

impl Issuer {
    /// The newest head; changes with every record, and with every heartbeat.
    pub fn heads(&self) -> watch::Receiver<Option<Arc<SignedLog>>> {
        self.signed.published.subscribe()
    }

    /// Signs a head over everything that is durable now, for a watcher's nonce (P17) or for all.
    ///
    /// # Errors
    /// When the store can't read or the authority can't sign.
    pub async fn sign_head(&self, nonce: Option<[u8; 16]>) -> Result<Arc<SignedLog>, Refused> {
        let mut signed = self.signed.signed.lock().await;
        let head = self.sign_up_to_now(&mut signed, nonce).await?;
        let head = Arc::new(head);
        if nonce.is_none() {
            self.signed.published.send_replace(Some(Arc::clone(&head)));
        }
        Ok(head)
    }

    /// Puts another key of the log, or another certificate of it, in place. No head is signed
    /// meanwhile: each goes out with the certificate of the key that signed it.
    pub(crate) async fn change_log_key(
        &self,
        change: impl Future<Output = Result<(), Refused>>,
    ) -> Result<(), Refused> {
        let mut signed = self.signed.signed.lock().await;
        let changed = change.await;
        signed.key = None;
        // Whatever came of it: to name a key once more than needed harms nobody.
        self.signed.key_revision.fetch_add(1, Ordering::Relaxed);
        changed
    }

    async fn sign_up_to_now(
        &self,
        signed: &mut Signed,
        nonce: Option<[u8; 16]>,
    ) -> Result<SignedLog, Refused> {
        // The clock first: a head that leaves out what is durable by now has no later time (P18).
        let now = self.clock.now();
        let newest = self.newest();
        // All but the last head are only stepping stones, and no watcher's nonce belongs on them.
        self.sign_to(signed, newest.saturating_sub(DELTA as u64))
            .await?;
        let head = self.sign_next(signed, newest, nonce, now).await?;
        self.signed.heads.lock().signed(head.sequence, head.at);
        Ok(head)
    }

    /// Signs heads until the authority stands exactly at `sequence`, if it is not beyond already.
    async fn sign_to(&self, signed: &mut Signed, sequence: u64) -> Result<(), Refused> {
        while signed.sequence < sequence {
            let now = self.clock.now();
            self.sign_next(signed, sequence, None, now).await?;
        }
        Ok(())
    }

    /// Signs one head over the next records, at most up to `sequence`.
    async fn sign_next(
        &self,
        signed: &mut Signed,
        sequence: u64,
        nonce: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<SignedLog, Refused> {
        let ahead = usize::try_from(sequence.saturating_sub(signed.sequence)).unwrap_or(DELTA);
        let records = match ahead.min(DELTA) {
            0 => Vec::new(),
            wanted => self.store.records(signed.sequence, wanted).await?,
        };
        let upto = records
            .last()
            .map_or(signed.sequence, |record| record.sequence);
        if ahead > 0 && upto == signed.sequence {
            return Err(Refused::busy());
        }
        let mut floors = records.iter().filter_map(|record| match record.change {
            taskmint_status::record::Change::Floor { bucket } => Some(bucket),
            _ => None,
        });
        let floor = floors.next_back().unwrap_or(signed.floor);
        // The wall clock may be set back; the time of heads may not go back with it (P15).
        let at = now.max(signed.at);
        let identity = self.store.identity();
        let request = HeadRequest {
            log: identity.log,
            generation: identity.generation,
            epoch: identity.epoch,
            records,
            floor,
            at,
            max_age_ms: millis(self.settings.max_age),
            nonce,
        };
        let key = self.log_key(signed).await?;
        let answer = self.sign(Request::Head(request)).await?;
        (signed.sequence, signed.floor, signed.at) = (upto, floor, at);
        Ok(SignedLog {
            sequence: upto,
            at,
            body: answer.bytes,
            signature: answer.signature,
            key,
        })
    }

    /// The key that signs until [`Self::change_log_key`] puts another in place.
    async fn log_key(&self, signed: &mut Signed) -> Result<Arc<LogKey>, Refused> {
        if let Some(key) = &signed.key {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(LogKey {
            revision: self.signed.key_revision(),
            certificate: self.log_key_certificate().await?.into(),
        });
        signed.key = Some(Arc::clone(&key));
        Ok(key)
    }

    /// Records after `after` up to `upto`, in deltas of bounded size; none if they are gone.
    ///
    /// # Errors
    /// When the store can't read.
    pub async fn deltas(&self, after: u64, upto: u64) -> Result<Option<Vec<Vec<Record>>>, Refused> {
        let mut deltas = Vec::new();
        let mut cursor = after;
        while cursor < upto {
            let wanted = usize::try_from(upto - cursor).unwrap_or(DELTA).min(DELTA);
            let records = self.store.records(cursor, wanted).await?;
            match (records.first(), records.last()) {
                (Some(first), Some(last)) if first.sequence == cursor + 1 => {
                    cursor = last.sequence;
                }
                _ => return Ok(None),
            }
            deltas.push(records);
        }
        Ok(Some(deltas))
    }

    /// Hands the keys over whenever the authority was started again (P25), and notes how far it
    /// counted (P24), until dropped.
    pub async fn keep_authority(&self) {
        loop {
            let lost = tokio::time::timeout(EVIDENCE_EVERY, self.authority.lost()).await;
            self.note_evidence().await;
            if lost.is_err() {
                continue;
            }
            match self.reload_authority().await {
                Ok(()) => tracing::info!("the authority was started again and has its keys"),
                Err(error) => {
                    tracing::error!(%error, "the authority was started again and has no keys");
                    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                }
            }
        }
    }

    async fn reload_authority(&self) -> Result<(), Refused> {
        {
            // No head is signed meanwhile: the next one begins where the authority is told to.
            let mut signed = self.signed.signed.lock().await;
            let position = *self.store.position().borrow();
            self.hand_over_keys(position, signed.at).await?;
            signed.sequence = position.sequence;
            signed.floor = position.floor;
        }
        self.make_missing_keys().await
    }

    /// Signs a head for every change and every heartbeat, until dropped.
    pub async fn sign_heads(&self) {
        let mut position = self.store.position();
        let heartbeat = self.settings.heartbeat;
        loop {
            let signed = tokio::time::Instant::now();
            if let Err(error) = self.sign_head(None).await {
                tracing::error!(%error, "no head could be signed; verifiers close if this lasts");
                tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                continue;
            }
            tokio::select! {
                _ = position.changed() => {}
                () = tokio::time::sleep(heartbeat) => {}
                () = self.nudge_after(signed) => {}
            }
        }
    }

    /// Every head goes to every watcher: many waits that begin together get one.
    async fn nudge_after(&self, last: tokio::time::Instant) {
        self.signed.nudged.notified().await;
        tokio::time::sleep_until(last + NUDGE_PAUSE).await;
    }

    pub(crate) fn generation(&self) -> Result<Generation, Refused> {
        Generation::new(self.store.identity().generation).ok_or_else(|| {
            Refused::new(
                RefusalKind::Internal,
                "STORE_DAMAGED",
                "the log has no generation",
            )
        })
    }
}
