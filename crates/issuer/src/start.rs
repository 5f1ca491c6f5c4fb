//! Start: keys are loaded or made, deadlines applied before anything is served. What is live and not
//! due is not looked at.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use taskmint_id::Bundle;
use taskmint_mint::{Authority, LogStart, PublicKey, Sealed};
use taskmint_model::{Clock, Entropy, NodeState, Task, Timestamp};
use taskmint_store::{AuthorityState, Change, Commit, KeyUse, LogPosition, Store, StoreError};
use tokio::sync::{broadcast, watch};

use crate::entries::EntrySet;
use crate::log::Signer;
use crate::nodes::PAGE;
use crate::rates::EntryRates;
use crate::receipts::Bounds;
use crate::refused::Refused;
use crate::watchers::Watchers;
use crate::{Cause, Issuer, MintedX509, Principal, Settings};

/// How long a start waits for requests to be counted.
const COUNTING: Duration = Duration::from_millis(100);

impl Issuer {
    /// Starts an issuer over its ports. On return keys are active, tasks past their deadline have
    /// ended, and every known node has one full lease (P12).
    ///
    /// # Errors
    /// When the store can't be read, or a key can't be opened.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        authority: Arc<dyn Authority>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, Refused> {
        let entries = EntrySet::new(store.entries().await?);
        let bundle = watch::Sender::new(Arc::new(Bundle::new(settings.trust_domain.clone())));
        let position = *store.position().borrow();
        let bounds = Bounds::new(position.sequence, store.promise().await?, clock.now());
        let lingering = settings.max_age + settings.drift_allowance;
        let watchers = Watchers::new(Arc::clone(&clock), lingering);
        let issuer = Arc::new(Self {
            rates: EntryRates::new(settings.per_entry),
            settings,
            store,
            authority,
            clock,
            entropy,
            entries,
            live: Default::default(),
            leases: Default::default(),
            requests: Default::default(),
            bundle,
            changed: broadcast::Sender::new(16_384),
            bars: watch::Sender::new(None),
            changing_keys: Default::default(),
            signed: Signer::new(position),
            evidence: Default::default(),
            crls: Default::default(),
            status_lists: Default::default(),
            watchers,
            alarms: Default::default(),
            bounds,
            waits: Default::default(),
        });
        issuer.promise().await?;
        issuer.load_keys().await?;
        issuer.end_overdue().await?;
        issuer.load_requests().await?;
        issuer.grant_leases().await?;
        issuer.sign_head(None).await?;
        Ok(issuer)
    }

    async fn load_keys(&self) -> Result<(), Refused> {
        let position = *self.store.position().borrow();
        self.hand_over_keys(position, Timestamp::default()).await?;
        self.make_missing_keys().await
    }

    /// Hands the store's keys to an authority that has none, and says where the log stands. No
    /// head that it signs is earlier than `at`.
    pub(crate) async fn hand_over_keys(
        &self,
        position: LogPosition,
        at: Timestamp,
    ) -> Result<(), Refused> {
        let records = self.store.authorities().await?;
        let usable = records.iter().filter(|record| {
            // A retired grant key still proves what it granted, and a retired CA still lists what
            // is revoked of that which it signed.
            let kept = matches!(record.usage, KeyUse::Grant | KeyUse::Ca);
            // One that was kept in memory alone ended with the authority that had it.
            !record.sealed.is_empty() && (record.state != AuthorityState::Retired || kept)
        });
        let sealed = usable.map(|record| Sealed {
            id: record.id,
            kind: self.key_kind(record.usage),
            active: record.state == AuthorityState::Active,
            blob: record.sealed.clone(),
            certificate: record.certificate.clone(),
            spki: record.spki.clone(),
        });
        let identity = self.store.identity();
        let start = LogStart {
            log: identity.log,
            generation: identity.generation,
            replaces: identity.replaces,
            epoch: identity.epoch,
            sequence: position.sequence,
            hash: position.hash,
            floor: position.floor,
            at,
        };
        self.authority.load(sealed.collect(), start).await?;
        Ok(())
    }

    async fn end_overdue(&self) -> Result<(), Refused> {
        // What expired with whole buckets while nobody was here goes with them, all at once.
        if self.store.position().borrow().floor > 0 {
            self.move_floor().await;
        }
        // Each start has a server SVID of its own; the one before is nobody's.
        let mut after = None;
        loop {
            let own = self.store.held(None, after, PAGE).await?;
            for id in &own {
                self.end(&Principal::Issuer, *id, Cause::SUPERSEDED, "restart")
                    .await?;
            }
            match own.last() {
                Some(last) => after = Some(*last),
                None => break,
            }
        }
        while self.end_due().await? > 0 {}
        Ok(())
    }

    /// How many requests each caller has remembered is soon known, or known later: with millions of
    /// them nobody is kept waiting for a bound. Whether a request was answered before is asked of
    /// the store in any case.
    async fn load_requests(self: &Arc<Self>) -> Result<(), Refused> {
        let (store, issuer) = (Arc::clone(&self.store), Arc::downgrade(self));
        let mut loading = tokio::spawn(async move {
            let counts = store.request_counts().await;
            drop(store);
            let counts = counts.inspect_err(|error| {
                tracing::error!(%error, "remembered requests can't be counted");
            })?;
            if let Some(issuer) = issuer.upgrade() {
                issuer.requests.load(counts);
            }
            Ok::<_, StoreError>(())
        });
        match tokio::time::timeout(COUNTING, &mut loading).await {
            Ok(Ok(counted)) => Ok(counted?),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn grant_leases(&self) -> Result<(), Refused> {
        let until = self.clock.now() + self.settings.lease;
        for node in self.store.nodes().await? {
            if node.state == NodeState::Active {
                self.leases.grant(&node.id, until);
            }
        }
        Ok(())
    }

    /// Mints the server's own SVID, under a task of its own. `before` is ended once this is
    /// durable.
    ///
    /// # Errors
    /// When the store or the authority can't.
    pub async fn own_svid(
        &self,
        key: PublicKey,
        before: Option<&Task>,
    ) -> Result<(Task, MintedX509), Refused> {
        let now = self.clock.now();
        let continues = before.map(|task| task.id);
        let id = self.settings.server.clone();
        let made = self.node_svid(&id, key, None, continues, now).await?;
        let mut commit = made.commit;
        let resource = id.to_string();
        let audit = self.audit(
            &Principal::Issuer,
            "server.svid",
            resource,
            Some(&made.task),
            now,
        );
        commit.changes.push(Change::Audit(audit));
        self.commit_signed(commit).await?;
        self.publish(made.task.clone());
        let svid = MintedX509 {
            certificate: made.svid.certificate,
            serial: made.svid.serial,
            expires_at: made.svid.expires_at,
        };
        if let Some(before) = before {
            self.end(&Principal::Issuer, before.id, Cause::SUPERSEDED, "renewed")
                .await?;
        }
        Ok((made.task, svid))
    }

    /// Ends what is due: deadlines, leases; moves the floor. Runs until dropped.
    pub async fn end_in_time(&self) {
        let tick = Duration::from_millis(250).min(self.settings.lease / 4);
        let mut looked = uptime();
        loop {
            // What lies in a bucket that is over needs no end of its own.
            self.move_floor().await;
            let next = self.expire().await;
            // P12: a server that was stopped or asleep was not ready. It heard no renewals, and no
            // node is to blame; one that misses less than half of a lease still hears the next.
            let away = uptime().saturating_sub(looked);
            if away > self.settings.lease / 2 {
                tracing::warn!(?away, "this server was away: leases begin anew");
                self.leases
                    .renew_all(self.clock.now() + self.settings.lease);
            }
            looked = uptime();
            self.lapse_leases().await;
            let until = next.map_or(tick, |at| at.since(self.clock.now()).min(tick));
            tokio::time::sleep(until.max(Duration::from_millis(1))).await;
        }
    }

    /// P16: a bucket is over once its hour and the verifiers' leeway are.
    async fn move_floor(&self) {
        let now = self.clock.now();
        let bucket = (now - self.settings.leeway).hour();
        let floor = self.store.position().borrow().floor;
        // A fresh log starts at floor 0; there is nothing to sweep below the first bucket.
        if bucket <= floor {
            return;
        }
        let commit = Commit {
            expect: Vec::new(),
            changes: vec![Change::Floor { bucket, at: now }],
        };
        match self.store.commit(commit).await {
            Ok(_) => {
                self.requests.sweep(bucket);
                self.live.forget_lost(now);
            }
            Err(error) => tracing::error!(%error, "the floor could not be moved"),
        }
    }
}

/// How long this host has been up, the time that it slept included.
fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}
