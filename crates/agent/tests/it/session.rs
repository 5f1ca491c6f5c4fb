//! The session with the server: away, back, restarted, renewed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use taskmint_agent::Limits;
use taskmint_wire::{task, workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::fake::{Fake, PATIENCE, entry};
use crate::node::{Node, end, fetch, next, reason, workload};

#[tokio::test]
async fn while_the_server_is_away_svids_go_on_and_nothing_new_is_had() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (before, mut stream) = fetch(&mut client).await.unwrap();
    fake.go_away();
    let away = async {
        loop {
            let ask = workload::JwtsvidRequest {
                audience: vec!["a".into()],
                ..Default::default()
            };
            match client.fetch_jwtsvid(ask).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, away).await.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    // The same SVID as before, also for who asks only now.
    let (cached, _) = fetch(&mut client).await.unwrap();
    assert_eq!(cached.svids, before.svids);
    let mut stranger = node.puppet();
    let status = fetch(&mut workload(stranger.stream(0)).await)
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "SERVER_UNREACHABLE");
    let mut api = node.task_api().await;
    let status = api.begin(task::BeginRequest::default()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    fake.come_back();
    node.tasks.readiness().ready().await;
    fake.until(|state| (state.sessions_opened == 2).then_some(()))
        .await;
    let ask = workload::JwtsvidRequest {
        audience: vec!["a".into()],
        ..Default::default()
    };
    client.fetch_jwtsvid(ask).await.unwrap();
    assert_eq!(
        fake.state(|state| (state.tasks.len(), state.ended.len())),
        (1, 0)
    );
    let quiet = tokio::time::timeout(Duration::from_millis(50), stream.message()).await;
    assert!(quiet.is_err(), "the open stream heard nothing of it");
    node.stop().await;
}

#[tokio::test]
async fn svids_that_expire_while_the_server_is_away_are_not_called_withdrawn() {
    let fake = Fake::start().await;
    fake.state(|state| {
        state.entries = vec![entry(1, "/web")];
        state.x509_ttl = Duration::from_millis(1_500);
    });
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    fake.go_away();
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    node.stop().await;
}

#[tokio::test]
async fn an_agent_that_restarts_adopts_who_lives_and_ends_who_died() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let dir = Arc::clone(&node.dir);
    let mut dies = node.puppet();
    fetch(&mut workload(dies.stream(0)).await).await.unwrap();
    let (before, mut stream) = fetch(&mut node.workload().await).await.unwrap();
    let socket = task::BeginRequest {
        binding: task::Binding::Socket.into(),
        ..Default::default()
    };
    let mut other = node.puppet();
    let mut api = crate::node::task_api(other.stream(1)).await;
    let folder = api.begin(socket).await.unwrap().into_inner().socket_dir;
    let tasks = fake.state(|state| state.tasks.clone());
    node.kill().await;
    end(&mut stream).await;
    dies.kill();
    let node = Node::start_in(&fake, dir, Limits::default()).await;
    let adopted = fake.until(|state| state.adopted.get(1).cloned()).await;
    let adopted: HashSet<_> = adopted.into_iter().collect();
    let living = tasks
        .values()
        .filter(|task| task.process != dies.process.to_string());
    assert_eq!(adopted, living.map(|task| task.id.clone()).collect());
    assert_eq!(
        fake.state(|state| state.attested),
        1,
        "the node is still the node"
    );
    // Keys are not kept: the same task, another key.
    let (after, _) = fetch(&mut node.workload().await).await.unwrap();
    assert_eq!(after.svids.len(), 1);
    assert_ne!(after.svids[0].x509_svid_key, before.svids[0].x509_svid_key);
    assert_eq!(
        fake.state(|state| state.tasks.len()),
        3,
        "no task is begun anew"
    );
    // Its folder is the same, and somebody listens there again.
    let path = std::path::Path::new(&folder).join("workload.sock");
    let mut inside = crate::puppet::Puppet::connected(&[&path]);
    let (message, _) = fetch(&mut workload(inside.stream(0)).await).await.unwrap();
    assert_eq!(message.svids.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_lease_that_lapsed_ends_tasks_at_once_and_clients_come_back_by_themselves() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (before, mut stream) = fetch(&mut client).await.unwrap();
    let id = fake.state(|state| {
        state.lapsed = true;
        let task = state.tasks.values_mut().next().unwrap();
        task.set_state(task::State::Ended);
        task.version += 1;
        task.ending = Some(task::Ending {
            cause: "node_lost".to_owned(),
            ..Default::default()
        });
        task.id.clone()
    });
    let old = before.svids[0].x509_svid_key.clone();
    fake.cut();
    assert!(
        fake.until(|state| state.adopted.get(1).cloned())
            .await
            .is_empty()
    );
    // Nobody decided it against the process, so there is no bar: a stream that is still open, or
    // the client's retry, gets another task.
    let another = async {
        loop {
            match next(&mut stream).await {
                Ok(message) if message.svids[0].x509_svid_key != old => return,
                Ok(_) => {}
                Err(_) => match fetch(&mut client).await {
                    Ok((_, again)) => stream = again,
                    Err(_) => tokio::task::yield_now().await,
                },
            }
            if let Ok((message, _)) = fetch(&mut client).await {
                assert_ne!(message.svids[0].x509_svid_key, old);
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, another).await.unwrap();
    let others = fake.state(|state| state.tasks.keys().filter(|other| **other != id).count());
    assert_eq!(others, 1);
    node.stop().await;
}

#[tokio::test]
async fn a_task_that_ended_while_the_wire_was_cut_is_gone_when_it_is_back() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    let id = fake.state(|state| state.tasks.keys().next().unwrap().clone());
    fake.go_away();
    fake.revoke(&id).await;
    fake.come_back();
    assert_eq!(reason(&end(&mut stream).await), "TASK_ENDED");
    node.tasks.readiness().ready().await;
    assert_eq!(reason(&fetch(&mut client).await.unwrap_err()), "BARRED");
    node.stop().await;
}

#[tokio::test]
async fn the_lease_is_kept_while_nothing_happens() {
    let fake = Fake::start().await;
    fake.state(|state| state.lease = Duration::from_millis(200));
    let node = Node::start(&fake).await;
    fake.until(|state| (state.leases >= 4).then_some(())).await;
    assert_eq!(fake.state(|state| state.sessions_opened), 1);
    node.stop().await;
}

#[tokio::test]
async fn the_nodes_svid_is_renewed_in_time_and_streams_do_not_notice() {
    let fake = Fake::start().await;
    fake.state(|state| {
        state.entries = vec![entry(1, "/web")];
        state.node_ttl = Duration::from_secs(3);
    });
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    fake.state(|state| state.node_ttl = Duration::from_secs(3600));
    fake.until(|state| (state.sessions_opened == 2).then_some(()))
        .await;
    assert_eq!(fake.state(|state| (state.attested, state.renewed)), (1, 1));
    let ask = workload::JwtsvidRequest {
        audience: vec!["a".into()],
        ..Default::default()
    };
    client.fetch_jwtsvid(ask).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), stream.message())
            .await
            .is_err()
    );
    node.stop().await;
}

#[tokio::test]
async fn a_node_whose_state_was_copied_attests_anew() {
    let fake = Fake::start().await;
    let node = Node::start(&fake).await;
    assert_eq!(fake.state(|state| state.attested), 1);
    fake.state(|state| state.refuse_sessions = Some("NODE_SUSPENDED"));
    fake.cut();
    fake.until(|state| (state.attested == 2).then_some(()))
        .await;
    fake.state(|state| state.refuse_sessions = None);
    fake.until(|state| (state.sessions_opened == 2).then_some(()))
        .await;
    node.stop().await;
}

#[tokio::test]
async fn health_and_metrics_are_served_on_loopback() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    fetch(&mut node.workload().await).await.unwrap();
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(node.running.http.unwrap())
            .await
            .unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/live").await.starts_with("HTTP/1.1 200"));
    assert!(get("/ready").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    for line in [
        "taskmint_agent_tasks 1",
        "taskmint_agent_server_connected 1",
        "taskmint_agent_tasks_begun_total{kind=\"implicit\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_stop_ends_streams_without_withdrawing_anything() {
    let fake = Fake::start().await;
    fake.state(|state| state.entries = vec![entry(1, "/web")]);
    let node = Node::start(&fake).await;
    let mut client = node.workload().await;
    let (_, mut stream) = fetch(&mut client).await.unwrap();
    node.tasks.shutdown().request();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "STOPPING")
    );
    drop(client);
    node.tasks.join().await.unwrap();
    assert!(fake.state(|state| state.ended.is_empty()));
}
