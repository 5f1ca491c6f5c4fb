//! Checkpoints as the server makes them: shared while they are young, exact whatever they were made
//! of, and followed by what came after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use taskmint_issuer::SignedCheckpoint;
use taskmint_model::{Clock, SystemClock, SystemEntropy, TaskId, Timestamp};
use taskmint_status::checkpoint::PackedMap;
use taskmint_status::{
    BootTime, Cause, Checkpoint, Now, Place, Status, StatusMap, TaskBinding, WallTime,
};
use taskmint_store::{Change, Commit, StatusChange};
use taskmint_testkit::ManualClock;
use taskmint_verifier::StatusCheck;
use taskmint_verifier::tls::{self, Identity};
use taskmint_verifier::watch::{Clocks, Options, Source, SystemClocks, Watch};
use tempfile::TempDir;

use crate::harness::World;
use crate::node::{Key, Node, UID};

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"";
const SOON: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// A server by a clock that stands still until it is moved.
async fn world(lines: &str) -> (World, ManualClock) {
    let clock = ManualClock::new(SystemClock.now());
    let folder = Arc::new(TempDir::new().unwrap());
    let world = World::by(folder, lines, Arc::new(clock.clone())).await;
    // The first sweep is done: from here on nothing is recorded but what a test does.
    let mut position = world.server.issuer.store().position();
    let swept = position.wait_for(|position| position.floor > 0);
    tokio::time::timeout(SOON, swept).await.unwrap().unwrap();
    (world, clock)
}

async fn commit(world: &World, changes: Vec<Change>) -> u64 {
    let commit = Commit {
        expect: Vec::new(),
        changes,
    };
    let store = world.server.issuer.store();
    store.commit(commit).await.unwrap().sequence
}

/// A change of a place whose task nobody knows: for checkpoints only statuses count.
fn change(world: &World, bucket: u32, index: u64, status: Status, at: Timestamp) -> Change {
    let log = world.server.issuer.store().identity().log;
    Change::Status(StatusChange {
        place: Place::new(log, bucket, index).unwrap(),
        task: TaskId::from_octets([7; 16]),
        status,
        cause: (status == Status::Ended).then_some(Cause::COMPLETED),
        at,
    })
}

async fn end(world: &World, bucket: u32, indices: impl IntoIterator<Item = u64>) -> u64 {
    let at = world.clock.now();
    let changes = indices
        .into_iter()
        .map(|index| change(world, bucket, index, Status::Ended, at));
    commit(world, changes.collect()).await
}

/// What a checkpoint says: its position, and the maps as a verifier reads them.
fn opened(signed: &SignedCheckpoint) -> (Checkpoint, BTreeMap<u32, StatusMap>) {
    let checkpoint = Checkpoint::decode(&signed.body).unwrap();
    assert_eq!(checkpoint.sequence, signed.sequence);
    let packed = |(bucket, bytes): &(u32, bytes::Bytes)| PackedMap {
        bucket: *bucket,
        bytes: bytes.to_vec(),
    };
    let packed: Vec<_> = signed.maps.iter().map(packed).collect();
    let maps = checkpoint.unpack(&packed).unwrap();
    (checkpoint, maps)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_who_need_a_checkpoint_share_one() {
    let (world, _clock) = world(MEMORY).await;
    let bucket = world.clock.now().hour() + 1;
    end(&world, bucket, (0..50_000).step_by(3)).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let issuer = Arc::clone(&world.server.issuer);
        asking.spawn(async move { issuer.checkpoint().await.unwrap() });
    }
    let got = asking.join_all().await;
    assert!(got.iter().all(|frame| Arc::ptr_eq(frame, &got[0])));
    // One who is further along already gets none that lies behind.
    let newest = end(&world, bucket, [1]).await;
    let still = world.server.issuer.checkpoint().await.unwrap();
    assert!(Arc::ptr_eq(&still, &got[0]));
    let later = world.server.issuer.checkpoint_from(newest).await.unwrap();
    assert_eq!(opened(&later).0.sequence, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_made_anew_once_it_is_old_or_far_behind() {
    let (world, clock) = world(MEMORY).await;
    let issuer = &world.server.issuer;
    let bucket = clock.now().hour() + 1;
    end(&world, bucket, [1]).await;
    let first = issuer.checkpoint().await.unwrap();
    clock.advance(HOUR / 2);
    let same = issuer.checkpoint().await.unwrap();
    assert!(Arc::ptr_eq(&same, &first), "nothing was recorded since");

    let second_end = end(&world, bucket, [2]).await;
    let second = issuer.checkpoint().await.unwrap();
    assert_eq!(opened(&second).0.sequence, second_end, "it was too old");

    end(&world, bucket, 100..4_100).await;
    let same = issuer.checkpoint().await.unwrap();
    assert!(Arc::ptr_eq(&same, &second), "one delta leads on");
    let far = end(&world, bucket, 5_000..5_100).await;
    let third = issuer.checkpoint().await.unwrap();
    assert_eq!(opened(&third).0.sequence, far, "it was too far behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_says_what_the_store_says_whatever_came_since_the_one_before() {
    let (world, clock) = world(MEMORY).await;
    let issuer = &world.server.issuer;
    let first = clock.now().hour();
    for round in 0..12_u64 {
        let at = clock.now();
        let mut changes = Vec::new();
        for bucket in first + 2..first + 5 {
            let index = |number: u64| round * 40_000 / 3 + number * (17 + round);
            for number in 0..200 {
                let status = if number % 9 == 0 {
                    Status::Suspended
                } else {
                    Status::Ended
                };
                changes.push(change(
                    &world,
                    bucket,
                    1_000_000 + index(number),
                    status,
                    at,
                ));
            }
            // A chunk that was touched and is all valid again.
            for status in [Status::Suspended, Status::Valid] {
                changes.push(change(&world, bucket, 20_000_000, status, at));
            }
        }
        // Some ended already: those are refused, one by one.
        for one in changes {
            let one = Commit {
                expect: Vec::new(),
                changes: vec![one],
            };
            drop(issuer.store().commit(one).await);
        }
        if round % 4 == 3 {
            // Every hour one of the buckets is over.
            clock.advance(2 * HOUR);
            let floor = clock.now().hour();
            commit(
                &world,
                vec![Change::Floor {
                    bucket: floor,
                    at: clock.now(),
                }],
            )
            .await;
        }
        clock.advance(Duration::from_secs(2));
        let snapshot = issuer.store().snapshot().await.unwrap();
        let position = snapshot.position;
        let frame = issuer.checkpoint_from(position.sequence).await.unwrap();
        let (checkpoint, maps) = opened(&frame);
        assert_eq!(
            (checkpoint.sequence, checkpoint.floor),
            (position.sequence, position.floor)
        );
        assert_eq!(checkpoint.log_hash.0, position.hash);
        let expected: BTreeMap<u32, StatusMap> = snapshot
            .maps
            .iter()
            .map(|(bucket, map)| (*bucket, StatusMap::clone(map)))
            .collect();
        assert_eq!(maps, expected, "round {round}");
    }
    assert!(clock.now().hour() > first + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_keeps_nobody_from_a_checkpoint() {
    let (world, clock) = world(MEMORY).await;
    let issuer = &world.server.issuer;
    let bucket = clock.now().hour() + 1;
    end(&world, bucket, [1]).await;
    let before = opened(&issuer.checkpoint().await.unwrap()).0;
    clock.set(clock.now() - Duration::from_secs(20));
    let newest = end(&world, bucket, [2]).await;
    let after = opened(&issuer.checkpoint_from(newest).await.unwrap()).0;
    assert_eq!(after.sequence, newest);
    assert!(after.time >= before.time, "what is signed never goes back");
}

/// A workload's SVID, and its task's binding.
async fn begun(node: &mut Node, pid: u32) -> (Identity, TaskBinding) {
    let key = Key::new();
    let ask = node.begin(UID, pid, key.spki());
    let began = node.client.begin_task(ask).await.unwrap().into_inner();
    let leaf = CertificateDer::from(began.certificate);
    let binding = tls::read_verified(&leaf).unwrap().binding.unwrap();
    let identity = Identity::new();
    identity.set(vec![leaf], &key.pkcs8()).unwrap();
    (identity, binding)
}

/// A verifier that follows the server itself.
pub(crate) fn watching(
    world: &World,
    node: &Node,
    identity: Identity,
    clocks: Arc<dyn Clocks>,
) -> Watch {
    let source = Source::Server {
        address: world.server.watch_address.to_string(),
        identity,
    };
    let options = Options::new("example.org".parse().unwrap(), source, "service");
    Watch::start(options, node.trust.clone(), clocks, Arc::new(SystemEntropy)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_after_the_checkpoint_reaches_who_begins_with_it() {
    let (mut world, _clock) = world(MEMORY).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, client) = (begun(&mut node, 7).await, begun(&mut node, 8).await);
    let shared = world.server.issuer.checkpoint().await.unwrap();
    let place = client.1.place;
    end(&world, place.bucket(), [place.index()]).await;
    let again = world.server.issuer.checkpoint().await.unwrap();
    assert!(
        Arc::ptr_eq(&again, &shared),
        "the watch begins with the one before the end"
    );

    let watch = watching(&world, &node, service.0, Arc::new(SystemClocks));
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    watch.check(&service.1).unwrap();
    assert_eq!(watch.check(&client.1).unwrap_err().reason, "TASK_ENDED");
}

/// The clocks of a host that can be put to sleep: both go on meanwhile.
#[derive(Default)]
struct Host(AtomicU64);

impl Clocks for Host {
    fn now(&self) -> Now {
        let slept = self.0.load(Ordering::SeqCst);
        let Now { boot, wall } = SystemClocks.now();
        Now {
            boot: BootTime(boot.0 + slept),
            wall: WallTime(wall.0 + slept),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_host_slept_all_night_refuses_until_it_has_caught_up() {
    let mut world = World::with(MEMORY).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, client) = (begun(&mut node, 7).await, begun(&mut node, 8).await);
    let host = Arc::new(Host::default());
    let watch = watching(&world, &node, service.0, host.clone());
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    watch.check(&service.1).unwrap();

    let mut reasons = Vec::new();
    for night in 0..3 {
        host.0
            .fetch_add(2 * HOUR.as_millis() as u64, Ordering::SeqCst);
        // An answer may have come in between, but not each time.
        reasons.extend(watch.check(&service.1).err().map(|refused| refused.reason));
        end(&world, client.1.place.bucket(), [1_000_000 + night]).await;
        tokio::time::timeout(SOON, watch.synced()).await.unwrap();
        watch.check(&service.1).unwrap();
    }
    assert!(reasons.contains(&"CLOCK_DRIFT_USED"), "{reasons:?}");
    end(&world, client.1.place.bucket(), [client.1.place.index()]).await;
    let heard = async {
        while watch.check(&client.1).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, heard).await.unwrap();
    assert_eq!(watch.check(&client.1).unwrap_err().reason, "TASK_ENDED");
}
