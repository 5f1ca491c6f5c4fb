//! The Workload API, by a raw client of the standard's proto.

use std::collections::HashSet;
use std::time::Duration;

use taskmint_agent::Limits;
use taskmint_model::{Clock, SystemClock};
use taskmint_testkit::TestCa;
use taskmint_wire::{denial_of, workload};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fake::{Fake, entry};
use crate::node::{Node, end, fetch, next, reason, until, workload};
use crate::puppet::Puppet;

#[tokio::test]
async fn an_unmodified_client_gets_an_svid_of_a_task_as_long_as_its_process() {
    let fake = Fake::start().await;
    let mut of_entry = entry(1, "/web");
    of_entry.hint = "main".to_owned();
    fake.state(|state| state.entries = vec![of_entry]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (first, _stream) = fetch(&mut client).await.unwrap();
    assert_eq!(first.svids.len(), 1);
    let svid = &first.svids[0];
    assert_eq!(
        (svid.spiffe_id.as_str(), svid.hint.as_str()),
        ("spiffe://example.org/web", "main")
    );
    let (rest, leaf) = X509Certificate::from_der(&svid.x509_svid).unwrap();
    assert!(rest.is_empty(), "leaf only, no root");
    use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};
    let key = p256::SecretKey::from_pkcs8_der(&svid.x509_svid_key).unwrap();
    assert_eq!(
        leaf.public_key().raw,
        key.public_key().to_public_key_der().unwrap().as_bytes()
    );
    assert_eq!(svid.bundle, fake.ca().certificate());
    // Another stream and another connection of the same process share the task and its key.
    let (second, _) = fetch(&mut client).await.unwrap();
    let (third, _) = fetch(&mut node.workload().await).await.unwrap();
    assert_eq!(second.svids, first.svids);
    assert_eq!(third.svids, first.svids);
    let begun = fake.state(|state| state.begun.clone());
    assert_eq!(begun.len(), 1);
    let caller = begun[0].caller.clone().unwrap();
    assert!(
        caller
            .process
            .starts_with(&format!("{}.", std::process::id()))
    );
    assert!(
        caller
            .selectors
            .contains(&format!("unix:uid:{}", caller.uid))
    );
    node.stop().await;
}

#[tokio::test]
async fn every_request_on_the_workload_socket_needs_the_security_header() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let stream = tokio::net::UnixStream::connect(node.workload_socket())
        .await
        .unwrap();
    let mut raw = tonic::client::Grpc::new(crate::node::channel(stream).await);
    let paths = [
        "/SpiffeWorkloadAPI/FetchX509SVID",
        "/SpiffeWorkloadAPI/FetchX509Bundles",
        "/SpiffeWorkloadAPI/FetchJWTSVID",
        "/SpiffeWorkloadAPI/FetchJWTBundles",
        "/SpiffeWorkloadAPI/ValidateJWTSVID",
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/no.such.Service/Call",
    ];
    let values: [&[&'static str]; 5] = [&[], &["True"], &["1"], &[""], &["true", "true"]];
    for path in paths {
        for value in values {
            let mut metadata = MetadataMap::new();
            for value in value {
                metadata.append("workload.spiffe.io", value.parse().unwrap());
            }
            let status = call(&mut raw, path, metadata).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path} {value:?}");
            assert_eq!(reason(&status), "SECURITY_HEADER");
        }
    }
    // With it, what is not served is unimplemented: the WIT profile too (GEN-03).
    for path in [
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/FetchWITBundles",
        "/x.Y/Z",
    ] {
        let mut metadata = MetadataMap::new();
        metadata.insert("workload.spiffe.io", "true".parse().unwrap());
        let status = call(&mut raw, path, metadata).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    node.stop().await;
}

async fn call(
    raw: &mut tonic::client::Grpc<tonic::transport::Channel>,
    path: &'static str,
    metadata: MetadataMap,
) -> Result<(), tonic::Status> {
    raw.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::iter([workload::X509svidRequest {}]));
    *request.metadata_mut() = metadata;
    let codec =
        tonic_prost::ProstCodec::<workload::X509svidRequest, workload::X509svidRequest>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    raw.streaming(request, path, codec).await.map(drop)
}

#[tokio::test]
async fn reflection_shows_the_workload_api_and_nothing_of_ours() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let fake = Fake::start().await;
    let node = Node::start(&fake).await;
    let stream = tokio::net::UnixStream::connect(node.workload_socket())
        .await
        .unwrap();
    let channel = crate::node::channel(stream).await;
    let mut client = ServerReflectionClient::with_interceptor(channel, crate::node::with_header);
    let list = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let answers = client
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap();
    let answer = next(&mut answers.into_inner())
        .await
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: HashSet<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let expected = ["SpiffeWorkloadAPI", "grpc.reflection.v1.ServerReflection"];
    assert_eq!(names, expected.map(str::to_owned).into());
    node.stop().await;
}

#[tokio::test]
async fn who_matches_no_entry_is_told_why_and_the_server_knows_the_story() {
    let fake = Fake::start().await;
    let mut other = entry(1, "/web");
    other.selectors.push("unix:path:/no/such/file".to_owned());
    fake.state(|state| state.entries = vec![other]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let status = fetch(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("no identity issued"), "{status}");
    let (reason, facts) = denial_of(&status).unwrap();
    assert_eq!(reason, "NO_MATCHING_ENTRY");
    assert!(facts["facts"].contains("unix:uid:"), "{facts:?}");
    // What the caller lacks is for the operator alone.
    assert!(!format!("{status:?}").contains("/no/such/file"));
    let told = fake.until(|state| state.denials.first().cloned()).await;
    assert_eq!(told.denial_id, facts["denial_id"]);
    assert!(
        told.detail[0].contains("unix:path:/no/such/file"),
        "{told:?}"
    );
    // A retry is the same denial, told once.
    let again = fetch(&mut client).await.unwrap_err();
    assert_eq!(denial_of(&again).unwrap().1["denial_id"], told.denial_id);
    for code in [
        client
            .fetch_x509_bundles(workload::X509BundlesRequest {})
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .map(drop),
        client
            .fetch_jwt_bundles(workload::JwtBundlesRequest {})
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .map(drop),
    ] {
        assert_eq!(code.unwrap_err().code(), Code::PermissionDenied);
    }
    fake.until(|state| (state.denials.len() == 3).then_some(()))
        .await;
    node.stop().await;
}

#[tokio::test]
async fn an_entry_without_implicit_tasks_gives_none() {
    let fake = Fake::start().await;
    let mut explicit = entry(1, "/web");
    explicit.implicit = false;
    fake.state(|state| state.entries = vec![explicit]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let status = fetch(&mut client).await.unwrap_err();
    assert_eq!(reason(&status), "NO_TASK");
    // But it is entitled to bundles.
    let mut bundles = client
        .fetch_x509_bundles(workload::X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let bundles = next(&mut bundles).await.unwrap().bundles;
    assert_eq!(bundles["spiffe://example.org"], fake.ca().certificate());
    node.stop().await;
}

#[tokio::test]
async fn two_processes_have_two_tasks_and_two_keys() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let (mut one, mut two) = (node.puppet(), node.puppet());
    let (first, _a) = fetch(&mut workload(one.stream(0)).await).await.unwrap();
    let (second, _b) = fetch(&mut workload(two.stream(0)).await).await.unwrap();
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    let begun = fake.state(|state| state.begun.clone());
    let callers: HashSet<_> = begun
        .into_iter()
        .map(|ask| ask.caller.unwrap().process)
        .collect();
    assert_eq!(
        callers,
        [one.process.to_string(), two.process.to_string()].into()
    );
    node.stop().await;
}

#[tokio::test]
async fn an_ended_identity_ends_the_stream_and_is_never_begun_again() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let paths = [node.workload_socket()];
    let mut family = Puppet::family(&paths, &paths);
    let mut client = workload(family.stream(0)).await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    let id = fake.state(|state| state.tasks.keys().next().unwrap().clone());
    fake.revoke(&id).await;
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "TASK_ENDED")
    );
    assert!(status.message().contains("no identity issued"), "{status}");
    assert!(status.message().contains("revoked"), "{status}");
    // P3: clients retry; neither the process nor its children get another.
    let mut child = workload(family.stream(1)).await;
    for _ in 0..5 {
        for client in [&mut client, &mut child] {
            let status = fetch(client).await.unwrap_err();
            assert_eq!(reason(&status), "BARRED", "{status}");
            assert!(status.message().contains("no identity issued"));
        }
    }
    // A new process is another matter.
    let mut fresh = node.puppet();
    fetch(&mut workload(fresh.stream(0)).await).await.unwrap();
    assert_eq!(fake.state(|state| state.begun.len()), 2);
    // Once an admin lifts the bar, so is this one.
    fake.state(|state| state.bars.clear());
    fake.cut();
    fake.until(|state| (state.sessions_opened == 2).then_some(()))
        .await;
    node.tasks.readiness().ready().await;
    fetch(&mut client).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_suspended_identity_leaves_the_stream_and_comes_back_when_resumed() {
    use taskmint_wire::task::State;
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    let id = fake.state(|state| state.tasks.keys().next().unwrap().clone());
    fake.change(&id, |task| task.set_state(State::Suspended))
        .await;
    assert_eq!(reason(&end(&mut stream).await), "TASK_SUSPENDED");
    assert_eq!(
        reason(&fetch(&mut client).await.unwrap_err()),
        "TASK_SUSPENDED"
    );
    fake.change(&id, |task| task.set_state(State::Live)).await;
    // The answer to the event is not awaited: ask until it is in.
    let back = async {
        while fetch(&mut client).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, back)
        .await
        .unwrap();
    assert_eq!(fake.state(|state| state.begun.len()), 1);
    node.stop().await;
}

#[tokio::test]
async fn changes_of_entries_are_pushed_to_open_streams() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/one")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    let ids = |message: &workload::X509svidResponse| -> Vec<String> {
        message
            .svids
            .iter()
            .map(|svid| svid.spiffe_id.clone())
            .collect()
    };
    // A newer identity comes behind the older, which stays the default (P7).
    fake.put_entries(vec![entry(1, "/one"), entry(2, "/two")])
        .await;
    let both = next(&mut stream).await.unwrap();
    assert_eq!(
        ids(&both),
        ["spiffe://example.org/one", "spiffe://example.org/two"]
    );
    fake.put_entries(vec![entry(2, "/two")]).await;
    assert_eq!(
        ids(&next(&mut stream).await.unwrap()),
        ["spiffe://example.org/two"]
    );
    fake.put_entries(Vec::new()).await;
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "NO_MATCHING_ENTRY")
    );
    node.stop().await;
}

#[tokio::test]
async fn svids_are_renewed_over_new_keys_before_they_expire() {
    let fake = Fake::start().await;
    fake.state(|state| {
        state.entries = vec![entry(1, "/web")];
        state.x509_ttl = Duration::from_secs(2);
    });
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (mut last, mut stream) = fetch(&mut client).await.unwrap();
    for _ in 0..2 {
        let (_, leaf) = X509Certificate::from_der(&last.svids[0].x509_svid).unwrap();
        let until = leaf.validity().not_after.timestamp();
        let new = next(&mut stream).await.unwrap();
        assert!(
            i64::try_from(SystemClock.now().secs()).unwrap() <= until,
            "renewed in time"
        );
        assert_ne!(new.svids[0].x509_svid_key, last.svids[0].x509_svid_key);
        last = new;
    }
    assert_eq!(fake.state(|state| state.begun.len()), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_new_bundle_reaches_every_stream() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut svids) = fetch(&mut client).await.unwrap();
    let bundles = client
        .fetch_x509_bundles(workload::X509BundlesRequest {})
        .await;
    let mut x509 = bundles.unwrap().into_inner();
    let bundles = client
        .fetch_jwt_bundles(workload::JwtBundlesRequest {})
        .await;
    let mut jwt = bundles.unwrap().into_inner();
    let first = next(&mut jwt).await.unwrap();
    next(&mut x509).await.unwrap();
    let keys = |message: &workload::JwtBundlesResponse| {
        let text = &message.bundles["spiffe://example.org"];
        let keys: serde_json::Value = serde_json::from_slice(text).unwrap();
        keys["keys"].as_array().unwrap().clone()
    };
    // WAPI-47: no key of another use.
    assert_eq!(keys(&first).len(), 1);
    assert!(keys(&first)[0].get("x5c").is_none());
    fake.rotate_bundle().await;
    assert_eq!(keys(&next(&mut jwt).await.unwrap()).len(), 2);
    next(&mut svids).await.unwrap();
    next(&mut x509).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn tokens_are_one_for_each_identity_or_the_one_asked_for() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/one"), entry(2, "/two"), entry(3, "/one")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let ask = |spiffe_id: &str| workload::JwtsvidRequest {
        audience: vec!["a".to_owned(), "b".to_owned()],
        spiffe_id: spiffe_id.to_owned(),
    };
    let all = client
        .fetch_jwtsvid(ask(""))
        .await
        .unwrap()
        .into_inner()
        .svids;
    let ids: Vec<_> = all.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(
        ids,
        ["spiffe://example.org/one", "spiffe://example.org/two"]
    );
    let token = taskmint_id::jws::UnverifiedToken::parse(&all[0].svid).unwrap();
    assert_eq!(token.claims.audience, ["a", "b"]);
    let one = client
        .fetch_jwtsvid(ask("spiffe://example.org/two"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one.svids.len(), 1);
    assert_eq!(one.svids[0].spiffe_id, "spiffe://example.org/two");
    let status = client
        .fetch_jwtsvid(ask("spiffe://example.org/three"))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "NOT_YOUR_IDENTITY")
    );
    node.stop().await;
}

#[tokio::test]
async fn tokens_are_validated_by_the_rules_and_never_without_their_status() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let id = "spiffe://example.org/web".parse().unwrap();
    let claims = |audience: &str| TestCa::claims(&id, audience, SystemClock.now());
    let stranger = TestCa::new(
        &fake.trust_domain(),
        SystemClock.now(),
        &taskmint_model::SystemEntropy,
    );
    let mut expired = claims("here");
    expired["exp"] = (SystemClock.now().secs() - 60).into();
    let mut no_exp = claims("here");
    no_exp.as_object_mut().unwrap().remove("exp");
    let good = fake.ca().token(&claims("here"));
    let cases = [
        ("", "here", "TOKEN_MISSING", Code::InvalidArgument),
        (&good, "", "BAD_AUDIENCE", Code::InvalidArgument),
        ("x.y", "here", "TOKEN_MALFORMED", Code::InvalidArgument),
        (
            &stranger.token(&claims("here")),
            "here",
            "TOKEN_KEY_UNKNOWN",
            Code::InvalidArgument,
        ),
        (
            &fake.ca().token(&expired),
            "here",
            "TOKEN_EXPIRED",
            Code::InvalidArgument,
        ),
        (
            &fake.ca().token(&no_exp),
            "here",
            "TOKEN_MALFORMED",
            Code::InvalidArgument,
        ),
        (
            &good,
            "there",
            "TOKEN_FOR_OTHER_AUDIENCE",
            Code::InvalidArgument,
        ),
        // Well signed, and of no task: refused where every credential has one.
        (&good, "here", "TASK_MISSING", Code::InvalidArgument),
    ];
    for (token, audience, expected, code) in cases {
        let (svid, audience) = (token.to_owned(), audience.to_owned());
        let ask = workload::ValidateJwtsvidRequest { audience, svid };
        let status = client.validate_jwtsvid(ask).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (code, expected),
            "{status}"
        );
    }
    // Of a task, whose status nobody has told: no, and not for the token's fault.
    let place = taskmint_status::Place::new(taskmint_status::LogId([1; 8]), 1, 1).unwrap();
    let binding = taskmint_status::TaskBinding {
        place,
        task: [1; 16],
        root: [1; 16],
    };
    let mut bound = claims("here");
    bound[taskmint_status::claim::TASK_CLAIM] = taskmint_status::claim::to_value(&binding);
    let ask = workload::ValidateJwtsvidRequest {
        audience: "here".to_owned(),
        svid: fake.ca().token(&bound),
    };
    let status = client.validate_jwtsvid(ask).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "STATUS_UNKNOWN")
    );
    node.stop().await;
}

#[tokio::test]
async fn bundle_and_validate_calls_begin_no_task() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let mut bundles = client
        .fetch_x509_bundles(workload::X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    next(&mut bundles).await.unwrap();
    let mut bundles = client
        .fetch_jwt_bundles(workload::JwtBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    next(&mut bundles).await.unwrap();
    let (audience, svid) = ("a".to_owned(), "x".to_owned());
    client
        .validate_jwtsvid(workload::ValidateJwtsvidRequest { audience, svid })
        .await
        .unwrap_err();
    assert_eq!(fake.state(|state| state.begun.len()), 0);
    node.stop().await;
}

#[tokio::test]
async fn an_implicit_task_is_followed_by_a_successor_before_its_limit() {
    let fake = Fake::start().await;
    fake.state(|state| {
        state.entries = vec![entry(1, "/web"), entry(2, "/two")];
        state.limit = Duration::from_secs(3);
    });
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (first, mut stream) = fetch(&mut client).await.unwrap();
    assert_eq!(first.svids.len(), 2);
    let old = fake.state(|state| state.tasks.keys().cloned().collect::<HashSet<_>>());
    let superseded = fake.until(|state| {
        let ended: Vec<_> = state
            .ended
            .iter()
            .filter(|end| end.cause == "superseded")
            .collect();
        (ended.len() == 2).then(|| {
            ended
                .iter()
                .map(|end| end.task_id.clone())
                .collect::<HashSet<_>>()
        })
    });
    assert_eq!(superseded.await, old);
    let begun = fake.state(|state| state.begun.clone());
    let continues: HashSet<_> = begun
        .into_iter()
        .map(|ask| ask.continues)
        .filter(|id| !id.is_empty())
        .collect();
    assert!(continues.is_superset(&old));
    // Without a gap, and each in its predecessor's place.
    let next = until(&mut stream, |message| {
        assert_eq!(message.svids.len(), 2);
        assert_eq!(message.svids[0].spiffe_id, "spiffe://example.org/web");
        message.svids[0].x509_svid_key != first.svids[0].x509_svid_key
    });
    next.await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn one_process_cannot_call_without_end() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let limits = Limits {
        calls_per_second: 1,
        burst: 3,
        ..Limits::default()
    };
    let dir = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let node = Node::start_in(&fake, dir, limits).await;
    let mut client = node.workload().await;
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(
            fetch(&mut client)
                .await
                .map(drop)
                .map_err(|status| reason(&status)),
        );
    }
    assert!(codes[..3].iter().all(Result::is_ok));
    assert!(
        codes.contains(&Err("TOO_MANY_CALLS".to_owned())),
        "{codes:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn one_uid_cannot_take_all_connections() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let limits = Limits {
        max_connections_per_uid: 2,
        ..Limits::default()
    };
    let dir = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let node = Node::start_in(&fake, dir, limits).await;
    let mut first = node.workload().await;
    let mut second = node.workload().await;
    fetch(&mut first).await.unwrap();
    fetch(&mut second).await.unwrap();
    let stream = tokio::net::UnixStream::connect(node.workload_socket())
        .await
        .unwrap();
    // Closed without a word: there is no request yet that could be answered.
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut [0; 1]).unwrap(), 0);
    drop(second);
    node.stop().await;
}
