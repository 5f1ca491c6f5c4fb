//! What a server does for nodes, whoever speaks for them.

use taskmint_verifier::verify_x509;
use taskmint_wire::{admin, denial_of, node, task};
use tonic::Code;

use crate::harness::World;
use crate::node::{Key, Node, UID, attest, caller, reason, request_id};

async fn world_with_node() -> (World, Node) {
    let mut world = World::in_memory().await;
    world.entry("agent", UID, true).await;
    let join = world.token("n1").await;
    let node = Node::join(&join).await;
    (world, node)
}

#[tokio::test]
async fn a_begin_gives_an_svid_that_names_its_task() {
    let (_world, mut node) = world_with_node().await;
    let key = Key::new();
    let began = node
        .client
        .begin_task(node.begin(UID, 7, key.spki()))
        .await
        .unwrap()
        .into_inner();
    let chain = [rustls_pki_types::CertificateDer::from(began.certificate)];
    let now = taskmint_model::Clock::now(&taskmint_model::SystemClock);
    let svid = verify_x509(&chain, &node.trust.get(), now).unwrap();
    let task = began.task.unwrap();
    assert_eq!(svid.spiffe_id.to_string(), "spiffe://example.org/agent");
    assert_eq!(svid.task().unwrap().to_string(), task.id);
    assert_eq!(svid.spki, key.spki());
    assert!(svid.not_after.millis() <= task.deadline_ms);
    assert_eq!(task.owner, "alice");
}

#[tokio::test]
async fn an_ended_task_cannot_mint() {
    let (_world, mut node) = world_with_node().await;
    let key = Key::new();
    let began = node
        .client
        .begin_task(node.begin(UID, 7, key.spki()))
        .await
        .unwrap()
        .into_inner();
    let id = began.task.unwrap().id;
    let end = node::EndTaskRequest {
        task_id: id.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 7)),
        ..Default::default()
    };
    let ended = node
        .client
        .end_task(end.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ended.task.unwrap().ending.unwrap().cause, "completed");
    assert!(ended.position > 0);

    let items = vec![node::mint_x509_request::Item {
        task_id: id.clone(),
        spki: key.spki(),
    }];
    let minted = node
        .client
        .mint_x509(node::MintX509Request { items })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        minted.results[0].refusal.as_ref().unwrap().reason,
        "TASK_ENDED"
    );
    let item = node::mint_jwt_request::Item {
        task_id: id,
        audience: vec!["a".to_owned()],
    };
    let request = node::MintJwtRequest { items: vec![item] };
    let minted = node.client.mint_jwt(request).await.unwrap().into_inner();
    assert_eq!(
        minted.results[0].refusal.as_ref().unwrap().reason,
        "TASK_ENDED"
    );

    // Ending it again changes nothing, and says the same.
    let again = node.client.end_task(end).await.unwrap().into_inner();
    assert_eq!(again.task.unwrap().ending.unwrap().cause, "completed");
}

#[tokio::test]
async fn the_same_request_is_the_same_task() {
    let (_world, mut node) = world_with_node().await;
    let mut ask = node.begin(UID, 7, Key::new().spki());
    ask.task.as_mut().unwrap().request_id = request_id();
    let first = node
        .client
        .begin_task(ask.clone())
        .await
        .unwrap()
        .into_inner();
    ask.spki = Key::new().spki();
    let again = node
        .client
        .begin_task(ask.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.task.unwrap().id, again.task.unwrap().id);
    assert_ne!(first.certificate, again.certificate);

    ask.task.as_mut().unwrap().purpose = "something else".to_owned();
    let refused = node.client.begin_task(ask.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );

    // Another process may use the same id for its own request (P6).
    ask.caller = Some(caller(UID, 8));
    node.client.begin_task(ask).await.unwrap();
}

#[tokio::test]
async fn a_denial_tells_the_caller_its_facts_and_the_operator_the_story() {
    let (mut world, mut node) = world_with_node().await;
    let ask = node.begin(&["unix:uid:1001"], 7, Key::new().spki());
    let refused = node.client.begin_task(ask).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("no identity issued"),
        "{refused}"
    );
    let (reason, metadata) = denial_of(&refused).unwrap();
    assert_eq!(reason, "NO_MATCHING_ENTRY");
    assert_eq!(metadata["facts"], "unix:uid:1001");

    let denial_id = metadata["denial_id"].clone();
    let request = admin::ExplainRequest { denial_id };
    let story = world.admin.explain(request).await.unwrap().into_inner();
    assert!(
        story.detail[0].contains("lacks unix:uid:61000"),
        "{story:?}"
    );
    assert_eq!(story.node_id, node.id);
}

#[tokio::test]
async fn a_workload_cannot_pose_as_a_node() {
    let (_world, mut node) = world_with_node().await;
    let key = Key::new();
    let began = node
        .client
        .begin_task(node.begin(UID, 7, key.spki()))
        .await
        .unwrap()
        .into_inner();
    let certificate = rustls_pki_types::CertificateDer::from(began.certificate);
    let identity = taskmint_verifier::tls::Identity::new();
    identity.set(vec![certificate], &key.pkcs8()).unwrap();
    let trust_domain = "example.org".parse().unwrap();
    let channel = crate::node::connect(&identity, &node.trust, &trust_domain, &node.address).await;
    let mut posing = taskmint_wire::node::nodes_client::NodesClient::new(channel);
    let refused = posing
        .begin_task(node.begin(UID, 7, key.spki()))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "NO_NODE_SVID");
}

#[tokio::test]
async fn a_token_serves_one_key_as_often_as_it_takes_and_no_other() {
    let mut world = World::in_memory().await;
    let join = world.token("n1").await;
    let (key, other, request) = (Key::new(), Key::new(), request_id());
    let first = attest(&join, &key, &request).await.unwrap();
    let again = attest(&join, &key, &request).await.unwrap();
    assert_eq!(first.certificate, again.certificate);
    let refused = attest(&join, &other, &request_id()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_USED");
}

#[tokio::test]
async fn whoever_copied_a_nodes_state_suspends_it() {
    let (mut world, mut node) = world_with_node().await;
    let key = Key::new();
    let began = node
        .client
        .begin_task(node.begin(UID, 7, key.spki()))
        .await
        .unwrap()
        .into_inner();
    let renew = node::RenewRequest {
        request_id: request_id(),
    };
    let renewed = node.client.renew(renew.clone()).await.unwrap().into_inner();
    // A lost answer costs nothing: the same request gets the same certificate.
    let again = node.client.renew(renew).await.unwrap().into_inner();
    assert_eq!(renewed.certificate, again.certificate);

    // The new SVID becomes current at first use; the old one is then a copy's.
    let certificate = rustls_pki_types::CertificateDer::from(renewed.certificate);
    node.identity
        .set(vec![certificate], &node.key.pkcs8())
        .unwrap();
    let trust_domain = "example.org".parse().unwrap();
    let channel =
        crate::node::connect(&node.identity, &node.trust, &trust_domain, &node.address).await;
    let mut current = taskmint_wire::node::nodes_client::NodesClient::new(channel);
    let get = task::GetRequest {
        task_id: began.task.unwrap().id,
    };
    current.get_task(get.clone()).await.unwrap();

    let refused = node.client.get_task(get.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "NODE_SUSPENDED");
    let refused = current.get_task(get.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "NODE_SUSPENDED");
    let task = world
        .admin
        .get_task(get)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(task.state(), task::State::Suspended);

    // Whoever attests anew, over a new token, is the honest one: what it held goes on.
    let join = world.token("n1").await;
    let _anew = Node::join(&join).await;
    let get = task::GetRequest { task_id: task.id };
    let task = world
        .admin
        .get_task(get)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(task.state(), task::State::Live);
}

#[tokio::test]
async fn an_evicted_node_takes_its_tasks_along() {
    let (mut world, mut node) = world_with_node().await;
    let began = node
        .client
        .begin_task(node.begin(UID, 7, Key::new().spki()))
        .await
        .unwrap();
    let id = began.into_inner().task.unwrap().id;
    let (_say, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut session = node.client.session(requests).await.unwrap().into_inner();
    session.message().await.unwrap();
    let evict = admin::NodeRequest {
        id: node.id.clone(),
        ..Default::default()
    };
    let evicted = world.admin.evict_node(evict).await.unwrap().into_inner();
    // Its session is over at once, and says why.
    let over = loop {
        match session.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a session that is over says why"),
            Err(status) => break reason(&status),
        }
    };
    assert_eq!(over, "NODE_EVICTED");
    assert_eq!(evicted.tasks_ended, 2, "the workload's and the node's own");
    let get = task::GetRequest { task_id: id };
    let task = world
        .admin
        .get_task(get)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(task.ending.unwrap().cause, "evicted");
    let refused = node
        .client
        .begin_task(node.begin(UID, 7, Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "NODE_EVICTED");
}

#[tokio::test]
async fn ends_survive_a_restart_and_so_do_tasks_and_keys() {
    let clock = std::sync::Arc::new(taskmint_model::SystemClock);
    let mut world = World::durable("", clock).await;
    world.entry("agent", UID, true).await;
    let join = world.token("n1").await;
    let mut node = Node::join(&join).await;
    let key = Key::new();
    let mut begin = async |pid| {
        let began = node
            .client
            .begin_task(node.begin(UID, pid, key.spki()))
            .await
            .unwrap();
        began.into_inner().task.unwrap().id
    };
    let (kept, ended) = (begin(7).await, begin(8).await);
    let end = node::EndTaskRequest {
        task_id: ended.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 8)),
        ..Default::default()
    };
    node.client.end_task(end).await.unwrap();
    let bundle = node.trust.get();
    let mut world = world.go_away().await.come_back().await;
    let mut state = async |id: String| {
        let get = task::GetRequest { task_id: id };
        world
            .admin
            .get_task(get)
            .await
            .unwrap()
            .into_inner()
            .task
            .unwrap()
            .state()
    };
    assert_eq!(state(kept).await, task::State::Live);
    assert_eq!(state(ended).await, task::State::Ended);
    let bundle_now = world.server.issuer.bundle().borrow().clone();
    let before = bundle.get(&"example.org".parse().unwrap()).unwrap();
    assert!(bundle_now.same_content(before), "keys survive a restart");
    assert!(world.audited("task.end").await >= 1);
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_stable_reason() {
    let (mut world, mut node) = world_with_node().await;
    let good = node.begin(UID, 7, Key::new().spki());
    type Change = fn(&mut node::BeginTaskRequest);
    let cases: [(Change, Code, &str); 9] = [
        (|ask| ask.caller = None, Code::InvalidArgument, "BAD_FIELD"),
        (
            |ask| ask.caller.as_mut().unwrap().process = "7".into(),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.caller.as_mut().unwrap().selectors = vec!["x".into()],
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.spki = vec![1; 300],
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.spki = vec![1; 91],
            Code::InvalidArgument,
            "BAD_KEY",
        ),
        (
            |ask| ask.task.as_mut().unwrap().request_id = vec![1],
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.task.as_mut().unwrap().purpose = "a\nb".into(),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.task.as_mut().unwrap().spiffe_id = "spiffe://other.org/x".into(),
            Code::PermissionDenied,
            "NO_MATCHING_ENTRY",
        ),
        (
            |ask| ask.task.as_mut().unwrap().ttl_ms = u64::MAX,
            Code::PermissionDenied,
            "BEYOND_LIMIT",
        ),
    ];
    for (change, code, stable) in cases {
        let mut ask = good.clone();
        change(&mut ask);
        let refused = node.client.begin_task(ask.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (code, stable),
            "{ask:?}"
        );
    }
    let good_entry = |change: fn(&mut admin::Entry)| {
        let mut entry = admin::Entry {
            spiffe_id: "spiffe://example.org/x".into(),
            selectors: vec!["unix:uid:1".into()],
            ..Default::default()
        };
        change(&mut entry);
        entry
    };
    type ChangeEntry = fn(&mut admin::Entry);
    let entries: [(ChangeEntry, &str); 7] = [
        (
            |entry| entry.spiffe_id = "spiffe://other.org/x".into(),
            "BAD_ENTRY",
        ),
        (
            |entry| entry.spiffe_id = "spiffe://example.org/taskmint/server/x".into(),
            "BAD_ENTRY",
        ),
        (
            |entry| entry.spiffe_id = "spiffe://example.org/%41".into(),
            "BAD_FIELD",
        ),
        (|entry| entry.selectors.clear(), "BAD_ENTRY"),
        (|entry| entry.x509_ttl_ms = 1, "BAD_ENTRY"),
        (|entry| entry.downstream = true, "NOT_YET"),
        (
            |entry| entry.federates_with = vec!["other.org".into()],
            "NOT_YET",
        ),
    ];
    for (change, stable) in entries {
        let refused = world.create(good_entry(change)).await.unwrap_err();
        assert!(refused.starts_with(stable), "{refused}");
    }
    let twice = world.create(good_entry(|_| {})).await.unwrap();
    let refused = world.create(good_entry(|_| {})).await.unwrap_err();
    assert!(
        refused.starts_with("ENTRY_EXISTS") && refused.contains(&twice.id),
        "{refused}"
    );
    // Nothing half-written stays.
    assert_eq!(world.server.issuer.all_entries().len(), 2);
    assert_eq!(
        world.server.issuer.live_tasks(),
        2,
        "the server's own and the node's"
    );
}

#[tokio::test]
async fn two_sessions_of_one_node_that_both_answer_suspend_it() {
    let (mut world, mut node) = world_with_node().await;
    let lease = |counter| node::SessionRequest {
        message: Some(node::session_request::Message::Lease(
            node::session_request::Lease { counter },
        )),
    };
    let open = async |client: &mut taskmint_wire::node::nodes_client::NodesClient<_>| {
        let (requests, stream) = tokio::sync::mpsc::channel(4);
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let answers = client.session(stream).await.unwrap().into_inner();
        (requests, answers)
    };
    let (first, mut of_first) = open(&mut node.client).await;
    let (second, mut of_second) = open(&mut node.client).await;
    // The newer one answers ...
    second.send(lease(1)).await.unwrap();
    let answered = async |answers: &mut tonic::Streaming<node::SessionResponse>| loop {
        match answers.message().await {
            Ok(Some(node::SessionResponse {
                message: Some(node::session_response::Message::Lease(_)),
            })) => return Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => return Err("closed".to_owned()),
            Err(status) => return Err(reason(&status)),
        }
    };
    answered(&mut of_second).await.unwrap();
    // ... and so does the older one.
    first.send(lease(1)).await.unwrap();
    assert_eq!(answered(&mut of_first).await.unwrap_err(), "NODE_SUSPENDED");
    let listed = world
        .admin
        .list_nodes(admin::ListNodesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.nodes[0].state, "suspended");
}

#[tokio::test]
async fn keys_are_rotated_by_half_of_their_life_and_forgotten_when_nothing_needs_them() {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let clock = taskmint_testkit::ManualClock::default();
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"\ncredentials.ca_ttl = \"80d\"";
    let folder = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let world = World::by(folder, lines, std::sync::Arc::new(clock.clone())).await;
    let issuer = &world.server.issuer;
    let anchors = || issuer.bundle().borrow().x509_authorities().len();
    let first = issuer.ca_certificate().await.unwrap();
    issuer.rotate().await.unwrap();
    assert_eq!(anchors(), 1, "nothing is due yet");

    clock.advance(40 * DAY);
    issuer.rotate().await.unwrap();
    assert_eq!(anchors(), 2, "a successor is known before it signs");
    assert_eq!(issuer.ca_certificate().await.unwrap(), first);

    clock.advance(10 * DAY);
    issuer.rotate().await.unwrap();
    assert_ne!(
        issuer.ca_certificate().await.unwrap(),
        first,
        "the successor signs"
    );
    assert_eq!(anchors(), 2, "what the first one signed lives on");

    clock.advance(9 * DAY);
    issuer.rotate().await.unwrap();
    assert_eq!(anchors(), 1, "and is forgotten when nothing needs it");
    // P15: heads are believed by the certificate of their key, so it has to be of a CA that is left.
    let certificate = issuer.log_key_certificate().await.unwrap();
    let ca = issuer.ca_certificate().await.unwrap();
    let all = issuer.authorities().await.unwrap();
    let ca = all.iter().find(|one| one.record.certificate == ca).unwrap();
    let name = ca.record.key_id.as_bytes();
    assert!(
        certificate.windows(name.len()).any(|part| part == name),
        "the log's key is certified by a CA that is gone"
    );
}

#[tokio::test]
async fn a_node_whose_own_task_was_swept_can_still_be_evicted() {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let now = taskmint_model::Clock::now(&taskmint_model::SystemClock);
    let clock = taskmint_testkit::ManualClock::new(now);
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"";
    let folder = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let mut world = World::by(folder, lines, std::sync::Arc::new(clock.clone())).await;
    let join = world.token("n1").await;
    let svid = attest(&join, &Key::new(), &request_id()).await.unwrap();
    let get = admin::GetNodeRequest {
        id: svid.node_id.clone(),
    };
    let own = world
        .admin
        .get_node(get)
        .await
        .unwrap()
        .into_inner()
        .task_id;

    clock.advance(3 * DAY);
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let swept = async {
        let get = task::GetRequest { task_id: own };
        while world.admin.get_task(get.clone()).await.is_ok() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), swept)
        .await
        .unwrap();
    let evict = admin::NodeRequest {
        id: svid.node_id,
        ..Default::default()
    };
    let evicted = world.admin.evict_node(evict).await.unwrap().into_inner();
    assert_eq!(evicted.node.unwrap().state, "evicted");
}
