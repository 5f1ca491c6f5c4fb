//! The relay of the revocation log: what goes in comes out, both ways, and nothing else.

use prost::Message;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message as Said;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{Acknowledge, Nonce, Open, WatchRequest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::fake::Fake;
use crate::node::{Node, channel, end, next, reason};

type Frames = Streaming<taskmint_wire::revocation::WatchResponse>;

async fn watch(node: &Node) -> (mpsc::Sender<WatchRequest>, Result<Frames, tonic::Status>) {
    let stream = UnixStream::connect(&node.settings.sockets.revocation)
        .await
        .unwrap();
    let mut client = RevocationClient::new(channel(stream).await);
    let (say, said) = mpsc::channel(4);
    let frames = client.watch(ReceiverStream::new(said)).await;
    (say, frames.map(tonic::Response::into_inner))
}

fn said(message: Said) -> WatchRequest {
    WatchRequest {
        message: Some(message),
    }
}

#[tokio::test]
async fn what_a_watcher_says_and_what_it_hears_pass_through_unchanged() {
    let fake = Fake::start().await;
    fake.state(|state| state.has_log = true);
    let node = Node::start(&fake).await;
    let (say, frames) = watch(&node).await;
    let mut frames = frames.unwrap();
    let messages = [
        said(Said::Open(Open {
            nonce: vec![7; 16].into(),
            name: "a verifier".to_owned(),
            ..Default::default()
        })),
        said(Said::Acknowledge(Acknowledge {
            sequence: 3,
            log_hash: vec![1; 32].into(),
            ..Default::default()
        })),
        said(Said::Nonce(Nonce {
            nonce: vec![8; 16].into(),
        })),
    ];
    for (number, message) in messages.into_iter().enumerate() {
        say.send(message.clone()).await.unwrap();
        let frame = next(&mut frames).await.unwrap();
        assert_eq!(frame.prompt, number % 2 == 1);
        let Some(Frame::Delta(delta)) = frame.frame else {
            panic!("{frame:?}")
        };
        assert_eq!(delta.records, message.encode_to_vec());
        assert!(fake.state(|state| state.watched.contains(&message)));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_learns_that_the_log_is_away_and_can_come_back() {
    let fake = Fake::start().await;
    fake.state(|state| state.has_log = true);
    let node = Node::start(&fake).await;
    let (_say, frames) = watch(&node).await;
    let mut frames = frames.unwrap();
    fake.go_away();
    let status = end(&mut frames).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    let (_say, refused) = watch(&node).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    fake.come_back();
    let back = async {
        loop {
            let (say, frames) = watch(&node).await;
            if let Ok(mut frames) = frames {
                say.send(said(Said::Nonce(Nonce {
                    nonce: vec![9; 16].into(),
                })))
                .await
                .unwrap();
                return next(&mut frames).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, back)
        .await
        .unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_that_leaves_takes_its_stream_to_the_server_along() {
    let fake = Fake::start().await;
    fake.state(|state| state.has_log = true);
    let node = Node::start(&fake).await;
    // More than a connection of the server's would carry at once, if any were left over.
    for number in 0..300_u64 {
        let (say, frames) = watch(&node).await;
        let mut frames = frames.unwrap();
        let message = Said::Acknowledge(Acknowledge {
            sequence: number,
            ..Default::default()
        });
        say.send(said(message)).await.unwrap();
        next(&mut frames).await.unwrap();
    }
    node.stop().await;
}
