//! A fault of ours, in the middle of a request: it costs that request and nothing else. Randomness
//! is a port, so a test can put a panic wherever randomness is drawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taskmint_model::{Entropy, SystemClock, SystemEntropy};
use taskmint_wire::{admin, node};
use tempfile::TempDir;

use crate::harness::World;
use crate::joined::{Agent, Joined, SOON};
use crate::node::{Key, Node, UID, attest_with, request_id};

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"";

/// Randomness that panics once it is lit, once.
#[derive(Default)]
struct Fuse(AtomicBool);

impl Fuse {
    fn light(&self) {
        assert!(!self.0.swap(true, Ordering::SeqCst), "it burns already");
    }

    fn has_blown(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

impl Entropy for Fuse {
    fn fill(&self, buffer: &mut [u8]) {
        assert!(!self.0.swap(false, Ordering::SeqCst), "the fuse blows");
        SystemEntropy.fill(buffer);
    }
}

async fn world() -> (World, Arc<Fuse>) {
    let (folder, fuse) = (Arc::new(TempDir::new().unwrap()), Arc::new(Fuse::default()));
    let entropy: Arc<dyn Entropy> = fuse.clone();
    let world = World::at(folder, MEMORY, Arc::new(SystemClock), entropy, [0; 2]).await;
    (world, fuse)
}

fn entry(name: &str) -> admin::CreateEntriesRequest {
    let entry = admin::Entry {
        spiffe_id: format!("spiffe://example.org/{name}"),
        selectors: vec![UID[0].to_owned()],
        ..Default::default()
    };
    admin::CreateEntriesRequest {
        entries: vec![entry],
    }
}

/// The audit log is whole, and these are its newest lines.
async fn audited(world: &mut World, action: &str) -> usize {
    world.audited(action).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_request_of_an_operator_leaves_the_server_as_it_was() {
    let (mut world, fuse) = world().await;
    let mut other = world.admin.clone();
    fuse.light();
    let asked = world
        .admin
        .create_token(admin::CreateTokenRequest::default());
    asked.await.unwrap_err();
    assert!(fuse.has_blown());
    fuse.light();
    world.admin.create_entries(entry("x")).await.unwrap_err();
    assert!(fuse.has_blown());

    // The same connection and others go on; nothing half-written stays.
    let tokens = other
        .list_tokens(admin::ListTokensRequest {})
        .await
        .unwrap();
    assert!(tokens.into_inner().tokens.is_empty());
    assert!(world.server.issuer.all_entries().is_empty());
    assert_eq!(audited(&mut world, "token.create").await, 0);
    world.entry("x", UID, true).await;
    world.token("n1").await;
    assert!(
        !world.tasks.shutdown().is_requested(),
        "the process goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_request_of_a_node_leaves_the_server_as_it_was() {
    let (mut world, fuse) = world().await;
    world.entry("agent", UID, true).await;
    let join = world.token("n1").await;

    // In the middle of an attestation: the token is not used up.
    let key = Key::new();
    fuse.light();
    let answer = attest_with(&join, &key, &request_id()).await;
    assert!(
        fuse.has_blown() && !matches!(answer, Ok(Some(_))),
        "{answer:?}"
    );
    assert!(world.nodes().await.is_empty());
    let mut node = Node::join(&join).await;

    // A session that is open does not notice what happens to a call beside it.
    let (say, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut session = node.client.session(requests).await.unwrap().into_inner();
    let before = world.server.issuer.live_tasks();
    let mut ask = node.begin(UID, 7, Key::new().spki());
    ask.task.as_mut().unwrap().request_id = request_id();
    fuse.light();
    node.client.begin_task(ask.clone()).await.unwrap_err();
    assert!(fuse.has_blown());
    assert_eq!(world.server.issuer.live_tasks(), before);

    // The retry of the same request is the task, and is the only one.
    let began = node.client.begin_task(ask.clone()).await.unwrap();
    let again = node.client.begin_task(ask).await.unwrap();
    let [began, again] = [began, again].map(|begun| begun.into_inner().task.unwrap().id);
    assert_eq!(began, again);
    assert_eq!(audited(&mut world, "task.begin").await, 1);

    let lease = node::session_request::Message::Lease(node::session_request::Lease { counter: 1 });
    let message = Some(lease);
    say.send(node::SessionRequest { message }).await.unwrap();
    let answered = async {
        loop {
            let answer = session.message().await.unwrap().unwrap().message;
            if let Some(node::session_response::Message::Lease(lease)) = answer {
                return lease.counter;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, answered).await.unwrap(), 1);
    assert!(
        !world.tasks.shutdown().is_requested(),
        "the process goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_request_of_a_workload_leaves_the_agent_as_it_was() {
    let mut world = World::in_memory().await;
    let fuse = Arc::new(Fuse::default());
    let mut settings = Agent::settings(&mut world, "n1").await;
    settings.entropy = fuse.clone();
    let agent = Agent::start(settings).await;
    let mut node = Joined { world, agent };
    // The agent's own watch draws nonces when it opens: it must not be the one that is hit.
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let watched = async {
        let request = || admin::ListWatchersRequest {};
        loop {
            looks.tick().await;
            let list = node.world.admin.list_watchers(request()).await.unwrap();
            let list = list.into_inner();
            if list.watchers.iter().any(|w| w.acknowledged > 0) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, watched).await.unwrap();

    // Where nothing is allowed: the panic is in the giving of the denial's id.
    let api = node.agent.workload_api().await;
    fuse.light();
    api.x509_context().await.unwrap_err();
    assert!(fuse.has_blown());
    let refused = api.x509_context().await.unwrap_err();
    assert_eq!(refused.code, tonic::Code::PermissionDenied, "{refused}");

    // In the middle of the begin of an implicit task, under the lock that keeps it the only one.
    node.own_entry(true).await;
    fuse.light();
    api.x509_context().await.unwrap_err();
    assert!(fuse.has_blown());
    let context = tokio::time::timeout(SOON, api.x509_context()).await;
    assert_eq!(context.unwrap().unwrap().svids.len(), 1);
    assert_eq!(node.live_tasks().await.len(), 1);
    let stopped = node.agent.tasks.shutdown().is_requested();
    assert!(!stopped, "the process goes on");
}
