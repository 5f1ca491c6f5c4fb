//! Backups, and what a restore makes of them (P14).

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use taskmint_model::{Actor, Cause, EndTrace, JoinToken, State};
use taskmint_status::{Generation, LogId, Status};
use taskmint_store::conformance::sample::{self, BUCKET, HOUR, NOW};
use taskmint_store::{
    Change, Commit, Commits, Journal, Log, Registry, StoreError, Tasks, check_audit,
};
use taskmint_store_rocksdb::{Options, RocksStore, restore};

const OLD: LogId = LogId([7; 8]);
const NEW: LogId = LogId([8; 8]);

fn open(folder: &Path) -> RocksStore {
    RocksStore::open(folder, OLD, NOW, Options::default()).unwrap()
}

#[tokio::test]
async fn a_restored_store_is_another_log_whose_tasks_all_ended() {
    let folder = tempfile::tempdir().unwrap();
    let [db, backup, into] = ["db", "backup", "into"].map(|name| folder.path().join(name));
    let store = open(&db);
    let ended = sample::begun(&store, 1).await;
    store.commit(sample::end(&ended)).await.unwrap();
    let live = sample::begun(&store, 2).await;
    let used = JoinToken {
        consumed_by: Some([1; 32]),
        ..sample::token(1)
    };
    let changes = vec![
        Change::PutNode(Box::new(sample::node(1))),
        Change::PutEntry(Box::new(sample::entry(1))),
        Change::PutAuthority(sample::authority_record(1)),
        Change::PutToken(used.clone()),
        Change::PutToken(sample::token(2)),
        Change::Issue(sample::issuance(live.place, 1)),
        Change::BumpBundle,
    ];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
    store.backup(&backup).await.unwrap();
    // The history that the backup knows nothing of: an end, a used token, further places.
    store.commit(sample::end(&live)).await.unwrap();
    let hash = sample::hash(2);
    let changes = vec![Change::ConsumeToken { hash, key: [2; 32] }];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
    let (bundle, lost) = (
        store.bundle_sequence().await.unwrap(),
        sample::begun(&store, 3).await,
    );
    drop(store);

    let restored = restore(&backup, &into, (NEW, None), NOW).unwrap();
    assert_eq!((restored.ended, restored.tokens), (1, 1));
    let store = open(&into);
    let identity = store.identity();
    assert_eq!(
        (identity.log, identity.generation, identity.replaces),
        (NEW, 2, Some(OLD))
    );
    let task = store.task(live.id).await.unwrap().unwrap();
    let by = Actor::Issuer;
    assert_eq!(
        task.state,
        State::Ended {
            at: NOW,
            cause: Cause::RESTORED,
            by,
            trace: EndTrace::default(),
        }
    );
    assert_eq!(store.task(lost.id).await.unwrap(), None);
    assert_eq!(store.live_tasks().unwrap(), 0);
    let far = taskmint_model::Timestamp::from_millis(u64::MAX);
    assert_eq!(store.due(far, 9).await.unwrap(), []);
    let held = store.held(Some(&sample::node_id(1)), None, 9).await;
    assert_eq!(held.unwrap(), []);
    for place in [ended.place, live.place, lost.place] {
        assert_eq!(store.status(place).await.unwrap(), Status::Ended);
    }
    assert_eq!(
        store.issuances(live.place, 9).await.unwrap().len(),
        1,
        "what was minted is kept"
    );
    assert_eq!(
        store.nodes().await.unwrap(),
        [sample::node(1)],
        "nodes stay attested"
    );
    assert_eq!(store.entries().await.unwrap(), [sample::entry(1)]);
    assert_eq!(
        store.authorities().await.unwrap(),
        [sample::authority_record(1)]
    );
    assert_eq!(
        store.tokens().await.unwrap(),
        [used],
        "it may have been used since"
    );
    assert!(store.bundle_sequence().await.unwrap() > bundle + 1_000_000);

    let position = *store.position().borrow();
    assert_eq!(
        (position.sequence, position.floor),
        (1, HOUR),
        "its epoch, and nothing else"
    );
    assert!(store.snapshot().await.unwrap().maps.is_empty());
    let lines = store.audit(1, 99).await.unwrap();
    assert_eq!(check_audit(None, &lines), Ok(()));
    assert_eq!(
        lines.last().map(|line| &*line.audit.action),
        Some("store.restore")
    );

    let task = sample::begun(&store, 4).await;
    assert_eq!(task.place.log(), NEW);
    assert!(task.place.index() > lost.place.index());
    store.commit(sample::end(&task)).await.unwrap();
    assert_eq!(store.status(task.place).await.unwrap(), Status::Ended);
    assert_eq!(task.place.bucket(), BUCKET);
}

#[tokio::test]
async fn backups_and_restores_overwrite_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [db, backup, into] = ["db", "backup", "into"].map(|name| folder.path().join(name));
    let store = open(&db);
    sample::begun(&store, 1).await;
    store.backup(&backup).await.unwrap();
    let again = store.backup(&backup).await;
    assert!(matches!(again, Err(StoreError::Failed(_))), "{again:?}");
    drop(store);

    let same = restore(&backup, &into, (OLD, None), NOW);
    assert!(matches!(same, Err(StoreError::Failed(_))), "{same:?}");
    assert!(
        !into.exists() && !into.with_extension("partial").exists(),
        "nothing half is left"
    );
    restore(&backup, &into, (NEW, None), NOW).unwrap();
    let onto = restore(&backup, &into, (LogId([9; 8]), None), NOW);
    assert!(matches!(onto, Err(StoreError::Failed(_))), "{onto:?}");
    // The backup was not touched: it restores as often as needed.
    let again = |name: &str, above| {
        let into = folder.path().join(name);
        restore(&backup, &into, (LogId([9; 8]), above), NOW)
    };
    let twice = again("twice", None).unwrap();
    assert_eq!((twice.identity.generation, twice.ended), (2, 1));
    // Where somebody has seen what the one before has made, it is above that.
    for (above, made) in [(2, 3), (1, 2), (200, 201)] {
        let restored = again(&format!("above{above}"), Generation::new(above)).unwrap();
        assert_eq!(restored.identity.generation, made);
    }
    let last = again("last", Generation::new(255));
    assert!(matches!(last, Err(StoreError::Failed(_))), "{last:?}");
    let nothing = restore(
        &folder.path().join("nothing"),
        &folder.path().join("x"),
        (NEW, None),
        NOW,
    );
    assert!(matches!(nothing, Err(StoreError::Failed(_))), "{nothing:?}");
}
