//! Server and agent together, with this very process as the workload.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use taskmint_client::Endpoint;
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::StatusCheck;
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_wire::{admin, denial_of, task};
use tonic::Code;

use crate::joined::{Joined, SOON, child};

fn anchors(context: &taskmint_client::X509Context) -> usize {
    context
        .bundles
        .iter()
        .map(|bundle| bundle.x509_authorities().len())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_client_gets_an_identity_as_long_as_its_process() {
    let mut node = Joined::start().await;
    node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    let context = tokio::time::timeout(SOON, api.x509_context())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(context.svids.len(), 1);
    assert_eq!(
        context.svids[0].spiffe_id.to_string(),
        "spiffe://example.org/me"
    );
    let live = node.live_tasks().await;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].kind(), task::Kind::Implicit);

    // JWT-SVIDs of the same task, judged by the agent.
    let tokens = api.jwt_svids(&["reports".to_owned()], None).await.unwrap();
    let judged = async {
        loop {
            // Until the agent has heard from the log it says neither yes nor no.
            match api.validate_jwt("reports", &tokens[0].token).await {
                Err(error) if error.code == Code::Unavailable => {}
                judged => return judged,
            }
        }
    };
    let id = tokio::time::timeout(SOON, judged).await.unwrap().unwrap();
    assert_eq!(id.to_string(), "spiffe://example.org/me");
    assert!(api.validate_jwt("others", &tokens[0].token).await.is_err());

    // The end: the token is refused though it has not expired.
    node.revoke(&live[0].id).await;
    let refused = async { while api.validate_jwt("reports", &tokens[0].token).await.is_ok() {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_identity_ends_the_stream_and_does_not_come_back() {
    let mut node = Joined::start().await;
    node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    let mut contexts = api.x509_contexts().await.unwrap();
    tokio::time::timeout(SOON, contexts.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let id = node.live_tasks().await[0].id.clone();
    node.revoke(&id).await;
    let end = async {
        loop {
            if let Err(error) = contexts.next().await.expect("an end says why") {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(SOON, end).await.unwrap();
    assert_eq!(error.code, Code::PermissionDenied, "{error}");
    // P3: clients retry; nothing is begun again for this process.
    for _ in 0..20 {
        let error = api.x509_context().await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
    }
    assert!(node.live_tasks().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_with_the_process_that_holds_it() {
    let mut node = Joined::start().await;
    node.own_entry(false).await;
    let mut tasks = node.agent.task_api().await;
    let mut held = child();
    let begin = task::BeginRequest {
        purpose: "refund 4711".to_owned(),
        binding: task::Binding::Tree.into(),
        pid: held.id(),
        ..Default::default()
    };
    let began = tasks.begin(begin).await.unwrap().into_inner();
    let begun = began.task.unwrap();
    assert_eq!(begun.state(), task::State::Live);
    assert!(
        began.svid.is_none(),
        "the key belongs to the child, not to who began its task"
    );
    held.kill();
    let ended = async {
        loop {
            let task = node.show(&begun.id).await;
            if let Some(ending) = task.ending {
                return ending.cause;
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(SOON, ended).await.unwrap(),
        "holder_died"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_task_goes_from_begin_to_complete() {
    let mut node = Joined::start().await;
    node.own_entry(false).await;
    let mut tasks = node.agent.task_api().await;
    let begin = task::BeginRequest {
        purpose: "report".to_owned(),
        ..Default::default()
    };
    let began = tasks.begin(begin).await.unwrap().into_inner();
    let id = began.task.unwrap().id;

    // What it sees on the Workload API is this task, and nothing implicit.
    let context = node
        .agent
        .workload_api()
        .await
        .x509_context()
        .await
        .unwrap();
    assert_eq!(context.svids.len(), 1);
    let extend = task::ExtendRequest {
        task_id: id.clone(),
        ttl_ms: 7_200_000,
        ..Default::default()
    };
    tasks.extend(extend).await.unwrap();
    let delegate = task::DelegateRequest {
        parent_id: id.clone(),
        task: Some(task::BeginRequest {
            purpose: "part".to_owned(),
            ..Default::default()
        }),
    };
    let child = tasks
        .delegate(delegate)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!((child.parent_id.as_str(), child.depth), (id.as_str(), 1));
    let list = task::ListRequest {
        live_only: true,
        ..Default::default()
    };
    assert_eq!(tasks.list(list).await.unwrap().into_inner().tasks.len(), 2);

    let end = task::EndRequest {
        task_id: id.clone(),
        ..Default::default()
    };
    let ended = tasks.complete(end).await.unwrap().into_inner();
    assert!(ended.position > 0);
    assert_eq!(
        node.show(&child.id).await.ending.unwrap().cause,
        "parent_ended"
    );
    let fetch = task::FetchJwtsvidRequest {
        task_id: id,
        audience: vec!["a".to_owned()],
    };
    let refused = tasks.fetch_jwtsvid(fetch).await.unwrap_err();
    assert!(denial_of(&refused).is_some(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_adopts_what_lives_and_ends_the_rest() {
    let mut node = Joined::start().await;
    node.own_entry(false).await;
    let mut tasks = node.agent.task_api().await;
    let (kept, mut lost) = (child(), child());
    let mut begin = async |pid| {
        let begin = task::BeginRequest {
            binding: task::Binding::Tree.into(),
            pid,
            ..Default::default()
        };
        tasks
            .begin(begin)
            .await
            .unwrap()
            .into_inner()
            .task
            .unwrap()
            .id
    };
    let (kept_task, lost_task) = (begin(kept.id()).await, begin(lost.id()).await);
    node.agent.stop().await;
    lost.kill();
    node.agent.start_again().await;
    let ended = async { while node.show(&lost_task).await.ending.is_none() {} };
    tokio::time::timeout(SOON, ended).await.unwrap();
    assert_eq!(node.show(&kept_task).await.state(), task::State::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_behind_the_agents_relay_hears_of_an_end() {
    let mut node = Joined::start().await;
    node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    let token = api.jwt_svids(&["a".to_owned()], None).await.unwrap()[0]
        .token
        .clone();
    let endpoint = Endpoint::Unix(node.agent.settings.sockets.workload.clone());
    let source = Source::Relay(node.agent.settings.sockets.revocation.clone());
    let mut options = Options::new("example.org".parse().unwrap(), source, "local");
    options.bundles = Bundles::WorkloadApi(endpoint);
    let trust = taskmint_verifier::Trust::new(Default::default());
    let clocks = Arc::new(SystemClocks);
    let watch = Watch::start(options, trust.clone(), clocks, Arc::new(SystemEntropy)).unwrap();
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    let now = taskmint_model::Clock::now(&SystemClock);
    let judged = async {
        loop {
            let judged =
                taskmint_verifier::verify_jwt(&token, "a", &trust.get(), now, Duration::ZERO);
            if let Ok(judged) = judged {
                return judged;
            }
            tokio::task::yield_now().await;
        }
    };
    let binding = tokio::time::timeout(SOON, judged)
        .await
        .unwrap()
        .binding
        .unwrap();
    watch.check(&binding).unwrap();
    let id = node.live_tasks().await[0].id.clone();
    node.revoke(&id).await;
    let refused = async {
        loop {
            match watch.check(&binding) {
                Ok(()) => tokio::task::yield_now().await,
                Err(refused) => return refused.reason,
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(SOON, refused).await.unwrap(),
        "TASK_ENDED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_reaches_an_open_stream() {
    let mut node = Joined::start().await;
    node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    let mut contexts = api.x509_contexts().await.unwrap();
    let first = tokio::time::timeout(SOON, contexts.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let prepare = admin::PrepareAuthorityRequest {
        r#use: "ca".to_owned(),
    };
    let ca = node
        .world
        .admin
        .prepare_authority(prepare)
        .await
        .unwrap()
        .into_inner();
    let longer = async {
        loop {
            let context = contexts.next().await.unwrap().unwrap();
            if anchors(&context) > anchors(&first) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, longer).await.unwrap();
    let activate = admin::AuthorityRequest { id: ca.id };
    node.world.admin.activate_authority(activate).await.unwrap();
    // What was minted before goes on; what is minted now is signed by the new one.
    api.x509_context().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_restarts_without_a_token() {
    let mut node = Joined::start().await;
    node.own_entry(true).await;
    node.agent
        .workload_api()
        .await
        .x509_context()
        .await
        .unwrap();
    node.agent.restart().await;
    let api = node.agent.workload_api().await;
    tokio::time::timeout(SOON, api.x509_context())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(node.live_tasks().await.len(), 1, "adopted, not begun again");
}
