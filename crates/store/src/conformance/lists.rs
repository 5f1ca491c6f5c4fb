//! Reading for those who don't watch.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{CredentialKind, State};
use taskmint_status::Status;

use super::sample::{self, BUCKET, NOW};
use crate::{Change, Commit, Store};

/// Certificates of suspended and ended tasks that still count, and of nobody else.
pub async fn withdrawn_certificates_are_found<S: Store>(store: &Arc<S>) {
    let (live, over, held) = (
        sample::begun(&**store, 1).await,
        sample::begun(&**store, 2).await,
        sample::begun(&**store, 3).await,
    );
    let mut wanted = Vec::new();
    for (number, task) in [&live, &over, &held].into_iter().enumerate() {
        let mut lasting = sample::issuance(task.place, number as u64 * 10);
        lasting.kind = CredentialKind::X509Svid;
        lasting.expires_at = NOW + Duration::from_secs(60);
        let mut expired = sample::issuance(task.place, number as u64 * 10 + 1);
        expired.kind = CredentialKind::X509Svid;
        expired.expires_at = NOW;
        let mut token = sample::issuance(task.place, number as u64 * 10 + 2);
        token.kind = CredentialKind::JwtSvid;
        token.expires_at = NOW + Duration::from_secs(60);
        let changes = [lasting.clone(), expired, token].map(Change::Issue);
        let commit = Commit {
            expect: Vec::new(),
            changes: changes.into(),
        };
        store.commit(commit).await.unwrap();
        wanted.push(lasting);
    }
    let states = [
        State::Live,
        sample::ended(&over).state,
        State::Suspended {
            own: None,
            inherited: true,
        },
    ];
    for (task, state) in [&live, &over, &held].into_iter().zip(&states) {
        let mut task = task.clone();
        (task.version, task.state) = (task.version + 1, state.clone());
        let changes = vec![Change::PutTask(Box::new(task))];
        let commit = Commit {
            expect: Vec::new(),
            changes,
        };
        store.commit(commit).await.unwrap();
    }
    let from = NOW + Duration::from_secs(1);
    let found = store.withdrawn(None, from).await.unwrap();
    let pairs: Vec<_> = found.iter().map(|w| (&w.issuance, &w.state)).collect();
    assert_eq!(pairs, [(&wanted[1], &states[1]), (&wanted[2], &states[2])]);
    let places = vec![live.place, held.place];
    let some = store.withdrawn(Some(places), from).await.unwrap();
    assert_eq!(some, found[1..]);
    let none = store
        .withdrawn(None, NOW + Duration::from_secs(61))
        .await
        .unwrap();
    assert!(none.is_empty());
}

/// One bucket's map says what the snapshot says of it, and how far places were handed out.
pub async fn a_bucket_is_read_alone<S: Store>(store: &Arc<S>) {
    let (task, other) = (
        sample::begun(&**store, 1).await,
        sample::task_in(&**store, BUCKET + 1, 2).await,
    );
    store.commit(sample::begin(&other)).await.unwrap();
    store.commit(sample::end(&task)).await.unwrap();
    store.commit(sample::end(&other)).await.unwrap();
    let bucket = store.bucket(BUCKET).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(bucket.map, *snapshot.maps[&BUCKET]);
    assert_eq!(bucket.map.get(task.place.index()), Status::Ended);
    assert_eq!(bucket.sequence, snapshot.position.sequence);
    assert_eq!(bucket.floor, snapshot.position.floor);
    assert!(bucket.reserved > task.place.index());
    let unused = store.bucket(BUCKET + 2).await.unwrap();
    assert!(unused.map.is_all_valid() && unused.reserved == 0);
}
