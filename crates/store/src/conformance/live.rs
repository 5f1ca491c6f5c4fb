//! Finding what is live.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{Holder, Task, TaskKind, Timestamp};

use super::sample::{self, BUCKET, NOW};
use crate::{Change, Commit, Store};

const FOREVER: Timestamp = Timestamp::from_millis(u64::MAX);

fn after(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

async fn due_at<S: Store>(store: &Arc<S>, bucket: u32, number: u64, at: Timestamp) -> Task {
    let mut task = sample::task_in(&**store, bucket, number).await;
    task.times.deadline = at;
    store.commit(sample::begin(&task)).await.unwrap();
    task
}

/// The earliest deadlines come first, whichever bucket they lie in; none of what ended or was moved.
pub async fn deadlines_come_earliest_first<S: Store>(store: &Arc<S>) {
    let mut tasks = Vec::new();
    for (number, (bucket, seconds)) in [(2, 50), (0, 40), (1, 30), (0, 20), (2, 10), (1, 40)]
        .into_iter()
        .enumerate()
    {
        let task = due_at(store, BUCKET + bucket, number as u64 + 1, after(seconds)).await;
        tasks.push(task);
    }
    let times = async |until, max| {
        let found = store.due(until, max).await.unwrap();
        let seconds = |at: Timestamp| at.since(NOW).as_secs();
        found.iter().map(|(at, _)| seconds(*at)).collect::<Vec<_>>()
    };
    assert_eq!(times(FOREVER, 9).await, [10, 20, 30, 40, 40, 50]);
    assert_eq!(times(FOREVER, 2).await, [10, 20]);
    assert_eq!(times(after(30), 9).await, [10, 20, 30]);
    assert_eq!(times(after(9), 9).await, [0; 0]);
    assert_eq!(times(FOREVER, 0).await, [0; 0]);
    let first = store.due(FOREVER, 1).await.unwrap();
    assert_eq!(first, [(after(10), tasks[4].id)]);

    store.commit(sample::end(&tasks[4])).await.unwrap();
    let mut extended = tasks[3].clone();
    extended.version += 1;
    extended.times.deadline = after(45);
    let changes = vec![Change::PutTask(Box::new(extended))];
    let commit = Commit {
        changes,
        ..Commit::default()
    };
    store.commit(commit).await.unwrap();
    assert_eq!(times(FOREVER, 9).await, [30, 40, 40, 45, 50]);
}

/// What a node holds is found page by page, and nothing of another node's.
pub async fn what_a_node_holds_is_found<S: Store>(store: &Arc<S>) {
    let mut held = Vec::new();
    for number in 1..=5 {
        held.push(sample::begun(&**store, number).await.id);
    }
    let mut other = sample::task_in(&**store, BUCKET, 6).await;
    other.holder.node = Some(sample::node_id(10));
    store.commit(sample::begin(&other)).await.unwrap();
    let mut own = sample::task_in(&**store, BUCKET, 7).await;
    (own.kind, own.holder) = (TaskKind::Server, Holder::default());
    store.commit(sample::begin(&own)).await.unwrap();

    let node = sample::node_id(1);
    let first = store.held(Some(&node), None, 3).await.unwrap();
    assert_eq!(first, held[..3]);
    let rest = store.held(Some(&node), first.last().copied(), 3).await;
    assert_eq!(rest.unwrap(), held[3..]);
    let found = store.held(Some(&sample::node_id(10)), None, 9).await;
    assert_eq!(found.unwrap(), [other.id]);
    assert_eq!(store.held(None, None, 9).await.unwrap(), [own.id]);

    store.commit(sample::end(&other)).await.unwrap();
    let found = store.held(Some(&sample::node_id(10)), None, 9).await;
    assert_eq!(found.unwrap(), []);
}

/// Live tasks are counted; what ended or was swept is not.
pub async fn live_tasks_are_counted<S: Store>(store: &Arc<S>) {
    assert_eq!(store.live_tasks().unwrap(), 0);
    let task = sample::begun(&**store, 1).await;
    let swept = due_at(store, BUCKET - 1, 2, NOW).await;
    sample::begun(&**store, 3).await;
    assert_eq!(store.live_tasks().unwrap(), 3);
    store.commit(sample::end(&task)).await.unwrap();
    assert_eq!(store.live_tasks().unwrap(), 2);
    let at = Timestamp::from_secs(u64::from(BUCKET) * 3600);
    let floor = Change::Floor { bucket: BUCKET, at };
    let changes = vec![floor];
    let commit = Commit {
        changes,
        ..Commit::default()
    };
    store.commit(commit).await.unwrap();
    assert_eq!(store.live_tasks().unwrap(), 1);
    let due = store.due(FOREVER, 9).await.unwrap();
    assert!(due.iter().all(|(_, id)| *id != swept.id), "{due:?}");
    let held = store
        .held(Some(&sample::node_id(1)), None, 9)
        .await
        .unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_ne!(held[0], swept.id);
}

/// The latest expiry of what was minted under each task, in the order asked.
pub async fn the_last_expiry_is_found<S: Store>(store: &Arc<S>) {
    let (idle, busy) = (
        sample::begun(&**store, 1).await,
        sample::begun(&**store, 2).await,
    );
    for (number, seconds) in [(1, 30), (2, 90), (3, 60)] {
        let mut issuance = sample::issuance(busy.place, number);
        issuance.expires_at = after(seconds);
        let changes = vec![Change::Issue(issuance)];
        let commit = Commit {
            changes,
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    }
    let places = vec![busy.place, idle.place];
    let found = store.last_expiries(places.clone(), 3).await.unwrap();
    assert_eq!(found, [Some(after(90)), Some(Timestamp::default())]);
    let found = store.last_expiries(places, 2).await.unwrap();
    assert_eq!(found, [None, Some(Timestamp::default())], "too many");
}
