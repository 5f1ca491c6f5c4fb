//! The revocation log.

use std::sync::Arc;

use taskmint_status::{LogId, Place, Status};

use super::sample::{self, BUCKET};
use crate::{Change, Commit, Store};

/// Suspending and resuming move the two bits and append a record each.
pub async fn suspended_tasks_come_back<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let steps = [
        Status::Suspended,
        Status::Valid,
        Status::Suspended,
        Status::Ended,
    ];
    for (at, status) in steps.into_iter().enumerate() {
        let changes = vec![Change::Status(sample::status(&task, status))];
        let done = store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await
            .unwrap();
        assert_eq!(done.sequence, at as u64 + 1);
        assert_eq!(store.status(task.place).await.unwrap(), status);
        let snapshot = store.snapshot().await.unwrap();
        let map = snapshot.maps.get(&BUCKET);
        let read = map.map_or(Status::Valid, |map| map.get(task.place.index()));
        assert_eq!(read, status);
        assert_eq!(
            map.is_none(),
            status == Status::Valid,
            "a map without a status is left out"
        );
    }
}

/// Records come after any number, in order, as many as asked for.
pub async fn the_log_resumes_anywhere<S: Store>(store: &Arc<S>) {
    for number in 1..=30 {
        let task = sample::begun(&**store, number).await;
        store.commit(sample::end(&task)).await.unwrap();
    }
    let all = store.records(0, 100).await.unwrap();
    assert_eq!(all.len(), 30);
    assert!(
        all.iter()
            .all(|record| record.epoch == store.identity().epoch)
    );
    for (after, max) in [
        (0, 5),
        (7, 100),
        (29, 1),
        (29, 5),
        (30, 5),
        (u64::MAX, 5),
        (3, 0),
    ] {
        let expected: Vec<_> = all
            .iter()
            .filter(|record| record.sequence > after)
            .take(max)
            .copied()
            .collect();
        assert_eq!(
            store.records(after, max).await.unwrap(),
            expected,
            "after {after}"
        );
    }
}

/// Whoever waits for the position sees a commit once it is answered, at the latest.
pub async fn positions_are_published<S: Store>(store: &Arc<S>) {
    let mut position = store.position();
    let genesis = *position.borrow_and_update();
    assert_eq!((genesis.sequence, genesis.floor), (0, 0));
    let task = sample::begun(&**store, 1).await;
    assert!(
        !position.has_changed().unwrap(),
        "a begin changes nothing in the log"
    );
    let done = store.commit(sample::end(&task)).await.unwrap();
    assert!(position.has_changed().unwrap());
    let now = *position.borrow_and_update();
    assert_eq!(now.sequence, done.sequence);
    assert_ne!(now.hash, genesis.hash);
    assert_eq!(store.snapshot().await.unwrap().position, now);
}

/// Fails closed: a place of a log that a restore replaced never reads valid.
pub async fn places_of_another_log_read_ended<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let foreign = Place::new(LogId([0xee; 8]), task.place.bucket(), task.place.index()).unwrap();
    assert_eq!(store.status(task.place).await.unwrap(), Status::Valid);
    assert_eq!(store.status(foreign).await.unwrap(), Status::Ended);
    assert_eq!(store.task_at(foreign).await.unwrap(), None);
}
