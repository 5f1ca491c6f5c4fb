//! Calls of administrators and workloads that no other journey makes: what they answer when all is
//! well, and page by page.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use taskmint_id::Bundle;
use taskmint_model::{Clock as _, SystemClock};
use taskmint_testkit::ManualClock;
use taskmint_wire::{admin, task};
use tempfile::TempDir;
use tonic::{Code, Status, Streaming};

use crate::harness::World;
use crate::joined::{Joined, SOON, child};
use crate::node::{Key, Node, UID, attest, reason, request_id};
use crate::public::{Workload, joined};

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"";

/// Of the right form, and nobody's.
const NOBODY: &str = "0198c0de-0000-7000-8000-000000000000";

async fn world() -> (World, Node) {
    let mut world = World::in_memory().await;
    let node = joined(&mut world).await;
    (world, node)
}

async fn next(changes: &mut Streaming<task::TaskResponse>) -> task::Task {
    let changed = tokio::time::timeout(SOON, changes.message()).await;
    changed.unwrap().unwrap().unwrap().task.unwrap()
}

#[tokio::test]
async fn an_operator_watches_what_becomes_of_one_tree_of_tasks() {
    let (mut world, mut node) = world().await;
    let root = Workload::begin(&mut node, 1).await;
    let other = Workload::begin(&mut node, 2).await;
    let watch = |root_id: &str, spiffe_id: &str| admin::WatchTasksRequest {
        root_id: root_id.to_owned(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let mut changes = world.admin.watch_tasks(watch(&root.id, "")).await;
    let changes = changes.as_mut().unwrap().get_mut();
    let nobodys = watch("", "spiffe://example.org/nobody");
    let mut none = world.admin.watch_tasks(nobodys).await.unwrap().into_inner();

    other.suspend(&mut world).await;
    root.suspend(&mut world).await;
    let suspended = next(changes).await;
    assert_eq!(
        (&suspended.id, suspended.state()),
        (&root.id, task::State::Suspended),
        "nothing of another tree"
    );
    root.resume(&mut world).await;
    assert_eq!(next(changes).await.state(), task::State::Live);
    let begun = Workload::begin_as(&mut node, 3, |ask| ask.parent_id = root.id.clone()).await;
    assert_eq!(next(changes).await.id, begun.id);
    root.complete(&mut node).await;
    let mut ended = BTreeSet::new();
    while ended.len() < 2 {
        let task = next(changes).await;
        assert_eq!(task.state(), task::State::Ended);
        ended.insert((task.id, task.ending.unwrap().cause));
    }
    let expected = [(root.id, "completed"), (begun.id, "parent_ended")];
    assert_eq!(
        ended,
        expected.map(|(id, cause)| (id, cause.to_owned())).into()
    );

    let (last, _folder) = tokio::join!(none.message(), world.stop());
    assert!(!matches!(last, Ok(Some(_))), "{last:?}");
}

#[tokio::test]
async fn a_task_that_an_operator_completes_is_completed_and_over() {
    let (mut world, mut node) = world().await;
    let over = Workload::begin(&mut node, 1).await;
    let end = task::EndRequest {
        task_id: over.id.clone(),
        reason: "done".to_owned(),
        request_id: request_id(),
        ..Default::default()
    };
    let ended = world.admin.complete_task(end.clone()).await.unwrap();
    let ended = ended.into_inner();
    let ending = ended.task.unwrap().ending.unwrap();
    assert_eq!(ending.cause, "completed");
    let receipt = ended.receipt.unwrap();
    assert_eq!(receipt.position, ended.position);
    assert!(ended.position > 0 && receipt.dead_everywhere_by_ms > ending.at_ms);
    let again = world.admin.complete_task(end).await.unwrap().into_inner();
    assert_eq!(again.task.unwrap().ending.unwrap(), ending);
}

#[tokio::test]
async fn a_deleted_token_lets_nobody_in() {
    let (mut world, _node) = world().await;
    let join = world.token("n2").await;
    let list = world.admin.list_tokens(admin::ListTokensRequest {}).await;
    let tokens = list.unwrap().into_inner().tokens;
    let unused: Vec<_> = tokens.iter().filter(|token| !token.consumed).collect();
    assert_eq!((unused.len(), &*unused[0].node), (1, "n2"));
    let delete = admin::DeleteTokenRequest {
        id: unused[0].id.clone(),
    };
    world.admin.delete_token(delete.clone()).await.unwrap();
    let list = world.admin.list_tokens(admin::ListTokensRequest {}).await;
    let left = list.unwrap().into_inner().tokens;
    assert!(left.iter().all(|token| token.consumed), "{left:?}");
    let refused = attest(&join, &Key::new(), &request_id()).await;
    assert_eq!(reason(&refused.unwrap_err()), "TOKEN_UNKNOWN");
    let refused = world.admin.delete_token(delete).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SUCH_TOKEN");
}

#[tokio::test]
async fn the_bundle_is_had_as_spiffe_says_and_as_pem() {
    let (mut world, _node) = world().await;
    let expected = world.server.issuer.bundle().borrow().clone();
    let mut get = async |format: &str| {
        let format = format.to_owned();
        let answer = world.admin.get_bundle(admin::GetBundleRequest { format });
        let answer = answer.await.unwrap().into_inner();
        assert_eq!(answer.trust_domain, "example.org");
        assert_eq!(answer.sequence, expected.sequence());
        answer.data
    };
    let spiffe = get("spiffe").await;
    let read = Bundle::parse("example.org".parse().unwrap(), &spiffe).unwrap();
    assert!(read.same_content(&expected) && !read.jwt_authorities().is_empty());
    assert_eq!(get("").await, spiffe);
    let text = String::from_utf8(get("pem").await).unwrap();
    let is_content = |line: &&str| !line.starts_with("-----");
    let content: String = text.lines().filter(is_content).collect();
    let der = BASE64_STANDARD.decode(content);
    assert_eq!(der.unwrap(), expected.x509_der());
}

#[tokio::test]
async fn what_was_issued_is_read_page_by_page_without_a_gap() {
    let (mut world, mut node) = world().await;
    for pid in 1..8 {
        Workload::begin(&mut node, pid).await;
    }
    let mut page = async |page_size, page_token: &str| {
        let request = admin::ListIssuancesRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        let answer = world.admin.list_issuances(request).await?;
        Ok::<_, Status>(answer.into_inner())
    };
    let all = page(0, "").await.unwrap();
    assert_eq!((all.issuances.len(), &*all.next_page_token), (9, ""));
    let (mut read, mut token) = (Vec::new(), String::new());
    loop {
        let next = page(2, &token).await.unwrap();
        assert!(next.issuances.len() <= 2);
        read.extend(next.issuances);
        token = next.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(read, all.issuances);
    let log = "00".repeat(8);
    for bad in [
        "x",
        "1",
        "1.x",
        &format!("x.{log}.1.1"),
        &format!("{log}.1.1"),
    ] {
        let refused = page(2, bad).await.unwrap_err();
        let told = (refused.code(), reason(&refused));
        assert_eq!(
            told,
            (Code::InvalidArgument, "BAD_FIELD".to_owned()),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn denials_are_listed_newest_first_as_many_as_are_asked_for() {
    let clock = ManualClock::new(SystemClock.now());
    let folder = Arc::new(TempDir::new().unwrap());
    let mut world = World::by(folder, MEMORY, Arc::new(clock.clone())).await;
    let mut node = joined(&mut world).await;
    for uid in 0..5 {
        let ask = node.begin(&[&format!("unix:uid:{uid}")], 7, Vec::new());
        node.client.begin_task(ask).await.unwrap_err();
        clock.advance(Duration::from_millis(1));
    }
    let mut list = async |page_size| {
        let request = admin::ListDenialsRequest { page_size };
        let answer = world.admin.list_denials(request).await.unwrap();
        answer.into_inner().denials
    };
    let all = list(0).await;
    let about: Vec<_> = all.iter().map(|denial| &*denial.selectors[0]).collect();
    let expected = ["4", "3", "2", "1", "0"].map(|uid| format!("unix:uid:{uid}"));
    assert_eq!(about, expected);
    assert_eq!(list(2).await, all[..2]);
    assert_eq!(list(u32::MAX).await, all);
}

#[tokio::test]
async fn the_audit_is_read_page_by_page_without_a_gap() {
    let (mut world, mut node) = world().await;
    Workload::begin(&mut node, 1)
        .await
        .complete(&mut node)
        .await;
    let mut read = async |from, page_size| {
        let request = admin::ListAuditRequest {
            from,
            page_size,
            ..Default::default()
        };
        let answer = world.admin.list_audit(request).await.unwrap();
        answer.into_inner().lines
    };
    let all = read(0, 0).await;
    assert!(all.len() > 6, "{all:?}");
    assert_eq!(read(1, u32::MAX).await, all, "the first is number 1");
    let mut pages: Vec<admin::AuditLine> = Vec::new();
    loop {
        let from = pages.last().map_or(1, |last| last.number + 1);
        let page = read(from, 3).await;
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        pages.extend(page);
    }
    assert_eq!(pages, all);
    for (line, number) in all.iter().zip(1..) {
        assert_eq!(line.number, number);
    }
    assert!(read(u64::MAX, 3).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_callers_is_neither_fetched_nor_waited_for() {
    let mut joined = Joined::start().await;
    joined.own_entry(false).await;
    let mut tasks = joined.agent.task_api().await;
    let begin = |pid| task::BeginRequest {
        binding: task::Binding::Tree.into(),
        pid,
        ..Default::default()
    };
    let held = child();
    let of_child = tasks.begin(begin(held.id())).await.unwrap();
    let of_child = of_child.into_inner().task.unwrap().id;
    let own = tasks.begin(task::BeginRequest::default()).await.unwrap();
    let own = own.into_inner().task.unwrap().id;
    let mut fetch = async |task_id: &str| {
        let x509 = task::FetchX509svidRequest {
            task_id: task_id.to_owned(),
            ..Default::default()
        };
        let jwt = task::FetchJwtsvidRequest {
            task_id: task_id.to_owned(),
            audience: vec!["a".to_owned()],
        };
        let x509 = tasks.fetch_x509svid(x509).await.map(drop);
        [x509, tasks.fetch_jwtsvid(jwt).await.map(drop)]
    };
    let unknown = NOBODY.to_uppercase();
    for (id, code, expected) in [
        ("x", Code::InvalidArgument, "BAD_TASK_ID"),
        (&*unknown, Code::InvalidArgument, "BAD_TASK_ID"),
        (NOBODY, Code::NotFound, "NO_SUCH_TASK"),
        // To have begun it is not enough.
        (&*of_child, Code::NotFound, "NO_SUCH_TASK"),
    ] {
        for refused in fetch(id).await {
            let refused = refused.unwrap_err();
            assert_eq!(
                (refused.code(), &*reason(&refused)),
                (code, expected),
                "{id}"
            );
        }
    }
    for fetched in fetch(&own).await {
        fetched.unwrap();
    }

    let mut wait = async |task_id: &str, timeout_ms| {
        let task_id = task_id.to_owned();
        let wait = task::WaitRequest {
            task_id,
            timeout_ms,
        };
        tasks.wait(wait).await.map(drop)
    };
    for (id, timeout, code, expected) in [
        ("", 0, Code::InvalidArgument, "BAD_TASK_ID"),
        ("x", 0, Code::InvalidArgument, "BAD_TASK_ID"),
        (&*unknown, 0, Code::InvalidArgument, "BAD_TASK_ID"),
        (NOBODY, 0, Code::NotFound, "NO_SUCH_TASK"),
        (&*own, 0, Code::FailedPrecondition, "NOT_ENDED"),
        (&*own, u64::MAX, Code::InvalidArgument, "TOO_LONG"),
    ] {
        let refused = wait(id, timeout).await.unwrap_err();
        let told = (refused.code(), reason(&refused));
        assert_eq!(told, (code, expected.to_owned()), "{id}");
    }
    // What somebody else began is none of a stranger's to wait for.
    joined.world.entry("w", UID, false).await;
    let mut other = Node::join(&joined.world.token("n2").await).await;
    let theirs = Workload::begin(&mut other, 1).await;
    theirs.complete(&mut other).await;
    let refused = wait(&theirs.id, 0).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SUCH_TASK");
}
