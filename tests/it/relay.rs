//! Verifiers that follow the log through the agent of their node: one stream to the server, and a
//! receipt that says by whose word it knows of them (P18, P19).

use std::sync::Arc;
use std::time::Duration;

use taskmint_client::Endpoint;
use taskmint_model::{Clock, SystemClock, SystemEntropy};
use taskmint_status::LogId;
use taskmint_verifier::Trust;
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::{Open, WatchRequest, WatchResponse};
use taskmint_wire::{admin, task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::harness::World;
use crate::joined::{Agent, Joined, SOON, own_uid_selector};

/// A verifier that follows the log and never says that it has applied anything.
struct Silent {
    _say: mpsc::Sender<WatchRequest>,
    _frames: Streaming<WatchResponse>,
}

impl Silent {
    async fn open(agent: &Agent, name: &str) -> Self {
        let socket = Endpoint::Unix(agent.settings.sockets.revocation.clone());
        let channel = taskmint_client::connect(&socket).await.unwrap();
        let mut client = RevocationClient::new(channel).max_decoding_message_size(16 << 20);
        let (say, said) = mpsc::channel(4);
        let message = Some(Message::Open(Open {
            name: name.to_owned(),
            ..Default::default()
        }));
        say.send(WatchRequest { message }).await.unwrap();
        let frames = client.watch(ReceiverStream::new(said)).await.unwrap();
        let mut frames = frames.into_inner();
        let first = tokio::time::timeout(SOON, frames.message()).await.unwrap();
        assert!(first.unwrap().is_some(), "a checkpoint");
        Self {
            _say: say,
            _frames: frames,
        }
    }
}

/// A verifier that has heard everything.
pub(crate) async fn verifier(agent: &Agent, name: &str) -> Watch {
    let endpoint = Endpoint::Unix(agent.settings.sockets.workload.clone());
    let source = Source::Relay(agent.settings.sockets.revocation.clone());
    let mut options = Options::new("example.org".parse().unwrap(), source, name);
    options.bundles = Bundles::WorkloadApi(endpoint);
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let trust = Trust::new(Default::default());
    let watch = Watch::start(options, trust, clocks, entropy).unwrap();
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    watch
}

/// An entry for this process, whose verifiers are waited for, or not.
async fn entry(world: &mut World, agent: &Agent, watch: bool) -> admin::Entry {
    let entry = admin::Entry {
        spiffe_id: "spiffe://example.org/me".to_owned(),
        selectors: vec![own_uid_selector()],
        watch,
        ..Default::default()
    };
    let entry = world.create(entry).await.unwrap();
    agent.knows_an_entry().await;
    entry
}

/// Waits until the server is told of this watcher behind the relay, and says whether it is waited
/// for.
async fn told_of(world: &mut World, name: &str) -> bool {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let told = async {
        loop {
            looks.tick().await;
            let list = world.admin.list_watchers(admin::ListWatchersRequest {});
            let list = list.await.unwrap().into_inner().watchers;
            let is = |one: &&admin::Watcher| one.name == name && !one.relay.is_empty();
            if let Some(found) = list.iter().find(is) {
                return found.waited_for;
            }
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap()
}

/// Begins a task by the agent, completes it, and waits until a receipt is as wanted: as
/// `taskmint task complete --wait` does.
async fn complete(agent: &Agent, wanted: impl Fn(&task::Receipt) -> bool) -> task::Receipt {
    let mut tasks = agent.task_api().await;
    // The session may come back a moment after the log.
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let begun = async {
        loop {
            looks.tick().await;
            match tasks.begin(task::BeginRequest::default()).await {
                Ok(began) => return began.into_inner().task.unwrap().id,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    };
    let task_id = tokio::time::timeout(SOON, begun).await.unwrap();
    let end = task::EndRequest {
        task_id: task_id.clone(),
        wait: true,
        ..Default::default()
    };
    tasks.complete(end).await.unwrap();
    let wait = task::WaitRequest {
        task_id,
        timeout_ms: 0,
    };
    let mut receipts = tasks.wait(wait).await.unwrap().into_inner();
    let found = async {
        loop {
            let receipt = receipts.message().await.unwrap().unwrap();
            if wanted(&receipt) {
                return receipt;
            }
            assert!(!receipt.r#final, "{receipt:?}");
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap()
}

async fn complete_and_wait(agent: &Agent) -> task::Receipt {
    complete(agent, |receipt| receipt.r#final).await
}

fn names(of: &[task::Hearer]) -> Vec<&str> {
    let mut names: Vec<_> = of.iter().map(|hearer| hearer.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Everybody has applied it: the agent by its own word, these by the agent's.
fn all_heard(receipt: &task::Receipt, behind: &[&str]) {
    assert_eq!(names(&receipt.applied_by_relay), behind, "{receipt:?}");
    assert_eq!(receipt.applied_count, 1, "the agent's own verifier");
    assert_eq!(receipt.not_yet_count, 0, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_names_who_applied_by_the_agents_word_and_the_ungranted_stall_it_not() {
    let Joined { mut world, agent } = Joined::start().await;
    let _unknown = Silent::open(&agent, "of no entry").await;
    let mut entry = entry(&mut world, &agent, false).await;
    let _ungranted = Silent::open(&agent, "ungranted").await;
    assert!(!told_of(&mut world, "ungranted").await);
    // Whoever comes once the agent knows of the grant has it.
    entry.watch = true;
    let update = admin::UpdateEntryRequest { entry: Some(entry) };
    world.admin.update_entry(update).await.unwrap();
    let granted = async {
        loop {
            let watch = verifier(&agent, "verifier-1").await;
            if told_of(&mut world, "verifier-1").await {
                return watch;
            }
        }
    };
    let _one = tokio::time::timeout(SOON, granted).await.unwrap();
    let _two = verifier(&agent, "verifier-2").await;
    assert!(told_of(&mut world, "verifier-2").await);

    let receipt = complete_and_wait(&agent).await;
    all_heard(&receipt, &["verifier-1", "verifier-2"]);
    let node = &receipt.applied[0].spiffe_id;
    for hearer in &receipt.applied_by_relay {
        assert_eq!(&hearer.relay, node);
        assert_eq!(hearer.spiffe_id, "spiffe://example.org/me");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_watchers_don_t_crowd_out_the_agents_own_verifier() {
    let mut world = World::in_memory().await;
    let mut settings = Agent::settings(&mut world, "n1").await;
    settings.limits.max_watches = 1;
    settings.limits.max_watches_per_uid = 1;
    let agent = Agent::launch(settings).await;
    agent.is_ready().await;
    let _takes_it = Silent::open(&agent, "greedy").await;
    world.entry("me", &[&own_uid_selector()], false).await;
    agent.knows_an_entry().await;
    all_heard(&complete_and_wait(&agent).await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_go_on_after_the_server_and_the_agent_were_away() {
    let world = World::durable("", Arc::new(SystemClock)).await;
    let Joined {
        mut world,
        mut agent,
    } = Joined::over(world).await;
    entry(&mut world, &agent, true).await;
    let _watch = verifier(&agent, "verifier").await;
    assert!(told_of(&mut world, "verifier").await);
    all_heard(&complete_and_wait(&agent).await, &["verifier"]);

    let mut world = world.go_away().await.come_back().await;
    assert!(told_of(&mut world, "verifier").await);
    all_heard(&complete_and_wait(&agent).await, &["verifier"]);

    agent.restart().await;
    agent.knows_an_entry().await;
    assert!(told_of(&mut world, "verifier").await);
    // The server can't know that who was behind the agent before is behind it again: those who
    // left stay. The agent itself may be later than its verifier.
    let heard = |receipt: &task::Receipt| {
        names(&receipt.applied_by_relay) == ["verifier"]
            && receipt.not_yet.iter().all(|one| one.left_at_ms > 0)
    };
    complete(&agent, heard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_behind_a_relay_move_to_the_log_of_a_restored_server() {
    let world = World::durable("", Arc::new(SystemClock)).await;
    let Joined { mut world, agent } = Joined::over(world).await;
    entry(&mut world, &agent, true).await;
    let watch = verifier(&agent, "verifier").await;
    assert!(told_of(&mut world, "verifier").await);
    let backup = world.folder.path().join("backup");
    let request = admin::BackupRequest {
        folder: backup.display().to_string(),
    };
    world.admin.backup(request).await.unwrap();
    // The backup knows nothing of these: the new log comes by their positions again.
    for _ in 0..3 {
        all_heard(&complete_and_wait(&agent).await, &["verifier"]);
    }

    let away = world.go_away().await;
    let store = away.folder.path().join("server").join("store");
    std::fs::rename(&store, away.folder.path().join("lost")).unwrap();
    let now = SystemClock.now();
    taskmint_store_rocksdb::restore(&backup, &store, (LogId([9; 8]), None), now).unwrap();
    let mut world = away.come_back().await;
    assert!(told_of(&mut world, "verifier").await);
    all_heard(&complete_and_wait(&agent).await, &["verifier"]);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
}
