//! Ends of many tasks at once: all that a node holds, trees and all.

use std::collections::BTreeSet;
use std::sync::Arc;

use taskmint_model::SystemClock;
use taskmint_wire::{admin, node, task};

use crate::harness::World;
use crate::joined::live_tasks;
use crate::node::{Key, Node, UID};

/// Trees of the node, and children of each: more than are worked on at the same time.
const TREES: u32 = 300;
const CHILDREN: usize = 3;

async fn begin(node: &mut Node, pid: u32, parent: Option<&task::Task>) -> task::Task {
    let request = node::BeginTaskRequest {
        parent_id: parent.map(|task| task.id.clone()).unwrap_or_default(),
        ..node.begin(UID, pid, Key::new().spki())
    };
    let began = node.client.begin_task(request).await.unwrap().into_inner();
    began.task.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_an_evicted_node_holds_ends_each_once_and_nothing_else_does() {
    let lines = "[rate_limits.per_node]\nper_second = 100000\nburst = 100000\n\
                 [rate_limits.per_caller]\nper_second = 100000\nburst = 100000\n\
                 [rate_limits.per_entry]\nper_second = 100000\nburst = 100000\n";
    let mut world = World::durable(lines, Arc::new(SystemClock)).await;
    world.entry("agent", UID, true).await;
    let mut lost = Node::join(&world.token("lost").await).await;
    let mut kept = Node::join(&world.token("kept").await).await;
    let survivor = begin(&mut kept, 7, None).await;
    let mut held = BTreeSet::new();
    for pid in 1000..1000 + TREES {
        let top = begin(&mut lost, pid, None).await;
        for _ in 0..CHILDREN {
            held.insert(begin(&mut lost, pid, Some(&top)).await.id);
        }
        held.insert(top.id);
    }
    let before = world.server.issuer.newest();

    let evict = admin::NodeRequest {
        id: lost.id.clone(),
        ..Default::default()
    };
    let answer = world.admin.evict_node(evict).await.unwrap().into_inner();
    assert!(
        answer.tasks_ended >= held.len() as u64,
        "{}",
        answer.tasks_ended
    );
    let live: Vec<_> = live_tasks(&mut world.admin).await;
    let live: Vec<_> = live.iter().map(|task| &*task.id).collect();
    assert_eq!(live, [&*survivor.id]);
    // Each has its place in the log, and none has two; the node's own task is among them.
    let ends = world.server.issuer.newest() - before;
    assert_eq!(ends, held.len() as u64 + 1);
    for id in held.iter().step_by(97) {
        let cause = world.ended(id).await;
        assert!(["evicted", "parent_ended"].contains(&&*cause), "{cause}");
    }
    world.stop().await;
}
