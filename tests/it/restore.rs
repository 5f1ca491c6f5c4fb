//! A backup is restored (P14): over the real store, through the start of a real server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use taskmint_model::{Clock, SystemClock, SystemEntropy};
use taskmint_status::{Generation, LogId, TaskBinding};
use taskmint_verifier::StatusCheck;
use taskmint_verifier::tls::{self, Identity};
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_wire::{admin, node, task};

use crate::harness::{Away, World};
use crate::node::{Key, Node, UID, caller, request_id};

const SOON: Duration = Duration::from_secs(20);

/// A task, as its SVID names it, and the identity that goes with it.
struct Workload {
    id: String,
    binding: TaskBinding,
    identity: Identity,
}

async fn workload(node: &mut Node, pid: u32) -> Workload {
    let key = Key::new();
    let begin = node.begin(UID, pid, key.spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let leaf = CertificateDer::from(began.certificate);
    let binding = tls::read_verified(&leaf).unwrap().binding.unwrap();
    let identity = Identity::new();
    identity.set(vec![leaf], &key.pkcs8()).unwrap();
    Workload {
        id: began.task.unwrap().id,
        binding,
        identity,
    }
}

async fn end(node: &mut Node, of: &Workload, pid: u32) {
    let end = node::EndTaskRequest {
        task_id: of.id.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, pid)),
        ..Default::default()
    };
    node.client.end_task(end).await.unwrap();
}

/// Waits until the verifier says this of a task.
pub(crate) async fn until(watch: &Watch, binding: &TaskBinding, reason: Option<&str>) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let said = async {
        loop {
            looks.tick().await;
            let said = watch.check(binding).map_err(|refused| refused.reason);
            if said.err() == reason {
                return;
            }
        }
    };
    if tokio::time::timeout(SOON, said).await.is_err() {
        panic!("it says {:?}, not {reason:?}", watch.check(binding));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_all_tasks_are_over_nodes_are_still_nodes_and_old_places_are_refused() {
    let mut world = World::durable("", Arc::new(SystemClock)).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let service = workload(&mut node, 6).await;
    let live = workload(&mut node, 7).await;
    let source = Source::Server {
        address: world.server.watch_address.to_string(),
        identity: service.identity.clone(),
    };
    let options = Options::new("example.org".parse().unwrap(), source, "service");
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let watch = Watch::start(options, node.trust.clone(), clocks, entropy).unwrap();
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    watch.check(&live.binding).unwrap();

    let backup = world.folder.path().join("backup");
    let request = admin::BackupRequest {
        folder: backup.display().to_string(),
    };
    world.admin.backup(request).await.unwrap();
    // Of these the backup knows nothing: a task that lives on, and one that ends.
    let later = workload(&mut node, 8).await;
    let ended = workload(&mut node, 9).await;
    end(&mut node, &ended, 9).await;
    until(&watch, &ended.binding, Some("TASK_ENDED")).await;

    let away = world.go_away().await;
    let ended_tasks = restore(&away, &backup, "lost", None);
    assert!(ended_tasks >= 3, "{ended_tasks}");
    let mut world = away.come_back().await;

    for of in [&service, &live] {
        let ending = world.task(&of.id).await.ending.unwrap();
        assert_eq!(ending.cause, "restored");
    }
    // The node goes on under the SVID that it had, and renews it.
    assert_eq!(world.nodes().await[0].state, "active");
    let trust_domain = "example.org".parse().unwrap();
    let channel = crate::node::connect(&node.identity, &node.trust, &trust_domain, &node.address);
    node.client = taskmint_wire::node::nodes_client::NodesClient::new(channel.await);
    let fresh = workload(&mut node, 10).await;
    let renew = node::RenewRequest {
        request_id: request_id(),
    };
    node.client.renew(renew).await.unwrap();

    // The verifier moves to the new log by itself; there the new task counts and no old one does,
    // least of all the one whose end was forgotten.
    until(&watch, &fresh.binding, None).await;
    assert_ne!(fresh.binding.place.log(), live.binding.place.log());
    for of in [&service, &live, &later, &ended] {
        let refused = watch.check(&of.binding).unwrap_err();
        assert_eq!(refused.reason, "LOG_UNKNOWN", "{refused:?}");
    }
    let get = task::GetRequest { task_id: later.id };
    assert!(world.admin.get_task(get).await.is_err());

    // It was the wrong backup, or is needed once more: verifiers have seen what it was made into.
    let away = world.go_away().await;
    restore(&away, &backup, "lost again", Generation::new(2));
    let world = away.come_back().await;
    until(&watch, &fresh.binding, Some("LOG_UNKNOWN")).await;
    assert_eq!(world.server.issuer.watchers().contradictions(), 0);
    let follows = watch.state().position.map(|at| at.generation);
    assert_eq!(follows, Generation::new(3));
}

/// Puts the backup in place of the store, which goes to `lost`; how many tasks that ended.
fn restore(away: &Away, backup: &Path, lost: &str, above: Option<Generation>) -> u64 {
    let store = away.folder.path().join("server").join("store");
    std::fs::rename(&store, away.folder.path().join(lost)).unwrap();
    let log = LogId([above.map_or(9, |above| above.get() + 9); 8]);
    let now = SystemClock.now();
    let restored = taskmint_store_rocksdb::restore(backup, &store, (log, above), now);
    restored.unwrap().ended
}
