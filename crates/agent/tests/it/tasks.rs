//! The task API, and who sees which task.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use taskmint_wire::task::{self, State};
use taskmint_wire::workload;
use tokio::net::UnixStream;
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fake::{Fake, PATIENCE, entry};
use crate::node::{Node, end, fetch, next, reason, task_api, workload};
use crate::puppet::Puppet;

async fn started() -> (Fake, Node) {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    (fake, node)
}

fn begin() -> task::BeginRequest {
    task::BeginRequest {
        purpose: "a test".to_owned(),
        ..Default::default()
    }
}

fn tree(pid: u32) -> task::BeginRequest {
    task::BeginRequest {
        binding: task::Binding::Tree.into(),
        pid,
        ..begin()
    }
}

fn end_of(id: &str) -> task::EndRequest {
    task::EndRequest {
        task_id: id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_task_begins_with_its_first_svid_and_ends_with_all_of_them() {
    let (fake, node) = started().await;
    let mut api = node.task_api().await;
    let begun = api.begin(begin()).await.unwrap().into_inner();
    let (task, svid) = (begun.task.unwrap(), begun.svid.unwrap());
    assert_eq!(
        (task.state(), task.purpose.as_str()),
        (State::Live, "a test")
    );
    assert_eq!(svid.task_id, task.id);
    assert_eq!(svid.bundle, fake.ca().certificate());
    use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};
    let key = p256::SecretKey::from_pkcs8_der(&svid.private_key).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.certificates).unwrap();
    assert_eq!(
        leaf.public_key().raw,
        key.public_key().to_public_key_der().unwrap().as_bytes()
    );
    // The Workload API gives the same one: no implicit task beside an explicit one.
    let mut client = node.workload().await;
    let (first, mut stream) = fetch(&mut client).await.unwrap();
    assert_eq!(first.svids.len(), 1);
    assert_eq!(first.svids[0].x509_svid, svid.certificates);
    let ended = api
        .complete(task::EndRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (ended.position, ended.task.unwrap().state()),
        (7, State::Ended)
    );
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "TASK_ENDED")
    );
    assert!(status.message().contains("completed"), "{status}");
    let asked = fake.state(|state| state.ended.pop().unwrap());
    assert_eq!(
        (asked.cause.as_str(), asked.acting_task_id),
        ("completed", task.id.clone())
    );
    // P3: a process that had a task of its own gets no other by itself.
    assert_eq!(reason(&fetch(&mut client).await.unwrap_err()), "TASK_BOUND");
    // What has ended can still be looked at.
    let got = api
        .get(task::GetRequest {
            task_id: task.id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.task.unwrap().ending.unwrap().cause, "completed");
    node.stop().await;
}

#[tokio::test]
async fn the_first_svid_keeps_the_first_place_and_later_tasks_have_their_ids_as_hints() {
    let (fake, node) = started().await;
    fake.put_entries(vec![taskmint_wire::node::Entry {
        hint: "main".to_owned(),
        ..entry(1, "/web")
    }])
    .await;
    let mut api = node.task_api().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(
            api.begin(begin())
                .await
                .unwrap()
                .into_inner()
                .task
                .unwrap()
                .id,
        );
    }
    let (message, mut stream) = fetch(&mut node.workload().await).await.unwrap();
    let hints: Vec<_> = message
        .svids
        .iter()
        .map(|svid| svid.hint.as_str())
        .collect();
    assert_eq!(hints, ["main", &ids[1], &ids[2]]);
    api.complete(end_of(&ids[1])).await.unwrap();
    let message = next(&mut stream).await.unwrap();
    let hints: Vec<_> = message
        .svids
        .iter()
        .map(|svid| svid.hint.as_str())
        .collect();
    assert_eq!(hints, ["main", &ids[2]]);
    node.stop().await;
}

#[tokio::test]
async fn at_most_sixty_four_svids_come_in_one_answer() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let mut last = None;
    for _ in 0..66 {
        last = api.begin(begin()).await.unwrap().into_inner().task;
    }
    let (message, _stream) = fetch(&mut node.workload().await).await.unwrap();
    assert_eq!(message.svids.len(), 64);
    // The rest by the task API.
    let task_id = last.unwrap().id;
    let ask = task::FetchX509svidRequest {
        task_id: task_id.clone(),
        csr: Vec::new(),
    };
    assert_eq!(
        api.fetch_x509svid(ask).await.unwrap().into_inner().task_id,
        task_id
    );
    node.stop().await;
}

#[tokio::test]
async fn a_key_that_its_owner_keeps_never_comes_here() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let key = taskmint_testkit::TestKey::generate(&taskmint_model::SystemEntropy);
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec();
    let ask = task::BeginRequest {
        csr: csr.clone(),
        ..begin()
    };
    let begun = api.begin(ask).await.unwrap().into_inner();
    let svid = begun.svid.unwrap();
    assert!(svid.private_key.is_empty());
    let (_, leaf) = X509Certificate::from_der(&svid.certificates).unwrap();
    assert_eq!(leaf.public_key().raw, key.spki());
    let ask = task::FetchX509svidRequest {
        task_id: svid.task_id,
        csr: csr.clone(),
    };
    let again = api.fetch_x509svid(ask).await.unwrap().into_inner();
    let (_, leaf) = X509Certificate::from_der(&again.certificates).unwrap();
    assert_eq!(leaf.public_key().raw, key.spki());
    assert!(again.private_key.is_empty());
    // Whose public key it is must be shown: a CSR that another signed is refused.
    let mut forged = csr;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let ask = task::BeginRequest {
        csr: forged,
        ..begin()
    };
    let status = api.begin(ask).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "BAD_CSR")
    );
    node.stop().await;
}

#[tokio::test]
async fn a_task_for_a_child_is_seen_by_it_and_its_descendants_and_not_by_who_began_it() {
    let (fake, node) = started().await;
    let paths = [node.workload_socket(), node.task_socket()];
    let mut family = Puppet::family(&paths, &paths);
    let mut api = node.task_api().await;
    let begun = api.begin(tree(family.pid())).await.unwrap().into_inner();
    let id = begun.task.unwrap().id;
    assert!(begun.svid.is_none(), "the key is the child's");
    let asked = fake.state(|state| state.begun.last().cloned().unwrap());
    assert_eq!(asked.holder, family.process.to_string());
    for number in [0, 2] {
        let (message, _) = fetch(&mut workload(family.stream(number)).await)
            .await
            .unwrap();
        assert_eq!(message.svids.len(), 1);
    }
    // Who began it may act on it, and has no key of it.
    let ask = task::FetchX509svidRequest {
        task_id: id.clone(),
        csr: Vec::new(),
    };
    assert_eq!(
        reason(&api.fetch_x509svid(ask).await.unwrap_err()),
        "NO_SUCH_TASK"
    );
    let got = api
        .get(task::GetRequest {
            task_id: id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.task.unwrap().id, id);
    // The grandchild delegates to itself: the nearer task hides the farther (P1).
    let mut below = task_api(family.stream(3)).await;
    let child = below.delegate(task::DelegateRequest {
        task: Some(begin()),
        ..Default::default()
    });
    let child = child.await.unwrap().into_inner().task.unwrap();
    assert_eq!(child.parent_id, id);
    let ask = task::FetchX509svidRequest {
        task_id: id.clone(),
        csr: Vec::new(),
    };
    assert_eq!(
        reason(&below.fetch_x509svid(ask).await.unwrap_err()),
        "NO_SUCH_TASK"
    );
    // Who has the task above ends all below.
    api.cancel(end_of(&id)).await.unwrap();
    let all = fake.state(|state| {
        state
            .tasks
            .values()
            .map(task::Task::state)
            .collect::<Vec<_>>()
    });
    assert_eq!(all, [State::Ended, State::Ended]);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_open_hears_of_a_task_begun_for_its_process() {
    let (_fake, node) = started().await;
    let paths = [node.workload_socket()];
    let mut family = Puppet::family(&paths, &paths);
    let mut api = node.task_api().await;
    let first = api
        .begin(tree(family.pid()))
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    let (before, mut stream) = fetch(&mut workload(family.stream(1)).await).await.unwrap();
    assert_eq!(before.svids.len(), 1);
    api.begin(tree(family.pid())).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
    api.complete(end_of(&first.id)).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn who_was_confined_to_a_task_does_not_see_beyond_it_after_its_end() {
    let (_fake, node) = started().await;
    let paths = [node.workload_socket(), node.task_socket()];
    let mut family = Puppet::family(&paths, &paths);
    let mut api = node.task_api().await;
    // The wide task is the puppet's tree; for its child the puppet begins a narrow one.
    api.begin(tree(family.pid())).await.unwrap();
    let mut middle = task_api(family.stream(1)).await;
    let ask = task::DelegateRequest {
        task: Some(tree(family.grandchild.unwrap())),
        ..Default::default()
    };
    let narrow = middle
        .delegate(ask)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    let mut inner = workload(family.stream(2)).await;
    let (message, mut stream) = fetch(&mut inner).await.unwrap();
    assert_eq!(message.svids.len(), 1);
    let mut inner_api = task_api(family.stream(3)).await;
    inner_api.complete(end_of(&narrow.id)).await.unwrap();
    assert_eq!(reason(&end(&mut stream).await), "TASK_ENDED");
    assert_eq!(reason(&fetch(&mut inner).await.unwrap_err()), "TASK_BOUND");
    let (outer, _) = fetch(&mut workload(family.stream(0)).await).await.unwrap();
    assert_eq!(outer.svids.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_task_id_grants_nothing() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let id = api
        .begin(begin())
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
        .id;
    // A child of this process, which the task is bound to alone.
    let mut stranger = node.puppet();
    let mut other = task_api(stranger.stream(1)).await;
    let task_id = || id.clone();
    let statuses = [
        other.complete(end_of(&id)).await.unwrap_err(),
        other.fail(end_of(&id)).await.unwrap_err(),
        other.cancel(end_of(&id)).await.unwrap_err(),
        other
            .get(task::GetRequest { task_id: task_id() })
            .await
            .unwrap_err(),
        other
            .extend(task::ExtendRequest {
                task_id: task_id(),
                ttl_ms: 1,
                ..Default::default()
            })
            .await
            .unwrap_err(),
        other
            .suspend(task::SuspendRequest {
                task_id: task_id(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        other
            .resume(task::ResumeRequest {
                task_id: task_id(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        other
            .delegate(task::DelegateRequest {
                parent_id: task_id(),
                task: Some(begin()),
            })
            .await
            .unwrap_err(),
        other
            .fetch_x509svid(task::FetchX509svidRequest {
                task_id: task_id(),
                csr: Vec::new(),
            })
            .await
            .unwrap_err(),
        other
            .fetch_jwtsvid(task::FetchJwtsvidRequest {
                task_id: task_id(),
                audience: vec!["a".to_owned()],
            })
            .await
            .unwrap_err(),
    ];
    for status in statuses {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "NO_SUCH_TASK")
        );
    }
    let listed = other
        .list(task::ListRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(listed.tasks.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn lists_are_paged_and_show_what_the_caller_may_act_on() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(
            api.begin(begin())
                .await
                .unwrap()
                .into_inner()
                .task
                .unwrap()
                .id,
        );
    }
    api.complete(end_of(&ids[0])).await.unwrap();
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let ask = task::ListRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = api.list(ask).await.unwrap().into_inner();
        assert!(page.tasks.len() <= 2);
        found.extend(page.tasks.into_iter().map(|task| task.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ids.sort();
    assert_eq!(found, ids);
    let ask = task::ListRequest {
        live_only: true,
        ..Default::default()
    };
    assert_eq!(api.list(ask).await.unwrap().into_inner().tasks.len(), 4);
    let ask = task::ListRequest {
        root_id: ids[1].clone(),
        ..Default::default()
    };
    assert_eq!(api.list(ask).await.unwrap().into_inner().tasks.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_watch_shows_each_change_of_the_callers_tasks() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let id = api
        .begin(begin())
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
        .id;
    let mut watch = api.watch(task::WatchRequest {}).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.unwrap().task.unwrap().id, id);
    let ask = task::SuspendRequest {
        task_id: id.clone(),
        ..Default::default()
    };
    let suspended = api.suspend(ask).await.unwrap().into_inner().task.unwrap();
    assert_eq!(suspended.state(), State::Suspended);
    assert_eq!(
        next(&mut watch).await.unwrap().task.unwrap().state(),
        State::Suspended
    );
    let ask = task::ResumeRequest {
        task_id: id.clone(),
        ..Default::default()
    };
    api.resume(ask).await.unwrap();
    assert_eq!(
        next(&mut watch).await.unwrap().task.unwrap().state(),
        State::Live
    );
    let ask = task::ExtendRequest {
        task_id: id.clone(),
        ttl_ms: 1_000,
        ..Default::default()
    };
    api.extend(ask).await.unwrap();
    next(&mut watch).await.unwrap();
    api.fail(end_of(&id)).await.unwrap();
    let last = next(&mut watch).await.unwrap().task.unwrap();
    assert_eq!(last.ending.unwrap().cause, "failed");
    node.stop().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_task() {
    let (fake, node) = started().await;
    let mut api = node.task_api().await;
    let ask = task::BeginRequest {
        request_id: vec![7; 16],
        ..begin()
    };
    let first = api.begin(ask.clone()).await.unwrap().into_inner();
    let second = api.begin(ask).await.unwrap().into_inner();
    assert_eq!(first.task.unwrap().id, second.task.unwrap().id);
    assert_ne!(
        first.svid.unwrap().private_key,
        second.svid.unwrap().private_key
    );
    assert_eq!(fake.state(|state| state.tasks.len()), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_socket_folder_is_its_uids_alone_shows_its_task_alone_and_goes_with_it() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let ask = task::BeginRequest {
        binding: task::Binding::Socket.into(),
        ..begin()
    };
    let begun = api.begin(ask).await.unwrap().into_inner();
    let (task, dir) = (begun.task.unwrap(), begun.socket_dir);
    assert!(begun.svid.is_none());
    let folder = std::fs::metadata(&dir).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    assert_eq!(folder.uid(), nix::unistd::geteuid().as_raw());
    // Not seen on the shared socket, by whomever.
    let workload_path = std::path::Path::new(&dir).join("workload.sock");
    let task_path = std::path::Path::new(&dir).join("task.sock");
    let mut inside = Puppet::connected(&[&workload_path, &task_path, node.workload_socket()]);
    let (message, mut stream) = fetch(&mut workload(inside.stream(0)).await).await.unwrap();
    assert_eq!(message.svids.len(), 1);
    let leaf = message.svids[0].x509_svid.clone();
    let (shared, _) = fetch(&mut workload(inside.stream(2)).await).await.unwrap();
    assert_ne!(shared.svids[0].x509_svid, leaf);
    let mut own = task_api(inside.stream(1)).await;
    let listed = own
        .list(task::ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(
        listed.iter().map(|task| &task.id).collect::<Vec<_>>(),
        [&task.id]
    );
    // Confined: nothing begins here that is not below the task.
    assert_eq!(reason(&own.begin(begin()).await.unwrap_err()), "CONFINED");
    own.complete(task::EndRequest::default()).await.unwrap();
    end(&mut stream).await;
    let gone = async {
        while std::path::Path::new(&dir).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_socket_for_another_uid_is_made_by_root_and_refuses_everybody_else() {
    if !nix::unistd::geteuid().is_root() {
        taskmint_peer::testing::skip("a_socket_for_another_uid_…", "needs root");
        return;
    }
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let ask = task::BeginRequest {
        binding: task::Binding::Socket.into(),
        uid: 65_533,
        ..begin()
    };
    let dir = api.begin(ask).await.unwrap().into_inner().socket_dir;
    assert_eq!(std::fs::metadata(&dir).unwrap().uid(), 65_533);
    let path = std::path::Path::new(&dir).join("workload.sock");
    // Root gets through the folder, and no further.
    let stream = UnixStream::connect(path).await.unwrap();
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut [0; 1]).unwrap(), 0);
    node.stop().await;
}

#[tokio::test]
async fn the_beginner_says_how_its_childs_task_ended() {
    let (fake, node) = started().await;
    let mut child = node.puppet();
    let mut api = node.task_api().await;
    let id = api
        .begin(tree(child.pid()))
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
        .id;
    child.kill();
    api.complete(end_of(&id)).await.unwrap();
    let causes = || fake.state(|s| s.ended.iter().map(|e| e.cause.clone()).collect::<Vec<_>>());
    assert_eq!(causes(), ["completed"]);
    // Longer than a last word may take: nothing else is said.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(causes(), ["completed"]);
    node.stop().await;
}

#[tokio::test]
async fn tokens_of_a_certain_task_are_had_by_its_holder() {
    let (_fake, node) = started().await;
    let mut api = node.task_api().await;
    let id = api
        .begin(begin())
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
        .id;
    let ask = task::FetchJwtsvidRequest {
        task_id: id.clone(),
        audience: vec!["a".to_owned()],
    };
    let token = api.fetch_jwtsvid(ask).await.unwrap().into_inner();
    assert_eq!(token.task_id, id);
    let parsed = taskmint_id::jws::UnverifiedToken::parse(&token.token).unwrap();
    assert_eq!(parsed.claims.audience, ["a"]);
    node.stop().await;
}

#[tokio::test]
async fn an_entry_that_shares_with_descendants_lets_them_in_without_a_match() {
    let fake = Fake::start().await;
    let node = Node::start(&fake).await;
    let paths = [node.workload_socket()];
    let mut family = Puppet::family(&paths, &paths);
    // Children of the test run the same file, so what tells them apart here is time.
    let mut of_entry = entry(1, "/web");
    fake.put_entries(vec![of_entry.clone()]).await;
    let mut api = node.task_api().await;
    api.begin(tree(family.pid())).await.unwrap();
    let mut below = workload(family.stream(1)).await;
    let (_, mut stream) = fetch(&mut below).await.unwrap();
    of_entry.revision = 2;
    of_entry
        .selectors
        .push("unix:path:/nobody/runs/this".to_owned());
    fake.put_entries(vec![of_entry.clone()]).await;
    assert_eq!(reason(&end(&mut stream).await), "ENTRY_MISMATCH");
    of_entry.revision = 3;
    of_entry.descendants = true;
    fake.put_entries(vec![of_entry]).await;
    let shared = async {
        while fetch(&mut below).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shared).await.unwrap();
    // The holder itself must match: it may run another file by now.
    let mut holder = workload(family.stream(0)).await;
    assert_eq!(
        reason(&fetch(&mut holder).await.unwrap_err()),
        "ENTRY_MISMATCH"
    );
    let ask = workload::JwtsvidRequest {
        audience: vec!["a".to_owned()],
        ..Default::default()
    };
    assert_eq!(
        reason(&holder.fetch_jwtsvid(ask).await.unwrap_err()),
        "ENTRY_MISMATCH"
    );
    node.stop().await;
}
