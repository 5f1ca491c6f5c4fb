//! A ban: the node's tasks end, it is sent away, and no token lets it in again until the ban is
//! lifted.

use taskmint_wire::{admin, node, task};
use tonic::Status;

use crate::harness::World;
use crate::node::{Node, attest, reason, request_id};
use crate::public::{Workload, joined};

fn of(node: &str) -> admin::NodeRequest {
    admin::NodeRequest {
        id: node.to_owned(),
        ..Default::default()
    }
}

type Answers = tonic::Streaming<node::SessionResponse>;

/// An open session: what the node says goes in at the first, what it hears comes out of the second.
async fn session(
    node: &mut Node,
) -> Result<(tokio::sync::mpsc::Sender<node::SessionRequest>, Answers), Status> {
    let (say, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let answers = node.client.session(requests).await?;
    Ok((say, answers.into_inner()))
}

async fn renew(node: &mut Node) -> Result<node::NodeSvid, Status> {
    let renew = node::RenewRequest {
        request_id: request_id(),
    };
    node.client
        .renew(renew)
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_banned_node_loses_everything_and_is_let_in_again_only_when_the_ban_is_lifted() {
    let mut world = World::in_memory().await;
    let mut node = joined(&mut world).await;
    let mut other = Node::join(&world.token("n2").await).await;
    let held = [1, 2];
    let mut tasks = Vec::new();
    for pid in held {
        tasks.push(Workload::begin(&mut node, pid).await.id);
    }
    let theirs = Workload::begin(&mut other, 1).await.id;
    let (_say, mut hears) = session(&mut node).await.unwrap();
    hears.message().await.unwrap();

    let banned = world.admin.ban_node(of(&node.id)).await.unwrap();
    let banned = banned.into_inner();
    assert_eq!(banned.tasks_ended, 3, "the node's own is one of them");
    assert_eq!(banned.node.unwrap().state, "banned");
    for id in &tasks {
        assert_eq!(world.ended(id).await, "evicted");
    }
    assert_eq!(world.task(&theirs).await.state(), task::State::Live);
    // Its session is over at once, and says why.
    let over = loop {
        match hears.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a session that is over says why"),
            Err(status) => break reason(&status),
        }
    };
    assert_eq!(over, "NODE_EVICTED");

    // Whatever it tries over its key, with its SVID, its old token or a new one.
    let fresh = world.token("n1").await;
    assert_eq!(reason(&renew(&mut node).await.unwrap_err()), "NODE_BANNED");
    let refused = session(&mut node).await.err().unwrap();
    assert_eq!(reason(&refused), "NODE_BANNED");
    let begin = node.begin(crate::node::UID, 3, Vec::new());
    let refused = node.client.begin_task(begin).await.unwrap_err();
    assert_eq!(reason(&refused), "NODE_BANNED");
    let refused = attest(&fresh, &node.key, &request_id()).await.unwrap_err();
    assert_eq!(reason(&refused), "NODE_BANNED");

    let unbanned = world.admin.unban_node(of(&node.id)).await.unwrap();
    assert_eq!(unbanned.into_inner().node.unwrap().state, "evicted");
    // The SVID that it had stays worthless; the token that it was refused with is still good.
    let refused = renew(&mut node).await.unwrap_err();
    assert_eq!(reason(&refused), "NODE_EVICTED");
    let svid = attest(&fresh, &node.key, &request_id()).await.unwrap();
    let mut back = Node::with(node.address, node.key, svid).await;
    renew(&mut back).await.unwrap();
    let anew = Workload::begin(&mut back, 1).await.id;
    assert_eq!(world.task(&anew).await.state(), task::State::Live);
    for id in &tasks {
        assert_eq!(world.ended(id).await, "evicted", "what ended has ended");
    }
    for action in ["node.ban", "node.unban"] {
        assert_eq!(world.audited(action).await, 1, "{action}");
    }
}
