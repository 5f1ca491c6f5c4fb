//! Opening, opening again, and refusing to open.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rocksdb::{ColumnFamilyDescriptor, DB};
use taskmint_status::{ChainHash, Change as LogChange, Generation, LogId, Status};
use taskmint_store::conformance::sample::{self, BUCKET, NOW};
use taskmint_store::{
    Change, Commit, Commits, Journal, Log, Registry, StoreError, Tasks, check_audit,
};
use taskmint_store_rocksdb::{Options, RocksStore, SCHEMA};

const LOG: LogId = LogId([7; 8]);

fn open(folder: &Path) -> Result<RocksStore, StoreError> {
    RocksStore::open(folder, LOG, NOW, Options::default())
}

/// Opens the database beneath the store.
fn raw(folder: &Path, more: &[&str]) -> DB {
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let mut names = DB::list_cf(&options, folder).unwrap();
    names.extend(more.iter().map(|name| (*name).to_owned()));
    let tables = names
        .into_iter()
        .map(|name| ColumnFamilyDescriptor::new(name, rocksdb::Options::default()));
    DB::open_cf_descriptors(&options, folder, tables).unwrap()
}

#[tokio::test]
async fn a_store_opened_again_holds_everything_and_begins_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(
        (store.identity().epoch, store.identity().generation),
        (1, 1)
    );
    let task = sample::begun(&store, 1).await;
    let live = sample::begun(&store, 2).await;
    store.commit(sample::end(&task)).await.unwrap();
    let changes = vec![
        Change::PutEntry(Box::new(sample::entry(1))),
        Change::PutNode(Box::new(sample::node(1))),
        Change::PutAuthority(sample::authority_record(1)),
        Change::PutBar(sample::bar(1, 1)),
        Change::BumpBundle,
    ];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
    drop(store);

    let other = RocksStore::open(folder.path(), LogId([9; 8]), NOW, Options::default());
    let store = other.unwrap();
    let identity = store.identity();
    assert_eq!(
        (identity.log, identity.epoch, identity.generation),
        (LOG, 2, 1)
    );
    assert!(store.task(task.id).await.unwrap().unwrap().is_ended());
    assert_eq!(store.status(task.place).await.unwrap(), Status::Ended);
    assert_eq!(store.task(live.id).await.unwrap(), Some(live.clone()));
    assert_eq!(store.entries().await.unwrap(), [sample::entry(1)]);
    assert_eq!(store.nodes().await.unwrap(), [sample::node(1)]);
    assert_eq!(
        store.authorities().await.unwrap(),
        [sample::authority_record(1)]
    );
    assert_eq!(
        store.bars(&sample::node_id(1)).await.unwrap(),
        [sample::bar(1, 1)]
    );
    assert_eq!(store.bundle_sequence().await.unwrap(), 2);
    assert_eq!(
        check_audit(None, &store.audit(1, 99).await.unwrap()),
        Ok(())
    );

    store.commit(sample::end(&live)).await.unwrap();
    let records = store.records(0, 99).await.unwrap();
    let said: Vec<_> = records
        .iter()
        .map(|record| (record.sequence, record.epoch))
        .collect();
    assert_eq!(said, [(1, 1), (2, 2), (3, 2)]);
    assert_eq!(
        records.get(1).map(|record| record.change),
        Some(LogChange::Epoch)
    );
    let genesis = ChainHash::genesis(LOG, Generation::FIRST);
    let hash = records
        .iter()
        .fold(genesis, |hash, record| hash.then(&record.encode()));
    assert_eq!(store.position().borrow().hash, hash.0);
}

#[tokio::test]
async fn an_unused_place_is_never_handed_out_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let store = open(folder.path()).unwrap();
        for _ in 0..10 {
            assert!(seen.insert(store.place(BUCKET).await.unwrap()));
        }
    }
}

#[test]
fn the_folder_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state/db");
    drop(open(&inner).unwrap());
    assert_eq!(
        inner.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let second = open(folder.path());
    assert!(matches!(second, Err(StoreError::Failed(_))), "{second:?}");
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn an_unknown_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let db = raw(folder.path(), &[]);
    let version = [1, 0, 0, 0, 9];
    db.put_cf(db.cf_handle("meta").unwrap(), "schema", version)
        .unwrap();
    drop(db);
    let refused = |found| {
        matches!(
            found,
            Err(StoreError::Schema {
                found: 9,
                known: SCHEMA
            })
        )
    };
    assert!(refused(open(folder.path()).map(drop)));
    // The same with a table that this build doesn't know, as a later version may have.
    drop(raw(folder.path(), &["approval"]));
    assert!(refused(open(folder.path()).map(drop)));
    let db = raw(folder.path(), &[]);
    let meta = db.cf_handle("meta").unwrap();
    assert_eq!(
        db.get_cf(meta, "schema").unwrap().as_deref(),
        Some(&version[..])
    );
}

#[tokio::test]
async fn what_is_missing_or_foreign_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let task = sample::begun(&store, 1).await;
    store.commit(sample::end(&task)).await.unwrap();
    drop(store);
    let damaged = |folder: &Path| {
        let found = open(folder).map(drop);
        assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
    };

    let db = raw(folder.path(), &[]);
    let log = db.cf_handle("log").unwrap();
    let record = db.get_cf(log, 1_u64.to_be_bytes()).unwrap().unwrap();
    db.delete_cf(log, 1_u64.to_be_bytes()).unwrap();
    drop(db);
    damaged(folder.path());

    let db = raw(folder.path(), &[]);
    db.put_cf(db.cf_handle("log").unwrap(), 1_u64.to_be_bytes(), record)
        .unwrap();
    drop(db);
    drop(open(folder.path()).unwrap());

    let db = raw(folder.path(), &[]);
    db.delete_cf(db.cf_handle("meta").unwrap(), "schema")
        .unwrap();
    drop(db);
    damaged(folder.path());
}

/// What every row of the index says, by table.
fn index(folder: &Path) -> [Vec<(Vec<u8>, Vec<u8>)>; 3] {
    let db = raw(folder, &[]);
    let rows = |name| {
        let table = db.cf_handle(name).unwrap();
        let rows = db.iterator_cf(table, rocksdb::IteratorMode::Start);
        rows.map(|row| row.unwrap())
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    };
    ["due", "held", "live"].map(rows)
}

#[tokio::test]
async fn a_store_of_the_layout_before_gets_its_index_on_opening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for number in 1..=50 {
        let task = sample::task_in(&store, BUCKET + number % 3, number.into()).await;
        store.commit(sample::begin(&task)).await.unwrap();
        if number % 7 == 0 {
            store.commit(sample::end(&task)).await.unwrap();
        }
    }
    let at = taskmint_model::Timestamp::from_secs(u64::from(BUCKET) * 3600 + 3600);
    let bucket = BUCKET + 1;
    let changes = vec![Change::Floor { bucket, at }];
    let expect = Vec::new();
    store.commit(Commit { expect, changes }).await.unwrap();
    let live = store.live_tasks().unwrap();
    assert_eq!(live, 29);
    let held = store.held(Some(&sample::node_id(1)), None, 99).await;
    let held = held.unwrap();
    assert_eq!(held.len(), 29);
    drop(store);
    let mut before = index(folder.path());
    assert_eq!(before[0].len(), 29);

    // As it was left by the build before, or by an indexing that was cut off.
    for leftover in [false, true] {
        let mut db = raw(folder.path(), &[]);
        for name in ["due", "held", "live"] {
            db.drop_cf(name).unwrap();
        }
        let meta = db.cf_handle("meta").unwrap();
        db.put_cf(meta, "schema", [1, 0, 0, 0, 1]).unwrap();
        drop(db);
        if leftover {
            let db = raw(folder.path(), &["due", "held", "live"]);
            let [due, live] = ["due", "live"].map(|name| db.cf_handle(name).unwrap());
            db.put_cf(due, [9; 20], [1; 17]).unwrap();
            db.put_cf(live, [9; 4], [1, 8, 5]).unwrap();
        }
        let store = open(folder.path()).unwrap();
        assert_eq!(store.live_tasks().unwrap(), live);
        let found = store.held(Some(&sample::node_id(1)), None, 99).await;
        assert_eq!(found.unwrap(), held);
        drop(store);
        // What was swept stays in `held` until compaction drops it; nothing else may differ.
        let after = index(folder.path());
        if !leftover {
            before[1].retain(|row| after[1].contains(row));
        }
        assert_eq!(before, after);
        let db = raw(folder.path(), &[]);
        let schema = db.get_cf(db.cf_handle("meta").unwrap(), "schema").unwrap();
        assert_eq!(schema.as_deref(), Some(&[1, 0, 0, 0, 2][..]));
    }
}
