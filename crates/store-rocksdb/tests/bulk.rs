//! Filling a store fast leaves what the store itself would have left.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use taskmint_status::LogId;
use taskmint_store::conformance::sample::{self, BUCKET, NOW};
use taskmint_store::{Change, CommitError, Commits, Log, Malformed, Store, Tasks};
use taskmint_store_rocksdb::bulk::{Bulk, each_row};
use taskmint_store_rocksdb::{Options, RocksStore};

const LOG: LogId = LogId([7; 8]);

/// Enough for three blocks of places.
const TASKS: u64 = 9_000;

async fn fill(store: &impl Store) {
    for number in 1..=TASKS {
        let task = sample::task_in(store, BUCKET + u32::from(number % 5 == 0), number).await;
        let mut commit = sample::begin(&task);
        let issuance = sample::issuance(task.place, number);
        commit.changes.push(Change::Issue(issuance));
        let request = sample::request(number, task.place.bucket());
        commit.changes.push(Change::PutRequest(request));
        store.commit(commit).await.unwrap();
        if number % 7 == 0 {
            store.commit(sample::end(&task)).await.unwrap();
        }
    }
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
async fn every_row_is_octet_for_octet_what_the_store_would_have_written() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["store", "bulk"].map(|name| folder.path().join(name));
    // The sync alone is left out: what is written is the same, and nine thousand take a while.
    let store = RocksStore::open(&one, LOG, NOW, Options::default().unsynced()).unwrap();
    fill(&store).await;
    let snapshot = store.snapshot().await.unwrap();
    // Without its write-ahead log, what is in memory is written by a backup at the latest.
    let copy = folder.path().join("copy");
    store.backup(&copy).await.unwrap();
    drop(store);
    let bulk = Bulk::create(&other, LOG, Options::default()).unwrap();
    fill(&bulk).await;
    assert_eq!(bulk.snapshot().await.unwrap().position, snapshot.position);
    bulk.settle().unwrap();
    drop(bulk);
    let (expected, found) = (rows(&copy), rows(&other));
    assert!(expected.len() > 6 * usize::try_from(TASKS).unwrap());
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected.len(), found.len());
    RocksStore::open(&other, LOG, NOW, Options::default()).unwrap();
    let again = Bulk::create(&other, LOG, Options::default());
    assert!(again.unwrap_err().to_string().contains("already"));
}

#[tokio::test]
async fn rules_hold_while_a_store_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let bulk = Arc::new(Bulk::create(folder.path(), LOG, Options::default()).unwrap());
    let task = sample::begun(&*bulk, 1).await;
    bulk.commit(sample::end(&task)).await.unwrap();
    // Once more where its rows lie in the database.
    bulk.settle().unwrap();
    let again = bulk.commit(sample::begin(&task)).await;
    assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");
    let mut late = sample::begin(&sample::task_in(&*bulk, BUCKET, 2).await);
    let status = sample::status(&task, taskmint_status::Status::Valid);
    late.changes.push(Change::Status(status));
    let late = bulk.commit(late).await;
    assert!(
        matches!(
            late,
            Err(CommitError::Malformed(Malformed::Ended(place))) if place == task.place
        ),
        "{late:?}"
    );
    assert_eq!(bulk.live_tasks().unwrap(), 0);
}
