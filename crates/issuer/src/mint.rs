//! Minting: X.509-SVIDs and JWT-SVIDs of live tasks, recorded before they leave.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sha2::{Digest, Sha256};
use taskmint_id::SpiffeId;
use taskmint_lifecycle as lifecycle;
use taskmint_mint::{Grant, JwtRequest, PublicKey, Request, Signed, X509Request};
use taskmint_model::{
    AuthorityId, CredentialKind, Entry, EntryId, Issuance, Task, TaskId, TaskKind, Timestamp,
};
use taskmint_status::Place;
use taskmint_store::{Change, Commit, CommitError, Committed, Expect};

use crate::Issuer;
use crate::begin::facts;
use crate::refused::{RefusalKind, Refused};

/// Octets of all audiences of one token: more would make it longer than readers take, and the signer
/// would refuse it.
const MAX_AUDIENCES_LEN: usize = 8 << 10;

/// A minted X.509-SVID.
#[derive(Debug, Clone)]
pub struct MintedX509 {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its serial number.
    pub serial: [u8; 20],
    /// Last instant at which it counts.
    pub expires_at: Timestamp,
}

/// A minted JWT-SVID.
#[derive(Debug, Clone)]
pub struct MintedJwt {
    /// Compact JWS.
    pub token: String,
    /// Last instant at which it counts.
    pub expires_at: Timestamp,
}

/// An X.509-SVID that is decided on, but neither recorded nor signed.
pub(crate) struct X509Plan {
    request: X509Request,
    serial: [u8; 20],
    authority: AuthorityId,
    at: Timestamp,
}

impl X509Plan {
    /// What the store keeps of it.
    pub(crate) fn record(&self, task: &Task) -> Issuance {
        Issuance {
            place: task.place,
            kind: CredentialKind::X509Svid,
            serial: self.serial,
            key_hash: Sha256::digest(&self.request.key.spki).into(),
            expires_at: self.request.not_after,
            authority: self.authority,
            at: self.at,
        }
    }

    pub(crate) fn serial(&self) -> [u8; 20] {
        self.serial
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.request.not_after
    }
}

/// A credential that is decided on, but neither recorded nor signed.
struct Plan {
    task: Task,
    record: Issuance,
    request: Request,
}

impl Issuer {
    /// Mints an X.509-SVID for a live task; `node`, if given, must hold it.
    ///
    /// # Errors
    /// `NO_SUCH_TASK`, or what `lifecycle` and the authority refuse.
    pub async fn mint_x509(
        &self,
        node: Option<&SpiffeId>,
        id: TaskId,
        key: PublicKey,
    ) -> Result<MintedX509, Refused> {
        one(self.mint_x509_batch(node, vec![(id, key)]).await)
    }

    /// Mints many at once, one answer for each, in order: all are signed together, and one synced
    /// write serves them all.
    pub async fn mint_x509_batch(
        &self,
        node: Option<&SpiffeId>,
        items: Vec<(TaskId, PublicKey)>,
    ) -> Vec<Result<MintedX509, Refused>> {
        let mut plans = Vec::with_capacity(items.len());
        for (id, key) in items {
            plans.push(self.plan_svid(node, id, key).await);
        }
        let minted = self.mint(plans).await.into_iter();
        let minted = minted.map(|minted| {
            let (record, signed) = minted?;
            Ok(MintedX509 {
                certificate: signed.bytes,
                serial: record.serial,
                expires_at: record.expires_at,
            })
        });
        minted.collect()
    }

    /// Mints a JWT-SVID for a live task.
    ///
    /// # Errors
    /// `NO_SUCH_TASK`, `BEYOND_AUTHORITY` for an audience that the task may not ask for, or what
    /// `lifecycle` and the authority refuse.
    pub async fn mint_jwt(
        &self,
        node: Option<&SpiffeId>,
        id: TaskId,
        audiences: Vec<String>,
    ) -> Result<MintedJwt, Refused> {
        one(self.mint_jwt_batch(node, vec![(id, audiences)]).await)
    }

    /// Mints many at once, as [`Self::mint_x509_batch`] does.
    pub async fn mint_jwt_batch(
        &self,
        node: Option<&SpiffeId>,
        items: Vec<(TaskId, Vec<String>)>,
    ) -> Vec<Result<MintedJwt, Refused>> {
        let mut plans = Vec::with_capacity(items.len());
        for (id, audiences) in items {
            plans.push(self.plan_jwt(node, id, audiences).await);
        }
        let minted = self.mint(plans).await.into_iter();
        let minted = minted.map(|minted| {
            let (record, signed) = minted?;
            let token = String::from_utf8(signed.bytes).map_err(|_| {
                let message = "the token is no text";
                Refused::new(RefusalKind::Internal, "AUTHORITY_FAILED", message)
            })?;
            Ok(MintedJwt {
                token,
                expires_at: record.expires_at,
            })
        });
        minted.collect()
    }

    /// Signs and records what was decided on, beside each other (P28). Only what is both is given.
    async fn mint(
        &self,
        plans: Vec<Result<Plan, Refused>>,
    ) -> Vec<Result<(Issuance, Signed), Refused>> {
        let (mut requests, mut records) = (Vec::new(), Vec::new());
        let planned = plans.into_iter().map(|plan| {
            let plan = plan?;
            requests.push(plan.request);
            records.push((plan.task, plan.record.clone()));
            Ok(plan.record)
        });
        let planned: Vec<Result<Issuance, Refused>> = planned.collect();
        if requests.is_empty() {
            return planned
                .into_iter()
                .filter_map(Result::err)
                .map(Err)
                .collect();
        }
        let now = self.clock.now();
        let recording = join_all(
            records
                .iter()
                .map(|(task, record)| self.record(task, record.clone(), now)),
        );
        let (recorded, signed) = tokio::join!(recording, self.authority.issue(requests));
        self.evidence.learn(&signed);
        let discarded = records.iter().zip(&recorded).zip(&signed);
        let discarded =
            discarded.filter(|((_, recorded), signed)| recorded.is_err() && signed.is_ok());
        let discarded: Vec<_> = discarded
            .map(|(((_, record), _), _)| record.clone())
            .collect();
        self.keep_discarded(discarded).await;
        let mut results = recorded.into_iter().zip(signed);
        let minted = planned.into_iter().map(|planned| {
            let record = planned?;
            let (recorded, signed) = results.next().ok_or_else(Refused::busy)?;
            recorded?;
            let signed = signed?;
            // A rotation came in between: by its record it would be on the other CA's list (P22).
            if record.kind == CredentialKind::X509Svid && signed.authority != record.authority {
                return Err(Refused::busy());
            }
            Ok((record, signed))
        });
        minted.collect()
    }

    /// Commits what has its credentials signed already.
    ///
    /// # Errors
    /// As the store's. Then nothing of it may leave.
    pub(crate) async fn commit_signed(&self, commit: Commit) -> Result<Committed, CommitError> {
        let records = commit.changes.iter().filter_map(|change| match change {
            Change::Issue(record) => Some(record.clone()),
            _ => None,
        });
        let records = records.collect();
        let committed = self.store.commit(commit).await;
        if committed.is_err() {
            self.keep_discarded(records).await;
        }
        committed
    }

    /// Records what was signed but may not leave, because something else changed meanwhile: what
    /// the signer counts and nobody has on record is an alarm (P24).
    pub(crate) async fn keep_discarded(&self, records: Vec<Issuance>) {
        if records.is_empty() {
            return;
        }
        let commit = Commit {
            expect: Vec::new(),
            changes: records.into_iter().map(Change::Issue).collect(),
        };
        if let Err(error) = self.store.commit(commit).await {
            tracing::error!(%error, "what was signed and not given out is not on record");
        }
    }

    async fn plan_svid(
        &self,
        node: Option<&SpiffeId>,
        id: TaskId,
        key: PublicKey,
    ) -> Result<Plan, Refused> {
        let task = self.mintable(node, id).await?;
        self.take_rate(task.entry)?;
        let entry = self.entry_of(&task);
        let plan = self.plan_x509(&task, entry.as_deref(), key, self.clock.now())?;
        Ok(Plan {
            record: plan.record(&task),
            request: Request::X509(plan.request),
            task,
        })
    }

    async fn plan_jwt(
        &self,
        node: Option<&SpiffeId>,
        id: TaskId,
        audiences: Vec<String>,
    ) -> Result<Plan, Refused> {
        let length: usize = audiences.iter().map(String::len).sum();
        if length > MAX_AUDIENCES_LEN {
            let message =
                format!("the audiences have {length} octets, and may have {MAX_AUDIENCES_LEN}");
            return Err(Refused::new(RefusalKind::Invalid, "BAD_AUDIENCE", message));
        }
        let mut task = self.mintable(node, id).await?;
        if let Some(audience) = audiences
            .iter()
            .find(|a| !task.authority.allows_audience(a))
        {
            let message = format!("the task may not ask for audience `{audience}`");
            return Err(
                Refused::new(RefusalKind::Denied, "BEYOND_AUTHORITY", message)
                    .fix("begin a task whose authority has the audience"),
            );
        }
        self.take_rate(task.entry)?;
        let now = self.clock.now();
        let entry = self.entry_of(&task);
        let ttl = entry
            .and_then(|entry| entry.ttls.jwt)
            .unwrap_or(self.settings.jwt_ttl);
        let lifetime = self.lifetime(&task, ttl, self.settings.jwt_ttl_cap, now)?;
        let jti: [u8; 16] = self.entropy.array();
        let mut serial = [0; 20];
        let (head, _) = serial.split_at_mut(jti.len());
        head.copy_from_slice(&jti);
        let record = Issuance {
            place: task.place,
            kind: CredentialKind::JwtSvid,
            serial,
            key_hash: [0; 32],
            expires_at: lifetime.not_after,
            authority: self.active_jwt_key()?,
            at: now,
        };
        let request = Request::Jwt(JwtRequest {
            facts: facts(&task),
            grant: Grant(std::mem::take(&mut task.grant)),
            audiences,
            jti,
            issued_at: now.floor_to_second(),
            expires_at: lifetime.not_after,
            status_uri: self.status_uri(task.place),
        });
        Ok(Plan {
            task,
            record,
            request,
        })
    }

    /// Decides on an X.509-SVID: lifetime by contract line 1, serial by P13.
    pub(crate) fn plan_x509(
        &self,
        task: &Task,
        entry: Option<&Entry>,
        key: PublicKey,
        now: Timestamp,
    ) -> Result<X509Plan, Refused> {
        let (ttl, cap) = match task.kind {
            TaskKind::Node => (self.settings.node_ttl, self.settings.node_ttl),
            TaskKind::Server => (self.settings.server_ttl, self.settings.server_ttl),
            TaskKind::Explicit | TaskKind::Implicit => {
                let own = entry.and_then(|entry| entry.ttls.x509);
                (
                    own.unwrap_or(self.settings.x509_ttl),
                    self.settings.x509_ttl_cap,
                )
            }
        };
        let lifetime = self.lifetime(task, ttl, cap, now)?;
        let serial_random: [u8; 9] = self.entropy.array();
        let serial = taskmint_status::Serial {
            generation: self.generation()?,
            slot: task.place.slot(),
            random: serial_random,
        };
        let request = X509Request {
            facts: facts(task),
            grant: Grant(task.grant.clone()),
            key,
            dns_names: entry
                .map(|entry| entry.dns_names.clone())
                .unwrap_or_default(),
            serial_random,
            not_before: lifetime.not_before,
            not_after: lifetime.not_after,
        };
        Ok(X509Plan {
            request,
            serial: serial.encode(),
            authority: self.active_ca()?,
            at: now,
        })
    }

    pub(crate) async fn sign_x509(&self, plan: X509Plan) -> Result<MintedX509, Refused> {
        let (serial, expires_at) = (plan.serial(), plan.not_after());
        let planned = plan.authority;
        let signed = self.sign(Request::X509(plan.request)).await?;
        // A rotation came in between: by its record it would be on the other CA's list (P22).
        if signed.authority != planned {
            return Err(Refused::busy());
        }
        Ok(MintedX509 {
            certificate: signed.bytes,
            serial,
            expires_at,
        })
    }

    pub(crate) async fn sign(&self, request: Request) -> Result<Signed, Refused> {
        let mut answers = self.authority.issue(vec![request]).await;
        self.evidence.learn(&answers);
        match answers.pop() {
            Some(answer) => Ok(answer?),
            None => Err(taskmint_mint::Refusal::Failed("no answer".to_owned()).into()),
        }
    }

    /// The task, if credentials may be minted under it now.
    async fn mintable(&self, node: Option<&SpiffeId>, id: TaskId) -> Result<Task, Refused> {
        let task = self.store.task(id).await?.ok_or_else(Refused::no_task)?;
        if node.is_some() && task.holder.node.as_ref() != node {
            return Err(Refused::no_task());
        }
        lifecycle::may_mint(&task, self.clock.now())?;
        Ok(task)
    }

    /// Records an issuance, unless the task ended meanwhile (P18).
    async fn record(&self, task: &Task, record: Issuance, now: Timestamp) -> Result<(), Refused> {
        let minting = self.live.minting(task.id, record.expires_at).await;
        let commit = Commit {
            expect: vec![Expect::LiveTask(task.id, now)],
            changes: vec![Change::Issue(record)],
        };
        match self.store.commit(commit).await {
            Ok(_) => {
                minting.recorded();
                Ok(())
            }
            Err(CommitError::Conflict(_)) => {
                minting.failed();
                let message = "the task ended meanwhile";
                Err(Refused::new(RefusalKind::Denied, "TASK_ENDED", message))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn lifetime(
        &self,
        task: &Task,
        ttl: Duration,
        cap: Duration,
        now: Timestamp,
    ) -> Result<lifecycle::Lifetime, Refused> {
        Ok(lifecycle::lifetime(
            task,
            ttl,
            cap,
            self.settings.backdate,
            now,
        )?)
    }

    /// Takes one credential from an entry's rate.
    pub(crate) fn take_rate(&self, entry: Option<EntryId>) -> Result<(), Refused> {
        entry.map_or(Ok(()), |entry| self.rates.take(entry))
    }

    fn entry_of(&self, task: &Task) -> Option<Arc<Entry>> {
        task.entry.and_then(|id| self.entries.get(id))
    }

    /// P21: `<public_url>/status/<log id>/<bucket>`.
    fn status_uri(&self, place: Place) -> Option<String> {
        let url = self.settings.public_url.as_ref()?;
        let log = hex::encode(place.log().0);
        Some(format!(
            "{}/status/{log}/{}",
            url.trim_end_matches('/'),
            place.bucket()
        ))
    }
}

/// The only one.
fn one<T>(mut minted: Vec<Result<T, Refused>>) -> Result<T, Refused> {
    minted.pop().unwrap_or_else(|| Err(Refused::busy()))
}
