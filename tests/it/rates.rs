//! Who asks too often is told so, and nobody else is.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustls_pki_types::CertificateDer;
use taskmint_verifier::tls::Identity;
use taskmint_wire::admin::admin_client::AdminClient;
use taskmint_wire::node::nodes_client::NodesClient;
use taskmint_wire::{admin, node, retry_after_of, task};
use tonic::{Code, Response, Status};

use crate::harness::World;
use crate::joined::SOON;
use crate::node::{Key, Node, UID, connect, reason, request_id};

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n";

/// What may be asked at once where these tests are strict.
const BURST: usize = 20;

/// More than any rate allows in the time that it takes.
const MANY: usize = 400;

async fn world(lines: &str) -> World {
    let mut world = World::with(&format!("{MEMORY}{lines}")).await;
    world.entry("agent", UID, true).await;
    world
}

async fn get(node: &mut Node, id: &str) -> Result<(), Status> {
    let get = task::GetRequest {
        task_id: id.to_owned(),
    };
    node.client.get_task(get).await.map(drop)
}

/// Refused for the rate alone; how long to wait.
#[track_caller]
fn limited(refused: &Status) -> Option<Duration> {
    let told = (refused.code(), reason(refused));
    let expected = (Code::ResourceExhausted, "RATE_LIMITED".to_owned());
    assert_eq!(told, expected, "{refused}");
    retry_after_of(refused)
}

/// Asks until it is refused; how often it was not.
async fn exhaust(mut ask: impl AsyncFnMut() -> Result<(), Status>) -> usize {
    for asked in 0..MANY {
        if let Err(refused) = ask().await {
            let wait = limited(&refused).unwrap();
            assert!(
                !wait.is_zero() && wait <= Duration::from_secs(1),
                "{wait:?}"
            );
            return asked;
        }
    }
    panic!("never refused")
}

/// Asks until it is not refused any more.
async fn recovers(mut ask: impl AsyncFnMut() -> Result<(), Status>) {
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    let asked = async {
        loop {
            looks.tick().await;
            match ask().await {
                Ok(()) => return,
                Err(refused) => drop(limited(&refused)),
            }
        }
    };
    tokio::time::timeout(SOON, asked).await.unwrap();
}

#[tokio::test]
async fn a_node_that_asks_too_often_is_refused_and_others_are_not() {
    let lines = format!("rate_limits.per_node = {{ per_second = 1, burst = {BURST} }}");
    let mut world = world(&lines).await;
    let mut greedy = Node::join(&world.token("greedy").await).await;
    let mut other = Node::join(&world.token("other").await).await;
    let begin = other.begin(UID, 7, Vec::new());
    let began = other.client.begin_task(begin).await.unwrap().into_inner();
    let theirs = began.task.unwrap().id;
    let begin = greedy.begin(UID, 7, Vec::new());
    let began = greedy.client.begin_task(begin).await.unwrap().into_inner();
    let own = began.task.unwrap().id;

    let asked = exhaust(async || get(&mut greedy, &own).await).await;
    assert!(asked + 1 >= BURST, "{asked}");
    for _ in 0..BURST - 1 {
        get(&mut other, &theirs).await.unwrap();
    }
    // Its tasks go on, and so does it, a moment later.
    assert_eq!(world.task(&own).await.state(), task::State::Live);
    recovers(async || get(&mut greedy, &own).await).await;
}

#[tokio::test]
async fn more_credentials_at_once_than_a_node_may_have_are_refused_as_one() {
    let lines = format!("rate_limits.per_node = {{ per_second = 1, burst = {BURST} }}");
    let mut world = world(&lines).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let key = Key::new();
    let begin = node.begin(UID, 7, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let item = node::mint_x509_request::Item {
        task_id: began.task.unwrap().id,
        spki: key.spki(),
    };
    let items = vec![item; BURST + 1];
    let minted = node.client.mint_x509(node::MintX509Request { items }).await;
    // Waiting would not help.
    assert_eq!(limited(&minted.unwrap_err()), None);
}

#[tokio::test]
async fn an_entry_that_is_used_too_often_is_refused_by_the_item_with_when_to_ask_again() {
    let lines = "rate_limits.per_entry = { per_second = 1, burst = 3 }";
    let mut world = world(lines).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let key = Key::new();
    let begin = node.begin(UID, 7, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let item = node::mint_x509_request::Item {
        task_id: began.task.unwrap().id,
        spki: key.spki(),
    };
    let items = vec![item; 6];
    let minted = node.client.mint_x509(node::MintX509Request { items }).await;
    let results = minted.unwrap().into_inner().results;
    let refused: Vec<_> = results.into_iter().filter_map(|r| r.refusal).collect();
    assert!(refused.len() >= 3, "{refused:?}");
    for refusal in refused {
        assert_eq!(refusal.reason, "RATE_LIMITED");
        assert!((1..=1_000).contains(&refusal.retry_after_ms), "{refusal:?}");
    }
}

const GRANT: &str = r#"
[[admin.grants]]
principal = "spiffe://example.org/auditor"
verbs = ["read"]
path_prefix = "/"
"#;

#[tokio::test]
async fn an_administrator_who_asks_too_often_is_refused_and_others_are_not() {
    let lines = format!("rate_limits.per_caller = {{ per_second = 1, burst = {BURST} }}\n{GRANT}");
    let mut world = world(&lines).await;
    let selector = "unix:user:auditor";
    world.entry("auditor", &[selector], true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let key = Key::new();
    let begin = node.begin(&[selector], 7, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let identity = Identity::new();
    let chain = vec![CertificateDer::from(began.certificate)];
    identity.set(chain, &key.pkcs8()).unwrap();
    let trust_domain = "example.org".parse().unwrap();
    let channel = connect(&identity, &node.trust, &trust_domain, &node.address).await;
    let mut auditor = AdminClient::new(channel);

    let ask = admin::GetStatusRequest {};
    let mut local = world.admin.clone();
    exhaust(async || local.get_status(ask).await.map(drop)).await;
    for _ in 0..BURST {
        auditor
            .list_nodes(admin::ListNodesRequest {})
            .await
            .unwrap();
    }
    recovers(async || local.get_status(ask).await.map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_attestations_is_refused_and_nodes_that_are_there_go_on() {
    let mut world = world("").await;
    let mut node = Node::join(&world.token("n1").await).await;
    let client = NodesClient::new(node.anonymous().await);
    let attest = || {
        let mut client = client.clone();
        async move {
            let none = tokio_stream::iter(Vec::<node::AttestRequest>::new());
            client.attest(none).await.map(Response::into_inner)
        }
    };
    let flood: FuturesUnordered<_> = (0..MANY).map(|_| attest()).collect();
    let answers: Vec<_> = flood.collect().await;
    let refused: Vec<_> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    // Fifty a second, of which the node that is there took one.
    let count = refused.len();
    assert!((1..=MANY - 49).contains(&count), "{count}");
    refused
        .into_iter()
        .for_each(|refused| assert!(limited(refused).is_some()));

    let renew = node::RenewRequest {
        request_id: request_id(),
    };
    node.client.renew(renew).await.unwrap();
    let begin = node.begin(UID, 7, Key::new().spki());
    node.client.begin_task(begin).await.unwrap();
    // Who comes now gets in a moment later.
    let (join, key, request) = (world.token("n2").await, Key::new(), request_id());
    recovers(async || crate::node::attest(&join, &key, &request).await.map(drop)).await;
}
