//! Bars (P3): a process whose implicit task was ended gets no other, until an operator lifts its bar.

use taskmint_client::{WorkloadApi, X509Context};
use taskmint_wire::admin;
use tonic::Code;

use crate::harness::World;
use crate::joined::{Agent, Joined, SOON};

async fn bars(world: &mut World, node: &str) -> Vec<admin::Bar> {
    let request = admin::ListBarsRequest {
        node_id: node.to_owned(),
    };
    let list = world.admin.list_bars(request).await.unwrap();
    list.into_inner().bars
}

async fn lift(world: &mut World, bar: &admin::Bar) -> Result<(), tonic::Status> {
    let request = admin::LiftBarRequest {
        entry_id: bar.entry_id.clone(),
        node_id: bar.node_id.clone(),
        process: bar.process.clone(),
    };
    world.admin.lift_bar(request).await.map(drop)
}

/// The identity is withdrawn, and no retry brings it back.
async fn is_barred(api: &WorkloadApi) {
    let withdrawn = async { while api.x509_context().await.is_ok() {} };
    tokio::time::timeout(SOON, withdrawn).await.unwrap();
    for _ in 0..20 {
        let error = api.x509_context().await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
    }
    let error = api.x509_context().await.unwrap_err();
    assert_eq!(error.reason.as_deref(), Some("BARRED"), "{error}");
}

async fn is_let_in(api: &WorkloadApi) -> X509Context {
    let back = async {
        loop {
            if let Ok(context) = api.x509_context().await {
                return context;
            }
        }
    };
    tokio::time::timeout(SOON, back).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifted_bar_gives_its_process_an_identity_again_on_its_node_alone() {
    let mut joined = Joined::start().await;
    let entry = joined.own_entry(true).await;
    let other = Agent::join(&mut joined.world, "n2").await;
    other.knows_an_entry().await;
    let here = joined.agent.workload_api().await;
    let there = other.workload_api().await;
    let before = is_let_in(&here).await;
    is_let_in(&there).await;
    let ended = joined.live_tasks().await;
    assert_eq!(ended.len(), 2);
    for task in &ended {
        joined.revoke(&task.id).await;
    }
    is_barred(&here).await;
    is_barred(&there).await;

    let all = bars(&mut joined.world, "").await;
    assert_eq!(all.len(), 2, "{all:?}");
    let bar = all.iter().find(|bar| bar.node_id.ends_with("/n1"));
    let bar = bar.unwrap();
    assert_eq!(bar.entry_id, entry.id);
    let task = ended.iter().find(|task| task.id == bar.task_id).unwrap();
    assert_eq!((&task.node_id, &task.process), (&bar.node_id, &bar.process));
    let of_node = bars(&mut joined.world, &bar.node_id).await;
    assert_eq!(of_node, std::slice::from_ref(bar));

    lift(&mut joined.world, bar).await.unwrap();
    let after = is_let_in(&here).await;
    assert_eq!(after.svids[0].spiffe_id, before.svids[0].spiffe_id);
    let live = joined.live_tasks().await;
    assert_eq!((live.len(), &live[0].node_id), (1, &bar.node_id));
    assert!(
        ended.iter().all(|task| task.id != live[0].id),
        "another task"
    );

    // A bar is of one process on one node: the other node keeps its own.
    is_barred(&there).await;
    let left = bars(&mut joined.world, "").await;
    assert!(
        left.len() == 1 && left[0].node_id.ends_with("/n2"),
        "{left:?}"
    );
    let again = lift(&mut joined.world, bar).await.unwrap_err();
    assert_eq!(crate::node::reason(&again), "NO_SUCH_BAR");
    lift(&mut joined.world, &left[0]).await.unwrap();
    is_let_in(&there).await;
    assert_eq!(joined.world.audited("bar.lift").await, 2);
}
