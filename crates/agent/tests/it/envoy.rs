//! What Envoy asks of an agent, over the agent's real socket: secret discovery and external
//! authorization. Envoy sends no security header.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_model::{Clock as _, SystemClock, SystemEntropy, TaskId};
use taskmint_status::extension::TASK_BINDING_OID;
use taskmint_status::{Generation, LogId, Place, Serial, TaskBinding};
use taskmint_testkit::{LeafSpec, TestCa, pem};
use taskmint_wire::envoy::auth::attribute_context::Peer;
use taskmint_wire::envoy::auth::authorization_client::AuthorizationClient;
use taskmint_wire::envoy::auth::check_response::HttpResponse;
use taskmint_wire::envoy::auth::{AttributeContext, CheckRequest, CheckResponse};
use taskmint_wire::envoy::core::{DataSource, HeaderValueOption, data_source::Specifier};
use taskmint_wire::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use taskmint_wire::envoy::rpc;
use taskmint_wire::envoy::secret::secret_discovery_service_client::SecretDiscoveryServiceClient;
use taskmint_wire::envoy::tls::{Secret, secret::Type};
use taskmint_wire::task;
use taskmint_wire::task::tasks_client::TasksClient;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fake::{Fake, PATIENCE, entry};
use crate::node::{Node, channel, end, next, reason, task_api};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const WEB: &str = "spiffe://example.org/web";

async fn started() -> (Fake, Node) {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    (fake, node)
}

async fn connected(node: &Node) -> Channel {
    let stream = UnixStream::connect(node.workload_socket()).await;
    channel(stream.unwrap()).await
}

async fn secrets_of(node: &Node) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(connected(node).await)
}

fn ask(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE.to_owned(),
        ..Default::default()
    }
}

async fn fetch(
    client: &mut SecretDiscoveryServiceClient<Channel>,
    names: &[&str],
) -> Result<Vec<Secret>, Status> {
    let response = client.fetch_secrets(ask(names)).await?.into_inner();
    Ok(read(&response))
}

fn read(response: &DiscoveryResponse) -> Vec<Secret> {
    assert_eq!(response.type_url, TYPE);
    let read = |any: &prost_types::Any| {
        assert_eq!(any.type_url, TYPE);
        Secret::decode(any.value.as_slice()).unwrap()
    };
    response.resources.iter().map(read).collect()
}

/// A stream of secrets, and where its further requests go.
struct Secrets {
    say: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Secrets {
    async fn open(node: &Node, first: DiscoveryRequest) -> Self {
        let (say, said) = mpsc::channel(4);
        say.send(first).await.unwrap();
        let mut client = secrets_of(node).await;
        let responses = client.stream_secrets(ReceiverStream::new(said)).await;
        let responses = responses.unwrap().into_inner();
        Self { say, responses }
    }

    async fn next(&mut self) -> (Vec<Secret>, DiscoveryResponse) {
        let response = next(&mut self.responses).await.unwrap();
        (read(&response), response)
    }
}

fn octets(source: Option<&DataSource>) -> &[u8] {
    let Some(Specifier::InlineBytes(octets)) = source.and_then(|data| data.specifier.as_ref())
    else {
        panic!("nothing inline")
    };
    octets
}

/// The leaf in DER. Its key is the one that comes with it.
fn leaf(secret: &Secret) -> Vec<u8> {
    use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
    let Some(Type::TlsCertificate(own)) = &secret.r#type else {
        panic!("{} is no certificate", secret.name)
    };
    let chain = octets(own.certificate_chain.as_ref());
    let leaf = CertificateDer::from_pem_slice(chain).unwrap();
    let key = std::str::from_utf8(octets(own.private_key.as_ref())).unwrap();
    let key = p256::SecretKey::from_pkcs8_pem(key).unwrap();
    let (_, read) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(
        read.public_key().raw,
        key.public_key().to_public_key_der().unwrap().as_bytes()
    );
    leaf.to_vec()
}

fn authorities(secret: &Secret) -> Vec<u8> {
    let Some(Type::ValidationContext(trust)) = &secret.r#type else {
        panic!("{} is no trust", secret.name)
    };
    assert!(trust.crl.is_none(), "the entry asks for none");
    let trusted = octets(trust.trusted_ca.as_ref());
    CertificateDer::from_pem_slice(trusted).unwrap().to_vec()
}

fn id_in(leaf: &[u8]) -> String {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    names.value.general_names[0].to_string()
}

#[tokio::test]
async fn authorities_are_had_under_each_of_their_names_and_open_no_task() {
    let (fake, node) = started().await;
    let mut client = secrets_of(&node).await;
    for name in ["ROOTCA", "ALL", "spiffe://example.org"] {
        let found = fetch(&mut client, &[name]).await.unwrap();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].name, name);
        assert_eq!(authorities(&found[0]), fake.ca().certificate(), "{name}");
    }
    let found = fetch(&mut client, &["ROOTCA", "ALL"]).await.unwrap();
    assert_eq!(found.len(), 2);
    // P3: trust is no reason for a task.
    assert!(fake.state(|state| state.begun.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_is_had_as_the_default_by_its_id_and_by_its_task() {
    let (_, node) = started().await;
    let mut api = node.task_api().await;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let begun = api.begin(task::BeginRequest::default()).await.unwrap();
        let begun = begun.into_inner();
        let (task, svid) = (begun.task.unwrap(), begun.svid.unwrap());
        tasks.push((format!("{WEB}#{}", task.id), svid.certificates));
    }
    let [(first, one), (second, two)] = &tasks[..] else {
        panic!("two tasks")
    };
    let mut client = secrets_of(&node).await;
    let found = fetch(&mut client, &["default", WEB, first, second, "ROOTCA"]).await;
    let found = found.unwrap();
    let names: Vec<_> = found.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["default", WEB, first, second, "ROOTCA"]);
    let leaves: Vec<_> = found[..4].iter().map(leaf).collect();
    // P7: of several with one id, the task says which.
    assert_eq!(leaves, [one, one, one, two].map(Clone::clone));
    assert_ne!(one, two);
    // None at all: the first by its id, the others with their task, and the authorities.
    let all = fetch(&mut client, &[]).await.unwrap();
    let names: Vec<_> = all.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, [WEB, second, "spiffe://example.org"]);
    assert_eq!((leaf(&all[0]), leaf(&all[1])), (one.clone(), two.clone()));
    authorities(&all[2]);
    node.stop().await;
}

#[tokio::test]
async fn an_unmodified_envoy_gets_a_task_of_its_own() {
    let (fake, node) = started().await;
    let found = fetch(&mut secrets_of(&node).await, &["default"]).await;
    let found = found.unwrap();
    assert_eq!(id_in(&leaf(&found[0])), format!("URI({WEB})"));
    assert_eq!(fake.state(|state| state.begun.len()), 1);
    node.stop().await;
}

async fn begun(mut api: TasksClient<Channel>, spiffe_id: &str) -> task::Task {
    let spiffe_id = spiffe_id.to_owned();
    let ask = task::BeginRequest {
        spiffe_id,
        ..Default::default()
    };
    api.begin(ask).await.unwrap().into_inner().task.unwrap()
}

#[tokio::test]
async fn a_name_grants_nothing_that_is_anothers() {
    let (fake, node) = started().await;
    fake.put_entries(vec![entry(1, "/web"), entry(2, "/other")])
        .await;
    // Its task is bound to it, and this process is not it.
    let mut puppet = node.puppet();
    let theirs = begun(
        task_api(puppet.stream(1)).await,
        "spiffe://example.org/other",
    )
    .await;
    let own = begun(node.task_api().await, WEB).await;
    let mut client = secrets_of(&node).await;
    let good = format!("{WEB}#{}", own.id);
    fetch(&mut client, &[&good]).await.unwrap();
    for name in [
        "spiffe://example.org/other",
        &format!("spiffe://example.org/other#{}", theirs.id),
        &format!("{WEB}#{}", theirs.id),
        &format!("{WEB}#"),
        &format!("{WEB}#{}", own.id.to_uppercase()),
        "spiffe://example.org/none",
        "spiffe://other.org",
        "rootca",
        "",
        "#",
    ] {
        let status = fetch(&mut client, &[name]).await.unwrap_err();
        let expected = (Code::NotFound, "NO_SUCH_SECRET".to_owned());
        assert_eq!((status.code(), reason(&status)), expected, "`{name}`");
        // One that is not there is none of them.
        let status = fetch(&mut client, &[&good, name]).await.unwrap_err();
        assert_eq!(reason(&status), "NO_SUCH_SECRET", "`{name}`");
    }
    node.stop().await;
}

#[tokio::test]
async fn who_matches_no_entry_gets_no_secret_and_no_answer() {
    let fake = Fake::start().await;
    let mut other = entry(1, "/web");
    other.selectors.push("unix:path:/no/such/file".to_owned());
    fake.state(|state| state.entries = vec![other]);
    let node = Node::start(&fake).await;
    let mut client = secrets_of(&node).await;
    for names in [&["default"][..], &["ROOTCA"], &["ALL"], &[WEB], &[]] {
        let status = fetch(&mut client, names).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{names:?}");
        assert_eq!(reason(&status), "NO_MATCHING_ENTRY", "{names:?}");
        let mut stream = Secrets::open(&node, ask(names)).await;
        let status = end(&mut stream.responses).await;
        assert_eq!(reason(&status), "NO_MATCHING_ENTRY", "{names:?}");
    }
    let mut client = AuthorizationClient::new(connected(&node).await);
    let status = client.check(CheckRequest::default()).await.unwrap_err();
    assert_eq!(reason(&status), "NO_MATCHING_ENTRY");
    assert!(fake.state(|state| state.begun.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn bad_requests_for_secrets_are_refused_each_for_its_reason() {
    let (fake, node) = started().await;
    let many: Vec<&str> = vec!["default"; 65];
    let (long, other) = ("x".repeat(2_086), "type.googleapis.com/google.protobuf.Any");
    let of_type = |type_url: &str| DiscoveryRequest {
        type_url: type_url.to_owned(),
        ..ask(&["default"])
    };
    let cases = [
        (of_type(other), "TYPE_URL"),
        (of_type(&TYPE.to_lowercase()), "TYPE_URL"),
        (of_type(" "), "TYPE_URL"),
        (ask(&many), "TOO_MANY_NAMES"),
        (ask(&[&long]), "TOO_MANY_NAMES"),
        (ask(&["ROOTCA", &long]), "TOO_MANY_NAMES"),
    ];
    let mut client = secrets_of(&node).await;
    for (bad, expected) in cases {
        let expected = (Code::InvalidArgument, expected.to_owned());
        let status = client.fetch_secrets(bad.clone()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), expected);
        let mut stream = Secrets::open(&node, bad.clone()).await;
        let status = end(&mut stream.responses).await;
        assert_eq!((status.code(), reason(&status)), expected);
        // As a later request, too.
        let mut stream = Secrets::open(&node, ask(&["ROOTCA"])).await;
        stream.next().await;
        stream.say.send(bad).await.unwrap();
        let status = end(&mut stream.responses).await;
        assert_eq!((status.code(), reason(&status)), expected);
    }
    // As many and as long as may be.
    let most = fetch(&mut client, &vec!["ROOTCA"; 64]).await.unwrap();
    assert_eq!(most.len(), 64);
    let status = fetch(&mut client, &[&long[1..]]).await.unwrap_err();
    assert_eq!(reason(&status), "NO_SUCH_SECRET");
    // Too large: refused before it is read.
    let huge = "x".repeat(70 << 10);
    let status = fetch(&mut client, &[&huge]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    // A type that is not said is this one.
    client.fetch_secrets(of_type("")).await.unwrap();
    assert_eq!(fake.state(|state| state.begun.len()), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_says_what_changes_answers_other_names_and_ends_with_the_task() {
    let (fake, node) = started().await;
    let mut stream = Secrets::open(&node, ask(&["default"])).await;
    let (found, first) = stream.next().await;
    let svid = leaf(&found[0]);
    // Envoy says that it took them, or did not: neither asks for anything.
    let taken = DiscoveryRequest {
        version_info: first.version_info.clone(),
        response_nonce: first.nonce.clone(),
        ..ask(&["default"])
    };
    let refused = DiscoveryRequest {
        error_detail: Some(rpc::Status {
            message: "no".to_owned(),
            ..Default::default()
        }),
        ..taken.clone()
    };
    stream.say.send(taken).await.unwrap();
    stream.say.send(refused).await.unwrap();
    stream.say.send(ask(&["ROOTCA", WEB])).await.unwrap();
    let (found, second) = stream.next().await;
    assert_eq!(found.len(), 2);
    assert_eq!(leaf(&found[1]), svid);
    assert_ne!(first.version_info, second.version_info);
    // More authorities: both are said again.
    fake.rotate_bundle().await;
    let (found, _) = stream.next().await;
    authorities(&found[0]);
    assert_eq!(leaf(&found[1]), svid);
    let id = fake.state(|state| state.tasks.keys().next().unwrap().clone());
    fake.revoke(&id).await;
    let status = end(&mut stream.responses).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(reason(&status), "TASK_ENDED");
    // It is barred from another by itself.
    let status = fetch(&mut secrets_of(&node).await, &["default"]).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);
    node.stop().await;
}

/// An agent whose revocation log is signed, under heads that count for so many milliseconds.
async fn with_log(max_age: u32) -> (Fake, Node, AuthorizationClient<Channel>) {
    let fake = Fake::start().await;
    fake.state(|state| {
        state.has_log = true;
        state.log.sign(fake.ca(), max_age);
        state.entries = vec![entry(1, "/web")];
    });
    let node = Node::start(&fake).await;
    let client = AuthorizationClient::new(connected(&node).await);
    (fake, node, client)
}

fn binding(index: u64) -> TaskBinding {
    let now = SystemClock.now();
    let task = TaskId::new(now, &SystemEntropy).octets();
    let place = Place::new(LogId([1; 8]), now.hour(), index).unwrap();
    TaskBinding {
        place,
        task,
        root: task,
    }
}

/// What an SVID of this task says.
fn spec(binding: &TaskBinding) -> LeafSpec {
    let id = SpiffeId::parse("spiffe://example.org/peer").unwrap();
    let mut spec =
        LeafSpec::svid(&id, SystemClock.now()).with_extension(TASK_BINDING_OID, binding.to_der());
    let serial = Serial {
        generation: Generation::FIRST,
        slot: binding.place.slot(),
        random: [9; 9],
    };
    spec.serial = serial.encode().to_vec();
    spec
}

/// A certificate as Envoy shows it.
fn shown(ca: &TestCa, spec: &LeafSpec) -> String {
    let text = pem("CERTIFICATE", &ca.issue(spec, &SystemEntropy).certificate);
    utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string()
}

async fn check(client: &mut AuthorizationClient<Channel>, certificate: &str) -> CheckResponse {
    let source = Some(Peer {
        certificate: certificate.to_owned(),
        ..Default::default()
    });
    let attributes = Some(AttributeContext { source });
    let checked = client.check(CheckRequest { attributes }).await;
    checked.unwrap().into_inner()
}

/// A refusal in full.
#[derive(Debug, PartialEq)]
struct No {
    http: i32,
    grpc: Code,
    reason: String,
    denial: Option<String>,
}

fn no(response: &CheckResponse) -> No {
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else {
        panic!("{response:?}")
    };
    let header = denied.headers[0].header.clone().unwrap();
    assert_eq!(header.value, "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
    let status = response.status.clone().unwrap();
    let reason = problem["title"].as_str().unwrap().to_owned();
    assert!(status.message.starts_with(&format!("{reason}: ")));
    let http = denied.status.unwrap().code;
    assert_eq!(problem["status"], http);
    // Whoever may come back is told when, and nobody else.
    let named = |option: &HeaderValueOption| option.header.clone().unwrap();
    let later = denied.headers.iter().map(named);
    let later: Vec<_> = later.filter(|header| header.key == "retry-after").collect();
    assert_eq!(later.len(), usize::from(http == 503));
    assert!(later.iter().all(|header| header.value == "1"), "{later:?}");
    let denial = problem.get("denial_id").map(|id| id.as_str().unwrap());
    if let Some(id) = denial {
        assert!(status.message.contains(id), "{}", status.message);
    }
    No {
        http,
        grpc: status.code.into(),
        reason,
        denial: denial.map(str::to_owned),
    }
}

fn headers(response: &CheckResponse) -> Option<Vec<(String, String)>> {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else {
        return None;
    };
    assert_eq!(response.status.as_ref().unwrap().code, 0);
    let headers = ok.headers.iter().map(|option| option.header.clone());
    let headers = headers.map(|header| header.map(|header| (header.key, header.value)));
    headers.collect()
}

/// Asks until the answer is as wanted: what the log says takes a moment to come.
async fn until(
    client: &mut AuthorizationClient<Channel>,
    certificate: &str,
    wanted: impl Fn(&CheckResponse) -> bool,
) -> CheckResponse {
    let asking = async {
        loop {
            let response = check(client, certificate).await;
            if wanted(&response) {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("an answer as wanted")
}

#[tokio::test]
async fn a_peer_goes_on_until_its_task_ends_and_then_the_denial_can_be_explained() {
    let (fake, node, mut client) = with_log(30_000).await;
    let (ends, lives, also) = (binding(1), binding(2), binding(3));
    let [gone, good, third] = [&ends, &lives, &also].map(|b| shown(fake.ca(), &spec(b)));
    let response = until(&mut client, &gone, |r| headers(r).is_some()).await;
    let task = TaskId::from_octets(ends.task).to_string();
    let expected = [
        ("x-taskmint-spiffe-id", "spiffe://example.org/peer"),
        ("x-taskmint-task", &task),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(headers(&response).unwrap(), expected);

    fake.state(|state| state.log.end(&ends));
    let ended = |response: &CheckResponse| headers(response).is_none();
    let refused = no(&until(&mut client, &gone, ended).await);
    assert_eq!((refused.http, refused.grpc), (403, Code::PermissionDenied));
    assert_eq!(refused.reason, "TASK_ENDED");
    assert!(headers(&check(&mut client, &good).await).is_some());
    // The server can tell the story: who asked, and of whom.
    let told = fake.until(|state| state.denials.first().cloned()).await;
    assert_eq!(Some(&told.denial_id), refused.denial.as_ref());
    assert_eq!(
        (told.action.as_str(), &*told.reason),
        ("Check", "TASK_ENDED")
    );
    let of_peer = format!("the peer is spiffe://example.org/peer, task {task}");
    assert_eq!(told.detail, [of_peer]);
    let asker = told.caller.unwrap();
    assert!(
        asker
            .process
            .starts_with(&format!("{}.", std::process::id()))
    );
    assert!(asker.selectors.iter().any(|of| of.starts_with("unix:uid:")));
    // Asked again it is the same denial; of another peer, another.
    assert_eq!(no(&check(&mut client, &gone).await), refused);
    fake.state(|state| state.log.end(&also));
    let other = no(&until(&mut client, &third, ended).await);
    assert_eq!(other.reason, "TASK_ENDED");
    assert_ne!(other.denial, refused.denial);
    fake.until(|state| (state.denials.len() == 2).then_some(()))
        .await;
    node.stop().await;
}

#[tokio::test]
async fn bad_certificates_of_a_peer_are_refused_each_for_its_reason() {
    let (fake, node, mut client) = with_log(30_000).await;
    let (ca, good) = (fake.ca(), spec(&binding(1)));
    until(&mut client, &shown(ca, &good), |r| headers(r).is_some()).await;
    let now = SystemClock.now();
    let another = |name: &str| {
        let trust_domain = TrustDomain::parse(name).unwrap();
        TestCa::new(&trust_domain, now, &SystemEntropy)
    };
    let with = |change: &dyn Fn(&mut LeafSpec)| {
        let mut bad = good.clone();
        change(&mut bad);
        shown(ca, &bad)
    };
    let minute = Duration::from_secs(60);
    let cut: String = shown(ca, &good).chars().take(300).collect();
    let cases = [
        (String::new(), "SVID_MISSING"),
        ("x".to_owned(), "SVID_MALFORMED"),
        ("%".to_owned(), "SVID_MALFORMED"),
        ("%ff%fe%00".to_owned(), "SVID_MALFORMED"),
        (cut, "SVID_MALFORMED"),
        (pem("CERTIFICATE", b"x"), "SVID_MALFORMED"),
        (pem("PRIVATE KEY", b"x"), "SVID_MALFORMED"),
        (shown(ca, &good).repeat(17), "SVID_CHAIN_TOO_LONG"),
        (shown(&another("example.org"), &good), "SVID_UNTRUSTED"),
        (with(&|of| of.uris.clear()), "SVID_WITHOUT_ID"),
        (
            with(&|of| of.uris = vec!["spiffe://other.org/peer".to_owned()]),
            "TRUST_DOMAIN_UNKNOWN",
        ),
        (
            with(&|of| {
                of.not_before = now - 2 * minute;
                of.not_after = now - minute;
            }),
            "SVID_EXPIRED",
        ),
        (
            with(&|of| of.not_before = now + minute),
            "SVID_NOT_YET_VALID",
        ),
        (with(&|of| of.serial = vec![1; 20]), "SVID_BINDING_INVALID"),
        (with(&|of| of.extensions.clear()), "TASK_MISSING"),
    ];
    for (certificate, expected) in &cases {
        let refused = no(&check(&mut client, certificate).await);
        assert_eq!(&refused.reason, expected);
        let answer = (refused.http, refused.grpc);
        assert_eq!(answer, (403, Code::PermissionDenied), "{expected}");
        let id = refused.denial.expect("an id");
        let told =
            |state: &mut crate::fake::State| state.denials.iter().any(|told| told.denial_id == id);
        fake.until(|state| told(state).then_some(())).await;
    }
    // Certificates that anybody can make are one denial, however many there are.
    let before = fake.state(|state| state.denials.len());
    let strangers = (0..20).map(|_| shown(&another("example.org"), &good));
    for stranger in strangers {
        assert_eq!(
            no(&check(&mut client, &stranger).await).reason,
            "SVID_UNTRUSTED"
        );
    }
    assert_eq!(fake.state(|state| state.denials.len()), before);
    // No attributes at all.
    let nothing = client.check(CheckRequest::default()).await.unwrap();
    assert_eq!(no(nothing.get_ref()).reason, "SVID_MISSING");
    node.stop().await;
}

#[tokio::test]
async fn where_nothing_can_be_known_the_answer_is_503_and_an_ended_task_stays_403() {
    let (fake, node, mut client) = with_log(1_500).await;
    let (ends, lives) = (binding(1), binding(2));
    let [gone, good] = [&ends, &lives].map(|binding| shown(fake.ca(), &spec(binding)));
    until(&mut client, &good, |r| headers(r).is_some()).await;
    fake.state(|state| state.log.end(&ends));
    until(&mut client, &gone, |r| headers(r).is_none()).await;
    fake.state(|state| state.log.mute = true);
    let response = until(&mut client, &good, |r| headers(r).is_none()).await;
    let unavailable = |reason: &str| No {
        http: 503,
        grpc: Code::Unavailable,
        reason: reason.to_owned(),
        denial: None,
    };
    assert_eq!(no(&response), unavailable("STATUS_STALE"));
    let refused = no(&check(&mut client, &gone).await);
    assert_eq!((refused.http, &*refused.reason), (403, "TASK_ENDED"));
    node.stop().await;
}

#[tokio::test]
async fn a_log_that_contradicts_itself_gives_503() {
    let (fake, node, mut client) = with_log(30_000).await;
    let good = shown(fake.ca(), &spec(&binding(1)));
    until(&mut client, &good, |r| headers(r).is_some()).await;
    fake.state(|state| state.log.fork());
    let response = until(&mut client, &good, |r| headers(r).is_none()).await;
    let refused = no(&response);
    assert_eq!((refused.http, &*refused.reason), (503, "LOG_FORKED"));
    assert_eq!(refused.denial, None);
    node.stop().await;
}

#[tokio::test]
async fn before_there_is_a_log_to_follow_the_answer_is_503() {
    let (fake, node) = started().await;
    let mut client = AuthorizationClient::new(connected(&node).await);
    let good = shown(fake.ca(), &spec(&binding(1)));
    let refused = no(&check(&mut client, &good).await);
    assert_eq!((refused.http, &*refused.reason), (503, "STATUS_UNKNOWN"));
    node.stop().await;
}
