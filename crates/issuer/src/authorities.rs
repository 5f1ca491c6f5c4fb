//! Signing keys: made, activated, retired, and always in the bundle while something they signed
//! lives.

use std::sync::Arc;

use taskmint_id::{Bundle, P256PublicKey, X509Authority};
use taskmint_mint::{KeyKind, LogKeyRequest, Prepared, Refusal};
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_store::{AuthorityRecord, AuthorityState, Change, Commit, KeyUse};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::refused::{RefusalKind, Refused};
use crate::{Issuer, Principal};

/// An authority as operators see it.
#[derive(Debug, Clone)]
pub struct AuthorityView {
    /// What is stored; the sealed key is empty here.
    pub record: AuthorityRecord,
    /// Until when the bundle carries it: nothing that it signed lives longer. None while it signs.
    pub needed_until: Option<Timestamp>,
}

impl Issuer {
    /// All authorities, oldest first.
    ///
    /// # Errors
    /// When the store can't read.
    pub async fn authorities(&self) -> Result<Vec<AuthorityView>, Refused> {
        let records = self.store.authorities().await?;
        let view = |mut record: AuthorityRecord| {
            record.sealed = Vec::new();
            AuthorityView {
                needed_until: self.needed_until(&record),
                record,
            }
        };
        Ok(records.into_iter().map(view).collect())
    }

    /// Makes a new key; it is in the bundle from here on, but signs nothing yet.
    ///
    /// # Errors
    /// When the authority or the store can't.
    pub async fn prepare_authority(
        &self,
        by: &Principal,
        usage: KeyUse,
    ) -> Result<AuthorityRecord, Refused> {
        let _turn = self.changing_keys.lock().await;
        self.prepare(by, usage).await
    }

    async fn prepare(&self, by: &Principal, usage: KeyUse) -> Result<AuthorityRecord, Refused> {
        let now = self.clock.now();
        let id = AuthorityId::new(now, &*self.entropy);
        let kind = self.key_kind(usage);
        let prepared = self.authority.prepare(kind, id, now).await?;
        let record = record_of(prepared, usage, now);
        self.put_authority(by, "authority.prepare", record.clone())
            .await?;
        Ok(record)
    }

    /// Makes a prepared key the one that signs; the one before is retired but stays in the bundle.
    /// The log's key is certified by whichever CA is active then.
    ///
    /// # Errors
    /// `NO_SUCH_AUTHORITY`, or `BAD_STATE` when it is not prepared.
    pub async fn activate_authority(
        &self,
        by: &Principal,
        id: AuthorityId,
    ) -> Result<AuthorityRecord, Refused> {
        let _turn = self.changing_keys.lock().await;
        self.activate(by, id).await
    }

    async fn activate(&self, by: &Principal, id: AuthorityId) -> Result<AuthorityRecord, Refused> {
        let now = self.clock.now();
        let records = self.store.authorities().await?;
        let mut record = find(&records, id)?;
        if record.state != AuthorityState::Prepared {
            return Err(bad_state("only a prepared key can be activated"));
        }
        record.state = AuthorityState::Active;
        record.activated_at = Some(now);
        let mut changed = vec![("authority.activate", record.clone())];
        let before = records
            .into_iter()
            .filter(|r| r.usage == record.usage && r.state == AuthorityState::Active);
        changed.extend(before.map(|mut before| {
            before.state = AuthorityState::Retired;
            before.retired_at = Some(now);
            ("authority.retire", before)
        }));
        let retired: Vec<AuthorityId> = changed.iter().skip(1).map(|(_, r)| r.id).collect();
        let activate = async {
            // In one: a start that found two active keys of one kind could not tell which signs.
            self.commit_authorities(by, changed).await?;
            // Whatever becomes of the bundle: what the store says signs is what has to sign.
            self.authority.activate(id).await?;
            self.refresh_bundle().await
        };
        match record.usage {
            KeyUse::Log => self.change_log_key(activate).await?,
            _ => activate.await?,
        }
        if !outlives_its_turn(record.usage) {
            for before in retired {
                self.authority.retire(before).await?;
            }
        }
        if matches!(record.usage, KeyUse::Ca | KeyUse::Log) {
            self.certify_log_key(by).await?;
        }
        Ok(record)
    }

    /// Retires a prepared key that is not wanted, or forgets a retired one that nothing needs.
    ///
    /// # Errors
    /// `BAD_STATE` for the active one, or while something that it signed lives.
    pub async fn retire_authority(
        &self,
        by: &Principal,
        id: AuthorityId,
    ) -> Result<AuthorityRecord, Refused> {
        let _turn = self.changing_keys.lock().await;
        self.retire(by, id).await
    }

    async fn retire(&self, by: &Principal, id: AuthorityId) -> Result<AuthorityRecord, Refused> {
        let now = self.clock.now();
        let mut record = find(&self.store.authorities().await?, id)?;
        match record.state {
            AuthorityState::Active => {
                return Err(bad_state(
                    "the active key can't be retired: activate another first",
                ));
            }
            AuthorityState::Prepared => {
                record.state = AuthorityState::Retired;
                record.retired_at = Some(now);
                self.authority.retire(id).await?;
            }
            AuthorityState::Retired => {}
        }
        if record.activated_at.is_some()
            && let Some(until) = self.needed_until(&record)
            && until > now
        {
            return Err(bad_state(&format!("what it signed lives until {until}")));
        }
        if outlives_its_turn(record.usage) && record.state == AuthorityState::Retired {
            match self.authority.retire(id).await {
                // Wiped already, by a start without it.
                Ok(()) | Err(Refusal::Authority(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let audit = self.audit(by, "authority.forget", record.key_id.clone(), None, now);
        let changes = vec![
            Change::DeleteAuthority(id),
            Change::BumpBundle,
            Change::Audit(audit),
        ];
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        self.refresh_bundle().await?;
        Ok(record)
    }

    /// Makes and activates what no key is active for; keys that are gone are retired.
    pub(crate) async fn make_missing_keys(&self) -> Result<(), Refused> {
        let _turn = self.changing_keys.lock().await;
        self.retire_lost_keys().await?;
        self.refresh_bundle().await?;
        let records = self.store.authorities().await?;
        // The order matters: the log's key is certified by an active CA.
        for usage in [KeyUse::Ca, KeyUse::Jwt, KeyUse::Log, KeyUse::Grant] {
            let active =
                |r: &AuthorityRecord| r.usage == usage && r.state == AuthorityState::Active;
            if !records.iter().any(active) {
                let made = self.prepare(&Principal::Issuer, usage).await?;
                self.activate(&Principal::Issuer, made.id).await?;
            }
        }
        // The authority may have gone away in the middle of an activation.
        self.certify_log_key(&Principal::Issuer).await
    }

    /// Retires keys that were kept in memory alone, and that the authority has no more.
    async fn retire_lost_keys(&self) -> Result<(), Refused> {
        let now = self.clock.now();
        for mut record in self.store.authorities().await? {
            let lost = record.sealed.is_empty() && record.state != AuthorityState::Retired;
            if lost {
                tracing::warn!(key = %record.id, usage = ?record.usage, "a key that was kept in memory alone is gone");
                record.state = AuthorityState::Retired;
                record.retired_at = Some(now);
                self.put_authority(&Principal::Issuer, "authority.lost", record)
                    .await?;
            }
        }
        Ok(())
    }

    /// Rotates by itself what has lived half of its time: a successor is prepared, so that everybody
    /// learns of it, and activated once they had time to; and forgets what nothing needs any more.
    ///
    /// # Errors
    /// When the store or the authority can't.
    pub async fn rotate(&self) -> Result<(), Refused> {
        let _turn = self.changing_keys.lock().await;
        self.certify_log_key(&Principal::Issuer).await?;
        let now = self.clock.now();
        let records = self.store.authorities().await?;
        for usage in [KeyUse::Ca, KeyUse::Jwt, KeyUse::Log] {
            let of = |state| {
                records
                    .iter()
                    .rfind(move |r| r.usage == usage && r.state == state)
            };
            let Some(active) = of(AuthorityState::Active) else {
                continue;
            };
            let began = active.activated_at.unwrap_or(active.created_at);
            // JWT keys do not expire by themselves; they are as old as a CA may get.
            let life = active.expires_at.since(began).min(self.settings.ca_ttl);
            match of(AuthorityState::Prepared) {
                None if now.since(began) >= life / 2 => {
                    tracing::info!(
                        ?usage,
                        "half of a key's life is over: preparing a successor"
                    );
                    self.prepare(&Principal::Issuer, usage).await?;
                }
                Some(next)
                    if now.since(began) >= life / 2 && now.since(next.created_at) >= life / 8 =>
                {
                    tracing::info!(?usage, key = %next.id, "activating the successor");
                    self.activate(&Principal::Issuer, next.id).await?;
                }
                _ => {}
            }
        }
        let over = |r: &&AuthorityRecord| {
            r.state == AuthorityState::Retired && self.needed_until(r).is_some_and(|at| at <= now)
        };
        for record in records.iter().filter(over) {
            self.retire(&Principal::Issuer, record.id).await?;
        }
        Ok(())
    }

    /// Calls [`Self::rotate`] when something may be due. Runs until dropped.
    pub async fn rotate_in_time(&self) {
        let tick = (self.settings.ca_ttl / 64).min(std::time::Duration::from_secs(600));
        loop {
            if let Err(error) = self.rotate().await {
                tracing::error!(%error, "keys could not be rotated");
            }
            tokio::time::sleep(tick).await;
        }
    }

    /// The newest certificate of the log's key, for whoever checks heads.
    ///
    /// # Errors
    /// When the store can't read, or there is no such key.
    pub async fn log_key_certificate(&self) -> Result<Vec<u8>, Refused> {
        Ok(self.active(KeyUse::Log).await?.certificate)
    }

    /// The certificate of the CA that signs now: the anchor of whatever is minted.
    ///
    /// # Errors
    /// When the store can't read, or there is no such key.
    pub async fn ca_certificate(&self) -> Result<Vec<u8>, Refused> {
        Ok(self.active(KeyUse::Ca).await?.certificate)
    }

    /// Has the log's key certified by the active CA, unless it is: heads are believed by that
    /// certificate, and a CA that was replaced leaves the bundle (P15).
    async fn certify_log_key(&self, by: &Principal) -> Result<(), Refused> {
        let active = (
            self.active(KeyUse::Log).await,
            self.active(KeyUse::Ca).await,
        );
        let (Ok(mut log), Ok(ca)) = active else {
            return Ok(());
        };
        if is_issued_by(&log.certificate, &ca.certificate) {
            return Ok(());
        }
        let request = LogKeyRequest {
            key: log.id,
            by: ca.id,
        };
        log.certificate = self.authority.certify_log_key(request).await?;
        let put = self.put_authority(by, "authority.certify", log);
        self.change_log_key(put).await
    }

    async fn active(&self, usage: KeyUse) -> Result<AuthorityRecord, Refused> {
        let records = self.store.authorities().await?;
        let active = |r: &AuthorityRecord| r.usage == usage && r.state == AuthorityState::Active;
        records.into_iter().rfind(active).ok_or_else(no_key)
    }

    /// What the authority is told of a key's use.
    pub(crate) fn key_kind(&self, usage: KeyUse) -> KeyKind {
        let ttl_secs = self.settings.ca_ttl.as_secs();
        match usage {
            KeyUse::Ca => KeyKind::Ca { ttl_secs },
            KeyUse::Jwt => KeyKind::Jwt,
            KeyUse::Log => KeyKind::Log { ttl_secs },
            KeyUse::Grant => KeyKind::Grant,
        }
    }

    async fn put_authority(
        &self,
        by: &Principal,
        action: &'static str,
        record: AuthorityRecord,
    ) -> Result<(), Refused> {
        self.put_authorities(by, vec![(action, record)]).await
    }

    async fn put_authorities(
        &self,
        by: &Principal,
        records: Vec<(&'static str, AuthorityRecord)>,
    ) -> Result<(), Refused> {
        self.commit_authorities(by, records).await?;
        self.refresh_bundle().await
    }

    async fn commit_authorities(
        &self,
        by: &Principal,
        records: Vec<(&'static str, AuthorityRecord)>,
    ) -> Result<(), Refused> {
        let now = self.clock.now();
        let mut changes = vec![Change::BumpBundle];
        for (action, record) in records {
            let audit = self.audit(by, action, record.key_id.clone(), None, now);
            changes.extend([Change::PutAuthority(record), Change::Audit(audit)]);
        }
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        Ok(())
    }

    /// Rebuilds the bundle from what is stored, and tells everybody.
    pub(crate) async fn refresh_bundle(&self) -> Result<(), Refused> {
        let records = self.store.authorities().await?;
        let now = self.clock.now();
        let mut bundle = Bundle::new(self.settings.trust_domain.clone())
            .with_sequence(self.store.bundle_sequence().await?)
            .with_refresh_hint(std::time::Duration::from_secs(300));
        for record in &records {
            if self.needed_until(record).is_some_and(|until| until <= now) {
                continue;
            }
            let damaged = |e: String| {
                let message = format!("authority {}: {e}", record.id);
                Refused::new(RefusalKind::Internal, "STORE_DAMAGED", message)
            };
            match record.usage {
                KeyUse::Ca => {
                    let authority = X509Authority::from_der(&record.certificate)
                        .map_err(|e| damaged(e.to_string()))?;
                    bundle.add_x509_authority(authority);
                }
                KeyUse::Jwt => {
                    let key = P256PublicKey::from_spki_der(&record.spki)
                        .map_err(|e| damaged(e.to_string()))?;
                    bundle
                        .add_jwt_authority(&record.key_id, key)
                        .map_err(|e| damaged(e.to_string()))?;
                }
                KeyUse::Log | KeyUse::Grant => {}
            }
        }
        let active = |usage| {
            let of = records
                .iter()
                .rfind(|r| r.usage == usage && r.state == AuthorityState::Active);
            of.map(|record| record.id)
        };
        self.signed
            .set_active(active(KeyUse::Ca), active(KeyUse::Jwt));
        self.bundle.send_replace(Arc::new(bundle));
        Ok(())
    }

    /// Until when something that a key signed may live; none while it signs or may yet.
    pub(crate) fn needed_until(&self, record: &AuthorityRecord) -> Option<Timestamp> {
        let retired = record.retired_at?;
        let longest = match record.usage {
            KeyUse::Ca => {
                let node = self.settings.node_ttl + self.settings.node_grace;
                node.max(self.settings.server_ttl)
                    .max(self.settings.x509_ttl_cap)
            }
            KeyUse::Jwt => self.settings.jwt_ttl_cap,
            KeyUse::Log => self.settings.max_age,
            KeyUse::Grant => self.settings.defaults.max_limit,
        };
        let last = retired + longest + self.settings.leeway;
        Some(if record.activated_at.is_none() {
            retired
        } else {
            last.min(record.expires_at)
        })
    }

    pub(crate) fn active_ca(&self) -> Result<AuthorityId, Refused> {
        self.signed.active_ca().ok_or_else(no_key)
    }

    pub(crate) fn active_jwt_key(&self) -> Result<AuthorityId, Refused> {
        self.signed.active_jwt().ok_or_else(no_key)
    }
}

/// Whether a key is needed after another took its place: a CA lists what is revoked of that which
/// it signed (P22), a grant key proves what it granted (P23).
fn outlives_its_turn(usage: KeyUse) -> bool {
    matches!(usage, KeyUse::Ca | KeyUse::Grant)
}

pub(crate) fn record_of(made: Prepared, usage: KeyUse, now: Timestamp) -> AuthorityRecord {
    AuthorityRecord {
        id: made.id,
        usage,
        state: AuthorityState::Prepared,
        sealed: made.sealed,
        spki: made.spki,
        certificate: made.certificate,
        key_id: made.key_id,
        created_at: now,
        expires_at: made.expires_at,
        activated_at: None,
        retired_at: None,
    }
}

fn no_key() -> Refused {
    Refused::new(
        RefusalKind::Unavailable,
        "AUTHORITY_FAILED",
        "no active key",
    )
}

fn bad_state(message: &str) -> Refused {
    Refused::new(RefusalKind::State, "BAD_STATE", message)
}

/// Whether a certificate names a CA as its issuer: the names of CAs have their keys' ids.
fn is_issued_by(certificate: &[u8], ca: &[u8]) -> bool {
    let parsed = (
        X509Certificate::from_der(certificate),
        X509Certificate::from_der(ca),
    );
    match parsed {
        (Ok((_, certificate)), Ok((_, ca))) => {
            certificate.issuer().as_raw() == ca.subject().as_raw()
        }
        _ => false,
    }
}

fn find(records: &[AuthorityRecord], id: AuthorityId) -> Result<AuthorityRecord, Refused> {
    records
        .iter()
        .find(|record| record.id == id)
        .cloned()
        .ok_or_else(|| {
            Refused::new(
                RefusalKind::NotFound,
                "NO_SUCH_AUTHORITY",
                "no such authority",
            )
        })
}
