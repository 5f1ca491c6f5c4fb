use std::collections::VecDeque;

use async_trait::async_trait;
use parking_lot::Mutex;
use taskmint_authority::InProcess;
use taskmint_mint::{
    Authority, Facts, Grant, KeyKind, LogKeyRequest, LogStart, Prepared, Refusal, Request, Sealed,
    Signed,
};
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_store_rocksdb::bulk::Bulk;
use taskmint_testkit::SeededEntropy;

use super::*;

/// Begins of the octet for octet test: each is a sync where it is in earnest.
const BEGINS: u64 = 1_000;

/// Tasks of the other one.
const MANY: u64 = 100_000;

/// The one authority of two issuers that ask the same of it: the second is told what the first was.
struct Twice {
    real: InProcess,
    is_second: bool,
    prepared: Mutex<VecDeque<Prepared>>,
    certified: Mutex<VecDeque<Vec<u8>>>,
    signed: Mutex<VecDeque<Vec<Signed>>>,
}

#[async_trait]
impl Authority for Twice {
    async fn load(&self, keys: Vec<Sealed>, start: LogStart) -> Result<(), Refusal> {
        match self.is_second {
            true => Ok(()),
            false => self.real.load(keys, start).await,
        }
    }

    async fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal> {
        if self.is_second {
            let prepared = self.prepared.lock().pop_front().unwrap();
            assert_eq!(prepared.id, id);
            return Ok(prepared);
        }
        let prepared = self.real.prepare(kind, id, now).await?;
        self.prepared.lock().push_back(prepared.clone());
        Ok(prepared)
    }

    async fn activate(&self, id: AuthorityId) -> Result<(), Refusal> {
        match self.is_second {
            true => Ok(()),
            false => self.real.activate(id).await,
        }
    }

    async fn retire(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.real.retire(id).await
    }

    async fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal> {
        if self.is_second {
            return Ok(self.certified.lock().pop_front().unwrap());
        }
        let certificate = self.real.certify_log_key(request).await?;
        self.certified.lock().push_back(certificate.clone());
        Ok(certificate)
    }

    async fn grant(&self, facts: &Facts) -> Result<Grant, Refusal> {
        self.real.grant(facts).await
    }

    async fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>> {
        if self.is_second {
            let signed = self.signed.lock().pop_front().unwrap();
            return signed.into_iter().map(Ok).collect();
        }
        let signed = self.real.issue(batch).await;
        let kept = signed.iter().map(|signed| signed.clone().unwrap());
        self.signed.lock().push_back(kept.collect());
        signed
    }
}

async fn begin(store: Arc<dyn Store>, authority: Twice, key: Vec<u8>) -> Twice {
    let (clock, authority) = (ManualClock::new(BEGAN), Arc::new(authority));
    let entropy = Arc::new(SeededEntropy::new(1));
    let asked = Arc::<Twice>::clone(&authority);
    let beginner = Beginner::start(store, asked, clock, entropy, key).await;
    let beginner = beginner.unwrap();
    beginner.fill(BEGINS).await.unwrap();
    drop(beginner);
    let mut authority = Arc::into_inner(authority).unwrap();
    authority.is_second = true;
    authority
}

fn rows(folder: &Path) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    each_row(folder, &Options::default(), |table, key, value| {
        found.push((table, key.to_vec(), value.to_vec()));
    })
    .unwrap();
    found
}

#[tokio::test]
async fn tasks_that_are_loaded_are_octet_for_octet_those_that_begin() {
    let folder = TempDir::new().unwrap();
    let [earnest, loaded] = ["earnest", "loaded"].map(|name| folder.path().join(name));
    let clock = ManualClock::new(BEGAN);
    let authority = Twice {
        real: in_memory(&clock).unwrap(),
        is_second: false,
        prepared: Mutex::default(),
        certified: Mutex::default(),
        signed: Mutex::default(),
    };
    // The authority's own clock follows neither: a minute apart is fine.
    let key = Key::new().unwrap().spki().unwrap();
    let store = RocksStore::open(&earnest, LOG, BEGAN, Options::default()).unwrap();
    let authority = begin(Arc::new(store), authority, key.clone()).await;
    let bulk = Arc::new(Bulk::create(&loaded, LOG, Options::default()).unwrap());
    let store: Arc<dyn Store> = Arc::<Bulk>::clone(&bulk);
    begin(store, authority, key).await;
    bulk.settle().unwrap();
    drop(bulk);
    let (expected, found) = (rows(&earnest), rows(&loaded));
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected.len(), found.len());
    let tasks = found.iter().filter(|(table, ..)| *table == "task");
    assert_eq!(tasks.count() as u64, BEGINS);
}

#[tokio::test]
async fn a_start_over_many_tasks_reads_few_of_them_and_a_sweep_takes_them_all() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store");
    load(&store, MANY).await.unwrap();
    let (beginner, opened, started) = open(&store, MANY).await.unwrap();
    drop(beginner);
    let scanned = scan(&store).unwrap();
    let took = millis(started);
    // The bar is a fifth of ten million; of so few, what a start costs anyway is the most of it.
    assert!(took < scanned, "{took} ms, {opened:?} of it to open");
    // The one that was begun is live as well.
    let (beginner, ..) = open(&store, MANY + 1).await.unwrap();
    let (during, _) = sweep(&beginner, Duration::from_millis(100)).await.unwrap();
    let live = beginner.issuer.live_tasks();
    assert_eq!(live, during.count(), "those that began meanwhile");
}
