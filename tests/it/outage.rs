//! The server goes away and comes back (P12): leases of the default length, real agents, the real
//! store. Clocks are moved by hand; what waits, waits for a state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use taskmint_client::X509Context;
use taskmint_model::{Clock, SystemClock, TaskId};
use taskmint_testkit::ManualClock;
use taskmint_verifier::tls;
use taskmint_wire::{node, task};

use crate::harness::World;
use crate::joined::{Agent, Held, SOON, TaskApi, child, live_tasks, own_uid_selector};
use crate::node::{Key, Node, UID};

const MINUTE: Duration = Duration::from_secs(60);

/// A server that remembers, by a clock that is moved by hand. It is late by an hour, so that what
/// goes by the wall clock finds nothing to be of the future.
async fn world() -> (World, ManualClock) {
    let clock = ManualClock::new(SystemClock.now() - 60 * MINUTE);
    let world = World::durable("", Arc::new(clock.clone())).await;
    (world, clock)
}

/// A node with an agent, an implicit task of this process and an explicit one of a child.
struct Busy {
    agent: Agent,
    tasks: TaskApi,
    child: Held,
    implicit: String,
    explicit: String,
}

impl Busy {
    async fn start(world: &mut World, name: &str) -> Self {
        let agent = Agent::join(world, name).await;
        agent.knows_an_entry().await;
        let context = context(&agent).await;
        let implicit = task_of(&context);
        let (child, mut tasks) = (child(), agent.task_api().await);
        let begin = task::BeginRequest {
            binding: task::Binding::Tree.into(),
            pid: child.id(),
            ..Default::default()
        };
        let began = tasks.begin(begin).await.unwrap().into_inner();
        let explicit = began.task.unwrap().id;
        Self {
            agent,
            tasks,
            child,
            implicit,
            explicit,
        }
    }

    fn both(&self) -> BTreeSet<String> {
        BTreeSet::from([self.implicit.clone(), self.explicit.clone()])
    }
}

async fn context(agent: &Agent) -> X509Context {
    let api = agent.workload_api().await;
    tokio::time::timeout(SOON, api.x509_context())
        .await
        .unwrap()
        .unwrap()
}

fn task_of(context: &X509Context) -> String {
    let svid = tls::read_verified(&context.svids[0].chain[0]).unwrap();
    TaskId::from_octets(svid.binding.unwrap().task).to_string()
}

async fn all_connected(world: &mut World, nodes: usize) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let connected = async {
        loop {
            looks.tick().await;
            let all = world.nodes().await;
            assert_eq!(all.len(), nodes, "nobody joined a second time");
            if all
                .iter()
                .all(|node| node.connected && node.state == "active")
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, connected).await.unwrap();
}

async fn live(world: &mut World) -> BTreeSet<String> {
    let tasks = live_tasks(&mut world.admin).await;
    tasks.into_iter().map(|task| task.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_lost_while_the_server_is_away_for_five_minutes() {
    let (mut world, clock) = world().await;
    world.entry("me", &[&own_uid_selector()], true).await;
    let mut busy = Busy::start(&mut world, "n1").await;
    let before = context(&busy.agent).await;

    let away = world.go_away().await;
    clock.advance(5 * MINUTE);
    // What was had goes on; nothing new is to be had, and it says why.
    let meanwhile = context(&busy.agent).await;
    assert_eq!(meanwhile.svids[0].chain, before.svids[0].chain);
    let refused = busy.tasks.begin(task::BeginRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);

    let mut world = away.come_back().await;
    all_connected(&mut world, 1).await;
    busy.agent.is_ready().await;
    // The lease that the start granted is held from here on, whatever the outage was.
    world.server.issuer.lapse_leases().await;
    assert_eq!(live(&mut world).await, busy.both());
    assert_eq!(task_of(&context(&busy.agent).await), busy.implicit);

    // A holder that dies is noticed as ever.
    busy.child.kill();
    assert_eq!(world.ended(&busy.explicit).await, "holder_died");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_died_while_the_server_was_away_takes_its_task_along() {
    let (mut world, clock) = world().await;
    world.entry("me", &[&own_uid_selector()], true).await;
    let mut busy = Busy::start(&mut world, "n1").await;
    let away = world.go_away().await;
    clock.advance(5 * MINUTE);
    busy.child.kill();
    let mut world = away.come_back().await;
    assert_eq!(world.ended(&busy.explicit).await, "holder_died");
    assert_eq!(
        live(&mut world).await,
        BTreeSet::from([busy.implicit.clone()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_back_unaided_after_twenty_minutes() {
    let (mut world, clock) = world().await;
    world.entry("me", &[&own_uid_selector()], true).await;
    let nodes = [
        Busy::start(&mut world, "n1").await,
        Busy::start(&mut world, "n2").await,
    ];
    let before = [
        context(&nodes[0].agent).await,
        context(&nodes[1].agent).await,
    ];

    let away = world.go_away().await;
    clock.advance(20 * MINUTE);
    let mut world = away.come_back().await;
    all_connected(&mut world, 2).await;
    let all = nodes.iter().flat_map(Busy::both).collect::<BTreeSet<_>>();
    assert_eq!(live(&mut world).await, all, "leases count while it serves");
    for (busy, before) in nodes.iter().zip(before) {
        busy.agent.is_ready().await;
        // What a client holds expired meanwhile: it gets another of the same task.
        let now = context(&busy.agent).await;
        assert_eq!(task_of(&now), busy.implicit);
        assert_ne!(now.svids[0].chain, before.svids[0].chain);
        let svid = tls::read_verified(&now.svids[0].chain[0]).unwrap();
        assert!(svid.not_after > clock.now());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_back_unaided_after_an_outage_that_its_svid_did_not_outlive() {
    let (mut world, clock) = world().await;
    world.entry("me", &[&own_uid_selector()], true).await;
    let busy = Busy::start(&mut world, "n1").await;
    let expired = world.nodes().await[0].svid_expires_at_ms;

    let away = world.go_away().await;
    clock.advance(3 * 24 * 60 * MINUTE);
    let mut world = away.come_back().await;
    all_connected(&mut world, 1).await;
    busy.agent.is_ready().await;
    assert!(world.nodes().await[0].svid_expires_at_ms > expired);
    // No task outlives its limit; what the process gets now is another one.
    assert!(!live(&mut world).await.contains(&busy.implicit));
    let fresh = async {
        loop {
            let api = busy.agent.workload_api().await;
            if let Ok(context) = api.x509_context().await {
                return context;
            }
        }
    };
    let fresh = tokio::time::timeout(SOON, fresh).await.unwrap();
    assert_ne!(task_of(&fresh), busy.implicit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_grants_every_node_one_full_lease_and_no_more() {
    let (mut world, clock) = world().await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let begin = node.begin(UID, 7, Key::new().spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let id = began.task.unwrap().id;

    let away = world.go_away().await;
    clock.advance(20 * MINUTE);
    let mut world = away.come_back().await;
    // The node stays silent: it is not to blame for the twenty minutes, but for these.
    clock.advance(MINUTE - Duration::from_millis(1));
    world.server.issuer.lapse_leases().await;
    assert_eq!(world.task(&id).await.state(), task::State::Live);
    clock.advance(Duration::from_millis(1));
    assert_eq!(world.ended(&id).await, "node_lost");

    // Back after all, it learns that its lease lapsed, and goes on as the same node.
    let (say, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = node.client.session(requests).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().message;
    let Some(node::session_response::Message::Inventory(inventory)) = first else {
        panic!("{first:?}")
    };
    assert!(inventory.lapsed && inventory.tasks.is_empty());
    let begin = node.begin(UID, 7, Key::new().spki());
    node.client.begin_task(begin).await.unwrap();
    drop(say);
}
