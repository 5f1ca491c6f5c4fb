//! Commits, one at a time.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{Actor, Cause, EndTrace, State, Task, TaskKind};
use taskmint_status::{LogId, Place, Status};

use super::sample::{self, BUCKET, HOUR, NOW};
use crate::{
    Change, Commit, CommitError, Expect, Malformed, Promise, RequestCount, RequestKey,
    StatusChange, Store,
};

/// Whether a commit of this expectation alone goes through.
async fn holds<S: Store>(store: &Arc<S>, expect: Expect) -> bool {
    match store
        .commit(Commit {
            expect: vec![expect.clone()],
            changes: Vec::new(),
        })
        .await
    {
        Ok(_) => true,
        Err(CommitError::Conflict(conflict)) => {
            assert_eq!(conflict.0, expect, "a conflict names its expectation");
            false
        }
        Err(other) => unreachable!("{other}"),
    }
}

fn only(change: Change) -> Commit {
    Commit {
        expect: Vec::new(),
        changes: vec![change],
    }
}

async fn refused<S: Store>(store: &Arc<S>, change: Change) -> Malformed {
    match store.commit(only(change)).await {
        Err(CommitError::Malformed(why)) => why,
        other => unreachable!("{other:?}"),
    }
}

/// A commit that fails leaves nothing behind, whether it conflicts or its last change is refused.
pub async fn a_commit_is_all_or_nothing<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let before = (
        *store.position().borrow(),
        store.audit(1, 99).await.unwrap(),
    );
    let changes = || {
        let mut changes = sample::end(&task).changes;
        changes.push(Change::PutEntry(Box::new(sample::entry(1))));
        changes.push(Change::BumpBundle);
        changes.push(Change::PutDenial(Box::new(sample::denial(1))));
        changes.push(Change::Issue(sample::issuance(task.place, 1)));
        changes
    };
    let expect = vec![
        Expect::Task(task.id, 1),
        Expect::Node(sample::node_id(1), 5),
    ];
    let conflict = store
        .commit(Commit {
            expect,
            changes: changes(),
        })
        .await;
    assert!(
        matches!(conflict, Err(CommitError::Conflict(_))),
        "{conflict:?}"
    );
    let mut broken = changes();
    broken.push(Change::ConsumeToken {
        hash: [0; 32],
        key: [0; 32],
    });
    let malformed = store
        .commit(Commit {
            expect: Vec::new(),
            changes: broken,
        })
        .await;
    assert!(
        matches!(malformed, Err(CommitError::Malformed(Malformed::NoToken))),
        "{malformed:?}"
    );

    assert_eq!(store.task(task.id).await.unwrap(), Some(task.clone()));
    assert_eq!(store.status(task.place).await.unwrap(), Status::Valid);
    assert_eq!(store.entry(sample::entry_id(1)).await.unwrap(), None);
    assert_eq!(store.bundle_sequence().await.unwrap(), 1);
    assert_eq!(store.denials(9).await.unwrap(), []);
    assert_eq!(store.issuances(task.place, 9).await.unwrap(), []);
    assert_eq!(
        (
            *store.position().borrow(),
            store.audit(1, 99).await.unwrap()
        ),
        before
    );

    store
        .commit(Commit {
            expect: Vec::new(),
            changes: changes(),
        })
        .await
        .unwrap();
    assert!(store.task(task.id).await.unwrap().unwrap().is_ended());
    assert_eq!(store.bundle_sequence().await.unwrap(), 2);
}

/// Later changes of a commit build on earlier ones.
pub async fn a_commit_sees_its_own_changes<S: Store>(store: &Arc<S>) {
    let parent = sample::task_in(&**store, BUCKET, 1).await;
    let mut child = sample::task_in(&**store, BUCKET, 2).await;
    (child.parent, child.root) = (Some(parent.id), parent.id);
    let changes = vec![
        Change::PutTask(Box::new(parent.clone())),
        Change::PutTask(Box::new(child.clone())),
        Change::PutTask(Box::new(Task {
            version: 2,
            children: 1,
            ..parent.clone()
        })),
        Change::PutToken(sample::token(1)),
        Change::ConsumeToken {
            hash: sample::hash(1),
            key: [7; 32],
        },
        Change::Status(sample::status(&child, Status::Suspended)),
        Change::Status(sample::status(&child, Status::Valid)),
    ];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
    assert_eq!(store.children(parent.id).await.unwrap(), [child.clone()]);
    assert_eq!(store.task(parent.id).await.unwrap().unwrap().version, 2);
    let token = store.token(&sample::hash(1)).await.unwrap().unwrap();
    assert_eq!(token.consumed_by, Some([7; 32]));
    assert_eq!(store.status(child.place).await.unwrap(), Status::Valid);
    assert_eq!(store.position().borrow().sequence, 2);
}

/// Each kind of expectation holds when it should and conflicts when it should not.
pub async fn every_expectation_is_checked<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let other = sample::task_id(2);
    assert!(holds(store, Expect::NoTask(other)).await);
    assert!(!holds(store, Expect::NoTask(task.id)).await);
    assert!(holds(store, Expect::Task(task.id, 1)).await);
    assert!(!holds(store, Expect::Task(task.id, 2)).await);
    assert!(!holds(store, Expect::Task(other, 0)).await);
    assert!(holds(store, Expect::LiveTask(task.id, NOW)).await);
    assert!(!holds(store, Expect::LiveTask(other, NOW)).await);

    let (entry, node) = (sample::entry(3), sample::node(3));
    assert!(holds(store, Expect::Entry(entry.id, 0)).await);
    assert!(!holds(store, Expect::Entry(entry.id, 1)).await);
    store
        .commit(only(Change::PutEntry(Box::new(entry.clone()))))
        .await
        .unwrap();
    assert!(!holds(store, Expect::Entry(entry.id, 0)).await);
    assert!(holds(store, Expect::Entry(entry.id, 1)).await);

    assert!(holds(store, Expect::Node(node.id.clone(), 0)).await);
    assert!(!holds(store, Expect::Node(node.id.clone(), 1)).await);
    store
        .commit(only(Change::PutNode(Box::new(node.clone()))))
        .await
        .unwrap();
    assert!(!holds(store, Expect::Node(node.id.clone(), 0)).await);
    assert!(holds(store, Expect::Node(node.id, 1)).await);

    assert!(holds(store, Expect::NewRequest(sample::request_key(1))).await);
    store
        .commit(only(Change::PutRequest(sample::request(1, BUCKET))))
        .await
        .unwrap();
    assert!(!holds(store, Expect::NewRequest(sample::request_key(1))).await);
}

/// A task past its deadline mints nothing, though nobody has ended it yet; nor does a suspended
/// one.
pub async fn a_passed_deadline_is_no_live_task<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let deadline = task.times.deadline;
    assert!(
        holds(
            store,
            Expect::LiveTask(task.id, deadline - Duration::from_millis(1))
        )
        .await
    );
    assert!(!holds(store, Expect::LiveTask(task.id, deadline)).await);
    let state = State::Suspended {
        own: None,
        inherited: true,
    };
    let suspended = Task {
        version: 2,
        state,
        ..task.clone()
    };
    store
        .commit(only(Change::PutTask(Box::new(suspended))))
        .await
        .unwrap();
    assert!(!holds(store, Expect::LiveTask(task.id, NOW)).await);
}

/// Neither a task's row nor its bits come back from an end, whatever the rules ask for.
pub async fn ends_are_final<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    store.commit(sample::end(&task)).await.unwrap();
    let position = *store.position().borrow();
    for status in [Status::Valid, Status::Suspended, Status::Ended] {
        let why = refused(store, Change::Status(sample::status(&task, status))).await;
        assert_eq!(why, Malformed::Ended(task.place));
    }
    let live = Task {
        version: 9,
        ..task.clone()
    };
    let why = refused(store, Change::PutTask(Box::new(live))).await;
    assert_eq!(why, Malformed::Ended(task.place));
    assert!(store.task(task.id).await.unwrap().unwrap().is_ended());
    assert_eq!(store.status(task.place).await.unwrap(), Status::Ended);
    assert_eq!(*store.position().borrow(), position);
}

/// What no rule may ask for is refused, each for its reason.
pub async fn changes_that_break_an_invariant_are_refused<S: Store>(store: &Arc<S>) {
    let task = sample::begun(&**store, 1).await;
    let put = |task: Task| Change::PutTask(Box::new(task));
    let place = store.place(BUCKET).await.unwrap();
    let foreign = Place::new(LogId([0xee; 8]), BUCKET, 70).unwrap();

    assert_eq!(
        refused(store, put(task.clone())).await,
        Malformed::Version {
            task: task.id,
            version: 1
        }
    );
    let why = refused(store, put(sample::task_at(task.place, 2))).await;
    assert_eq!(why, Malformed::Taken(task.place));
    let why = refused(store, put(sample::task_at(place, 1))).await;
    assert_eq!(why, Malformed::Moved(task.id));
    let why = refused(store, put(sample::task_at(foreign, 3))).await;
    assert_eq!(why, Malformed::ForeignLog(foreign));
    let why = refused(store, Change::Issue(sample::issuance(foreign, 3))).await;
    assert_eq!(why, Malformed::ForeignLog(foreign));
    let orphan = Task {
        parent: Some(sample::task_id(9)),
        ..sample::task_at(place, 4)
    };
    assert_eq!(
        refused(store, put(orphan)).await,
        Malformed::NoParent(sample::task_id(4))
    );
    let no_cause = StatusChange {
        cause: None,
        ..sample::status(&task, Status::Ended)
    };
    assert_eq!(
        refused(store, Change::Status(no_cause)).await,
        Malformed::NoCause(task.place)
    );
    let ahead = Change::Floor {
        bucket: HOUR + 1,
        at: NOW,
    };
    assert_eq!(refused(store, ahead).await, Malformed::FloorAhead(HOUR + 1));
    assert_eq!(store.position().borrow().sequence, 0);
}

/// A tree ends in one commit: every state, every bit and every record, or none.
pub async fn a_cascade_is_one_commit<S: Store>(store: &Arc<S>) {
    let root = sample::begun(&**store, 1).await;
    let mut tree = vec![root.clone()];
    for number in 2..=30 {
        let mut child = sample::task_in(&**store, BUCKET - 1, number).await;
        (child.parent, child.root) = (Some(tree.last().unwrap().id), root.id);
        store.commit(sample::begin(&child)).await.unwrap();
        tree.push(child);
    }
    let mut cascade = Commit::default();
    for task in &tree {
        let mut one = sample::end(task);
        cascade.expect.append(&mut one.expect);
        cascade.changes.append(&mut one.changes);
    }
    let mut stale = cascade.clone();
    *stale.expect.last_mut().unwrap() = Expect::Task(tree.last().unwrap().id, 7);
    assert!(store.commit(stale).await.is_err());
    assert_eq!(store.position().borrow().sequence, 0);

    assert_eq!(store.commit(cascade).await.unwrap().sequence, 30);
    for task in &tree {
        let found = store.task(task.id).await.unwrap().unwrap();
        let by = Actor::Holder;
        assert_eq!(
            found.state,
            State::Ended {
                at: NOW,
                cause: Cause::COMPLETED,
                by,
                // Not earlier than the last that ended with it.
                trace: EndTrace {
                    position: Some(30),
                    last_expiry: None,
                },
            }
        );
        assert_eq!(store.status(task.place).await.unwrap(), Status::Ended);
    }
    assert_eq!(store.records(0, 99).await.unwrap().len(), 30);
}

/// A join token is consumed by one key, which may retry (P10).
pub async fn a_token_is_consumed_by_one_key<S: Store>(store: &Arc<S>) {
    let hash = sample::hash(1);
    let consume = |key: [u8; 32]| Commit {
        expect: vec![Expect::Token { hash, key }],
        changes: vec![Change::ConsumeToken { hash, key }],
    };
    assert!(matches!(
        store.commit(consume([1; 32])).await,
        Err(CommitError::Conflict(_))
    ));
    store
        .commit(only(Change::PutToken(sample::token(1))))
        .await
        .unwrap();
    store.commit(consume([1; 32])).await.unwrap();
    store.commit(consume([1; 32])).await.unwrap();
    assert!(matches!(
        store.commit(consume([2; 32])).await,
        Err(CommitError::Conflict(_))
    ));
    let token = store.token(&hash).await.unwrap().unwrap();
    assert_eq!(token.consumed_by, Some([1; 32]));
}

/// A request id means something within its node, process and method alone (P6).
pub async fn requests_are_scoped<S: Store>(store: &Arc<S>) {
    let record = sample::request(1, BUCKET);
    store
        .commit(only(Change::PutRequest(record.clone())))
        .await
        .unwrap();
    assert_eq!(
        store.request(&record.key).await.unwrap(),
        Some(record.clone())
    );
    let key = record.key;
    for other in [
        RequestKey {
            via: "another".to_owned(),
            ..key.clone()
        },
        RequestKey {
            process: None,
            ..key.clone()
        },
        RequestKey {
            process: Some(sample::process(6)),
            ..key.clone()
        },
        RequestKey {
            method: "extend".to_owned(),
            ..key.clone()
        },
        RequestKey {
            id: [0xff; 16],
            ..key
        },
    ] {
        assert_eq!(store.request(&other).await.unwrap(), None, "{other:?}");
        assert!(holds(store, Expect::NewRequest(other)).await);
    }
}

/// What bounds the requests of a caller can be read again after a restart (P6).
pub async fn requests_are_counted_by_caller<S: Store>(store: &Arc<S>) {
    let requests = [
        (1, 5, BUCKET),
        (2, 5, BUCKET),
        (3, 5, BUCKET + 1),
        (4, 6, BUCKET),
    ];
    for (id, pid, bucket) in requests {
        let mut request = sample::request(id, bucket);
        request.key.process = Some(sample::process(pid));
        store
            .commit(only(Change::PutRequest(request)))
            .await
            .unwrap();
    }
    let mut admins = sample::request(5, BUCKET);
    admins.key.process = None;
    store
        .commit(only(Change::PutRequest(admins.clone())))
        .await
        .unwrap();
    let mut counted = store.request_counts().await.unwrap();
    counted.sort();
    let expected = |process: Option<u32>, bucket, count| RequestCount {
        via: admins.key.via.clone(),
        process: process.map(sample::process),
        bucket,
        count,
    };
    let mut all = [
        expected(None, BUCKET, 1),
        expected(Some(5), BUCKET, 2),
        expected(Some(5), BUCKET + 1, 1),
        expected(Some(6), BUCKET, 1),
    ];
    all.sort();
    assert_eq!(counted, all);
}

/// What bounds the credentials of an earlier process outlives it (P18).
pub async fn the_longest_credential_and_the_promise_are_remembered<S: Store>(store: &Arc<S>) {
    let zero = Some(Duration::ZERO);
    assert_eq!(store.longest_credential().await.unwrap(), zero);
    assert_eq!(store.promise().await.unwrap(), None);
    let mut node = sample::task_in(&**store, BUCKET, 1).await;
    node.kind = TaskKind::Node;
    let workload = sample::task_in(&**store, BUCKET, 2).await;
    for (task, lasts) in [(&node, 3_600), (&workload, 90), (&workload, 60)] {
        let mut commit = Commit::default();
        if store.task(task.id).await.unwrap().is_none() {
            commit.changes.push(Change::PutTask(Box::new(task.clone())));
        }
        let mut issuance = sample::issuance(task.place, 1);
        issuance.expires_at = issuance.at + Duration::from_secs(lasts);
        commit.changes.push(Change::Issue(issuance));
        store.commit(commit).await.unwrap();
    }
    // A node's lasts as long as its task, and says nothing about workloads.
    let longest = Some(Duration::from_secs(90));
    assert_eq!(store.longest_credential().await.unwrap(), longest);

    let promise = Promise {
        span: Duration::from_secs(32),
        earlier_until: NOW,
    };
    let changes = vec![Change::Promise(promise)];
    store
        .commit(Commit {
            changes,
            ..Commit::default()
        })
        .await
        .unwrap();
    assert_eq!(store.promise().await.unwrap(), Some(promise));
}
