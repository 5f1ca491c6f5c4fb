//! What no client should send: each has its answer, and nobody else is disturbed.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use prost::Message as _;
use taskmint_fanout::{Lane, Settings, WATCH};
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::{Nonce, WatchRequest};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::log::Log;
use crate::watcher::{SOON, Watcher, client, endpoint, open, pipe, reason, said};

/// HTTP/2 by hand.
async fn by_hand(lane: &Lane<Log>) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(pipe(lane, "peer", 64 << 10))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(path: &str) -> Request<()> {
    let uri = format!("http://watch{path}");
    Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn framed(message: &WatchRequest) -> Bytes {
    let mut into = BytesMut::new();
    into.put_u8(0);
    into.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode_raw(&mut into);
    into.freeze()
}

fn opening() -> Bytes {
    framed(&said(Message::Open(open("hand", 9))))
}

async fn start(sender: &mut SendRequest<Bytes>) -> (SendStream<Bytes>, RecvStream) {
    let (response, send) = sender.send_request(request(WATCH), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    (send, response.into_body())
}

/// How a stream ends.
async fn ending(mut receive: RecvStream) -> Status {
    let read = async {
        while let Some(piece) = receive.data().await {
            let piece = piece.unwrap();
            receive
                .flow_control()
                .release_capacity(piece.len())
                .unwrap();
        }
        let trailers = receive.trailers().await.unwrap().unwrap();
        Status::from_header_map(&trailers).unwrap()
    };
    tokio::time::timeout(SOON, read).await.unwrap()
}

struct World {
    log: std::sync::Arc<Log>,
    lane: Lane<Log>,
    other: Watcher,
}

impl World {
    /// A lane with somebody on it who must not notice.
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let log = Log::new(0, 500);
        let lane = log.fanout(settings).lane(CancellationToken::new());
        log.end(9);
        let mut client = client(&lane, "peer", endpoint()).await;
        let mut other = Watcher::open(&mut client, open("other", 9)).await;
        other.until(9).await;
        Self { log, lane, other }
    }

    /// One watch that sends these octets; how it ends. The same connection serves another after.
    async fn answer(&mut self, octets: impl IntoIterator<Item = Bytes>) -> Status {
        let mut sender = by_hand(&self.lane).await;
        let (mut send, receive) = start(&mut sender).await;
        for piece in octets {
            send.send_data(piece, false).unwrap();
        }
        let status = ending(receive).await;
        let (mut send, mut receive) = start(&mut sender).await;
        send.send_data(opening(), false).unwrap();
        assert!(
            receive.data().await.unwrap().is_ok(),
            "the connection is as good as before"
        );
        self.nobody_else_noticed().await;
        status
    }

    async fn nobody_else_noticed(&mut self) {
        let next = self.log.end(1);
        self.other.until(next).await;
    }
}

#[tokio::test]
async fn another_path_is_not_implemented() {
    let mut world = World::new().await;
    let mut sender = by_hand(&world.lane).await;
    for path in ["/", "/taskmint.revocation.v1.Revocation/Other"] {
        let (response, _) = sender.send_request(request(path), true).unwrap();
        let headers: HeaderMap = response.await.unwrap().headers().clone();
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(reason(&status), "NO_SUCH_METHOD");
    }
    world.nobody_else_noticed().await;
}

#[tokio::test]
async fn what_is_not_grpc_gets_a_status_of_http() {
    let world = World::new().await;
    let mut sender = by_hand(&world.lane).await;
    let mut wrong = request(WATCH);
    wrong
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    let mut get = request(WATCH);
    *get.method_mut() = Method::GET;
    for (request, expected) in [
        (wrong, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (get, StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), expected);
    }
}

#[tokio::test]
async fn compression_is_refused_announced_or_not() {
    let mut world = World::new().await;
    let mut sender = by_hand(&world.lane).await;
    let mut announced = request(WATCH);
    announced
        .headers_mut()
        .insert("grpc-encoding", "gzip".parse().unwrap());
    let (response, _) = sender.send_request(announced, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity");
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unimplemented, "COMPRESSED".into())
    );

    let status = world.answer([Bytes::from_static(&[1, 0, 0, 0, 0])]).await;
    assert_eq!(reason(&status), "COMPRESSED");
}

#[tokio::test]
async fn messages_that_are_too_long_torn_or_foreign_are_refused() {
    let mut world = World::new().await;
    let long = Bytes::from_static(&[0, 0, 1, 0, 1]);
    let status = world.answer([long.clone()]).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, "MESSAGE_TOO_LONG".into())
    );
    assert_eq!(
        reason(&world.answer([opening(), long]).await),
        "MESSAGE_TOO_LONG"
    );
    let foreign = Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]);
    assert_eq!(reason(&world.answer([foreign]).await), "MALFORMED");

    let mut sender = by_hand(&world.lane).await;
    let (mut send, receive) = start(&mut sender).await;
    send.send_data(opening().slice(..7), true).unwrap();
    assert_eq!(reason(&ending(receive).await), "MALFORMED");
    world.nobody_else_noticed().await;
}

#[tokio::test]
async fn messages_out_of_turn_are_refused() {
    let mut world = World::new().await;
    let nonce = |octets: &'static [u8]| {
        let nonce = Bytes::from_static(octets);
        framed(&said(Message::Nonce(Nonce { nonce })))
    };
    let nothing = framed(&WatchRequest::default());
    let mut bad_open = open("hand", 9);
    bad_open.nonce = Bytes::from_static(&[1; 15]);
    let bad_open = framed(&said(Message::Open(bad_open)));
    for octets in [
        vec![nonce(&[1; 16])],
        vec![nothing.clone()],
        vec![bad_open],
        vec![opening(), opening()],
        vec![opening(), nothing],
        vec![opening(), nonce(&[1; 17])],
        vec![opening(), nonce(&[])],
    ] {
        let status = world.answer(octets).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason(&status), "BAD_FIELD");
    }
    // Nothing at all, and no more to come.
    let mut sender = by_hand(&world.lane).await;
    let (mut send, receive) = start(&mut sender).await;
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(reason(&ending(receive).await), "BAD_FIELD");
}

#[tokio::test]
async fn who_does_not_say_what_it_wants_is_not_waited_for() {
    let settings = Settings {
        open: Duration::from_millis(200),
        ..Settings::default()
    };
    let mut world = World::with(settings).await;
    let mut sender = by_hand(&world.lane).await;
    let (send, receive) = start(&mut sender).await;
    let status = ending(receive).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::DeadlineExceeded, "TOO_LATE".into())
    );
    // Nor is a connection without a watch.
    drop(send);
    let closed = async {
        while sender.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, closed).await.unwrap();
    world.nobody_else_noticed().await;
}

#[tokio::test]
async fn one_connection_has_few_watches() {
    let settings = Settings {
        streams: 3,
        ..Settings::default()
    };
    let mut world = World::with(settings).await;
    let mut sender = by_hand(&world.lane).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (mut send, receive) = start(&mut sender).await;
        send.send_data(opening(), false).unwrap();
        open.push((send, receive));
    }
    let (response, _send) = sender.send_request(request(WATCH), false).unwrap();
    let status = Status::from_header_map(response.await.unwrap().headers()).unwrap();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, "TOO_MANY_STREAMS".into())
    );
    world.nobody_else_noticed().await;
    // The others are still served, and one that ends makes room.
    let (mut send, receive) = open.pop().unwrap();
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(ending(receive).await.code(), Code::Ok);
    let (mut send, mut receive) = start(&mut sender).await;
    send.send_data(opening(), false).unwrap();
    assert!(receive.data().await.unwrap().is_ok());
}

#[tokio::test]
async fn more_nonces_than_can_be_answered_are_refused() {
    let mut world = World::new().await;
    let nonce = framed(&said(Message::Nonce(Nonce {
        nonce: Bytes::from_static(&[1; 16]),
    })));
    let status = world.answer([opening(), nonce.repeat(400).into()]).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, "TOO_MANY_NONCES".into())
    );
}

#[tokio::test]
async fn octets_that_are_no_http_end_their_connection_alone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut world = World::new().await;
    let mut near = pipe(&world.lane, "peer", 1 << 10);
    near.write_all(b"GET / HTTP/1.1\r\nhost: watch\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = near.read_to_end(&mut answer);
    tokio::time::timeout(SOON, read).await.unwrap().unwrap();
    world.nobody_else_noticed().await;
}
