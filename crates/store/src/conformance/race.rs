//! Many callers at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use taskmint_status::{ChainHash, Generation, Record, StatusMap, map::StatusMap as Map};
use tokio::task::JoinSet;

use super::sample::{self, BUCKET, NOW};
use crate::{Change, Commit, CommitError, Expect, LogPosition, Store};

/// Runs them all at once and returns what each said.
async fn all<S: Store>(
    store: &Arc<S>,
    commits: Vec<Commit>,
) -> Vec<Result<crate::Committed, CommitError>> {
    let mut set = JoinSet::new();
    for commit in commits {
        let store = Arc::clone(store);
        set.spawn(async move { store.commit(commit).await });
    }
    set.join_all().await
}

/// Checks that records begin at 1, have no gap, and hash to the position; returns their maps.
fn replay(
    log: taskmint_status::LogId,
    records: &[Record],
    position: LogPosition,
) -> std::collections::BTreeMap<u32, Map> {
    use taskmint_status::{Change, Status};
    let mut maps = std::collections::BTreeMap::<u32, StatusMap>::new();
    let mut hash = ChainHash::genesis(log, Generation::FIRST);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, at as u64 + 1, "no gap");
        hash = hash.then(&record.encode());
        let (slot, status) = match record.change {
            Change::End { slot, .. } => (slot, Status::Ended),
            Change::Suspend { slot, .. } => (slot, Status::Suspended),
            Change::Resume { slot, .. } => (slot, Status::Valid),
            Change::Floor { .. } | Change::Epoch => continue,
        };
        maps.entry(slot.bucket())
            .or_default()
            .set(slot.index(), status)
            .unwrap();
    }
    assert_eq!(position.sequence, records.len() as u64);
    assert_eq!(position.hash, hash.0, "the chain hash covers every record");
    maps
}

/// However many read the same version, one write follows from it: the group checks each commit
/// against those before it.
pub async fn one_of_many_commits_on_a_version_wins<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let results = all(store, vec![sample::end(&task); 64]).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for result in results {
        assert!(
            matches!(result, Ok(_) | Err(CommitError::Conflict(_))),
            "{result:?}"
        );
    }
    assert_eq!(store.position().borrow().sequence, 1);
}

/// A retry that overtakes its first try opens no second task.
pub async fn one_of_many_equal_requests_is_new<S: Store>(store: &Arc<S>) {
    let mut commits = Vec::new();
    for number in 1..=32 {
        let task = sample::task_in(&**store, BUCKET, number).await;
        let mut commit = sample::begin(&task);
        commit
            .expect
            .push(Expect::NewRequest(sample::request_key(1)));
        let request = crate::RequestRecord {
            task: task.id,
            ..sample::request(1, BUCKET)
        };
        commit.changes.push(Change::PutRequest(request));
        commits.push(commit);
    }
    let results = all(store, commits).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let tasks = store
        .tasks(&crate::TaskQuery::default())
        .await
        .unwrap()
        .items;
    let answered = store
        .request(&sample::request_key(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        tasks.iter().map(|task| task.id).collect::<Vec<_>>(),
        [answered.task]
    );
}

/// Ends from everywhere: each has its own sequence number, all numbers are used, the hash covers
/// them all.
pub async fn sequence_numbers_have_no_gap<S: Store>(store: &Arc<S>) {
    let mut ends = Vec::new();
    for number in 1..=200 {
        let task = sample::begun(&**store, number).await;
        ends.push(sample::end(&task));
    }
    let results = all(store, ends).await;
    let sequences: BTreeSet<u64> = results
        .into_iter()
        .map(|result| result.unwrap().sequence)
        .collect();
    assert_eq!(sequences, (1..=200).collect());
    let position = *store.position().borrow();
    let records = store.records(0, 1000).await.unwrap();
    let maps = replay(store.identity().log, &records, position);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(*snapshot.maps[&BUCKET], maps[&BUCKET]);
}

/// Mints race an end: those that were accepted come before it in the log's order (P18).
pub async fn no_mint_lands_after_an_end<S: Store>(store: &Arc<S>) {
    for round in 1..=8 {
        let task = sample::begun(&**store, round).await;
        let mut commits: Vec<Commit> = (0..40)
            .map(|number| Commit {
                expect: vec![Expect::LiveTask(task.id, NOW)],
                changes: vec![Change::Issue(sample::issuance(task.place, number))],
            })
            .collect();
        commits.insert(20, sample::end(&task));
        let mut set = JoinSet::new();
        for (at, commit) in commits.into_iter().enumerate() {
            let store = Arc::clone(store);
            set.spawn(async move { (at == 20, store.commit(commit).await) });
        }
        let (ends, mints): (Vec<_>, Vec<_>) =
            set.join_all().await.into_iter().partition(|(end, _)| *end);
        let end = ends.into_iter().next().unwrap().1.unwrap();
        let minted: Vec<_> = mints
            .into_iter()
            .filter_map(|(_, result)| result.ok())
            .collect();
        assert!(minted.iter().all(|mint| mint.sequence < end.sequence));
        let stored = store.issuances(task.place, 100).await.unwrap();
        assert_eq!(
            stored.len(),
            minted.len(),
            "what was acknowledged is stored, and nothing else"
        );
    }
}

/// No two callers ever get the same place.
pub async fn a_place_is_handed_out_once<S: Store>(store: &Arc<S>) {
    let mut set = JoinSet::new();
    for caller in 0..16_u32 {
        let store = Arc::clone(store);
        set.spawn(async move {
            let mut places = Vec::new();
            for _ in 0..640 {
                places.push(store.place(BUCKET + caller % 2).await.unwrap());
            }
            places
        });
    }
    let places: Vec<_> = set.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = places.iter().collect();
    assert_eq!(distinct.len(), 16 * 640);
    let log = store.identity().log;
    assert!(
        places
            .iter()
            .all(|place| place.log() == log && place.bucket() - BUCKET < 2)
    );
    // Dense within a bucket: an index costs two bits in everybody's maps.
    assert!(places.iter().all(|place| place.index() < 8 * 640));
}

/// A snapshot taken while tasks end is what the log says up to exactly its position.
pub async fn snapshots_match_their_position<S: Store>(store: &Arc<S>) {
    let mut tasks = Vec::new();
    for number in 1..=150 {
        let mut task = sample::task_in(&**store, BUCKET + number as u32 % 3, number).await;
        task.version = 1;
        store.commit(sample::begin(&task)).await.unwrap();
        tasks.push(task);
    }
    let ender = {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for task in tasks {
                store.commit(sample::end(&task)).await.unwrap();
            }
        })
    };
    loop {
        let done = ender.is_finished();
        let snapshot = store.snapshot().await.unwrap();
        let sequence = snapshot.position.sequence;
        let records = store
            .records(0, usize::try_from(sequence).unwrap())
            .await
            .unwrap();
        let maps = replay(store.identity().log, &records, snapshot.position);
        assert_eq!(snapshot.maps.len(), maps.len());
        for (bucket, map) in &maps {
            assert_eq!(
                *snapshot.maps[bucket], *map,
                "bucket {bucket} at {sequence}"
            );
        }
        if done {
            assert_eq!(sequence, 150);
            break;
        }
    }
    ender.await.unwrap();
}
