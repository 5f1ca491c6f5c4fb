//! What a watcher is promised: everything, once, in order, and what is newest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use taskmint_fanout::Settings;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::log::Log;
use crate::watcher::{Watcher, becomes, client, endpoint, open, reason};

#[tokio::test(flavor = "multi_thread")]
async fn everybody_hears_everything_once_and_in_order() {
    let log = Log::new(0, 100_000);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(3);
    let mut watchers = Vec::new();
    for number in 0..20 {
        let mut client = client(&lane, "peer", endpoint()).await;
        let name = format!("w{number}");
        watchers.push(tokio::spawn(async move {
            let mut watcher = Watcher::open(&mut client, open(&name, 0)).await;
            watcher.until(30_003).await;
            watcher.heard
        }));
    }
    for round in 0..600_u64 {
        log.end(1 + round % 99);
        if round % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let missing = 30_003 - log.feed.position();
    log.end(missing);
    for watcher in watchers {
        let heard = watcher.await.unwrap();
        assert_eq!(heard.checkpoints, 1);
        assert_eq!(heard.sequence, Some(30_003));
        // The certificate came with the checkpoint.
        assert_eq!(heard.keys, [1]);
    }
}

#[tokio::test]
async fn a_watcher_goes_on_where_it_was() {
    let log = Log::new(0, 10_000);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(7000);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 5)).await;
    watcher.until(7000).await;
    assert_eq!(watcher.heard.checkpoints, 0);
    assert_eq!(watcher.heard.deltas, 2, "4,096 records are the most of one");
    // And one who has everything gets the head alone.
    let mut other = Watcher::open(&mut client, open("o", 7000)).await;
    other.until(7000).await;
    assert_eq!((other.heard.deltas, other.heard.checkpoints), (0, 0));
}

#[tokio::test]
async fn who_is_too_far_behind_begins_with_a_checkpoint() {
    let log = Log::new(0, 500);
    let settings = Settings {
        behind: 400,
        ..Settings::default()
    };
    let lane = log.fanout(settings).lane(CancellationToken::new());
    for _ in 0..20 {
        log.end(100);
    }
    log.checkpoint.store(1990, Ordering::SeqCst);
    let mut client = client(&lane, "peer", endpoint()).await;
    // Forgotten; and kept, but more than is sent in records.
    for sequence in [700, 1550] {
        let mut watcher = Watcher::open(&mut client, open("w", sequence)).await;
        watcher.until(2000).await;
        assert_eq!(watcher.heard.checkpoints, 1, "from {sequence}");
    }
    let mut near = Watcher::open(&mut client, open("near", 1600)).await;
    near.until(2000).await;
    assert_eq!(near.heard.checkpoints, 0);
}

#[tokio::test]
async fn another_log_begins_with_a_checkpoint() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    log.feed.restart(1, 20);
    log.checkpoint.store(20, Ordering::SeqCst);
    log.end(2);
    watcher.until(22).await;
    assert_eq!(watcher.heard.checkpoints, 1);
}

#[tokio::test]
async fn a_gap_in_the_log_leads_nobody_back() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut near = Watcher::open(&mut client, open("near", 9)).await;
    near.until(9).await;
    // As a relay that was started again: what it has begins before what its watcher has.
    log.feed.restart(0, 5);
    log.checkpoint.store(5, Ordering::SeqCst);
    log.end(7);
    near.until(12).await;
    assert_eq!(near.heard.checkpoints, 0);
    // And one that has missed something goes on from a checkpoint that is ahead.
    log.feed.restart(0, 20);
    log.checkpoint.store(20, Ordering::SeqCst);
    log.end(1);
    near.until(21).await;
    assert_eq!(near.heard.checkpoints, 1);
}

#[tokio::test]
async fn the_first_head_answers_the_nonce() {
    let log = Log::new(0, 500);
    let signer = std::sync::Arc::new(Notify::new());
    *log.slow_signer.lock() = Some(signer.clone());
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut ask = open("w", 0);
    ask.nonce = vec![7; 16].into();
    let mut watcher = Watcher::open(&mut client, ask).await;
    watcher
        .listen(|heard| heard.checkpoints == 1)
        .await
        .unwrap();
    // Others come first to the feed; it makes no difference.
    log.end(1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(watcher.heard.heads, 0);
    signer.notify_one();
    watcher.listen(|heard| heard.heads == 1).await.unwrap();
    assert_eq!(watcher.heard.nonces, [[7; 16]]);
    watcher.until(10).await;
}

#[tokio::test]
async fn nonces_are_answered_in_turn_and_delay_no_end() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    let asked: Vec<_> = (1..=10).map(|number| [number; 16]).collect();
    let began = tokio::time::Instant::now();
    for nonce in &asked {
        watcher.nonce(*nonce);
    }
    watcher
        .listen(|heard| heard.nonces.len() == 8)
        .await
        .unwrap();
    let quick = began.elapsed();
    // Two still wait for their turn; an end does not.
    log.end(1);
    watcher.until(10).await;
    assert!(watcher.heard.nonces.len() < 10, "after {quick:?}");
    watcher
        .listen(|heard| heard.nonces.len() == 10)
        .await
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(350));
    assert_eq!(watcher.heard.nonces, asked);
}

#[tokio::test]
async fn a_slow_signer_delays_no_end_and_answers_in_order() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    let signer = std::sync::Arc::new(Notify::new());
    *log.slow_signer.lock() = Some(signer.clone());
    watcher.nonce([3; 16]);
    // Signed already, but not handed over.
    tokio::time::sleep(Duration::from_millis(50)).await;
    log.end(1);
    watcher.until(10).await;
    assert!(watcher.heard.nonces.is_empty());
    // What was signed before the end can't be sent after it: it is asked for again.
    *log.slow_signer.lock() = None;
    signer.notify_one();
    watcher
        .listen(|heard| heard.nonces.len() == 1)
        .await
        .unwrap();
    assert_eq!(log.signed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_answer_waits_for_the_records_that_it_covers() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    // The nonce is signed over records that no published head covers yet.
    log.feed.append(&crate::log::records(10, 12)).unwrap();
    watcher.nonce([3; 16]);
    becomes(|| log.signed.load(Ordering::SeqCst) == 1).await;
    log.end(1);
    watcher.until(13).await;
    assert_eq!(watcher.heard.nonces, [[3; 16]]);
}

#[tokio::test]
async fn who_is_waited_for_is_prompted_until_it_acknowledges() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    log.end(1);
    watcher.until(10).await;
    assert!(watcher.heard.prompts.is_empty());
    log.wanted.store(11, Ordering::SeqCst);
    log.end(1);
    watcher.until(11).await;
    watcher.acknowledge(11);
    becomes(|| log.acknowledged.lock().get("w") == Some(&11)).await;
    log.end(1);
    watcher.until(12).await;
    assert_eq!(watcher.heard.prompts, [11]);
}

#[tokio::test]
async fn a_key_is_named_when_it_is_another() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    let next = log.end(1);
    watcher.until(next).await;
    log.revision.store(2, Ordering::SeqCst);
    for _ in 0..3 {
        let next = log.end(1);
        watcher.until(next).await;
    }
    assert_eq!(watcher.heard.keys, [1, 2]);
}

#[tokio::test]
async fn what_was_never_sent_is_not_acknowledged() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    let mut other = Watcher::open(&mut client, open("o", 9)).await;
    watcher.until(9).await;
    watcher.acknowledge(10);
    assert_eq!(reason(&watcher.ending().await), "NEVER_SENT");
    log.end(1);
    other.until(10).await;
    becomes(|| log.open() == 1).await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let log = Log::new(0, 500);
    let lane = log
        .fanout(Settings::default())
        .lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut ahead = Watcher::open(&mut client, open("w", 10)).await;
    let status = ahead.ending().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "AHEAD_OF_LOG");
    log.most.store(0, Ordering::SeqCst);
    let mut late = Watcher::open(&mut client, open("w", 9)).await;
    assert_eq!(reason(&late.ending().await), "TOO_MANY_WATCHERS");
}

#[tokio::test]
async fn a_watcher_that_is_done_is_let_go() {
    let log = Log::new(0, 500);
    let fanout = log.fanout(Settings::default());
    let lane = fanout.lane(CancellationToken::new());
    log.end(9);
    let mut client = client(&lane, "peer", endpoint()).await;
    let mut done = Watcher::open(&mut client, open("w", 9)).await;
    let gone = Watcher::open(&mut client, open("o", 9)).await;
    becomes(|| log.open() == 2).await;
    let (requests, _) = tokio::sync::mpsc::unbounded_channel();
    drop(std::mem::replace(&mut done.requests, requests));
    assert_eq!(done.ending().await.code(), Code::Ok);
    drop(gone);
    becomes(|| log.open() == 0 && fanout.metrics().read().watchers == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_to_everybody_and_is_quick() {
    let log = Log::new(0, 500);
    let stop = CancellationToken::new();
    let lane = log.fanout(Settings::default()).lane(stop.clone());
    log.end(9);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(client(&lane, "peer", endpoint()).await);
    }
    let mut watchers = Vec::new();
    for client in &mut clients {
        let mut watcher = Watcher::open(client, open("w", 9)).await;
        watcher.until(9).await;
        watchers.push(watcher);
    }
    // One that will not even read.
    let _deaf = crate::watcher::pipe(&lane, "peer", 1 << 10);
    let began = tokio::time::Instant::now();
    stop.cancel();
    lane.drained().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    for mut watcher in watchers {
        let status = watcher.ending().await;
        assert_eq!(
            (status.code(), reason(&status)),
            (Code::Unavailable, "STOPPING".into())
        );
    }
    assert_eq!(log.open(), 0);
}
