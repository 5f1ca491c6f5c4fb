//! Bad inputs of each call: what is sent, which code, which stable reason. Nothing reaches the
//! server.

use taskmint_wire::{task, workload};
use tonic::{Code, Status};

use crate::fake::{Fake, entry};
use crate::node::{Node, reason};

fn check(call: &str, status: Status, code: Code, expected: &str) {
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, expected),
        "{call}: {status}"
    );
}

#[tokio::test]
async fn bad_inputs_of_the_workload_api_are_refused_each_for_its_reason() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let many = || vec!["a".to_owned(); 65];
    let cases = [
        (vec![], "", "BAD_AUDIENCE"),
        (vec![String::new()], "", "BAD_AUDIENCE"),
        (vec!["a".to_owned(), String::new()], "", "BAD_AUDIENCE"),
        (many(), "", "BAD_AUDIENCE"),
        (vec!["a".repeat(513)], "", "BAD_AUDIENCE"),
        (vec!["a\nb".to_owned()], "", "BAD_AUDIENCE"),
        (vec!["a".to_owned()], "example.org/web", "BAD_SPIFFE_ID"),
        (
            vec!["a".to_owned()],
            "spiffe://Example.org/web",
            "BAD_SPIFFE_ID",
        ),
        (
            vec!["a".to_owned()],
            "spiffe://example.org/web/",
            "BAD_SPIFFE_ID",
        ),
    ];
    for (audience, spiffe_id, expected) in cases {
        let call = format!("{audience:?} {spiffe_id}");
        let ask = workload::JwtsvidRequest {
            audience,
            spiffe_id: spiffe_id.to_owned(),
        };
        let status = client.fetch_jwtsvid(ask).await.unwrap_err();
        check(&call, status, Code::InvalidArgument, expected);
    }
    // Too large: refused before it is read.
    let ask = workload::ValidateJwtsvidRequest {
        audience: "a".to_owned(),
        svid: "x".repeat(70 << 10),
    };
    let status = client.validate_jwtsvid(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let ask = workload::ValidateJwtsvidRequest {
        audience: "a".to_owned(),
        svid: "x".repeat(17 << 10),
    };
    let status = client.validate_jwtsvid(ask).await.unwrap_err();
    check(
        "a long token",
        status,
        Code::InvalidArgument,
        "TOKEN_MALFORMED",
    );
    assert!(fake.state(|state| state.begun.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn bad_begins_are_refused_each_for_its_reason() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut api = node.task_api().await;
    let good = task::BeginRequest::default;
    let socket: i32 = task::Binding::Socket.into();
    let tree: i32 = task::Binding::Tree.into();
    let authority = |scopes: Vec<String>| {
        Some(task::Authority {
            scopes,
            ..Default::default()
        })
    };
    let cases = [
        (
            task::BeginRequest {
                request_id: vec![1; 15],
                ..good()
            },
            "BAD_REQUEST_ID",
        ),
        (
            task::BeginRequest {
                request_id: vec![0; 16],
                ..good()
            },
            "BAD_REQUEST_ID",
        ),
        (
            task::BeginRequest {
                spiffe_id: "web".to_owned(),
                ..good()
            },
            "BAD_SPIFFE_ID",
        ),
        (
            task::BeginRequest {
                purpose: "x".repeat(1025),
                ..good()
            },
            "BAD_TEXT",
        ),
        (
            task::BeginRequest {
                purpose: "a\u{1b}[2J".to_owned(),
                ..good()
            },
            "BAD_TEXT",
        ),
        (
            task::BeginRequest {
                owner: "a\nb".to_owned(),
                ..good()
            },
            "BAD_TEXT",
        ),
        (
            task::BeginRequest {
                authority: authority(vec![String::new()]),
                ..good()
            },
            "BAD_FIELD",
        ),
        (
            task::BeginRequest {
                authority: authority(vec!["x".repeat(513)]),
                ..good()
            },
            "BAD_FIELD",
        ),
        (
            task::BeginRequest {
                binding: 99,
                ..good()
            },
            "BAD_BINDING",
        ),
        (
            task::BeginRequest {
                binding: task::Binding::None.into(),
                ..good()
            },
            "BAD_BINDING",
        ),
        (task::BeginRequest { pid: 1, ..good() }, "BAD_BINDING"),
        (task::BeginRequest { uid: 1, ..good() }, "BAD_BINDING"),
        (
            task::BeginRequest {
                binding: socket,
                pid: 1,
                ..good()
            },
            "BAD_BINDING",
        ),
        (
            task::BeginRequest {
                csr: vec![0x30, 0],
                ..good()
            },
            "BAD_CSR",
        ),
        (
            task::BeginRequest {
                csr: vec![0x30; 17 << 10],
                ..good()
            },
            "BAD_CSR",
        ),
    ];
    for (ask, expected) in cases {
        let call = format!("{ask:?}").chars().take(200).collect::<String>();
        let status = api.begin(ask.clone()).await.unwrap_err();
        check(&call, status, Code::InvalidArgument, expected);
        let ask = task::DelegateRequest {
            task: Some(ask),
            ..Default::default()
        };
        let status = api.delegate(ask).await.unwrap_err();
        check(&call, status, Code::InvalidArgument, expected);
    }
    // No child: not its parent, not the first process, not a number that nobody has.
    for pid in [1, std::os::unix::process::parent_id(), 0x7fff_ffff] {
        let ask = task::BeginRequest {
            binding: tree,
            pid,
            ..good()
        };
        let status = api.begin(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{pid} {status}");
    }
    let ask = task::BeginRequest {
        purpose: "x".repeat(70 << 10),
        ..good()
    };
    assert_eq!(api.begin(ask).await.unwrap_err().code(), Code::OutOfRange);
    let ask = task::DelegateRequest {
        task: Some(good()),
        parent_id: "x".to_owned(),
    };
    check(
        "x",
        api.delegate(ask).await.unwrap_err(),
        Code::InvalidArgument,
        "BAD_TASK_ID",
    );
    let ask = task::DelegateRequest {
        task: Some(good()),
        ..Default::default()
    };
    check(
        "no parent",
        api.delegate(ask).await.unwrap_err(),
        Code::NotFound,
        "NO_TASK",
    );
    assert!(fake.state(|state| state.begun.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn bad_changes_and_reads_are_refused_each_for_its_reason() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut api = node.task_api().await;
    let bad = Code::InvalidArgument;
    let unknown = "0198c0de-0000-7000-8000-000000000000";
    for (task_id, code, expected) in [
        ("x", bad, "BAD_TASK_ID"),
        (&unknown.to_uppercase(), bad, "BAD_TASK_ID"),
        (unknown, Code::NotFound, "NO_SUCH_TASK"),
        ("", Code::NotFound, "NO_TASK"),
    ] {
        let task_id = || task_id.to_owned();
        let end = || task::EndRequest {
            task_id: task_id(),
            ..Default::default()
        };
        check(
            "complete",
            api.complete(end()).await.unwrap_err(),
            code,
            expected,
        );
        check("fail", api.fail(end()).await.unwrap_err(), code, expected);
        check(
            "cancel",
            api.cancel(end()).await.unwrap_err(),
            code,
            expected,
        );
        let ask = task::ExtendRequest {
            task_id: task_id(),
            ttl_ms: 1,
            ..Default::default()
        };
        check("extend", api.extend(ask).await.unwrap_err(), code, expected);
        let ask = task::SuspendRequest {
            task_id: task_id(),
            ..Default::default()
        };
        check(
            "suspend",
            api.suspend(ask).await.unwrap_err(),
            code,
            expected,
        );
        let ask = task::ResumeRequest {
            task_id: task_id(),
            ..Default::default()
        };
        check("resume", api.resume(ask).await.unwrap_err(), code, expected);
    }
    for (task_id, code, expected) in [
        ("", bad, "BAD_TASK_ID"),
        ("x", bad, "BAD_TASK_ID"),
        (unknown, Code::NotFound, "NO_SUCH_TASK"),
    ] {
        let ask = task::GetRequest {
            task_id: task_id.to_owned(),
        };
        check("get", api.get(ask).await.unwrap_err(), code, expected);
    }
    for (ask, expected) in [
        (
            task::ListRequest {
                page_size: 501,
                ..Default::default()
            },
            "BAD_PAGE",
        ),
        (
            task::ListRequest {
                page_token: "x".to_owned(),
                ..Default::default()
            },
            "BAD_PAGE",
        ),
        (
            task::ListRequest {
                root_id: "x".to_owned(),
                ..Default::default()
            },
            "BAD_TASK_ID",
        ),
        (
            task::ListRequest {
                spiffe_id: "x".to_owned(),
                ..Default::default()
            },
            "BAD_SPIFFE_ID",
        ),
    ] {
        check("list", api.list(ask).await.unwrap_err(), bad, expected);
    }
    let ask = task::ExtendRequest::default();
    check(
        "extend by nothing",
        api.extend(ask).await.unwrap_err(),
        bad,
        "BAD_TTL",
    );
    let ask = task::EndRequest {
        reason: "a\nb".to_owned(),
        ..Default::default()
    };
    check(
        "reason",
        api.complete(ask).await.unwrap_err(),
        bad,
        "BAD_TEXT",
    );
    let ask = task::EndRequest {
        request_id: vec![1],
        ..Default::default()
    };
    check(
        "request id",
        api.complete(ask).await.unwrap_err(),
        bad,
        "BAD_REQUEST_ID",
    );
    let ask = task::FetchJwtsvidRequest::default();
    check(
        "audience",
        api.fetch_jwtsvid(ask).await.unwrap_err(),
        bad,
        "BAD_AUDIENCE",
    );
    let ask = task::FetchX509svidRequest {
        csr: vec![1],
        ..Default::default()
    };
    check(
        "csr",
        api.fetch_x509svid(ask).await.unwrap_err(),
        bad,
        "BAD_CSR",
    );
    assert!(fake.state(|state| state.ended.is_empty() && state.changed.is_empty()));
    // Several, and none named.
    api.begin(task::BeginRequest::default()).await.unwrap();
    api.begin(task::BeginRequest::default()).await.unwrap();
    let status = api.complete(task::EndRequest::default()).await.unwrap_err();
    check("several", status, bad, "SEVERAL_TASKS");
    node.stop().await;
}
