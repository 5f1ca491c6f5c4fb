//! Floors and what they sweep (P16).

use std::sync::Arc;

use taskmint_model::{Task, Timestamp};
use taskmint_status::{Change as LogChange, Status};

use super::RETENTION;
use super::sample::{self, BUCKET};
use crate::{Change, Commit, CommitError, Committed, Expect, Malformed, Store, StoreError};

/// Moves the floor an hour after it may be moved.
async fn sweep<S: Store>(store: &Arc<S>, bucket: u32) -> Committed {
    let at = Timestamp::from_secs(u64::from(bucket + 1) * 3600);
    let changes = vec![Change::Floor { bucket, at }];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap()
}

async fn full_task<S: Store>(store: &Arc<S>, bucket: u32, number: u64) -> Task {
    let task = sample::task_in(&**store, bucket, number).await;
    let mut commit = sample::begin(&task);
    commit
        .changes
        .push(Change::Issue(sample::issuance(task.place, number)));
    commit
        .changes
        .push(Change::PutRequest(sample::request(number, bucket)));
    store.commit(commit).await.unwrap();
    let mut child = sample::task_in(&**store, bucket, number + 100).await;
    child.parent = Some(task.id);
    store.commit(sample::begin(&child)).await.unwrap();
    store.commit(sample::end(&child)).await.unwrap();
    task
}

/// Everything in buckets below the floor is gone, everything from it on is untouched.
pub async fn a_sweep_takes_whole_buckets<S: Store>(store: &Arc<S>) {
    let old = full_task(store, BUCKET, 1).await;
    let kept = full_task(store, BUCKET + 1, 2).await;
    let swept = sweep(store, BUCKET + 1).await;
    let position = *store.position().borrow();
    assert_eq!(
        (position.floor, position.sequence),
        (BUCKET + 1, swept.sequence)
    );
    let last = store.records(swept.sequence - 1, 9).await.unwrap();
    assert_eq!(last[0].change, LogChange::Floor { bucket: BUCKET + 1 });

    assert_eq!(store.task(old.id).await.unwrap(), None);
    assert_eq!(store.task_at(old.place).await.unwrap(), None);
    assert_eq!(store.children(old.id).await.unwrap(), []);
    assert_eq!(store.issuances(old.place, 9).await.unwrap(), []);
    assert_eq!(store.request(&sample::request_key(1)).await.unwrap(), None);
    let counts = store.request_counts().await.unwrap();
    assert_eq!(
        counts
            .iter()
            .map(|of| (of.bucket, of.count))
            .collect::<Vec<_>>(),
        [(BUCKET + 1, 1)]
    );
    assert_eq!(store.status(old.place).await.unwrap(), Status::Ended);
    let refused = store.place(BUCKET).await;
    assert!(
        matches!(refused, Err(StoreError::BelowFloor(BUCKET))),
        "{refused:?}"
    );
    let late = store.commit(sample::end(&old)).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
    let changes = vec![Change::Status(sample::status(&old, Status::Ended))];
    let late = store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await;
    assert!(
        matches!(
            late,
            Err(CommitError::Malformed(Malformed::BelowFloor(BUCKET)))
        ),
        "{late:?}"
    );
    let expect = vec![
        Expect::NewRequest(sample::request_key(1)),
        Expect::NoTask(old.id),
    ];
    store
        .commit(Commit {
            expect,
            changes: Vec::new(),
        })
        .await
        .unwrap();

    assert_eq!(store.task(kept.id).await.unwrap().as_ref(), Some(&kept));
    assert_eq!(store.children(kept.id).await.unwrap().len(), 1);
    assert_eq!(store.issuances(kept.place, 9).await.unwrap().len(), 1);
    assert!(
        store
            .request(&sample::request_key(2))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(store.status(kept.place).await.unwrap(), Status::Valid);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(
        snapshot.maps.keys().copied().collect::<Vec<_>>(),
        [BUCKET + 1]
    );
    let places = store
        .tasks(&crate::TaskQuery::default())
        .await
        .unwrap()
        .items;
    assert!(places.iter().all(|task| task.place.bucket() > BUCKET));
    store.commit(sample::end(&kept)).await.unwrap();
}

/// A sweep trims the log, but never below what is always kept.
pub async fn a_sweep_keeps_the_newest_records<S: Store>(store: &Arc<S>) {
    for number in 1..=RETENTION.log + 9 {
        let task = sample::begun(&**store, number).await;
        store.commit(sample::end(&task)).await.unwrap();
    }
    let newest = sweep(store, BUCKET - 1).await.sequence;
    assert_eq!(newest, RETENTION.log + 10);
    let records = store.records(0, 1000).await.unwrap();
    let sequences: Vec<_> = records.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (11..=newest).collect::<Vec<_>>());
}

/// The floor never falls, and a second sweep of the same bucket changes nothing.
pub async fn a_floor_moves_once<S: Store>(store: &Arc<S>) {
    let first = sweep(store, BUCKET).await;
    assert_eq!(sweep(store, BUCKET).await, first);
    assert_eq!(sweep(store, BUCKET - 5).await, first);
    assert_eq!(store.position().borrow().floor, BUCKET);
    assert_eq!(sweep(store, BUCKET + 1).await.sequence, first.sequence + 1);
}
