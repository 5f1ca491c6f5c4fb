//! Who may follow the revocation log, and how many (P19): at the server and through an agent.

use std::time::Duration;

use futures::StreamExt as _;
use rustls_pki_types::CertificateDer;
use taskmint_client::Endpoint;
use taskmint_model::SystemClock;
use taskmint_verifier::tls::Identity;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::{Acknowledge, Open, WatchRequest, WatchResponse};
use taskmint_wire::{admin, task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::World;
use crate::joined::{Agent, SOON};
use crate::node::{Key, Node, dial, reason};

/// A watch that is open; over when it is dropped.
struct Watching {
    _say: mpsc::Sender<WatchRequest>,
    _frames: Streaming<WatchResponse>,
}

/// Watches until the first frame is there, or something is refused.
async fn watch(channel: Channel) -> Result<Watching, Status> {
    let (say, said) = mpsc::channel(4);
    let open = Open {
        name: "by hand".to_owned(),
        nonce: vec![7; 16].into(),
        ..Default::default()
    };
    let message = Some(Message::Open(open));
    say.send(WatchRequest { message }).await.unwrap();
    let mut client = RevocationClient::new(channel).max_decoding_message_size(16 << 20);
    let mut frames = client.watch(ReceiverStream::new(said)).await?.into_inner();
    let first = tokio::time::timeout(SOON, frames.message())
        .await
        .unwrap()?;
    assert!(first.is_some(), "a stream that ends says why");
    Ok(Watching {
        _say: say,
        _frames: frames,
    })
}

/// Watches by a connection of its own, as whoever this is.
async fn watch_as(world: &World, node: &Node, identity: &Identity) -> Result<Watching, Status> {
    let address = world.server.watch_address.to_string();
    let trust_domain = "example.org".parse().unwrap();
    let channel = crate::node::connect(identity, &node.trust, &trust_domain, &address).await;
    watch(channel).await
}

/// Watches through the relay of an agent.
async fn relayed(agent: &Agent) -> Result<Watching, Status> {
    let socket = Endpoint::Unix(agent.settings.sockets.revocation.clone());
    watch(taskmint_client::connect(&socket).await.unwrap()).await
}

/// A workload of its own SPIFFE ID.
async fn workload(world: &mut World, node: &mut Node, name: &str) -> Identity {
    let selector = format!("unix:user:{name}");
    let selectors = [selector.as_str()];
    world.entry(name, &selectors, true).await;
    let key = Key::new();
    let begin = node.begin(&selectors, 7, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let identity = Identity::new();
    let chain = vec![CertificateDer::from(began.certificate)];
    identity.set(chain, &key.pkcs8()).unwrap();
    identity
}

async fn watchers(world: &mut World) -> usize {
    let request = admin::ListWatchersRequest {};
    let list = world.admin.list_watchers(request).await.unwrap();
    list.into_inner().watchers.len()
}

async fn until_watchers(world: &mut World, number: usize) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let counted = async {
        while watchers(world).await != number {
            looks.tick().await;
        }
    };
    tokio::time::timeout(SOON, counted).await.unwrap();
}

fn too_many(refused: Result<Watching, Status>) {
    let status = refused.err().expect("it is one too many");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_WATCHERS"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_counted_in_all_and_for_each_identity() {
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
                 watch.max_watchers = 3\nwatch.max_per_identity = 2";
    let mut world = World::with(lines).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let greedy = workload(&mut world, &mut node, "greedy").await;
    let modest = workload(&mut world, &mut node, "modest").await;
    let late = workload(&mut world, &mut node, "late").await;

    let first = watch_as(&world, &node, &greedy).await.unwrap();
    let _second = watch_as(&world, &node, &greedy).await.unwrap();
    too_many(watch_as(&world, &node, &greedy).await);
    let _modest = watch_as(&world, &node, &modest).await.unwrap();
    too_many(watch_as(&world, &node, &late).await);
    assert_eq!(watchers(&mut world).await, 3);

    // Who leaves makes room, and whoever was refused took none.
    drop(first);
    until_watchers(&mut world, 2).await;
    let _late = watch_as(&world, &node, &late).await.unwrap();
    too_many(watch_as(&world, &node, &greedy).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_user_does_not_take_all_watches_of_its_node() {
    let mut world = World::in_memory().await;
    let mut settings = Agent::settings(&mut world, "n1").await;
    settings.limits.max_watches = 3;
    settings.limits.max_watches_per_uid = 3;
    let agent = Agent::start(settings).await;
    let mut open = Vec::new();
    let refused = loop {
        match relayed(&agent).await {
            Ok(watching) => open.push(watching),
            refused => break refused,
        }
    };
    too_many(refused);
    assert_eq!(open.len(), 3, "the agent's own is not one of them");
    for _ in 0..20 {
        too_many(relayed(&agent).await);
    }
    assert_eq!(watchers(&mut world).await, 1, "one stream for all of them");
    open.truncate(1);
    let again = async {
        // The relay notices a moment later.
        loop {
            if let Ok(open) = relayed(&agent).await {
                return open;
            }
        }
    };
    tokio::time::timeout(SOON, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_passes_on_that_the_server_has_too_many_watchers() {
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"\nwatch.max_watchers = 1";
    let mut world = World::with(lines).await;
    let node = Node::join(&world.token("n1").await).await;
    let only = watch_as(&world, &node, &node.identity).await.unwrap();
    let agent = Agent::join(&mut world, "n2").await;
    too_many(relayed(&agent).await);
    drop(only);
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let again = async {
        while relayed(&agent).await.is_err() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(SOON, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_svid_of_the_trust_domain_watches_nothing() {
    let mut world = World::in_memory().await;
    let node = Node::join(&world.token("n1").await).await;
    let address = world.server.watch_address.to_string();

    let trust_domain = "example.org".parse().unwrap();

    // A name of this trust domain, by a CA that is not.
    let entropy = taskmint_model::SystemEntropy;
    let now = taskmint_model::Clock::now(&SystemClock);
    let ca = taskmint_testkit::TestCa::new(&trust_domain, now, &entropy);
    let name = "spiffe://example.org/agent".parse().unwrap();
    let leaf = ca.svid(&name, now, &entropy);
    let forged = Identity::new();
    let chain = vec![CertificateDer::from(leaf.certificate.clone())];
    forged.set(chain, &leaf.key.pkcs8()).unwrap();

    for shown in [None, Some(&forged)] {
        // TLS 1.3 tells a client that it was refused only when it reads.
        if let Ok(channel) = dial(shown, &node.trust, &trust_domain, &address).await {
            assert!(watch(channel).await.is_err(), "nobody may watch unknown");
        }
    }
    assert_eq!(watchers(&mut world).await, 0);
    watch_as(&world, &node, &node.identity).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_may_acknowledge_before_anything_is_sent() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    world.entry("ending", &["unix:user:ending"], true).await;
    let begin = node.begin(&["unix:user:ending"], 7, Key::new().spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let end = task::EndRequest {
        task_id: began.task.unwrap().id,
        ..Default::default()
    };
    world.admin.revoke_task(end).await.unwrap();
    let store = world.server.issuer.store();
    let (identity, position) = (store.identity(), *store.position().borrow());
    let open = Open {
        log_id: identity.log.0.to_vec().into(),
        generation: identity.generation.into(),
        sequence: position.sequence,
        log_hash: position.hash.to_vec().into(),
        nonce: vec![7; 16].into(),
        ..Default::default()
    };
    let applied = Acknowledge {
        sequence: position.sequence,
        ..Default::default()
    };
    let said = [Message::Open(open), Message::Acknowledge(applied)];
    let said = said.map(|message| WatchRequest {
        message: Some(message),
    });
    assert!(position.sequence > 0);
    let address = world.server.watch_address.to_string();
    let trust_domain = "example.org".parse().unwrap();
    let channel = crate::node::connect(&node.identity, &node.trust, &trust_domain, &address).await;
    let mut client = RevocationClient::new(channel);
    let said = futures::stream::iter(said).chain(futures::stream::pending());
    let mut frames = client.watch(said).await.unwrap().into_inner();
    let first = tokio::time::timeout(SOON, frames.message()).await.unwrap();
    assert!(first.unwrap().is_some());
}
