//! Who has heard of an end, and by when nobody accepts it any more (P18, P19, P12).

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use taskmint_model::{Clock, SystemClock};
use taskmint_testkit::ManualClock;
use taskmint_verifier::tls::Identity;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{Acknowledge, Open, Relayed, WatchRequest, WatchResponse};
use taskmint_wire::{admin, node, task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::World;
use crate::joined::SOON;
use crate::node::{Key, Node, UID, connect, reason};

/// What verifiers may believe a head for, as configured by default, with their clocks' drift.
const BELIEVED: Duration = Duration::from_secs(32);
const LEEWAY: u64 = 60_000;

/// A watcher that says nothing unless it is told to.
struct Hand {
    say: mpsc::Sender<WatchRequest>,
    frames: Streaming<WatchResponse>,
}

impl Hand {
    async fn open(world: &World, node: &Node, who: &Identity, name: &str) -> Self {
        let address = world.server.watch_address.to_string();
        let trust_domain = "example.org".parse().unwrap();
        let channel = connect(who, &node.trust, &trust_domain, &address).await;
        let (say, said) = mpsc::channel(4);
        let mut instance = [0; 16];
        instance[..name.len()].copy_from_slice(name.as_bytes());
        let open = Open {
            name: name.to_owned(),
            nonce: vec![7; 16].into(),
            instance: instance.to_vec().into(),
            ..Default::default()
        };
        let message = Some(Message::Open(open));
        say.send(WatchRequest { message }).await.unwrap();
        let mut client = RevocationClient::new(channel).max_decoding_message_size(16 << 20);
        let frames = client.watch(ReceiverStream::new(said)).await.unwrap();
        let frames = frames.into_inner();
        let mut hand = Self { say, frames };
        hand.head().await.unwrap();
        hand
    }

    /// The next frame that carries a head.
    async fn head(&mut self) -> Result<WatchResponse, Status> {
        loop {
            let frame = tokio::time::timeout(SOON, self.frames.message()).await;
            let frame = frame.expect("no frame came")?.expect("the stream is over");
            if matches!(frame.frame, Some(Frame::Head(_))) {
                return Ok(frame);
            }
        }
    }

    async fn acknowledge(&self, sequence: u64) {
        self.say(Acknowledge {
            sequence,
            ..Default::default()
        })
        .await;
    }

    async fn say(&self, acknowledge: Acknowledge) {
        let message = Some(Message::Acknowledge(acknowledge));
        self.say.send(WatchRequest { message }).await.unwrap();
    }
}

/// A workload with a task and its SVID, of an entry of its own.
struct Workload {
    task: String,
    selector: String,
    identity: Identity,
    expires_at_ms: u64,
}

async fn workload(world: &mut World, node: &mut Node, name: &str, watch: bool) -> Workload {
    let selector = format!("unix:user:{name}");
    let entry = admin::Entry {
        spiffe_id: format!("spiffe://example.org/{name}"),
        selectors: vec![selector.clone()],
        implicit: true,
        watch,
        audiences: vec!["*".to_owned()],
        max_children: 8,
        max_depth: 3,
        ..Default::default()
    };
    world.create(entry).await.unwrap();
    let key = Key::new();
    let begin = node.begin(&[&selector], 7, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let identity = Identity::new();
    let chain = vec![CertificateDer::from(began.certificate)];
    identity.set(chain, &key.pkcs8()).unwrap();
    Workload {
        task: began.task.unwrap().id,
        selector,
        identity,
        expires_at_ms: began.expires_at_ms,
    }
}

async fn revoke(world: &mut World, task: &str) -> task::Receipt {
    let end = task::EndRequest {
        task_id: task.to_owned(),
        wait: true,
        ..Default::default()
    };
    let ended = world.admin.revoke_task(end).await.unwrap().into_inner();
    let receipt = ended.receipt.unwrap();
    assert_eq!(ended.position, receipt.position);
    receipt
}

async fn wait(world: &mut World, task: &str, timeout_ms: u64) -> Streaming<task::Receipt> {
    let wait = task::WaitRequest {
        task_id: task.to_owned(),
        timeout_ms,
    };
    world.admin.wait_task(wait).await.unwrap().into_inner()
}

async fn next(receipts: &mut Streaming<task::Receipt>) -> task::Receipt {
    let receipt = tokio::time::timeout(SOON, receipts.message()).await;
    receipt.expect("no receipt came").unwrap().unwrap()
}

async fn last(receipts: &mut Streaming<task::Receipt>) -> task::Receipt {
    loop {
        let receipt = next(receipts).await;
        if receipt.r#final {
            assert!(receipts.message().await.unwrap().is_none());
            return receipt;
        }
    }
}

fn names(of: &[task::Hearer]) -> Vec<&str> {
    of.iter().map(|hearer| hearer.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_goes_on_until_the_last_watcher_has_applied_the_end() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let service = workload(&mut world, &mut node, "service", true).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let mut agent = Hand::open(&world, &node, &node.identity, "agent").await;
    let mut verifier = Hand::open(&world, &node, &service.identity, "verifier").await;

    let receipt = revoke(&mut world, &ending.task).await;
    assert_eq!(names(&receipt.not_yet), ["agent", "verifier"]);
    assert!(!receipt.r#final);
    let mut receipts = wait(&mut world, &ending.task, 0).await;
    assert_eq!(next(&mut receipts).await.not_yet_count, 2);

    // The frame says that somebody waits.
    assert!(agent.head().await.unwrap().prompt);
    assert!(verifier.head().await.unwrap().prompt);
    agent.acknowledge(receipt.position).await;
    let heard = next(&mut receipts).await;
    assert_eq!((heard.applied_count, heard.not_yet_count), (1, 1));
    assert_eq!(names(&heard.not_yet), ["verifier"]);
    // Late, but it comes.
    verifier.acknowledge(receipt.position).await;
    let heard = last(&mut receipts).await;
    assert_eq!(names(&heard.applied), ["agent", "verifier"]);
    assert_eq!(heard.not_yet_count, 0);
    assert_eq!(heard.position, receipt.position);

    // Asked again, the answer is there at once; and it is in every later receipt.
    let heard = last(&mut wait(&mut world, &ending.task, 0).await).await;
    assert_eq!(heard.applied_count, 2);
    let again = revoke(&mut world, &ending.task).await;
    assert_eq!((again.position, again.applied_count), (receipt.position, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_comes_after_the_head_still_asks_for_hurry() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let mut agent = Hand::open(&world, &node, &node.identity, "agent").await;
    let end = task::EndRequest {
        task_id: ending.task.clone(),
        ..Default::default()
    };
    let ended = world.admin.revoke_task(end).await.unwrap().into_inner();
    assert!(!agent.head().await.unwrap().prompt, "nobody waits");
    let mut receipts = wait(&mut world, &ending.task, 0).await;
    // Long before the next heartbeat.
    assert!(agent.head().await.unwrap().prompt);
    agent.acknowledge(ended.position).await;
    assert_eq!(last(&mut receipts).await.applied_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_time_is_up_those_who_did_not_hear_are_named() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let service = workload(&mut world, &mut node, "service", true).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let silent = Hand::open(&world, &node, &service.identity, "silent").await;
    let gone = Hand::open(&world, &node, &node.identity, "gone").await;
    revoke(&mut world, &ending.task).await;
    drop(gone);
    let receipt = last(&mut wait(&mut world, &ending.task, 700).await).await;
    assert_eq!(receipt.not_yet_count, 2);
    let of = |name: &str| receipt.not_yet.iter().find(|one| one.name == name).unwrap();
    assert_eq!(of("silent").left_at_ms, 0);
    assert_eq!(of("silent").spiffe_id, "spiffe://example.org/service");
    assert!(
        of("gone").left_at_ms > 0,
        "it may still believe its last head"
    );
    assert!(receipt.dead_everywhere_by_ms > receipt.ended_at_ms);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_and_applies_the_end_is_waited_for_no_longer() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let agent = Hand::open(&world, &node, &node.identity, "agent").await;
    let receipt = revoke(&mut world, &ending.task).await;
    let mut receipts = wait(&mut world, &ending.task, 0).await;
    drop(agent);
    let agent = Hand::open(&world, &node, &node.identity, "agent").await;
    agent.acknowledge(receipt.position).await;
    let heard = last(&mut receipts).await;
    assert_eq!((heard.applied_count, heard.not_yet_count), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_watches_without_the_grant_stalls_nobody() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let idle = workload(&mut world, &mut node, "idle", false).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let _idle = Hand::open(&world, &node, &idle.identity, "idle").await;
    revoke(&mut world, &ending.task).await;
    let receipt = last(&mut wait(&mut world, &ending.task, 0).await).await;
    assert_eq!((receipt.applied_count, receipt.not_yet_count), (0, 0));
    let request = admin::ListWatchersRequest {};
    let list = world
        .admin
        .list_watchers(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.watchers.len(), 1);
    assert!(!list.watchers[0].waited_for);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_the_configuration_names_is_waited_for() {
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
                 watch.waited_for = [\"spiffe://example.org/idle\"]";
    let mut world = World::with(lines).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let idle = workload(&mut world, &mut node, "idle", false).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let _idle = Hand::open(&world, &node, &idle.identity, "idle").await;
    let receipt = revoke(&mut world, &ending.task).await;
    assert_eq!(names(&receipt.not_yet), ["idle"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_was_never_sent_is_not_taken_for_an_acknowledgement() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let mut liar = Hand::open(&world, &node, &node.identity, "liar").await;
    liar.acknowledge(1_000_000).await;
    let refused = async { while liar.head().await.is_ok() {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
    let receipt = revoke(&mut world, &ending.task).await;
    assert_eq!(receipt.applied_count, 0, "{receipt:?}");
    assert_eq!(names(&receipt.not_yet), ["liar"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relays_word_is_listed_apart_and_shown_to_operators() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let mut relay = Hand::open(&world, &node, &node.identity, "relay").await;
    let receipt = revoke(&mut world, &ending.task).await;
    relay.head().await.unwrap();
    let behind = |number, waited_for, sequence| Relayed {
        number,
        name: format!("behind-{number}"),
        spiffe_id: format!("spiffe://example.org/behind/{number}"),
        waited_for,
        sequence,
        left: false,
    };
    relay
        .say(Acknowledge {
            sequence: receipt.position,
            relayed: vec![
                behind(1, true, receipt.position),
                behind(2, true, 0),
                behind(3, false, 0),
            ],
            relayed_sequence: receipt.position,
            ..Default::default()
        })
        .await;
    let heard = last(&mut wait(&mut world, &ending.task, 500).await).await;
    assert_eq!(names(&heard.applied), ["relay"]);
    assert_eq!(names(&heard.applied_by_relay), ["behind-1"]);
    assert_eq!(names(&heard.not_yet), ["behind-2"]);
    assert_eq!(heard.not_yet[0].relay, node.id);

    let request = admin::ListWatchersRequest {};
    let list = world
        .admin
        .list_watchers(request)
        .await
        .unwrap()
        .into_inner();
    let lag = |name: &str| {
        let mut found = list.watchers.iter().filter(|watcher| watcher.name == name);
        let watcher = found.next().unwrap();
        (watcher.relay.clone(), watcher.waited_for, watcher.lag)
    };
    assert_eq!(
        lag("relay"),
        (String::new(), true, list.sequence - receipt.position)
    );
    assert_eq!(lag("behind-2"), (node.id.clone(), true, list.sequence));
    assert!(!lag("behind-3").1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_covers_a_token_that_somebody_checks_with_a_minute_of_leeway() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ending = workload(&mut world, &mut node, "ending", false).await;
    let item = node::mint_jwt_request::Item {
        task_id: ending.task.clone(),
        audience: vec!["a".to_owned()],
    };
    let mint = node::MintJwtRequest { items: vec![item] };
    let minted = node.client.mint_jwt(mint).await.unwrap().into_inner();
    let token = minted.results[0].expires_at_ms;
    assert!(token > 0);
    let latest = ending.expires_at_ms.max(token);
    let receipt = revoke(&mut world, &ending.task).await;
    // Exactly: what nobody minted does not count.
    assert_eq!(receipt.dead_everywhere_by_ms, latest + LEEWAY);
    // Whoever asks later hears the same.
    let later = revoke(&mut world, &ending.task).await;
    assert_eq!(later.dead_everywhere_by_ms, receipt.dead_everywhere_by_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_minted_nothing_is_dead_once_verifiers_have_heard_or_closed() {
    let mut world = World::in_memory().await;
    let entry = world.entry("later", UID, false).await;
    let begin = admin::BeginTaskRequest {
        entry_id: entry.id,
        task: Some(task::BeginRequest {
            binding: task::Binding::None.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let began = world.admin.begin_task(begin).await.unwrap().into_inner();
    let before = SystemClock.now();
    let receipt = revoke(&mut world, &began.task.unwrap().id).await;
    let bound = (before + BELIEVED).millis()..=(SystemClock.now() + BELIEVED).millis();
    // The last head without it was signed a moment before at most a heartbeat ago.
    assert!(receipt.dead_everywhere_by_ms <= *bound.end(), "{receipt:?}");
    assert!(
        receipt.dead_everywhere_by_ms + 10_000 >= *bound.start(),
        "{receipt:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_minted_while_a_task_ended_outlives_its_bound() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let mut minted = 0;
    for round in 0..8 {
        let name = format!("ending{round}");
        let ending = workload(&mut world, &mut node, &name, false).await;
        let mints = (0..32).map(|number: u64| {
            let mut client = node.client.clone();
            let mint = node::MintX509Request {
                items: vec![node::mint_x509_request::Item {
                    task_id: ending.task.clone(),
                    spki: Key::new().spki(),
                }],
            };
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(number * 150)).await;
                let minted = client.mint_x509(mint).await.unwrap().into_inner();
                minted.results[0].expires_at_ms
            })
        });
        let mints: Vec<_> = mints.collect();
        let receipt = revoke(&mut world, &ending.task).await;
        for mint in mints {
            let expires = mint.await.unwrap();
            minted += usize::from(expires > 0);
            assert!(
                expires + LEEWAY <= receipt.dead_everywhere_by_ms || expires == 0,
                "{expires} outlives {receipt:?}"
            );
        }
    }
    assert!(
        (1..8 * 32).contains(&minted),
        "{minted} came before their end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_of_a_parent_covers_what_its_children_minted() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let parent = workload(&mut world, &mut node, "parent", false).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut ask = node.begin(&[&parent.selector], 9, Key::new().spki());
    ask.parent_id = parent.task.clone();
    let child = node.client.begin_task(ask).await.unwrap().into_inner();
    assert!(child.expires_at_ms > parent.expires_at_ms);
    let receipt = revoke(&mut world, &parent.task).await;
    assert_eq!(receipt.dead_everywhere_by_ms, child.expires_at_ms + LEEWAY);
    // The child has a receipt of its own, at a position at which the whole tree has ended.
    let of_child = last(&mut wait(&mut world, &child.task.unwrap().id, 0).await).await;
    assert_eq!(of_child.position, receipt.position);
    assert_eq!(of_child.dead_everywhere_by_ms, child.expires_at_ms + LEEWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_neither_position_nor_bound() {
    let clock = ManualClock::new(SystemClock.now());
    let mut world = World::durable("revocation.max_age = \"60s\"", Arc::new(clock.clone())).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let ended = workload(&mut world, &mut node, "ended", false).await;
    let live = workload(&mut world, &mut node, "live", false).await;
    let before = revoke(&mut world, &ended.task).await;

    let mut away = world.go_away().await;
    // Verifiers may believe what was signed before for as long as that said, not for less.
    away.configure(
        "revocation.max_age = \"60s\"",
        "revocation.max_age = \"5s\"",
    );
    clock.advance(Duration::from_secs(20));
    let mut world = away.come_back().await;
    let after = revoke(&mut world, &ended.task).await;
    assert_eq!(after.position, before.position);
    let promised = (clock.now() + Duration::from_secs(62)).millis();
    let by_expiry = ended.expires_at_ms + LEEWAY;
    assert_eq!(after.dead_everywhere_by_ms, promised.max(by_expiry));
    assert!(after.dead_everywhere_by_ms >= before.dead_everywhere_by_ms);

    // Of what lived through the restart only a bound is known; it holds, and is no worse than the
    // longest credential that was ever minted.
    let receipt = revoke(&mut world, &live.task).await;
    let longest = (clock.now() + Duration::from_secs(600)).millis();
    assert!(receipt.dead_everywhere_by_ms >= live.expires_at_ms + LEEWAY);
    assert!(
        receipt.dead_everywhere_by_ms <= longest + LEEWAY,
        "{receipt:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ends_are_waited_for_and_not_for_ever() {
    let mut world = World::in_memory().await;
    let mut node = Node::join(&world.token("n1").await).await;
    let live = workload(&mut world, &mut node, "live", false).await;
    let ask = |timeout_ms| task::WaitRequest {
        task_id: live.task.clone(),
        timeout_ms,
    };
    let refused = world.admin.wait_task(ask(0)).await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_ENDED");
    revoke(&mut world, &live.task).await;
    let refused = world.admin.wait_task(ask(301_000)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "TOO_LONG")
    );
    // A node waits for its own tasks, and for no others.
    let mut receipts = node.client.wait_task(ask(0)).await.unwrap().into_inner();
    assert!(last(&mut receipts).await.r#final);
    let mut other = Node::join(&world.token("n2").await).await;
    let refused = other.client.wait_task(ask(0)).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SUCH_TASK");
}
