//! Certificate revocation lists (P22), for those who don't watch.
//!
//! A task of its own follows the log and collects the serials of what ended or is suspended: an
//! end writes nothing for each of its certificates (contract line 3), and needs to, since the
//! record of each was durable before it left. What is kept in memory is bounded by what was minted
//! in one lifetime of a certificate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use taskmint_mint::{CrlNumber, CrlReason, CrlRequest, Request, Revoked};
use taskmint_model::{AuthorityId, Cause, State, Timestamp};
use taskmint_status::record::Change;
use taskmint_status::{Generation, Place, Serial, Slot};
use taskmint_store::{AuthorityRecord, KeyUse, Withdrawn};
use tokio::sync::watch;

use crate::Issuer;
use crate::refused::Refused;
use crate::standing::tag;

/// The most records that are read at once.
const BATCH: usize = 4096;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A list as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// The CA key that it is of.
    pub authority: AuthorityId,
    /// The key's id in hexadecimal, by which the list is found.
    pub key_id: String,
    /// When it was made; it counts from a little before.
    pub made_at: Timestamp,
    /// Until when it counts.
    pub next_update: Timestamp,
    /// How many certificates are on it.
    pub entries: usize,
    /// DER.
    pub der: Bytes,
    /// Tells it from all others.
    pub tag: String,
}

/// One list for each CA key that signs, did sign, or will.
pub type Crls = Arc<[Arc<Crl>]>;

/// What is published, and how many were made.
#[derive(Debug)]
pub(crate) struct Published {
    lists: watch::Sender<Crls>,
    count: AtomicU64,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            lists: watch::Sender::new(Arc::new([])),
            count: AtomicU64::new(0),
        }
    }
}

/// Everything that is on a list, in order of serials: those of one task lie together.
#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<[u8; 20], Entry>,
    /// The newest record that it has heard of; none before it was built.
    heard: Option<u64>,
    /// Whether it says something else than what is published.
    changed: bool,
    published_at: Timestamp,
    of: Vec<AuthorityId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    authority: AuthorityId,
    expires_at: Timestamp,
    at: Timestamp,
    reason: CrlReason,
}

impl Issuer {
    /// The lists; each change is a new set. Empty until the first is made.
    pub fn crls(&self) -> watch::Receiver<Crls> {
        self.crls.lists.subscribe()
    }

    /// Makes lists whenever something changed, at most once in an interval, and before the old ones
    /// run out. Runs until dropped.
    pub async fn keep_crls(&self) {
        let mut index = Index::default();
        let (mut position, mut bundle) = (self.store.position(), self.bundle.subscribe());
        loop {
            position.mark_unchanged();
            bundle.mark_unchanged();
            if let Err(error) = self.renew_crls(&mut index).await {
                tracing::error!(%error, "no revocation list could be made");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let next = index.published_at + self.settings.crl_ttl / 2;
            // No longer than this: a wall clock may jump, and a machine sleep.
            let pause = next.since(self.clock.now()).min(self.settings.crl_interval);
            let due = tokio::time::sleep(pause);
            tokio::select! {
                _ = position.changed() => {}
                _ = bundle.changed() => {}
                () = due => {}
            }
            let rest = index.published_at + self.settings.crl_interval;
            tokio::time::sleep(rest.since(self.clock.now()).min(self.settings.crl_interval)).await;
        }
    }

    async fn renew_crls(&self, index: &mut Index) -> Result<(), Refused> {
        self.hear(index).await?;
        let now = self.clock.now();
        index.forget_expired(now, self.settings.leeway);
        let authorities = self.store.authorities().await?;
        let cas: Vec<_> = authorities
            .into_iter()
            .filter(|record| self.is_listed(record, now))
            .collect();
        let of: Vec<_> = cas.iter().map(|ca| ca.id).collect();
        let aged = now.since(index.published_at) >= self.settings.crl_ttl / 2;
        // A wall clock that was set back must not stretch what it says.
        let early = now < index.published_at;
        if !(index.changed || aged || early || of != index.of) {
            return Ok(());
        }
        let lists = self.make_crls(index, &cas, now).await?;
        let entries = index.entries.len();
        tracing::debug!(lists = lists.len(), entries, "revocation lists published");
        self.crls.lists.send_replace(lists.into());
        (index.changed, index.published_at, index.of) = (false, now, of);
        Ok(())
    }

    /// One list for each CA, or none at all: who checks a chain needs each.
    async fn make_crls(
        &self,
        index: &Index,
        cas: &[AuthorityRecord],
        now: Timestamp,
    ) -> Result<Vec<Arc<Crl>>, Refused> {
        let mut lists = Vec::with_capacity(cas.len());
        for ca in cas {
            let revoked: Vec<_> = index.of(ca.id).collect();
            let (entries, next_update) = (revoked.len(), self.next_update(ca, now));
            let request = Request::Crl(CrlRequest {
                ca: ca.id,
                number: self.next_number(),
                this_update: (now - self.settings.backdate).floor_to_second(),
                next_update,
                revoked,
            });
            let signed = self.sign(request).await?;
            lists.push(Arc::new(Crl {
                authority: ca.id,
                key_id: ca.key_id.clone(),
                made_at: now,
                next_update,
                entries,
                tag: tag(&signed.bytes),
                der: signed.bytes.into(),
            }));
        }
        Ok(lists)
    }

    fn next_update(&self, ca: &AuthorityRecord, now: Timestamp) -> Timestamp {
        (now + self.settings.crl_ttl)
            .min(ca.expires_at)
            .floor_to_second()
    }

    fn is_listed(&self, record: &AuthorityRecord, now: Timestamp) -> bool {
        let needed = self.needed_until(record).is_none_or(|until| until > now);
        record.usage == KeyUse::Ca && needed && self.next_update(record, now) > now
    }

    fn next_number(&self) -> CrlNumber {
        let identity = self.store.identity();
        CrlNumber {
            generation: identity.generation,
            epoch: identity.epoch,
            count: self.crls.count.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// Takes in what the log says since.
    async fn hear(&self, index: &mut Index) -> Result<(), Refused> {
        let newest = self.store.position().borrow().sequence;
        let Some(mut heard) = index.heard else {
            return self.rebuild(index, newest).await;
        };
        while heard < newest {
            let records = self.store.records(heard, BATCH).await?;
            match (records.first(), records.last()) {
                (Some(first), Some(last)) if first.sequence == heard + 1 => heard = last.sequence,
                // Swept meanwhile.
                _ => return self.rebuild(index, newest).await,
            }
            let log = self.store.identity().log;
            let mut places: Vec<Place> = records
                .iter()
                .filter_map(|record| slot_of(&record.change))
                .map(|slot| slot.in_log(log))
                .collect();
            places.sort_unstable();
            places.dedup();
            let now = self.clock.now();
            let found = self.store.withdrawn(Some(places.clone()), now).await?;
            index.replace(self.generation()?, &places, found, now);
            index.heard = Some(heard);
        }
        Ok(())
    }

    async fn rebuild(&self, index: &mut Index, newest: u64) -> Result<(), Refused> {
        let now = self.clock.now();
        let found = self.store.withdrawn(None, now).await?;
        let entries = found.into_iter().map(|found| entry(&found, now));
        index.entries = entries.collect();
        index.changed = true;
        // What happened while it was read is read again, and says the same.
        index.heard = Some(newest);
        Ok(())
    }
}

impl Index {
    /// What is known of these places is what was found there.
    fn replace(
        &mut self,
        generation: Generation,
        places: &[Place],
        found: Vec<Withdrawn>,
        now: Timestamp,
    ) {
        let mut new: BTreeMap<_, _> = found.iter().map(|found| entry(found, now)).collect();
        let mut old = BTreeMap::new();
        for place in places {
            let bound = |random| Serial {
                generation,
                slot: place.slot(),
                random,
            };
            let span = bound([0; 9]).encode()..=bound([0xff; 9]).encode();
            old.extend(self.entries.extract_if(span, |_, _| true));
        }
        for (serial, before) in &old {
            // An inherited suspension has no date of its own but that of its discovery.
            if let Some(after) = new.get_mut(serial)
                && after.reason == before.reason
            {
                after.at = before.at;
            }
        }
        self.changed |= old != new;
        self.entries.append(&mut new);
    }

    /// An entry stays a little longer than its certificate, for those whose clock is behind.
    fn forget_expired(&mut self, now: Timestamp, leeway: Duration) {
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| entry.expires_at + leeway > now);
        self.changed |= self.entries.len() != before;
    }

    fn of(&self, ca: AuthorityId) -> impl Iterator<Item = Revoked> {
        let entries = self.entries.iter();
        entries
            .filter(move |(_, entry)| entry.authority == ca)
            .map(|(serial, entry)| Revoked {
                serial: *serial,
                at: entry.at,
                reason: entry.reason,
            })
    }
}

fn slot_of(change: &Change) -> Option<Slot> {
    match change {
        Change::End { slot, .. } | Change::Suspend { slot, .. } | Change::Resume { slot, .. } => {
            Some(*slot)
        }
        _ => None,
    }
}

fn entry(found: &Withdrawn, now: Timestamp) -> ([u8; 20], Entry) {
    let (at, reason) = match &found.state {
        State::Ended { at, cause, .. } => (*at, reason(*cause)),
        State::Suspended { own, .. } => {
            let at = own.as_ref().map_or(now, |own| own.at);
            (at, CrlReason::CertificateHold)
        }
        State::Live => (now, CrlReason::CertificateHold),
    };
    let entry = Entry {
        authority: found.issuance.authority,
        expires_at: found.issuance.expires_at,
        // The authority lists nothing that lies ahead, and a clock may have been set back.
        at: at.min(now),
        reason,
    };
    (found.issuance.serial, entry)
}

fn reason(cause: Cause) -> CrlReason {
    match cause {
        Cause::SUPERSEDED => CrlReason::Superseded,
        Cause::REVOKED | Cause::EVICTED | Cause::ENTRY_REMOVED | Cause::RESTORED => {
            CrlReason::PrivilegeWithdrawn
        }
        _ => CrlReason::CessationOfOperation,
    }
}

#[cfg(test)]
mod tests {
    use taskmint_model::{Actor, CredentialKind, Issuance};
    use taskmint_status::LogId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn place(index: u64) -> Place {
        Place::new(LogId([1; 8]), 500_000, index).unwrap()
    }

    fn found(index: u64, last: u8, state: State) -> Withdrawn {
        let mut random = [0; 9];
        random[8] = last;
        let serial = Serial {
            generation: Generation::FIRST,
            slot: place(index).slot(),
            random,
        };
        let issuance = Issuance {
            place: place(index),
            kind: CredentialKind::X509Svid,
            serial: serial.encode(),
            key_hash: [0; 32],
            expires_at: NOW + Duration::from_secs(600),
            authority: AuthorityId::from_octets([index as u8; 16]),
            at: NOW,
        };
        Withdrawn { issuance, state }
    }

    fn ended(cause: Cause) -> State {
        State::Ended {
            at: NOW,
            cause,
            by: Actor::Issuer,
            trace: Default::default(),
        }
    }

    fn held() -> State {
        State::Suspended {
            own: None,
            inherited: true,
        }
    }

    fn replace(index: &mut Index, places: &[u64], found: Vec<Withdrawn>, now: Timestamp) -> bool {
        index.changed = false;
        let places: Vec<_> = places.iter().map(|index| place(*index)).collect();
        index.replace(Generation::FIRST, &places, found, now);
        index.changed
    }

    #[test]
    fn a_hold_goes_when_it_is_lifted_and_an_end_stays() {
        let mut index = Index::default();
        let both = vec![found(1, 1, held()), found(1, 2, held())];
        assert!(replace(&mut index, &[1], both.clone(), NOW));
        let later = NOW + Duration::from_secs(5);
        assert!(!replace(&mut index, &[1], both, later), "nothing new");
        let of = |index: &Index, n| {
            index
                .of(AuthorityId::from_octets([n; 16]))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&index, 1).len(), 2);
        assert_eq!(of(&index, 1)[0].at, NOW, "since it was first seen");
        let over = found(2, 1, ended(Cause::REVOKED));
        assert!(replace(&mut index, &[1, 2], vec![over], later));
        assert_eq!(of(&index, 1), []);
        let [entry] = of(&index, 2)[..] else { panic!() };
        assert_eq!(entry.reason, CrlReason::PrivilegeWithdrawn);
        assert!(replace(&mut index, &[1], vec![found(1, 1, held())], later));
        let ends = vec![found(1, 1, ended(Cause::COMPLETED))];
        assert!(replace(&mut index, &[1], ends, later), "another reason");
        assert_eq!(of(&index, 1)[0].reason, CrlReason::CessationOfOperation);
    }

    #[test]
    fn an_entry_outlives_its_certificate_by_the_leeway_only() {
        let mut index = Index::default();
        let over = vec![found(1, 1, ended(Cause::COMPLETED))];
        replace(&mut index, &[1], over, NOW);
        let leeway = Duration::from_secs(60);
        index.changed = false;
        index.forget_expired(NOW + Duration::from_secs(659), leeway);
        assert!(!index.changed && index.entries.len() == 1);
        index.forget_expired(NOW + Duration::from_secs(660), leeway);
        assert!(index.changed && index.entries.is_empty());
    }
}
