//! Request ids (P6), and what a resumed identity gets back (P3), as attackers would have them.

use futures::StreamExt;
use taskmint_wire::{admin, denial_of, node, task};
use tonic::{Code, Status};

use crate::harness::World;
use crate::joined::{Joined, SOON};
use crate::node::{Key, Node, UID, caller, request_id};

fn refusal(status: &Status) -> (Code, String) {
    let reason = denial_of(status).map(|(reason, _)| reason);
    (status.code(), reason.unwrap_or_default())
}

fn reused() -> (Code, String) {
    (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned())
}

async fn world_with_node(lines: &str) -> (World, Node) {
    let lines = format!("store.kind = \"memory\"\nkeys.kind = \"memory\"\n{lines}");
    let mut world = World::with(&lines).await;
    world.entry("agent", UID, true).await;
    let join = world.token("n1").await;
    let node = Node::join(&join).await;
    (world, node)
}

/// A call that changes something, as an agent passes it on for process 7.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Begin,
    Delegate,
    Extend,
    Suspend,
    Resume,
    End(&'static str),
}

const CALLS: [Call; 8] = [
    Call::Begin,
    Call::Delegate,
    Call::Extend,
    Call::Suspend,
    Call::Resume,
    Call::End("completed"),
    Call::End("failed"),
    Call::End("cancelled"),
];

impl Node {
    async fn begun(&mut self, pid: u32) -> String {
        let ask = self.begin(UID, pid, Key::new().spki());
        let began = self.client.begin_task(ask).await.unwrap().into_inner();
        began.task.unwrap().id
    }

    /// Makes a call with an id; `other` has other content.
    async fn call(
        &mut self,
        call: Call,
        pid: u32,
        id: &str,
        request_id: &[u8],
        other: bool,
    ) -> Result<task::Task, Status> {
        let (task_id, request_id) = (id.to_owned(), request_id.to_vec());
        let caller = Some(caller(UID, pid));
        let reason = if other { "other" } else { "one" }.to_owned();
        let change = node::ChangeTaskRequest {
            request_id: request_id.clone(),
            task_id: task_id.clone(),
            reason: reason.clone(),
            caller: caller.clone(),
            ..Default::default()
        };
        let answer = match call {
            Call::Begin | Call::Delegate => {
                let mut ask = self.begin(UID, pid, Vec::new());
                let of_task = ask.task.as_mut().unwrap();
                of_task.request_id = request_id;
                of_task.purpose = reason;
                if call == Call::Delegate {
                    ask.parent_id = task_id;
                }
                self.client.begin_task(ask).await?.into_inner().task
            }
            Call::Extend => {
                let ask = node::ExtendTaskRequest {
                    request_id,
                    task_id,
                    ttl_ms: if other { 7_300_000 } else { 7_200_000 },
                    caller,
                    ..Default::default()
                };
                self.client.extend_task(ask).await?.into_inner().task
            }
            Call::Suspend => self.client.suspend_task(change).await?.into_inner().task,
            Call::Resume => self.client.resume_task(change).await?.into_inner().task,
            Call::End(cause) => {
                let ask = node::EndTaskRequest {
                    request_id,
                    task_id,
                    cause: cause.to_owned(),
                    reason,
                    caller,
                    ..Default::default()
                };
                self.client.end_task(ask).await?.into_inner().task
            }
        };
        Ok(answer.unwrap())
    }

    /// A task of process 7 that the call can be made on.
    async fn ready_for(&mut self, call: Call) -> String {
        let id = self.begun(7).await;
        if call == Call::Resume {
            self.call(Call::Suspend, 7, &id, &[], false).await.unwrap();
        }
        id
    }
}

#[tokio::test]
async fn a_request_id_with_other_content_is_refused_by_every_call() {
    let (mut world, mut node) = world_with_node("").await;
    for call in CALLS {
        let (id, request) = (node.ready_for(call).await, request_id());
        let first = node.call(call, 7, &id, &request, false).await.unwrap();
        let again = node.call(call, 7, &id, &request, false).await.unwrap();
        assert_eq!(first, again, "{call:?}: the same request, the same task");

        let before = world.task(&id).await;
        let live = world.server.issuer.live_tasks();
        let refused = node.call(call, 7, &id, &request, true).await.unwrap_err();
        assert_eq!(refusal(&refused), reused(), "{call:?}");
        // Not with another task either.
        let another = node.ready_for(call).await;
        if call != Call::Begin {
            let refused = node.call(call, 7, &another, &request, false).await;
            assert_eq!(refusal(&refused.unwrap_err()), reused(), "{call:?}");
        }
        assert_eq!(world.task(&id).await, before, "{call:?}: nothing changed");
        assert_eq!(world.server.issuer.live_tasks(), live + 1, "{call:?}");
    }
}

#[tokio::test]
async fn one_id_serves_every_method_and_every_process_once() {
    let (_world, mut node) = world_with_node("").await;
    let request = request_id();
    for call in CALLS {
        for pid in [7, 8] {
            let id = node.begun(pid).await;
            if call == Call::Resume {
                node.call(Call::Suspend, pid, &id, &[], false)
                    .await
                    .unwrap();
            }
            let done = node.call(call, pid, &id, &request, false).await;
            done.unwrap_or_else(|refused| panic!("{call:?} by {pid}: {refused}"));
        }
    }
}

#[tokio::test]
async fn a_retry_that_comes_late_undoes_nothing() {
    let (_world, mut node) = world_with_node("").await;
    let id = node.begun(7).await;
    let (suspend, resume, extend) = (request_id(), request_id(), request_id());
    let mut call = async |call, request: &[u8]| node.call(call, 7, &id, request, false).await;
    call(Call::Suspend, &suspend).await.unwrap();
    call(Call::Resume, &resume).await.unwrap();
    let late = call(Call::Suspend, &suspend).await.unwrap();
    assert_eq!(late.state(), task::State::Live, "as it is now");
    call(Call::Suspend, &[]).await.unwrap();
    let late = call(Call::Resume, &resume).await.unwrap();
    assert_eq!(late.state(), task::State::Suspended);
    call(Call::Resume, &[]).await.unwrap();
    let longer = call(Call::Extend, &extend).await.unwrap();
    let late = call(Call::Extend, &extend).await.unwrap();
    assert_eq!(late.version, longer.version, "extended once");
    call(Call::End("completed"), &[]).await.unwrap();
    let late = call(Call::Extend, &extend).await.unwrap();
    assert_eq!(late.state(), task::State::Ended);
}

#[tokio::test]
async fn an_end_that_found_nothing_to_do_keeps_its_id_all_the_same() {
    let (mut world, mut node) = world_with_node("").await;
    let (ended, live, request) = (node.begun(7).await, node.begun(7).await, request_id());
    let end = Call::End("completed");
    node.call(end, 7, &ended, &[], false).await.unwrap();
    node.call(end, 7, &ended, &request, false).await.unwrap();
    node.call(end, 7, &ended, &request, false).await.unwrap();
    let refused = node.call(end, 7, &live, &request, false).await.unwrap_err();
    assert_eq!(refusal(&refused), reused());
    assert_eq!(world.task(&live).await.state(), task::State::Live);
}

#[tokio::test]
async fn a_flood_of_request_ids_is_refused_and_takes_nothing_from_others() {
    let (mut world, mut node) = world_with_node("tasks.max_request_ids = 4").await;
    let first = request_id();
    let begun = node.call(Call::Begin, 7, "", &first, false).await.unwrap();
    for call in [Call::Extend, Call::Suspend, Call::Resume] {
        let done = node.call(call, 7, &begun.id, &request_id(), false).await;
        done.unwrap();
    }
    let live = world.server.issuer.live_tasks();
    let mark = world.audit().await.len();
    for call in CALLS {
        let refused = node.call(call, 7, &begun.id, &request_id(), false).await;
        let expected = (Code::ResourceExhausted, "TOO_MANY_REQUEST_IDS".to_owned());
        assert_eq!(refusal(&refused.unwrap_err()), expected, "{call:?}");
    }
    assert_eq!(world.server.issuer.live_tasks(), live);
    assert_eq!(world.audit().await.len(), mark, "nothing was written");
    // What is remembered is answered, and what needs no remembering is done.
    let again = node.call(Call::Begin, 7, "", &first, false).await.unwrap();
    assert_eq!(again.id, begun.id);
    node.call(Call::Extend, 7, &begun.id, &[], false)
        .await
        .unwrap();
    // Another process, another node, and the operator have their own.
    node.call(Call::Begin, 8, "", &first, false).await.unwrap();
    let join = world.token("n2").await;
    let mut other = Node::join(&join).await;
    other.call(Call::Begin, 7, "", &first, false).await.unwrap();
    let end = task::EndRequest {
        request_id: first,
        task_id: begun.id,
        ..Default::default()
    };
    world.admin.revoke_task(end).await.unwrap();
}

#[tokio::test]
async fn refused_requests_use_nothing_up() {
    let (_world, mut node) = world_with_node("tasks.max_request_ids = 2").await;
    let id = node.begun(7).await;
    for _ in 0..8 {
        let refused = node.call(Call::Resume, 7, &id, &request_id(), false).await;
        assert_eq!(refusal(&refused.unwrap_err()).1, "NOT_SUSPENDED");
    }
    let done = node.call(Call::Suspend, 7, &id, &request_id(), false).await;
    done.unwrap();
}

#[tokio::test]
async fn an_operators_request_ids_are_bound_and_counted_across_a_restart() {
    let clock = std::sync::Arc::new(taskmint_model::SystemClock);
    let mut world = World::durable("tasks.max_request_ids = 1", clock).await;
    let entry = world.entry("agent", UID, false).await;
    let begin = |request_id: Vec<u8>, purpose: &str| admin::BeginTaskRequest {
        entry_id: entry.id.clone(),
        task: Some(task::BeginRequest {
            request_id,
            purpose: purpose.to_owned(),
            binding: task::Binding::None.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = request_id();
    let began = world.admin.begin_task(begin(request.clone(), "a")).await;
    let began = began.unwrap().into_inner().task.unwrap();
    let refused = world.admin.begin_task(begin(request.clone(), "b")).await;
    assert_eq!(refusal(&refused.unwrap_err()), reused());
    // An orchestrator has 64 shares.
    for _ in 1..64 {
        let done = world.admin.begin_task(begin(request_id(), "a")).await;
        done.unwrap();
    }
    let mut world = world.go_away().await.come_back().await;
    let refused = world.admin.begin_task(begin(request_id(), "a")).await;
    assert_eq!(refusal(&refused.unwrap_err()).1, "TOO_MANY_REQUEST_IDS");
    let again = world.admin.begin_task(begin(request, "a")).await;
    assert_eq!(again.unwrap().into_inner().task.unwrap().id, began.id);
}

#[tokio::test]
async fn what_an_agent_recalls_is_its_callers_own() {
    let (_world, mut node) = world_with_node("").await;
    let (id, request) = (node.begun(7).await, request_id());
    let said = vec![1; 32];
    let end = node::EndTaskRequest {
        request_id: request.clone(),
        task_id: id.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 7)),
        request_digest: said.clone(),
        ..Default::default()
    };
    node.client.end_task(end.clone()).await.unwrap();
    let recall = node::RecallTaskRequest {
        method: "complete".to_owned(),
        request_id: request,
        request_digest: said,
        caller: Some(caller(UID, 7)),
    };
    let recalled = node.client.recall_task(recall.clone()).await.unwrap();
    assert_eq!(recalled.into_inner().task.unwrap().id, id);
    type Change = fn(&mut node::RecallTaskRequest);
    let cases: [(Change, Code, &str); 7] = [
        (
            |ask| ask.caller = Some(caller(UID, 8)),
            Code::NotFound,
            "NO_SUCH_REQUEST",
        ),
        (
            |ask| ask.method = "fail".into(),
            Code::NotFound,
            "NO_SUCH_REQUEST",
        ),
        (
            |ask| ask.request_digest = vec![2; 32],
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
        ),
        (
            |ask| ask.request_digest = vec![1; 31],
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.request_id.clear(),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (
            |ask| ask.method = "get".into(),
            Code::InvalidArgument,
            "BAD_FIELD",
        ),
        (|ask| ask.caller = None, Code::InvalidArgument, "BAD_FIELD"),
    ];
    for (change, code, reason) in cases {
        let mut ask = recall.clone();
        change(&mut ask);
        let refused = node.client.recall_task(ask.clone()).await.unwrap_err();
        assert_eq!(refusal(&refused), (code, reason.to_owned()), "{ask:?}");
    }
    let bad = node::EndTaskRequest {
        request_digest: vec![1; 33],
        ..end
    };
    let refused = node.client.end_task(bad).await.unwrap_err();
    assert_eq!(refusal(&refused).1, "BAD_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_names_no_task_is_answered_once_the_task_has_ended() {
    let mut joined = Joined::start().await;
    joined.own_entry(false).await;
    let mut tasks = joined.agent.task_api().await;
    let begun = tasks.begin(task::BeginRequest::default()).await.unwrap();
    let id = begun.into_inner().task.unwrap().id;
    let complete = task::EndRequest {
        request_id: request_id(),
        ..Default::default()
    };
    let ended = tasks.complete(complete.clone()).await.unwrap().into_inner();
    assert_eq!(ended.task.unwrap().id, id);
    let again = tasks.complete(complete.clone()).await.unwrap().into_inner();
    assert_eq!(again.task.unwrap().id, id);
    // Also with another task in hand, which lives on.
    let begun = tasks.begin(task::BeginRequest::default()).await.unwrap();
    let next = begun.into_inner().task.unwrap().id;
    let again = tasks.complete(complete.clone()).await.unwrap().into_inner();
    assert_eq!(again.task.unwrap().id, id);
    let other = task::EndRequest {
        task_id: next.clone(),
        ..complete.clone()
    };
    let refused = tasks.complete(other).await.unwrap_err();
    assert_eq!(refusal(&refused), reused());
    assert_eq!(joined.world.task(&next).await.state(), task::State::Live);
    // Also by an agent that knows nothing of it any more.
    let named = task::EndRequest {
        request_id: request_id(),
        task_id: id.clone(),
        ..Default::default()
    };
    tasks.complete(named.clone()).await.unwrap();
    joined.agent.restart().await;
    let mut tasks = joined.agent.task_api().await;
    let new = task::EndRequest {
        request_id: request_id(),
        ..named.clone()
    };
    let refused = tasks.complete(new).await.unwrap_err();
    assert_eq!(refusal(&refused).1, "NO_SUCH_TASK");
    for retry in [named, complete] {
        let again = tasks.complete(retry).await.unwrap().into_inner();
        assert_eq!(again.task.unwrap().id, id);
    }
    assert_eq!(joined.world.task(&next).await.state(), task::State::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_is_retried_begins_no_grandchild() {
    let mut joined = Joined::start().await;
    joined.own_entry(false).await;
    let mut tasks = joined.agent.task_api().await;
    let begun = tasks.begin(task::BeginRequest::default()).await.unwrap();
    let root = begun.into_inner().task.unwrap().id;
    // Below the nearest task: by the time of the retry that is the child itself.
    let ask = task::DelegateRequest {
        parent_id: String::new(),
        task: Some(task::BeginRequest {
            request_id: request_id(),
            ..Default::default()
        }),
    };
    let child = tasks.delegate(ask.clone()).await.unwrap().into_inner();
    let again = tasks.delegate(ask.clone()).await.unwrap().into_inner();
    let (child, again) = (child.task.unwrap(), again.task.unwrap());
    assert_eq!((&child.id, &child.parent_id), (&again.id, &root));
    for parent_id in [root, child.id] {
        let other = task::DelegateRequest {
            parent_id,
            ..ask.clone()
        };
        let refused = tasks.delegate(other).await.unwrap_err();
        assert_eq!(refusal(&refused), reused());
    }
    assert_eq!(joined.live_tasks().await.len(), 2);
}

/// The bars that a node's session was told last: waits until there are so many.
async fn bars(answers: &mut tonic::Streaming<node::SessionResponse>, count: usize) {
    let told = async {
        loop {
            let answer = answers.next().await.unwrap().unwrap();
            if let Some(node::session_response::Message::Bars(bars)) = answer.message
                && bars.bars.len() == count
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap();
}

#[tokio::test]
async fn a_node_hears_that_a_resumed_process_is_barred_no_longer() {
    let (mut world, mut node) = world_with_node("").await;
    let (_requests, stream) = tokio::sync::mpsc::channel::<node::SessionRequest>(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut answers = node.client.session(stream).await.unwrap().into_inner();
    let entry = world.server.issuer.all_entries()[0].id.to_string();
    let mut ask = node.begin(UID, 7, Key::new().spki());
    ask.implicit_entry_id = entry;
    let began = node.client.begin_task(ask).await.unwrap().into_inner();
    let task_id = began.task.unwrap().id;
    let suspend = task::SuspendRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    world.admin.suspend_task(suspend).await.unwrap();
    bars(&mut answers, 1).await;
    let resume = task::ResumeRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    world.admin.resume_task(resume).await.unwrap();
    bars(&mut answers, 0).await;
    let end = task::EndRequest {
        task_id,
        ..Default::default()
    };
    world.admin.revoke_task(end).await.unwrap();
    bars(&mut answers, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_identity_comes_back_to_the_same_process_and_a_revoked_one_does_not() {
    let mut joined = Joined::start().await;
    joined.own_entry(true).await;
    let api = joined.agent.workload_api().await;
    let before = api.x509_context().await.unwrap();
    let task_id = joined.live_tasks().await[0].id.clone();
    let suspend = task::SuspendRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    joined.world.admin.suspend_task(suspend).await.unwrap();
    let withdrawn = async { while api.x509_context().await.is_ok() {} };
    tokio::time::timeout(SOON, withdrawn).await.unwrap();
    for _ in 0..10 {
        let error = api.x509_context().await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
    }

    let resume = task::ResumeRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    joined
        .world
        .admin
        .resume_task(resume.clone())
        .await
        .unwrap();
    let back = async {
        loop {
            if let Ok(context) = api.x509_context().await {
                return context;
            }
        }
    };
    let after = tokio::time::timeout(SOON, back).await.unwrap();
    assert_eq!(after.svids[0].spiffe_id, before.svids[0].spiffe_id);
    let live = joined.live_tasks().await;
    assert_eq!((live.len(), &live[0].id), (1, &task_id), "the same task");

    joined.revoke(&task_id).await;
    joined.world.admin.resume_task(resume).await.unwrap_err();
    let withdrawn = async { while api.x509_context().await.is_ok() {} };
    tokio::time::timeout(SOON, withdrawn).await.unwrap();
    for _ in 0..20 {
        let error = api.x509_context().await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
    }
    assert!(joined.live_tasks().await.is_empty());
}
