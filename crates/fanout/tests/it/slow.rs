//! Who reads slowly, in small windows, or not at all; and who is not there any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use prost::Message as _;
use taskmint_fanout::{Settings, WATCH};
use taskmint_wire::revocation::watch_request::Message;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::log::Log;
use crate::watcher::{SOON, Watcher, becomes, client, endpoint, open, pipe, said};

#[tokio::test(flavor = "multi_thread")]
async fn small_windows_get_everything_too() {
    for window in [65_535, 1024, 100] {
        let log = Log::new(0, 100_000);
        let lane = log
            .fanout(Settings::default())
            .lane(CancellationToken::new());
        log.end(3);
        log.checkpoint_octets.store(100_000, Ordering::SeqCst);
        let endpoint = endpoint().initial_stream_window_size(window);
        let mut client = client(&lane, "peer", endpoint).await;
        let mut watcher = Watcher::open(&mut client, open("w", 0)).await;
        for _ in 0..60 {
            log.end(50);
            tokio::task::yield_now().await;
        }
        watcher.until(3003).await;
        assert_eq!(watcher.heard.checkpoints, 1);
    }
}

#[tokio::test]
async fn a_slow_reader_skips_heads_but_no_record() {
    let log = Log::new(0, 100_000);
    let fanout = log.fanout(Settings::default());
    let lane = fanout.lane(CancellationToken::new());
    log.end(9);
    let endpoint = endpoint().initial_stream_window_size(65_535);
    let mut client = client(&lane, "peer", endpoint).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    // It reads none of these while they are published.
    for _ in 0..2000 {
        log.end(3);
        tokio::task::yield_now().await;
    }
    let sent = fanout.metrics().read().octets;
    // Its window, and what is on the way.
    assert!(
        sent < 80 << 10,
        "{sent} octets were sent to one who does not read"
    );
    watcher.until(6009).await;
    assert!(watcher.heard.heads < 1500, "{} heads", watcher.heard.heads);
}

#[tokio::test]
async fn who_falls_too_far_behind_gets_a_checkpoint_instead() {
    let log = Log::new(0, 2000);
    let settings = Settings {
        behind: 2000,
        ..Settings::default()
    };
    let lane = log.fanout(settings).lane(CancellationToken::new());
    log.end(9);
    let endpoint = endpoint().initial_stream_window_size(65_535);
    let mut client = client(&lane, "peer", endpoint).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    for _ in 0..1000 {
        log.end(20);
        tokio::task::yield_now().await;
    }
    log.checkpoint.store(20_000, Ordering::SeqCst);
    watcher.until(20_009).await;
    assert_eq!(watcher.heard.checkpoints, 1);
}

/// Opens a watch by hand, with as large a window as there is, and never reads again.
async fn never_reads(io: tokio::io::DuplexStream) -> impl Drop {
    let (mut sender, connection) = h2::client::Builder::new()
        .initial_window_size((1 << 31) - 1)
        .initial_connection_window_size((1 << 31) - 1)
        .handshake::<_, Bytes>(io)
        .await
        .unwrap();
    let mut connection = Box::pin(connection);
    let request = Request::post(format!("http://watch{WATCH}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let message = said(Message::Open(open("deaf", 9)));
    let mut octets = vec![0, 0, 0, 0, u8::try_from(message.encoded_len()).unwrap()];
    message.encode(&mut octets).unwrap();
    send.send_data(octets.into(), false).unwrap();
    let response = tokio::select! {
        response = response => response.unwrap(),
        _ = &mut connection => panic!("the connection ended"),
    };
    Deaf(Box::new((sender, connection, send, response)))
}

#[expect(dead_code, reason = "it is there to be held")]
struct Deaf(Box<dyn std::any::Any>);

impl Drop for Deaf {
    fn drop(&mut self) {}
}

#[tokio::test]
async fn who_never_reads_is_dropped_and_delays_nobody() {
    let log = Log::new(0, 100_000);
    let settings = Settings {
        unread: Duration::from_millis(500),
        ..Settings::default()
    };
    let fanout = log.fanout(settings);
    let lane = fanout.lane(CancellationToken::new());
    log.end(9);
    let _deaf = never_reads(pipe(&lane, "peer", 4 << 10)).await;
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    becomes(|| log.open() == 2).await;
    let began = tokio::time::Instant::now();
    while log.open() == 2 {
        let next = log.end(100);
        let heard = watcher.until(next);
        tokio::time::timeout(Duration::from_secs(2), heard)
            .await
            .unwrap();
        assert!(began.elapsed() < SOON, "it is still there");
    }
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(fanout.metrics().read().slow, 1);
    let next = log.end(1);
    watcher.until(next).await;
}

#[tokio::test]
async fn a_full_window_is_no_excuse() {
    let log = Log::new(0, 100_000);
    let settings = Settings {
        unread: Duration::from_millis(300),
        ..Settings::default()
    };
    let fanout = log.fanout(settings);
    let lane = fanout.lane(CancellationToken::new());
    log.end(9);
    let endpoint = endpoint().initial_stream_window_size(1024);
    let mut client = client(&lane, "peer", endpoint).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    becomes(|| log.open() == 1).await;
    // Its transport takes everything; it itself takes nothing.
    for _ in 0..10 {
        log.end(200);
        tokio::task::yield_now().await;
    }
    becomes(|| log.open() == 0).await;
    assert_eq!(watcher.ending().await.code(), Code::ResourceExhausted);
    assert_eq!(fanout.metrics().read().slow, 1);
}

#[tokio::test(start_paused = true)]
async fn nonces_of_one_who_cannot_be_answered_keep_no_lane_busy() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    // Nothing is published yet: there is no head to answer with.
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 0)).await;
    becomes(|| log.open() == 1).await;
    for number in 1..30 {
        watcher.nonce([number; 16]);
    }
    // Time passes by itself only while nobody is busy.
    tokio::time::sleep(Duration::from_secs(15)).await;
    log.end(1);
    watcher
        .listen(|heard| heard.nonces.len() == 29)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_not_there_any_more_is_found_out() {
    let log = Log::new(0, 500);
    let fanout = log.fanout(Settings::default());
    let lane = fanout.lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut alive = Watcher::open(&mut client, open("alive", 9)).await;
    alive.until(9).await;
    let _gone = never_reads(pipe(&lane, "peer", 64 << 10)).await;
    becomes(|| log.open() == 2).await;
    // Two minutes without a word from the log.
    let listening = tokio::spawn(async move { alive.frames.message().await });
    tokio::time::sleep(Duration::from_secs(39)).await;
    assert_eq!((log.open(), fanout.metrics().read().silent), (2, 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((log.open(), fanout.metrics().read().silent), (1, 1));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(log.open(), 1, "who answers pings stays");
    log.end(1);
    assert!(listening.await.unwrap().unwrap().is_some());
}
