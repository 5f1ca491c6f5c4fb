//! Those who don't watch: CRLs as openssl reads them, the check endpoint, token status lists as a
//! stranger reads them, introspection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use rustls_pki_types::CertificateDer;
use taskmint_issuer::{Issuer, Principal};
use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::Serial;
use taskmint_store::KeyUse;
use taskmint_testkit::ManualClock;
use taskmint_verifier::tls::{self, Identity};
use taskmint_wire::{admin, node, task};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::World;
use crate::joined::Joined;
use crate::node::{Key, Node, caller};

const UID: &[&str] = &["unix:uid:1000"];
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LINES: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
    public_listen = \"127.0.0.1:0\"\npublic.plain_http = true\ncrl.interval = \"1s\"\ntasks.lease = \"5m\"\n\
    public_url = \"https://x.example.org/t\"\n";

/// A task with its first certificate.
struct Workload {
    id: String,
    pid: u32,
    certificate: Vec<u8>,
    key: Key,
}

impl Workload {
    async fn begin(node: &mut Node, pid: u32) -> Self {
        let key = Key::new();
        let begin = node.begin(UID, pid, key.spki());
        let began = node.client.begin_task(begin).await.unwrap().into_inner();
        Self {
            id: began.task.unwrap().id,
            pid,
            certificate: began.certificate,
            key,
        }
    }

    fn serial(&self) -> [u8; 20] {
        tls::read_verified(&CertificateDer::from(self.certificate.as_slice()))
            .unwrap()
            .serial
    }

    fn hex(&self) -> String {
        hex_of(&self.serial())
    }

    async fn complete(&self, node: &mut Node) {
        let end = node::EndTaskRequest {
            task_id: self.id.clone(),
            cause: "completed".to_owned(),
            caller: Some(caller(UID, self.pid)),
            ..Default::default()
        };
        node.client.end_task(end).await.unwrap();
    }

    async fn suspend(&self, world: &mut World) {
        let request = task::SuspendRequest {
            task_id: self.id.clone(),
            reason: "a look at it".to_owned(),
            ..Default::default()
        };
        world.admin.suspend_task(request).await.unwrap();
    }

    async fn resume(&self, world: &mut World) {
        let request = task::ResumeRequest {
            task_id: self.id.clone(),
            ..Default::default()
        };
        world.admin.resume_task(request).await.unwrap();
    }

    async fn token(&self, node: &mut Node, audience: &str) -> String {
        let item = node::mint_jwt_request::Item {
            task_id: self.id.clone(),
            audience: vec![audience.to_owned()],
        };
        let request = node::MintJwtRequest { items: vec![item] };
        let answer = node.client.mint_jwt(request).await.unwrap().into_inner();
        answer.results[0].token.clone()
    }
}

/// What came back over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn hex_of(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}

/// One request over a connection that stays open.
async fn exchange<S>(stream: &mut S, head: &str, body: &str) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "{head}\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let split = loop {
        let mut part = [0; 4096];
        let len = stream.read(&mut part).await.unwrap();
        assert!(len > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&part[..len]);
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8(read[..split].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = read[split + 4..].to_vec();
    let length = headers.get("content-length").map_or("0", String::as_str);
    let missing = length.parse::<usize>().unwrap() - body.len();
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).await.unwrap();
    body.extend(rest);
    Answer {
        status: status.unwrap(),
        headers,
        body,
    }
}

/// One request over a connection of its own.
async fn ask(world: &World, head: &str, body: &str) -> Answer {
    let address = world.server.public_address.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, head, body).await
}

async fn get(world: &World, path: &str) -> Answer {
    ask(world, &format!("GET {path} HTTP/1.1"), "").await
}

async fn check(world: &World, workload: &Workload) -> u16 {
    get(world, &format!("/check/{}", workload.hex()))
        .await
        .status
}

/// The CA that signs now: its key's id and its certificate.
async fn ca(issuer: &Issuer) -> (String, Vec<u8>) {
    let all = issuer.authorities().await.unwrap();
    let certificate = issuer.ca_certificate().await.unwrap();
    let is_ca = |view: &&taskmint_issuer::AuthorityView| view.record.usage == KeyUse::Ca;
    let active = all.iter().rfind(is_ca).unwrap();
    assert_eq!(active.record.certificate, certificate);
    (active.record.key_id.clone(), certificate)
}

/// What is on a CA's list, by serial, as openssl reads it.
async fn listed(world: &World, key_id: &str) -> Option<BTreeMap<String, String>> {
    let answer = get(world, &format!("/crl/{key_id}.crl")).await;
    if answer.status != 200 {
        return None;
    }
    let file = world.folder.path().join("list.crl");
    std::fs::write(&file, &answer.body).unwrap();
    let mut command = Command::new("openssl");
    let text = command.args(["crl", "-inform", "DER", "-noout", "-text", "-in"]);
    let text = text.arg(&file).output().unwrap();
    assert!(text.status.success(), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    let mut found = BTreeMap::new();
    let mut serial = String::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(of) = line.strip_prefix("Serial Number: ") {
            serial = of.to_owned();
        } else if line.starts_with("X509v3 CRL Reason Code") {
            found.insert(serial.clone(), lines.next().unwrap().to_owned());
        }
    }
    Some(found)
}

/// Waits until a CA's list says so.
async fn until_listed(
    world: &World,
    key_id: &str,
    wanted: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    let mut last = None;
    let soon = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            last = listed(world, key_id).await;
            if let Some(found) = last.as_ref().filter(|found| wanted(found)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    match soon.await {
        Ok(found) => found,
        Err(_) => panic!("the list says {last:?}"),
    }
}

fn pem(folder: &Path, name: &str, label: &str, der: &[u8]) -> PathBuf {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let lines = lines.join("\n");
    let path = folder.join(name);
    let text = format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n");
    std::fs::write(&path, text).unwrap();
    path
}

/// What openssl says of a certificate when it must be on no list.
async fn judged(world: &World, key_id: &str, anchor: &[u8], leaf: &Workload) -> String {
    let folder = world.folder.path();
    let crl = get(world, &format!("/crl/{key_id}.crl")).await.body;
    let (anchor, leaf) = (
        pem(folder, "ca.pem", "CERTIFICATE", anchor),
        pem(folder, "leaf.pem", "CERTIFICATE", &leaf.certificate),
    );
    let crl = pem(folder, "crl.pem", "X509 CRL", &crl);
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-crl_check", "-CAfile"])
        .arg(anchor)
        .arg("-CRLfile")
        .args([crl, leaf])
        .output();
    let output = output.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

async fn world(lines: &str) -> (World, Node) {
    let mut world = World::with(&format!("{LINES}{lines}")).await;
    let node = joined(&mut world).await;
    (world, node)
}

async fn joined(world: &mut World) -> Node {
    world.entry("w", UID, false).await;
    let token = world.token("n1").await;
    Node::join(&token).await
}

#[tokio::test]
async fn a_crl_lists_what_ended_and_holds_what_is_suspended() {
    let (mut world, mut node) = world("").await;
    let over = Workload::begin(&mut node, 1).await;
    let held = Workload::begin(&mut node, 2).await;
    let live = Workload::begin(&mut node, 3).await;
    let (key_id, anchor) = ca(&world.server.issuer).await;
    until_listed(&world, &key_id, |found| !found.contains_key(&live.hex())).await;
    over.complete(&mut node).await;
    held.suspend(&mut world).await;
    let found = until_listed(&world, &key_id, |found| {
        found.contains_key(&over.hex()) && found.contains_key(&held.hex())
    });
    let found = found.await;
    assert_eq!(found[&over.hex()], "Cessation Of Operation");
    assert_eq!(found[&held.hex()], "Certificate Hold");
    assert!(!found.contains_key(&live.hex()));
    let said = judged(&world, &key_id, &anchor, &over).await;
    assert!(said.contains("certificate revoked"), "{said}");
    let said = judged(&world, &key_id, &anchor, &live).await;
    assert!(said.trim().ends_with("leaf.pem: OK"), "{said}");
    held.resume(&mut world).await;
    until_listed(&world, &key_id, |found| !found.contains_key(&held.hex())).await;
    let said = judged(&world, &key_id, &anchor, &held).await;
    assert!(said.trim().ends_with("leaf.pem: OK"), "{said}");
}

#[tokio::test]
async fn a_crl_is_not_fetched_twice() {
    let (world, _node) = world("").await;
    let (key_id, _) = ca(&world.server.issuer).await;
    until_listed(&world, &key_id, |_| true).await;
    let first = get(&world, &format!("/crl/{key_id}.crl")).await;
    assert_eq!(first.headers["content-type"], "application/pkix-crl");
    let max_age = first.headers["cache-control"].strip_prefix("public, max-age=");
    assert_eq!(max_age, Some("1"));
    let etag = &first.headers["etag"];
    let head = format!("GET /crl/{key_id}.crl HTTP/1.1\r\nif-none-match: \"x\", {etag}");
    let again = ask(&world, &head, "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(get(&world, "/crl/00.crl").await.status, 404);
}

#[tokio::test]
async fn what_expired_is_on_no_crl() {
    let clock = ManualClock::new(SystemClock.now());
    let mut world = World::by(
        Arc::new(tempfile::TempDir::new().unwrap()),
        LINES,
        Arc::new(clock.clone()),
    )
    .await;
    let mut node = joined(&mut world).await;
    let over = Workload::begin(&mut node, 1).await;
    let (key_id, _) = ca(&world.server.issuer).await;
    over.complete(&mut node).await;
    until_listed(&world, &key_id, |found| found.contains_key(&over.hex())).await;
    // Its ten minutes, and the minute that verifiers forgive.
    clock.advance(Duration::from_secs(661));
    until_listed(&world, &key_id, |found| !found.contains_key(&over.hex())).await;
}

#[tokio::test]
async fn a_server_that_comes_back_lists_what_it_listed_before() {
    let mut world = World::durable(
        "public_listen = \"127.0.0.1:0\"\npublic.plain_http = true\ncrl.interval = \"1s\"",
        Arc::new(SystemClock),
    )
    .await;
    let mut node = joined(&mut world).await;
    let over = Workload::begin(&mut node, 1).await;
    let (key_id, _) = ca(&world.server.issuer).await;
    over.complete(&mut node).await;
    until_listed(&world, &key_id, |found| found.contains_key(&over.hex())).await;
    drop(node);
    let world = world.go_away().await.come_back().await;
    let found = until_listed(&world, &key_id, |found| found.contains_key(&over.hex()));
    assert_eq!(found.await[&over.hex()], "Cessation Of Operation");
}

#[tokio::test]
async fn a_ca_that_was_replaced_goes_on_listing_what_it_signed() {
    let (world, mut node) = world("").await;
    let by_old = Workload::begin(&mut node, 1).await;
    let issuer = &world.server.issuer;
    let (old, old_anchor) = ca(issuer).await;
    let admin = Principal::Admin("test".to_owned());
    let next = issuer.prepare_authority(&admin, KeyUse::Ca).await.unwrap();
    // Known before its first certificate.
    until_listed(&world, &next.key_id, |_| true).await;
    issuer.activate_authority(&admin, next.id).await.unwrap();
    let by_new = Workload::begin(&mut node, 2).await;
    by_old.complete(&mut node).await;
    by_new.complete(&mut node).await;
    let found = until_listed(&world, &old, |found| found.contains_key(&by_old.hex())).await;
    assert!(!found.contains_key(&by_new.hex()));
    let found = until_listed(&world, &next.key_id, |found| {
        found.contains_key(&by_new.hex())
    });
    assert!(!found.await.contains_key(&by_old.hex()));
    let said = judged(&world, &old, &old_anchor, &by_old).await;
    assert!(said.contains("certificate revoked"), "{said}");
}

#[tokio::test]
async fn the_check_endpoint_hears_of_an_end_before_whoever_asked_for_it() {
    let (mut world, mut node) = world("").await;
    let workload = Workload::begin(&mut node, 1).await;
    assert_eq!(check(&world, &workload).await, 200);
    let by_header = async |serial: &str| {
        let head = format!("POST /check HTTP/1.1\r\nX-SSL-Client-Serial: {serial}");
        ask(&world, &head, "").await
    };
    assert_eq!(by_header(&workload.hex()).await.status, 200);
    // Some leave zeroes out in front, some write small letters, some colons.
    let hex = workload.hex();
    assert_eq!(by_header(&hex[1..].to_lowercase()).await.status, 200);
    let octets: Vec<_> = hex
        .as_bytes()
        .chunks(2)
        .map(String::from_utf8_lossy)
        .collect();
    assert_eq!(by_header(&octets.join(":")).await.status, 200);
    assert_eq!(by_header("").await.status, 403);
    workload.suspend(&mut world).await;
    assert_eq!(check(&world, &workload).await, 403);
    workload.resume(&mut world).await;
    assert_eq!(check(&world, &workload).await, 200);
    workload.complete(&mut node).await;
    let refused = get(&world, &format!("/t/check/{hex}")).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(refused.headers["cache-control"], "no-store");
    assert_eq!(refused.json()["reason"], "NOT_VALID");
}

#[tokio::test]
async fn a_status_list_says_to_a_stranger_what_the_log_says() {
    let (mut world, mut node) = world("status_list.ttl = \"1s\"").await;
    let live = Workload::begin(&mut node, 1).await;
    let over = Workload::begin(&mut node, 2).await;
    let held = Workload::begin(&mut node, 3).await;
    let token = live.token(&mut node, "a").await;
    let claims = token.split('.').nth(1).unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let status = &claims["status"]["status_list"];
    let uri = status["uri"].as_str().unwrap().to_owned();
    let index = |workload: &Workload| Serial::decode(&workload.serial()).unwrap().slot.index();
    assert_eq!(status["idx"], index(&live));
    let path = uri
        .strip_prefix("https://x.example.org")
        .unwrap()
        .to_owned();
    over.complete(&mut node).await;
    held.suspend(&mut world).await;
    let (_, anchor) = ca(&world.server.issuer).await;
    let anchor = pem(world.folder.path(), "ca.pem", "CERTIFICATE", &anchor);
    let read = async |world: &World| {
        let answer = get(world, &path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/statuslist+jwt");
        let file = world.folder.path().join("list.jwt");
        std::fs::write(&file, &answer.body).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/it/status_list.py");
        let mut command = Command::new("python3");
        command.arg(script).args([&file, &anchor]).arg(&uri);
        let indices = [&live, &over, &held].map(|workload| index(workload).to_string());
        let output = command.args(indices).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read(&world).await, "0\n1\n2\n");
    // A list that is made anew in between is another one: asked again until three answers are of one.
    let same = async {
        loop {
            let answer = get(&world, &path).await;
            let etag = &answer.headers["etag"];
            let head = format!("GET {path} HTTP/1.1\r\nif-none-match: W/{etag}");
            let unchanged = ask(&world, &head, "").await.status == 304;
            let head = format!("GET {path} HTTP/1.1\r\naccept-encoding: br, gzip;q=0.5");
            let zipped = ask(&world, &head, "").await;
            assert_eq!(zipped.headers["content-encoding"], "gzip");
            assert_ne!(&zipped.headers["etag"], etag);
            let file = world.folder.path().join("list.gz");
            std::fs::write(&file, &zipped.body).unwrap();
            let unzipped = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
            if unchanged && unzipped.stdout == answer.body {
                return;
            }
        }
    };
    let same = tokio::time::timeout(Duration::from_secs(20), same).await;
    same.expect("an unchanged list, and the same one zipped");
    held.resume(&mut world).await;
    // A tenth of a second at most, and then it is made anew.
    let newer = tokio::time::timeout(Duration::from_secs(20), async {
        while read(&world).await != "0\n1\n0\n" {}
    });
    newer.await.unwrap();
    let bucket = Serial::decode(&live.serial()).unwrap().slot.bucket();
    let (base, _) = path.rsplit_once('/').unwrap();
    let over = SystemClock.now().hour() - 2;
    let gone = get(&world, &format!("{base}/{over}")).await;
    assert_eq!(
        (gone.status, gone.json()["reason"].as_str()),
        (410, Some("LIST_GONE"))
    );
    assert_eq!(
        get(&world, &format!("{base}/{}", bucket + 48)).await.status,
        404
    );
}

/// Serials on a list, as Rust reads them: enough to tell whether one is there.
fn has(lists: &[Vec<u8>], serial: &[u8; 20]) -> bool {
    let is_in = |list: &Vec<u8>| list.windows(20).any(|octets| octets == serial);
    lists.iter().any(is_in)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workload_api_pushes_crls_to_those_whose_entry_asks_for_them() {
    let mut node = Joined::over(World::with(LINES).await).await;
    let entry = node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    let mut contexts = api.x509_contexts().await.unwrap();
    let first = contexts.next().await.unwrap().unwrap();
    assert!(first.crls.is_empty(), "off unless asked for");
    let ask = admin::UpdateEntryRequest {
        entry: Some(admin::Entry { crl: true, ..entry }),
    };
    let entry = node
        .world
        .admin
        .update_entry(ask)
        .await
        .unwrap()
        .into_inner();
    assert!(entry.crl);
    let mut until = async |wanted: &dyn Fn(&[Vec<u8>]) -> bool| {
        let heard = async {
            loop {
                let context = contexts.next().await.unwrap().unwrap();
                if wanted(&context.crls) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard)
            .await
            .unwrap();
    };
    until(&|lists| lists.len() == 1).await;
    // Somebody else's task, on a node of its own.
    node.world.entry("w", UID, false).await;
    let token = node.world.token("n2").await;
    let mut other = Node::join(&token).await;
    let over = Workload::begin(&mut other, 1).await;
    over.complete(&mut other).await;
    until(&|lists| has(lists, &over.serial())).await;
    let held = Workload::begin(&mut other, 2).await;
    held.suspend(&mut node.world).await;
    until(&|lists| has(lists, &held.serial())).await;
    held.resume(&mut node.world).await;
    until(&|lists| has(lists, &over.serial()) && !has(lists, &held.serial())).await;
    let mut bundles = api.x509_bundles().await.unwrap();
    assert!(bundles.next().await.unwrap().is_ok());
    let ask = admin::UpdateEntryRequest {
        entry: Some(admin::Entry {
            crl: false,
            ..entry
        }),
    };
    node.world.admin.update_entry(ask).await.unwrap();
    until(&<[_]>::is_empty).await;
}

fn secret_file(folder: &Path) -> PathBuf {
    let path = folder.join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    path
}

#[tokio::test]
async fn a_token_is_active_while_its_task_is_and_tells_who_and_for_what() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let secret = secret_file(folder.path());
    let lines = format!(
        "{LINES}public.introspect_secret_files = [\"{}\"]",
        secret.display()
    );
    let mut world = World::in_folder(folder, &lines).await;
    let mut node = joined(&mut world).await;
    let workload = Workload::begin(&mut node, 1).await;
    let token = workload.token(&mut node, "reports").await;
    let head = format!(
        "POST /introspect HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\n\
         content-type: application/x-www-form-urlencoded"
    );
    let introspect = async |world: &World| {
        let body = format!("token={token}&token_type_hint=access_token");
        ask(world, &head, &body).await
    };
    let answer = introspect(&world).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let claims = answer.json();
    assert_eq!(claims["active"], true);
    assert_eq!(claims["sub"], "spiffe://example.org/w");
    assert_eq!(claims["client_id"], claims["sub"]);
    assert_eq!(claims["aud"], "reports");
    assert!(claims["exp"].as_u64() > claims["iat"].as_u64());
    assert_eq!(claims["jti"].as_str().map(str::len), Some(32));
    assert_eq!(claims["scope"], "*");
    let task = serde_json::json!({ "id": workload.id, "root": workload.id, "owner": "alice" });
    assert_eq!(claims["task"], task);
    workload.suspend(&mut world).await;
    assert_eq!(introspect(&world).await.body, b"{\"active\":false}");
    workload.resume(&mut world).await;
    assert_eq!(introspect(&world).await.json(), claims);
    workload.complete(&mut node).await;
    assert_eq!(introspect(&world).await.body, b"{\"active\":false}");
    let other = Workload::begin(&mut node, 2).await;
    let other = other.token(&mut node, "b").await;
    let batch = format!("{{\"tokens\":[\"{token}\",\"{other}\",\"x\"]}}");
    let head = format!(
        "POST /introspect/batch HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\n\
         content-type: application/json"
    );
    let results = ask(&world, &head, &batch).await.json()["results"].clone();
    let active: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["active"])
        .collect();
    assert_eq!(active, [false, true, false]);
}

/// A certificate that the world knows, as far as this test's world goes.
fn public_certificate(folder: &Path) -> [PathBuf; 2] {
    let [cert, key] = ["public.pem", "public.key"].map(|name| folder.join(name));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=x",
            "-addext",
            "subjectAltName=DNS:x.example.org",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    [cert, key]
}

#[tokio::test]
async fn introspection_is_for_identities_on_the_list_whose_task_lives() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let [cert, key] = public_certificate(folder.path());
    let lines = format!(
        "store.kind = \"memory\"\nkeys.kind = \"memory\"\npublic_listen = \"127.0.0.1:0\"\n\
         public_url = \"https://x.example.org\"\npublic.cert_file = \"{}\"\n\
         public.key_file = \"{}\"\npublic.introspect_ids = [\"spiffe://example.org/w\"]",
        cert.display(),
        key.display()
    );
    let mut world = World::in_folder(folder, &lines).await;
    let mut node = joined(&mut world).await;
    world.entry("other", &["unix:uid:7"], false).await;
    let service = Workload::begin(&mut node, 1).await;
    let subject = Workload::begin(&mut node, 2).await;
    let token = subject.token(&mut node, "a").await;
    let begin = node.begin(&["unix:uid:7"], 3, Key::new().spki());
    let stranger = node.client.begin_task(begin).await;
    let own_key = Key::new();
    let begin = node.begin(&["unix:uid:7"], 4, own_key.spki());
    drop(stranger);
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let stranger = Workload {
        id: began.task.unwrap().id,
        pid: 4,
        certificate: began.certificate,
        key: own_key,
    };

    let mut roots = rustls::RootCertStore::empty();
    let anchor = std::fs::read(&cert).unwrap();
    let anchor = <CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(&anchor);
    roots.add(anchor.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connect = async |who: Option<&Workload>| {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let config = match who {
            Some(who) => {
                let identity = Identity::new();
                let chain = vec![CertificateDer::from(who.certificate.clone())];
                identity.set(chain, &who.key.pkcs8()).unwrap();
                config.with_client_cert_resolver(Arc::new(identity))
            }
            None => config.with_no_client_auth(),
        };
        let address = world.server.public_address.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "x.example.org".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    };
    let head = "POST /introspect HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded";
    let body = format!("token={token}");
    let mut anonymous = connect(None).await;
    let refused = exchange(&mut anonymous, head, &body).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    let mut other = connect(Some(&stranger)).await;
    let refused = exchange(&mut other, head, &body).await;
    assert_eq!(refused.json()["reason"], "MAY_NOT_INTROSPECT");
    let mut own = connect(Some(&service)).await;
    let answer = exchange(&mut own, head, &body).await;
    assert_eq!(answer.json()["active"], true);
    // The connection outlives the task; what may be asked on it does not.
    service.complete(&mut node).await;
    let refused = exchange(&mut own, head, &body).await;
    assert_eq!(refused.json()["reason"], "MAY_NOT_INTROSPECT");
}

#[tokio::test]
async fn a_stop_lets_an_idle_connection_go() {
    let (world, node) = world("").await;
    let mut stream = TcpStream::connect(world.server.public_address.unwrap())
        .await
        .unwrap();
    let answer = exchange(&mut stream, "GET /openapi.json HTTP/1.1", "").await;
    assert_eq!(answer.json()["openapi"], "3.1.0");
    drop(node);
    let stopped = tokio::time::timeout(Duration::from_secs(8), world.stop());
    stopped.await.expect("before the grace is over");
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}
