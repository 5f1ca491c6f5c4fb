//! Millions of tasks in a store: begun by the issuer itself, into a store that is being filled.
//!
//! What differs from a begin in earnest: nothing is synced, the clock stands where it is put, and of
//! the first SVIDs only the first is signed. All that leaves no trace in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use parking_lot::Mutex;
use taskmint_authority::InProcess;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_issuer::{Began, Begin, Issuer, Principal, Settings};
use taskmint_mint::{
    Authority, Facts, Grant, KeyAlgorithm, KeyKind, LogKeyRequest, LogStart, Policy, Prepared,
    PublicKey, Refusal, Request, Sealed, Signed,
};
use taskmint_model::{
    AuthorityId, Binding, Entropy, Entry, EntryId, EntryTtls, KeyType, NodeMatch, SystemEntropy,
    Timestamp,
};
use taskmint_status::LogId;
use taskmint_store::Store;
use taskmint_store_rocksdb::Options;
use taskmint_store_rocksdb::bulk::Bulk;
use taskmint_testkit::{ManualClock, SeededEntropy};

use crate::key::Key;

/// When everything begins: 2026-06-20T10:00:00Z, a full hour.
pub(crate) const BEGAN: Timestamp = Timestamp::from_secs(1_781_949_600);

/// Hours from then to the one in which all tasks have their limits.
pub(crate) const HOURS: u32 = 10;

/// Tasks that begin at one instant.
const AT_ONCE: u64 = 16;

/// The store's log.
pub(crate) const LOG: LogId = LogId([7; 8]);

/// Who begins tasks, and by what.
pub(crate) struct Beginner {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) clock: ManualClock,
    begin: Begin,
}

impl Beginner {
    /// Starts an issuer over a store.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        authority: Arc<dyn Authority>,
        clock: ManualClock,
        entropy: Arc<dyn Entropy>,
        key: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let trust_domain = trust_domain()?;
        let server = SpiffeId::server(&trust_domain, "s").context("no name")?;
        let mut settings = Settings::new(trust_domain, server);
        settings.per_entry = (u32::MAX, u32::MAX);
        let time = Arc::new(clock.clone());
        let issuer = Issuer::start(settings, store, authority, time, entropy).await?;
        let entry = match issuer.all_entries().first() {
            Some(entry) => entry.id,
            None => issuer.create_entry(&admin(), entry()?).await?.id,
        };
        let begin = begin(entry, key)?;
        Ok(Self {
            issuer,
            clock,
            begin,
        })
    }

    /// Begins one task, and takes its first SVID.
    pub(crate) async fn begin(&self) -> anyhow::Result<Began> {
        Ok(self.issuer.begin(&admin(), self.begin.clone()).await?)
    }

    /// Begins so many, some at every millisecond.
    pub(crate) async fn fill(&self, tasks: u64) -> anyhow::Result<()> {
        for number in 0..tasks {
            if number.is_multiple_of(AT_ONCE) {
                self.clock.advance(Duration::from_millis(1));
            }
            self.begin().await?;
            if number % 1_000_000 == 999_999 {
                eprintln!("{} tasks begun", number + 1);
            }
        }
        Ok(())
    }
}

/// Makes a store with so many tasks in `folder`.
pub(crate) async fn load(folder: &Path, tasks: u64) -> anyhow::Result<()> {
    let bulk = Arc::new(Bulk::create(folder, LOG, Options::default())?);
    let clock = ManualClock::new(BEGAN);
    let authority = Arc::new(Sparing::new(in_memory(&clock)?));
    let entropy = Arc::new(SeededEntropy::new(1));
    let store: Arc<dyn Store> = Arc::<Bulk>::clone(&bulk);
    let key = Key::new()?.spki()?;
    let beginner = Beginner::start(store, authority, clock, entropy, key).await?;
    beginner.fill(tasks).await?;
    drop(beginner);
    bulk.settle()?;
    Ok(())
}

/// An authority with keys of its own.
pub(crate) fn in_memory(clock: &ManualClock) -> anyhow::Result<InProcess> {
    let policy = Policy::new(trust_domain()?);
    let clock = Arc::new(clock.clone());
    Ok(InProcess::in_memory(policy, clock, Arc::new(SystemEntropy)))
}

fn trust_domain() -> anyhow::Result<TrustDomain> {
    Ok("example.org".parse()?)
}

fn admin() -> Principal {
    Principal::Admin("bench".to_owned())
}

fn node() -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new(&trust_domain()?, "/taskmint/node/join/n1")?)
}

fn entry() -> anyhow::Result<Entry> {
    Ok(Entry {
        id: EntryId::from_octets([0; 16]),
        revision: 0,
        parent: NodeMatch::Node(node()?),
        spiffe_id: SpiffeId::new(&trust_domain()?, "/agent")?,
        selectors: BTreeSet::from(["unix:uid:1000".parse()?]),
        ttls: EntryTtls::default(),
        key_type: KeyType::EcP256,
        dns_names: Vec::new(),
        hint: String::new(),
        federates_with: BTreeSet::new(),
        downstream: false,
        owner: "bench".to_owned(),
        class: String::new(),
        authority: taskmint_model::Authority::default(),
        implicit: false,
        descendants: false,
        watch: false,
        crl: false,
        max_limit: None,
        max_children: 0,
        max_depth: 0,
        expires_at: None,
        labels: BTreeMap::new(),
        created_by: String::new(),
        created_at: Timestamp::default(),
    })
}

fn begin(entry: EntryId, spki: Vec<u8>) -> anyhow::Result<Begin> {
    let hours = |hours: u32| Duration::from_secs(3600 * u64::from(hours));
    Ok(Begin {
        request: None,
        parent: None,
        implicit: None,
        entry: Some(entry),
        spiffe_id: None,
        purpose: "measure".to_owned(),
        owner: None,
        authority: None,
        ttl: Some(hours(HOURS)),
        limit: Some(hours(HOURS)),
        limits: None,
        binding: Binding::None,
        holder: None,
        node: Some(node()?),
        key: Some(PublicKey {
            algorithm: KeyAlgorithm::EcP256,
            spki,
        }),
        continues: None,
    })
}

/// Signs the first X.509-SVID, and answers with it whatever further ones are asked for.
struct Sparing {
    real: InProcess,
    first: Mutex<Option<Signed>>,
}

impl Sparing {
    fn new(real: InProcess) -> Self {
        Self {
            real,
            first: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Authority for Sparing {
    async fn load(&self, keys: Vec<Sealed>, start: LogStart) -> Result<(), Refusal> {
        self.real.load(keys, start).await
    }

    async fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal> {
        self.real.prepare(kind, id, now).await
    }

    async fn activate(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.real.activate(id).await
    }

    async fn retire(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.real.retire(id).await
    }

    async fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal> {
        self.real.certify_log_key(request).await
    }

    async fn grant(&self, facts: &Facts) -> Result<Grant, Refusal> {
        self.real.grant(facts).await
    }

    async fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>> {
        let [Request::X509(_)] = batch.as_slice() else {
            return self.real.issue(batch).await;
        };
        let before = self.first.lock().clone();
        if let Some(signed) = before {
            return vec![Ok(signed)];
        }
        let answers = self.real.issue(batch).await;
        if let [Ok(signed)] = answers.as_slice() {
            *self.first.lock() = Some(signed.clone());
        }
        answers
    }
}
