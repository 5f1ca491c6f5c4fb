//! Bad inputs of each call of the server: what is sent, which code, which stable reason. What the
//! agent's sockets refuse is a table of its own, in its crate.

use std::fmt::Debug;

use taskmint_wire::node::attest_request::{Hello, Step};
use taskmint_wire::node::nodes_client::NodesClient;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::{Acknowledge, Nonce, Open, WatchRequest};
use taskmint_wire::{admin, node, task};
use tonic::Code::{InvalidArgument, NotFound, OutOfRange, PermissionDenied};
use tonic::{Code, Response, Status};

use crate::harness::World;
use crate::node::{Key, Node, UID, caller, connect, reason, request_id};

/// Of the right form, and nobody's.
const NOBODY: &str = "0198c0de-0000-7000-8000-000000000000";
const NO_NODE: &str = "spiffe://example.org/taskmint/node/join_token/nobody";
const PROCESS: &str = "7.1.abababababababababababababababab";

#[track_caller]
fn refused<T: Debug>(call: &str, answer: Result<Response<T>, Status>, code: Code, expected: &str) {
    let status = answer.expect_err(call);
    let told = (status.code(), reason(&status));
    assert_eq!(told, (code, expected.to_owned()), "{call}: {status}");
}

/// One line of the table: a call of a client, its request, the code and the reason.
macro_rules! table {
    ($client:expr; $($call:ident($request:expr) => $code:expr, $reason:expr;)+) => {
        $(
            let request = $request;
            let shown: String = format!("{}({request:?})", stringify!($call)).chars().take(200).collect();
            refused(&shown, $client.$call(request).await, $code, $reason);
        )+
    };
}

fn own(text: &str) -> String {
    text.to_owned()
}

/// A request of one kind, with one thing wrong.
fn with<R: Default>(change: impl FnOnce(&mut R)) -> R {
    let mut request = R::default();
    change(&mut request);
    request
}

async fn world_with_node() -> (World, Node) {
    let mut world = World::in_memory().await;
    world.entry("agent", UID, true).await;
    let join = world.token("n1").await;
    let node = Node::join(&join).await;
    (world, node)
}

#[tokio::test]
async fn bad_inputs_about_entries_and_nodes_are_refused_each_for_its_reason() {
    let (mut world, node) = world_with_node().await;
    let before = world.audit().await.len();
    let entry = |id: &str| admin::Entry {
        id: own(id),
        spiffe_id: own("spiffe://example.org/x"),
        selectors: vec![own("unix:uid:1")],
        ..Default::default()
    };
    let update = |entry| admin::UpdateEntryRequest { entry: Some(entry) };
    let id = || own("x");
    let of_node = |id: &str| admin::NodeRequest {
        id: own(id),
        ..Default::default()
    };
    let many = vec![admin::Entry::default(); 1001];
    table! { world.admin;
        create_entries(admin::CreateEntriesRequest::default()) => InvalidArgument, "BAD_FIELD";
        create_entries(admin::CreateEntriesRequest { entries: many }) => InvalidArgument, "BAD_FIELD";
        update_entry(admin::UpdateEntryRequest::default()) => InvalidArgument, "BAD_FIELD";
        update_entry(update(entry("x"))) => InvalidArgument, "BAD_FIELD";
        update_entry(update(entry(NOBODY))) => NotFound, "NO_SUCH_ENTRY";
        update_entry(update(admin::Entry { spiffe_id: own("x"), ..entry(NOBODY) })) => InvalidArgument, "BAD_FIELD";
        delete_entry(with(|r: &mut admin::DeleteEntryRequest| r.id = id())) => InvalidArgument, "BAD_FIELD";
        delete_entry(with(|r: &mut admin::DeleteEntryRequest| r.id = own(NOBODY))) => NotFound, "NO_SUCH_ENTRY";
        get_entry(admin::GetEntryRequest { id: own("") }) => InvalidArgument, "BAD_FIELD";
        get_entry(admin::GetEntryRequest { id: NOBODY.to_uppercase() }) => InvalidArgument, "BAD_FIELD";
        get_entry(admin::GetEntryRequest { id: own(NOBODY) }) => NotFound, "NO_SUCH_ENTRY";
        list_entries(with(|r: &mut admin::ListEntriesRequest| r.page_token = id())) => InvalidArgument, "BAD_FIELD";
        list_entries(with(|r: &mut admin::ListEntriesRequest| r.parent_id = id())) => InvalidArgument, "BAD_FIELD";
        list_entries(with(|r: &mut admin::ListEntriesRequest| r.selector = id())) => InvalidArgument, "BAD_FIELD";
        create_token(with(|r: &mut admin::CreateTokenRequest| r.node = own("a/b"))) => InvalidArgument, "BAD_TOKEN";
        create_token(with(|r: &mut admin::CreateTokenRequest| r.node = own(".."))) => InvalidArgument, "BAD_TOKEN";
        create_token(with(|r: &mut admin::CreateTokenRequest| r.node = "n".repeat(3000))) => InvalidArgument, "BAD_TOKEN";
        create_token(with(|r: &mut admin::CreateTokenRequest| r.ttl_ms = u64::MAX)) => InvalidArgument, "BAD_TOKEN";
        create_token(with(|r: &mut admin::CreateTokenRequest| r.selectors = vec![id()])) => InvalidArgument, "BAD_FIELD";
        delete_token(admin::DeleteTokenRequest { id: id() }) => InvalidArgument, "BAD_FIELD";
        delete_token(admin::DeleteTokenRequest { id: own("") }) => NotFound, "NO_SUCH_TOKEN";
        delete_token(admin::DeleteTokenRequest { id: own("00") }) => NotFound, "NO_SUCH_TOKEN";
        get_node(admin::GetNodeRequest { id: id() }) => InvalidArgument, "BAD_FIELD";
        get_node(admin::GetNodeRequest { id: own(NO_NODE) }) => NotFound, "NO_SUCH_NODE";
        evict_node(of_node("")) => InvalidArgument, "BAD_FIELD";
        evict_node(of_node(NO_NODE)) => NotFound, "NO_SUCH_NODE";
        ban_node(of_node("spiffe://example.org/%2e")) => InvalidArgument, "BAD_FIELD";
        ban_node(of_node(NO_NODE)) => NotFound, "NO_SUCH_NODE";
        unban_node(of_node(NO_NODE)) => NotFound, "NO_SUCH_NODE";
        unban_node(of_node(&node.id)) => Code::FailedPrecondition, "BAD_STATE";
        list_bars(admin::ListBarsRequest { node_id: id() }) => InvalidArgument, "BAD_FIELD";
    }
    let lift = admin::LiftBarRequest {
        entry_id: own(NOBODY),
        node_id: node.id.clone(),
        process: own(PROCESS),
    };
    table! { world.admin;
        lift_bar(lift.clone()) => NotFound, "NO_SUCH_BAR";
        lift_bar(admin::LiftBarRequest { entry_id: id(), ..lift.clone() }) => InvalidArgument, "BAD_FIELD";
        lift_bar(admin::LiftBarRequest { node_id: id(), ..lift.clone() }) => InvalidArgument, "BAD_FIELD";
        lift_bar(admin::LiftBarRequest { process: own("7"), ..lift }) => InvalidArgument, "BAD_FIELD";
    }
    // Too large: refused before it is read.
    let huge = vec![with(|entry: &mut admin::Entry| {
        entry.hint = "x".repeat(5 << 20)
    })];
    let status = world
        .admin
        .create_entries(admin::CreateEntriesRequest { entries: huge });
    assert_eq!(status.await.unwrap_err().code(), OutOfRange);
    assert_eq!(world.audit().await.len(), before, "nothing was changed");
}

#[tokio::test]
async fn bad_inputs_about_tasks_and_keys_are_refused_each_for_its_reason() {
    let (mut world, _node) = world_with_node().await;
    let entry_id = world.server.issuer.all_entries()[0].id.to_string();
    let base = || admin::BeginTaskRequest {
        entry_id: entry_id.clone(),
        task: Some(with(|task: &mut task::BeginRequest| {
            task.set_binding(task::Binding::None);
        })),
        ..Default::default()
    };
    let begun = world.admin.begin_task(base());
    let live = begun.await.unwrap().into_inner().task.unwrap().id;
    let before = world.audit().await.len();
    let id = || own("x");
    let begin = |change: fn(&mut admin::BeginTaskRequest)| {
        let mut request = base();
        change(&mut request);
        request
    };
    let of_task = |change: fn(&mut task::BeginRequest)| {
        let mut request = begin(|_| ());
        change(request.task.get_or_insert_default());
        request
    };
    let list = |change: fn(&mut task::ListRequest)| admin::ListTasksRequest {
        list: Some(with(change)),
        ..Default::default()
    };
    let end = |task: &str, reason: &str| task::EndRequest {
        task_id: own(task),
        reason: own(reason),
        ..Default::default()
    };
    let extend = |task: &str, ttl_ms| task::ExtendRequest {
        task_id: own(task),
        ttl_ms,
        ..Default::default()
    };
    let suspend = |task: &str, reason: &str| task::SuspendRequest {
        task_id: own(task),
        reason: own(reason),
        ..Default::default()
    };
    let resume = |task: &str| task::ResumeRequest {
        task_id: own(task),
        ..Default::default()
    };
    table! { world.admin;
        begin_task(admin::BeginTaskRequest::default()) => InvalidArgument, "BAD_FIELD";
        begin_task(begin(|r| r.entry_id = own(NOBODY))) => NotFound, "NO_SUCH_ENTRY";
        begin_task(begin(|r| r.node_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        begin_task(begin(|r| r.node_id = own(NO_NODE))) => NotFound, "NO_SUCH_NODE";
        begin_task(begin(|r| r.parent_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        begin_task(begin(|r| r.parent_id = own(NOBODY))) => NotFound, "NO_SUCH_TASK";
        begin_task(of_task(|t| t.request_id = vec![1; 17])) => InvalidArgument, "BAD_FIELD";
        begin_task(of_task(|t| t.request_id = vec![0; 16])) => InvalidArgument, "BAD_FIELD";
        begin_task(of_task(|t| t.purpose = own("\u{1b}[2J"))) => InvalidArgument, "BAD_FIELD";
        begin_task(of_task(|t| t.owner = "x".repeat(1025))) => InvalidArgument, "BAD_FIELD";
        begin_task(of_task(|t| t.spiffe_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        begin_task(of_task(|t| t.ttl_ms = u64::MAX)) => PermissionDenied, "BEYOND_LIMIT";
        get_task(task::GetRequest { task_id: id() }) => InvalidArgument, "BAD_FIELD";
        get_task(task::GetRequest { task_id: own(NOBODY) }) => NotFound, "NO_SUCH_TASK";
        list_tasks(list(|l| l.root_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        list_tasks(list(|l| l.spiffe_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        list_tasks(list(|l| l.page_token = own("x"))) => InvalidArgument, "BAD_FIELD";
        list_tasks(list(|l| l.page_token = own("00.1.1"))) => InvalidArgument, "BAD_FIELD";
        list_tasks(with(|r: &mut admin::ListTasksRequest| r.node_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        list_tasks(with(|r: &mut admin::ListTasksRequest| r.entry_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        extend_task(extend("x", 1)) => InvalidArgument, "BAD_FIELD";
        extend_task(extend(NOBODY, 1)) => NotFound, "NO_SUCH_TASK";
        extend_task(extend(&live, u64::MAX)) => PermissionDenied, "BEYOND_LIMIT";
        suspend_task(suspend("x", "")) => InvalidArgument, "BAD_FIELD";
        suspend_task(suspend(NOBODY, "")) => NotFound, "NO_SUCH_TASK";
        suspend_task(suspend(&live, "a\nb")) => InvalidArgument, "BAD_FIELD";
        resume_task(resume("x")) => InvalidArgument, "BAD_FIELD";
        resume_task(resume(&live)) => Code::FailedPrecondition, "NOT_SUSPENDED";
        revoke_task(end("x", "")) => InvalidArgument, "BAD_FIELD";
        revoke_task(end(NOBODY, "")) => NotFound, "NO_SUCH_TASK";
        revoke_task(end(&live, &"x".repeat(1025))) => InvalidArgument, "BAD_FIELD";
        complete_task(end(NOBODY, "")) => NotFound, "NO_SUCH_TASK";
        watch_tasks(with(|r: &mut admin::WatchTasksRequest| r.root_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        watch_tasks(with(|r: &mut admin::WatchTasksRequest| r.spiffe_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        get_bundle(admin::GetBundleRequest { format: id() }) => InvalidArgument, "BAD_FIELD";
        prepare_authority(admin::PrepareAuthorityRequest { r#use: id() }) => InvalidArgument, "BAD_FIELD";
        activate_authority(admin::AuthorityRequest { id: id() }) => InvalidArgument, "BAD_FIELD";
        activate_authority(admin::AuthorityRequest { id: own(NOBODY) }) => NotFound, "NO_SUCH_AUTHORITY";
        retire_authority(admin::AuthorityRequest { id: own(NOBODY) }) => NotFound, "NO_SUCH_AUTHORITY";
        explain(admin::ExplainRequest { denial_id: id() }) => InvalidArgument, "BAD_FIELD";
        explain(admin::ExplainRequest { denial_id: own(NOBODY) }) => NotFound, "NO_SUCH_DENIAL";
        backup(admin::BackupRequest { folder: own("backup") }) => InvalidArgument, "BAD_FIELD";
        backup(admin::BackupRequest { folder: own("") }) => InvalidArgument, "BAD_FIELD";
    }
    assert_eq!(world.task(&live).await.state(), task::State::Live);
    let after = world.audit().await;
    let denied = after[before..].iter().all(|action| action == "task.begin");
    assert!(denied, "denials only: {:?}", &after[before..]);
}

#[tokio::test]
async fn bad_inputs_of_a_node_are_refused_each_for_its_reason() {
    let (world, mut node) = world_with_node().await;
    let began = node.client.begin_task(node.begin(UID, 7, Vec::new()));
    let live = began.await.unwrap().into_inner().task.unwrap().id;
    let who = || Some(caller(UID, 7));
    let change = |task: &str, reason: &str| node::ChangeTaskRequest {
        task_id: own(task),
        reason: own(reason),
        caller: who(),
        ..Default::default()
    };
    let end = |task: &str, cause: &str| node::EndTaskRequest {
        task_id: own(task),
        cause: own(cause),
        caller: who(),
        ..Default::default()
    };
    let extend = |task: &str, ttl_ms| node::ExtendTaskRequest {
        task_id: own(task),
        ttl_ms,
        caller: who(),
        ..Default::default()
    };
    let x509 = |task: &str, spki: Vec<u8>, number| node::MintX509Request {
        items: vec![
            node::mint_x509_request::Item {
                task_id: own(task),
                spki
            };
            number
        ],
    };
    let jwt = |task: &str, number| node::MintJwtRequest {
        items: vec![
            node::mint_jwt_request::Item {
                task_id: own(task),
                audience: vec![own("a")]
            };
            number
        ],
    };
    let key = Key::new().spki();
    let denial = |change: fn(&mut node::ReportDenialRequest)| {
        let mut told = node::ReportDenialRequest {
            denial_id: own(NOBODY),
            ..Default::default()
        };
        change(&mut told);
        told
    };
    table! { node.client;
        renew(node::RenewRequest { request_id: Vec::new() }) => InvalidArgument, "BAD_FIELD";
        renew(node::RenewRequest { request_id: vec![0; 16] }) => InvalidArgument, "BAD_FIELD";
        extend_task(extend("x", 1)) => InvalidArgument, "BAD_FIELD";
        extend_task(extend(NOBODY, 1)) => NotFound, "NO_SUCH_TASK";
        extend_task(extend(&live, u64::MAX)) => PermissionDenied, "BEYOND_LIMIT";
        suspend_task(change("", "")) => InvalidArgument, "BAD_FIELD";
        suspend_task(change(NOBODY, "")) => NotFound, "NO_SUCH_TASK";
        suspend_task(change(&live, "a\0b")) => InvalidArgument, "BAD_FIELD";
        suspend_task(node::ChangeTaskRequest { caller: None, ..change(&live, "") }) => InvalidArgument, "BAD_FIELD";
        resume_task(change(NOBODY, "")) => NotFound, "NO_SUCH_TASK";
        resume_task(change(&live, "")) => Code::FailedPrecondition, "NOT_SUSPENDED";
        end_task(end("x", "completed")) => InvalidArgument, "BAD_FIELD";
        end_task(end(NOBODY, "completed")) => NotFound, "NO_SUCH_TASK";
        end_task(end(&live, "")) => InvalidArgument, "BAD_FIELD";
        end_task(end(&live, "revoked")) => InvalidArgument, "BAD_FIELD";
        end_task(node::EndTaskRequest { acting_task_id: own("x"), ..end(&live, "failed") }) => InvalidArgument, "BAD_FIELD";
        get_task(task::GetRequest { task_id: own("x") }) => InvalidArgument, "BAD_FIELD";
        get_task(task::GetRequest { task_id: own(NOBODY) }) => NotFound, "NO_SUCH_TASK";
        mint_x509(node::MintX509Request::default()) => InvalidArgument, "BAD_FIELD";
        mint_x509(x509(&live, key.clone(), 1025)) => InvalidArgument, "BAD_FIELD";
        mint_x509(x509("x", key.clone(), 1)) => InvalidArgument, "BAD_FIELD";
        mint_x509(x509(&live, Vec::new(), 1)) => InvalidArgument, "BAD_FIELD";
        mint_x509(x509(&live, vec![0x30; 257], 1)) => InvalidArgument, "BAD_FIELD";
        mint_jwt(node::MintJwtRequest::default()) => InvalidArgument, "BAD_FIELD";
        mint_jwt(jwt(&live, 1025)) => InvalidArgument, "BAD_FIELD";
        mint_jwt(jwt("x", 1)) => InvalidArgument, "BAD_FIELD";
        report_denial(denial(|d| d.denial_id = own("x"))) => InvalidArgument, "BAD_FIELD";
        report_denial(denial(|d| d.reason = own("a\nb"))) => InvalidArgument, "BAD_FIELD";
        report_denial(denial(|d| d.message = "x".repeat(1025))) => InvalidArgument, "BAD_FIELD";
        report_denial(denial(|d| d.caller = Some(caller(&["x"], 7)))) => InvalidArgument, "BAD_FIELD";
    }
    // In a batch, each is refused for itself: for its key, its audience, its task.
    let minted = node.client.mint_x509(x509(&live, vec![1; 91], 1)).await;
    let results = minted.unwrap().into_inner().results;
    assert_eq!(results[0].refusal.as_ref().unwrap().reason, "BAD_KEY");
    let minted = node.client.mint_x509(x509(NOBODY, key, 1)).await;
    let results = minted.unwrap().into_inner().results;
    assert_eq!(results[0].refusal.as_ref().unwrap().reason, "NO_SUCH_TASK");
    let mut silent = jwt(&live, 1);
    silent.items[0].audience = Vec::new();
    let minted = node.client.mint_jwt(silent).await.unwrap().into_inner();
    let refusal = minted.results[0].refusal.as_ref().unwrap();
    assert_eq!(refusal.reason, "BAD_AUDIENCE");
    assert_eq!(
        world.server.issuer.live_tasks(),
        3,
        "the server's, the node's, the live one"
    );
}

#[tokio::test]
async fn bad_attestations_are_refused_each_for_its_reason() {
    let (mut world, node) = world_with_node().await;
    let mut client = NodesClient::new(node.anonymous().await);
    let good = || Hello {
        attestor: own("join_token"),
        payload: b"00".to_vec(),
        spki: Key::new().spki(),
        request_id: request_id(),
    };
    let hello = |change: fn(&mut Hello)| {
        let mut hello = good();
        change(&mut hello);
        Some(Step::Hello(hello))
    };
    let cases = [
        (None, InvalidArgument, "BAD_FIELD"),
        (Some(Step::Response(vec![1])), InvalidArgument, "BAD_FIELD"),
        (hello(|h| h.spki.clear()), InvalidArgument, "BAD_FIELD"),
        (
            hello(|h| h.spki = vec![0; 257]),
            InvalidArgument,
            "BAD_FIELD",
        ),
        (
            hello(|h| h.request_id.clear()),
            InvalidArgument,
            "BAD_FIELD",
        ),
        (
            hello(|h| h.request_id = vec![1; 15]),
            InvalidArgument,
            "BAD_FIELD",
        ),
        (
            hello(|h| h.attestor = own("x")),
            PermissionDenied,
            "ATTESTOR_UNKNOWN",
        ),
        (
            hello(|h| h.payload.clear()),
            PermissionDenied,
            "ATTESTATION_MALFORMED",
        ),
        (
            hello(|h| h.payload = vec![b'x'; 1 << 20]),
            PermissionDenied,
            "ATTESTATION_TOO_LARGE",
        ),
        (hello(|_| ()), PermissionDenied, "TOKEN_UNKNOWN"),
    ];
    for (step, code, expected) in cases {
        let shown: String = format!("{step:?}").chars().take(200).collect();
        let steps = tokio_stream::iter([node::AttestRequest { step }]);
        let mut answers = client.attest(steps).await.unwrap().into_inner();
        let answer = answers.message().await.map(Response::new);
        refused(&shown, answer, code, expected);
    }
    // What needs a node's SVID is refused to who shows none.
    let begin = node.begin(UID, 7, Vec::new());
    refused(
        "begin",
        client.begin_task(begin).await,
        Code::Unauthenticated,
        "NO_NODE_SVID",
    );
    let none = tokio_stream::iter(Vec::<node::SessionRequest>::new());
    refused(
        "session",
        client.session(none).await,
        Code::Unauthenticated,
        "NO_NODE_SVID",
    );
    assert_eq!(world.nodes().await.len(), 1);
}

#[tokio::test]
async fn bad_inputs_of_a_watcher_are_refused_each_for_its_reason() {
    let (world, node) = world_with_node().await;
    let address = world.server.watch_address.to_string();
    let trust_domain = "example.org".parse().unwrap();
    let channel = connect(&node.identity, &node.trust, &trust_domain, &address).await;
    let mut client = RevocationClient::new(channel).max_decoding_message_size(16 << 20);
    let open = |name: &str, nonce: Vec<u8>| {
        Message::Open(Open {
            name: own(name),
            nonce: nonce.into(),
            ..Default::default()
        })
    };
    let good = || open("w", Vec::new());
    let acknowledge = |sequence| {
        Message::Acknowledge(Acknowledge {
            sequence,
            ..Default::default()
        })
    };
    let nonce = |octets: Vec<u8>| {
        Message::Nonce(Nonce {
            nonce: octets.into(),
        })
    };
    let cases = [
        vec![acknowledge(1)],
        vec![nonce(vec![1; 16])],
        vec![open(&"x".repeat(257), Vec::new())],
        vec![open("a\nb", Vec::new())],
        vec![open("w", vec![1; 15])],
        vec![good(), good()],
        vec![good(), nonce(vec![1; 17])],
        vec![good(), acknowledge(u64::MAX)],
    ];
    for messages in cases {
        let shown: String = format!("{messages:?}").chars().take(200).collect();
        let messages = messages.into_iter().map(|message| WatchRequest {
            message: Some(message),
        });
        // It goes on listening: who hangs up is told nothing.
        let said = futures::StreamExt::chain(
            tokio_stream::iter(messages.collect::<Vec<_>>()),
            futures::stream::pending(),
        );
        let mut frames = client.watch(said).await.unwrap().into_inner();
        let status = loop {
            match frames.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{shown}: it ends without a reason"),
                Err(status) => break status,
            }
        };
        refused::<()>(&shown, Err(status), InvalidArgument, "BAD_FIELD");
    }
}
