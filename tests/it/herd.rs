//! Very many verifiers that come back at once, because they were all cut off at once: everybody is
//! let in and told, and nobody else waits for that.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{SystemClock, SystemEntropy, TaskId};
use taskmint_status::TaskBinding;
use taskmint_verifier::StatusCheck as _;
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_wire::{node, task, task_from_wire};

use crate::harness::World;
use crate::node::{Key, Node, UID, caller, request_id};

/// As many as two cores check heads for in a moment; ten thousand are played by the bench.
const HERD: usize = 300;

const SOON: Duration = Duration::from_secs(60);

fn verifier(world: &World, node: &Node) -> Watch {
    let source = Source::Server {
        address: world.server.watch_address.to_string(),
        identity: node.identity.clone(),
    };
    let options = Options::new("example.org".parse().unwrap(), source, "one of many");
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    Watch::start(options, node.trust.clone(), clocks, entropy).unwrap()
}

async fn begin(node: &mut Node) -> task::Task {
    let request = node.begin(UID, 7, Key::new().spki());
    let began = node.client.begin_task(request).await.unwrap().into_inner();
    began.task.unwrap()
}

async fn complete(node: &mut Node, task: &task::Task) {
    let end = node::EndTaskRequest {
        task_id: task.id.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 7)),
        request_id: request_id(),
        ..Default::default()
    };
    node.client.end_task(end).await.unwrap();
}

fn verdict(watch: &Watch, task: &task::Task) -> Option<&'static str> {
    let task = task_from_wire(task).unwrap();
    let octets = |id: TaskId| id.octets();
    let binding = TaskBinding {
        place: task.place,
        task: octets(task.id),
        root: octets(task.root),
    };
    watch.check(&binding).err().map(|refused| refused.reason)
}

/// Waits until all verifiers say this of a task.
async fn all_say(herd: &[Watch], task: &task::Task, expected: Option<&str>) {
    let agreed = async {
        while herd.iter().any(|watch| verdict(watch, task) != expected) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let agreed = tokio::time::timeout(SOON, agreed).await;
    let dissent = || herd.iter().find(|watch| verdict(watch, task) != expected);
    agreed.unwrap_or_else(|_| panic!("{:?}", dissent().map(Watch::state)));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_were_cut_off_at_once_are_let_in_again_while_tasks_begin_and_end() {
    let lines = format!("watch.max_per_identity = {}", 2 * HERD);
    let mut world = World::durable(&lines, Arc::new(SystemClock)).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (before, live) = (begin(&mut node).await, begin(&mut node).await);
    let herd: Vec<_> = (0..HERD).map(|_| verifier(&world, &node)).collect();
    all_say(&herd, &live, None).await;

    let world = world.go_away().await.come_back().await;
    // While they all come back: what is acknowledged meanwhile reaches them, too.
    let begun = std::time::Instant::now();
    complete(&mut node, &before).await;
    let fresh = begin(&mut node).await;
    let took = begun.elapsed();
    all_say(&herd, &before, Some("TASK_ENDED")).await;
    all_say(&herd, &live, None).await;
    all_say(&herd, &fresh, None).await;
    assert!(took < SOON / 4, "the herd kept others waiting for {took:?}");
    drop(herd);
    world.stop().await;
}
