//! Reading tasks.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{
    Actor, Binding, Cause, EndTrace, Holder, State, Suspension, Task, TaskKind, TaskTimes,
};

use super::sample::{self, BUCKET, NOW};
use crate::{Change, Commit, Store, TaskQuery};

async fn put<S: Store>(store: &Arc<S>, task: &Task) {
    let changes = vec![Change::PutTask(Box::new(task.clone()))];
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
}

/// Every state, actor, binding and option survives the store.
pub async fn every_field_of_a_task_comes_back<S: Store>(store: &Arc<S>) {
    let actors = [
        Actor::Holder,
        Actor::Ancestor(sample::task_id(77)),
        Actor::Node(sample::node_id(2)),
        Actor::Admin("uid:0".to_owned()),
        Actor::Issuer,
    ];
    let mut states = vec![
        State::Live,
        State::Suspended {
            own: None,
            inherited: true,
        },
    ];
    for by in actors {
        let own = Suspension {
            by: by.clone(),
            at: NOW,
            reason: "why".to_owned(),
        };
        states.push(State::Suspended {
            own: Some(own),
            inherited: false,
        });
        states.push(State::Ended {
            at: NOW,
            cause: Cause::HOLDER_DIED,
            by: by.clone(),
            trace: EndTrace::default(),
        });
        states.push(State::Ended {
            at: NOW,
            cause: Cause::HOLDER_DIED,
            by,
            trace: EndTrace {
                position: Some(7),
                last_expiry: Some(NOW),
            },
        });
    }
    let bindings = [
        Binding::Process,
        Binding::Tree,
        Binding::Socket { uid: 0 },
        Binding::None,
    ];
    let kinds = [
        TaskKind::Explicit,
        TaskKind::Implicit,
        TaskKind::Node,
        TaskKind::Server,
    ];
    let parent = sample::begun(&**store, 1).await;
    for (at, state) in states.into_iter().enumerate() {
        let number = at as u64 + 2;
        let mut task = sample::task_in(&**store, BUCKET, number).await;
        task.version = number;
        task.state = state;
        task.binding = bindings[at % 4].clone();
        task.kind = kinds[at % 4];
        task.authority = sample::authority();
        task.children = 3;
        if at % 2 == 0 {
            (task.parent, task.root, task.depth) = (Some(parent.id), parent.id, 1);
            task.continues = Some(sample::task_id(99));
            task.entry = None;
            task.holder = Holder::default();
            task.grant = Vec::new();
        }
        task.times.deadline = task.times.deadline - Duration::from_millis(123);
        put(store, &task).await;
        assert_eq!(store.task(task.id).await.unwrap(), Some(task.clone()));
        assert_eq!(store.task_at(task.place).await.unwrap(), Some(task));
    }
    assert_eq!(store.task(sample::task_id(500)).await.unwrap(), None);
    let unused = store.place(BUCKET).await.unwrap();
    assert_eq!(store.task_at(unused).await.unwrap(), None);
}

/// Children in every state, oldest first, whichever bucket they are in; nobody else's.
pub async fn children_come_oldest_first<S: Store>(store: &Arc<S>) {
    let parent = sample::begun(&**store, 1).await;
    let other = sample::begun(&**store, 2).await;
    for (age, number) in [(3, 10), (1, 11), (2, 12)] {
        let mut child = sample::task_in(&**store, BUCKET - age, number).await;
        child.parent = Some(if number == 12 { other.id } else { parent.id });
        child.times = TaskTimes {
            opened: NOW - Duration::from_secs(age.into()),
            ..child.times
        };
        store.commit(sample::begin(&child)).await.unwrap();
        if number == 11 {
            store.commit(sample::end(&child)).await.unwrap();
        }
    }
    let numbers: Vec<_> = store
        .children(parent.id)
        .await
        .unwrap()
        .into_iter()
        .map(|task| task.id)
        .collect();
    assert_eq!(numbers, [sample::task_id(10), sample::task_id(11)]);
    assert_eq!(store.children(sample::task_id(10)).await.unwrap(), []);
    assert_eq!(store.children(sample::task_id(404)).await.unwrap(), []);
}

/// Pages are in order of place, overlap nowhere and leave nothing out.
pub async fn pages_cover_everything_once<S: Store>(store: &Arc<S>) {
    let mut places = Vec::new();
    for number in 0..50 {
        let task = sample::task_in(&**store, BUCKET + number as u32 % 3, number).await;
        put(store, &task).await;
        places.push(task.place);
    }
    places.sort();
    let mut query = TaskQuery {
        max: 7,
        ..TaskQuery::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = store.tasks(&query).await.unwrap();
        assert!(page.items.len() <= 7);
        seen.extend(page.items.iter().map(|task| task.place));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, places);
    assert_eq!(
        store
            .tasks(&TaskQuery::default())
            .await
            .unwrap()
            .items
            .len(),
        50
    );
}

/// Each filter keeps what it names and drops the rest.
pub async fn every_filter_filters<S: Store>(store: &Arc<S>) {
    let odd = sample::task_in(&**store, BUCKET, 1).await;
    put(store, &odd).await;
    let mut even = sample::task_in(&**store, BUCKET, 2).await;
    even.entry = Some(sample::entry_id(2));
    even.spiffe_id = sample::spiffe_id("/other");
    even.owner = "ben".to_owned();
    even.kind = TaskKind::Implicit;
    even.holder.node = Some(sample::node_id(2));
    even.state = State::Ended {
        at: NOW,
        cause: Cause::FAILED,
        by: Actor::Issuer,
        trace: EndTrace::default(),
    };
    put(store, &even).await;
    let all = TaskQuery::default;
    for query in [
        TaskQuery {
            entry: Some(sample::entry_id(1)),
            ..all()
        },
        TaskQuery {
            spiffe_id: Some(sample::spiffe_id("/agent")),
            ..all()
        },
        TaskQuery {
            owner: Some("ana".to_owned()),
            ..all()
        },
        TaskQuery {
            kinds: vec![TaskKind::Explicit, TaskKind::Server],
            ..all()
        },
        TaskQuery {
            node: Some(sample::node_id(1)),
            ..all()
        },
        TaskQuery {
            root: Some(sample::task_id(1)),
            ..all()
        },
        TaskQuery {
            live_only: true,
            ..all()
        },
    ] {
        let found = store.tasks(&query).await.unwrap();
        assert_eq!(found.items, std::slice::from_ref(&odd), "{query:?}");
        assert_eq!(found.next, None);
    }
    let nobody = TaskQuery {
        owner: Some("ben".to_owned()),
        live_only: true,
        ..all()
    };
    assert_eq!(store.tasks(&nobody).await.unwrap().items, []);
}

/// What was minted under a place, oldest first and no more than asked for.
pub async fn issuances_come_in_order<S: Store>(store: &Arc<S>) {
    let (one, two) = (
        sample::begun(&**store, 1).await,
        sample::begun(&**store, 2).await,
    );
    let issue = |place, number| Change::Issue(sample::issuance(place, number));
    for number in 0..10 {
        let changes = vec![issue(one.place, number), issue(two.place, 100 + number)];
        store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await
            .unwrap();
    }
    let expected: Vec<_> = (0..10)
        .map(|number| sample::issuance(one.place, number))
        .collect();
    assert_eq!(store.issuances(one.place, 100).await.unwrap(), expected);
    assert_eq!(store.issuances(one.place, 3).await.unwrap(), expected[..3]);
    assert_eq!(store.issuances(one.place, 0).await.unwrap(), []);
    let unused = store.place(BUCKET).await.unwrap();
    assert_eq!(store.issuances(unused, 9).await.unwrap(), []);
    let mut all = Vec::new();
    loop {
        let after = all
            .last()
            .map(|(number, one): &(u64, taskmint_model::Issuance)| (one.place, *number));
        let page = store.all_issuances(after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    let of = |place| {
        let own = all.iter().filter(move |(_, one)| one.place == place);
        own.map(|(_, one)| one.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(one.place), expected);
    assert_eq!((of(two.place).len(), all.len()), (10, 20));
}
