//! What a watcher that never reads costs, at most.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "it/log.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod log;

use std::io::Write;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use taskmint_fanout::{Fanout, Settings, Source, WATCH};
use taskmint_wire::revocation::{Open, WatchRequest, watch_request::Message};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use log::Log;

/// Bound of the issue.
const MOST: u64 = 64 << 10;

const WATCHERS: u64 = 400;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// All that a client says that then falls silent: with windows as large as they get.
fn words() -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", WATCH),
        (":authority", "watch"),
        ("content-type", "application/grpc"),
    ] {
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend(text.as_bytes());
        }
    }
    let open = WatchRequest {
        message: Some(Message::Open(Open::default())),
    };
    let mut data = vec![0, 0, 0, 0, u8::try_from(open.encoded_len()).unwrap()];
    open.encode(&mut data).unwrap();
    let largest = 0x7fff_ffff_u32;
    let mut settings = vec![0, 4];
    settings.extend(largest.to_be_bytes());
    let mut words = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    words.extend(frame(4, 0, 0, &settings));
    words.extend(frame(8, 0, 0, &(largest - 65_535).to_be_bytes()));
    words.extend(frame(1, 4, 1, &headers));
    words.extend(frame(0, 0, 1, &data));
    words
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Publishes until the socket of each of them is long full.
async fn publish(log: &Log) {
    for _ in 0..40 {
        log.end(150);
        log.checkpoint.store(log.feed.position(), Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn who_never_reads_costs_no_more_than_64_kib() {
    let log = Log::new(0, 2048);
    log.checkpoint_octets.store(4 << 20, Ordering::SeqCst);
    log.end(9);
    let settings = Settings {
        behind: 2048,
        unread: Duration::from_secs(600),
        ..Settings::default()
    };
    let fanout: Fanout<Log> = log.fanout(settings);
    let lane = fanout.lane(CancellationToken::new());
    let words = words();
    let mut deaf = Vec::new();
    let mut come = |count: u64| {
        for _ in 0..count {
            let (mut near, far) = StdStream::pair().unwrap();
            near.write_all(&words).unwrap();
            far.set_nonblocking(true).unwrap();
            lane.serve(UnixStream::from_std(far).unwrap(), "peer");
            deaf.push(near);
        }
    };
    // What there is but once, and whatever the allocator wants to begin with.
    come(50);
    log.checkpoint(0).await.unwrap();
    publish(&log).await;
    let before = resident();
    come(WATCHERS);
    publish(&log).await;
    assert_eq!(fanout.metrics().read().watchers, 50 + WATCHERS);
    let each = resident().saturating_sub(before) / WATCHERS;
    println!("{each} octets for each that never reads");
    assert!(each <= MOST, "{each} octets for each watcher");
    assert!(each > 1 << 10, "{each} octets: nothing was measured");
}
