//! CRLs, as openssl reads them, and as the Workload API pushes them.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use taskmint_issuer::Principal;
use taskmint_model::{Clock as _, SystemClock};
use taskmint_store::KeyUse;
use taskmint_testkit::ManualClock;
use taskmint_wire::{admin, node};
use tokio::time::Instant;

use crate::harness::World;
use crate::joined::Joined;
use crate::node::Node;
use crate::public::{LINES, UID, Workload, ask, ca, get, joined, pem_file, world};

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

/// What openssl says of a certificate when it must be on no list.
async fn judged(world: &World, key_id: &str, anchor: &[u8], leaf: &Workload) -> String {
    let folder = world.folder.path();
    let crl = get(world, &format!("/crl/{key_id}.crl")).await.body;
    let (anchor, leaf) = (
        pem_file(folder, "ca.pem", "CERTIFICATE", anchor),
        pem_file(folder, "leaf.pem", "CERTIFICATE", &leaf.certificate),
    );
    let crl = pem_file(folder, "crl.pem", "X509 CRL", &crl);
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-crl_check", "-CAfile"])
        .arg(anchor)
        .arg("-CRLfile")
        .args([crl, leaf])
        .output();
    let output = output.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
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

#[tokio::test]
async fn lists_are_made_every_ten_seconds_at_most_unless_it_is_configured() {
    let world = World::in_memory().await;
    let settings = world.server.issuer.settings();
    assert_eq!(settings.crl_interval, Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ends_share_the_few_lists_that_are_pushed() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut world = World::with(LINES).await;
    let entry = admin::Entry {
        spiffe_id: "spiffe://example.org/w".to_owned(),
        selectors: UID.iter().map(|one| (*one).to_owned()).collect(),
        crl: true,
        ..Default::default()
    };
    world.create(entry).await.unwrap();
    let mut node = Node::join(&world.token("n1").await).await;
    let (_say, requests) = tokio::sync::mpsc::channel::<node::SessionRequest>(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut hears = node.client.session(requests).await.unwrap().into_inner();

    let (began, mut over) = (Instant::now(), Vec::new());
    while began.elapsed() < 4 * INTERVAL {
        let task = Workload::begin(&mut node, 1).await;
        task.complete(&mut node).await;
        over.push(task.serial());
    }
    let mut pushed = 0;
    let all = async {
        loop {
            let heard = hears.next().await.unwrap().unwrap().message.unwrap();
            if let node::session_response::Message::Crls(crls) = heard {
                pushed += 1;
                if over.iter().all(|serial| has(&crls.lists, serial)) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .unwrap();
    let intervals = began.elapsed().as_secs() / INTERVAL.as_secs();
    assert!(over.len() > 20, "{} are not many", over.len());
    // One at once, and one at the end of each interval that had begun.
    assert!(
        (2..=intervals + 2).contains(&pushed),
        "{pushed} in {intervals}"
    );
}
