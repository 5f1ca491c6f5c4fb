//! Liveness: tasks live as long as their holders, however those die.

use tonic::Code;

use taskmint_wire::task;

use crate::fake::{Fake, entry};
use crate::node::{Node, end, fetch, reason, task_api, workload};
use crate::puppet::Puppet;

#[tokio::test]
async fn a_holder_that_dies_ends_its_tasks_and_its_connection() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut puppet = node.puppet();
    let (_, mut stream) = fetch(&mut workload(puppet.stream(0)).await).await.unwrap();
    let id = fake.state(|state| state.tasks.keys().next().unwrap().clone());
    let died = std::time::Instant::now();
    puppet.kill();
    let ended = fake.until(|state| state.ended.first().cloned()).await;
    let after = died.elapsed();
    assert_eq!((ended.task_id, ended.cause.as_str()), (id, "holder_died"));
    assert!(ended.caller.is_none(), "the agent speaks for itself");
    assert!(after < std::time::Duration::from_secs(1), "{after:?}");
    // The test still holds the other end of the socket: the connection is over all the same (P1).
    end(&mut stream).await;
    node.stop().await;
}

#[tokio::test]
async fn a_task_of_a_dead_child_whose_beginner_says_nothing_ends_too() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut puppet = node.puppet();
    let mut api = node.task_api().await;
    let ask = task::BeginRequest {
        binding: task::Binding::Tree.into(),
        pid: puppet.pid(),
        ..Default::default()
    };
    api.begin(ask).await.unwrap();
    puppet.kill();
    let ended = fake.until(|state| state.ended.first().cloned()).await;
    assert_eq!(ended.cause, "holder_died");
    node.stop().await;
}

#[tokio::test]
async fn a_death_while_the_server_is_away_is_said_when_it_is_back() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let (mut dies, mut lives) = (node.puppet(), node.puppet());
    fetch(&mut workload(dies.stream(0)).await).await.unwrap();
    let (before, _) = fetch(&mut workload(lives.stream(0)).await).await.unwrap();
    let lost = fake.state(|state| {
        let of_dead = |task: &&task::Task| task.process == dies.process.to_string();
        state.tasks.values().find(of_dead).unwrap().id.clone()
    });
    fake.go_away();
    dies.kill();
    fake.come_back();
    let ended = fake.until(|state| state.ended.first().cloned()).await;
    assert_eq!(
        (ended.task_id, ended.cause.as_str()),
        (lost.clone(), "holder_died")
    );
    let adopted = fake.until(|state| state.adopted.get(1).cloned()).await;
    assert_eq!(adopted.len(), 1);
    assert!(!adopted.contains(&lost));
    // What lives has not lost anything, not even its SVID.
    let mut again = Puppet::connected(&[node.task_socket()]);
    drop(task_api(again.stream(0)).await);
    assert_eq!(before.svids.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn who_gives_its_socket_to_an_heir_takes_its_identity_along() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut puppet = node.puppet();
    let mut client = workload(puppet.stream(0)).await;
    puppet.kill();
    // The test is the heir: it holds the socket, and is not who connected.
    let status = fetch(&mut client).await.unwrap_err();
    assert!(
        [
            Code::Unknown,
            Code::Unavailable,
            Code::Cancelled,
            Code::Internal,
            Code::PermissionDenied
        ]
        .contains(&status.code())
    );
    assert_ne!(reason(&status), "");
    assert!(fake.state(|state| state.begun.is_empty()));
    node.stop().await;
}
