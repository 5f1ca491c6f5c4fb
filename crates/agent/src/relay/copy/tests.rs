use proptest::prelude::*;
use taskmint_status::{ChainHash, Generation, LogId, Millis, SignerChain, WallTime};

use super::*;

const CERTIFICATE: Bytes = Bytes::from_static(b"certificate");

fn head(sequence: u64, time: u64, nonce: Option<[u8; 16]>) -> wire::Head {
    let head = taskmint_status::Head {
        log: LogId([1; 8]),
        generation: Generation::FIRST,
        previous: None,
        epoch: 1,
        sequence,
        log_hash: ChainHash([2; 32]),
        floor: 0,
        largest_limit_hours: 24,
        max_age: Millis(30_000),
        time: WallTime(time),
        signer: SignerChain::default(),
        nonce,
    };
    wire::Head {
        body: head.encode().unwrap().to_vec().into(),
        signature: vec![3; SIGNATURE_LEN].into(),
        key_certificate: CERTIFICATE,
    }
}

fn checkpoint(sequence: u64) -> wire::Checkpoint {
    let checkpoint = taskmint_status::Checkpoint {
        log: LogId([1; 8]),
        generation: Generation::FIRST,
        epoch: 1,
        sequence,
        log_hash: ChainHash([2; 32]),
        floor: 0,
        time: WallTime(1),
        signer: SignerChain::default(),
        buckets: Vec::new(),
    };
    wire::Checkpoint {
        body: checkpoint.encode().unwrap().into(),
        signature: vec![3; SIGNATURE_LEN].into(),
        key_certificate: CERTIFICATE,
        maps: Vec::new(),
    }
}

fn delta(first: u64, last: u64) -> wire::Delta {
    let count = usize::try_from(last + 1 - first).unwrap();
    wire::Delta {
        records: vec![7; count * RECORD_LEN].into(),
        first,
        last,
    }
}

fn response(frame: Frame) -> wire::WatchResponse {
    wire::WatchResponse {
        frame: Some(frame),
        prompt: false,
    }
}

/// A relay that has got these frames.
fn after(frames: impl IntoIterator<Item = Frame>) -> (Relay, Result<(), Unfit>) {
    let relay = Relay::new([0; 16]);
    let mut key = None;
    let mut copy = Copy::new(&relay, &mut key);
    let mut taken = frames.into_iter().map(|frame| copy.take(response(frame)));
    let all = taken.find(Result::is_err).unwrap_or(Ok(()));
    (relay, all)
}

#[test]
fn records_that_are_here_already_are_not_here_twice() {
    let (relay, taken) = after([
        Frame::Checkpoint(checkpoint(4)),
        Frame::Delta(delta(5, 9)),
        Frame::Head(head(9, 1, None)),
        Frame::Checkpoint(checkpoint(6)),
        Frame::Delta(delta(7, 11)),
        Frame::Head(head(11, 2, None)),
    ]);
    taken.unwrap();
    assert_eq!(relay.feed.position(), 11);
    assert_eq!(relay.known.borrow().tip.unwrap().sequence, 11);
    let known = relay.known.borrow();
    assert_eq!(known.checkpoint.as_ref().unwrap().sequence, 6);
}

#[test]
fn what_does_not_follow_is_not_passed_on() {
    let begin = [
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 9, None)),
    ];
    for wrong in [
        Frame::Delta(delta(6, 7)),
        Frame::Head(head(5, 9, None)),
        Frame::Delta(wire::Delta {
            first: 5,
            last: 9,
            records: vec![0; RECORD_LEN].into(),
        }),
        Frame::Delta(wire::Delta {
            first: u64::MAX,
            last: 0,
            records: vec![0; RECORD_LEN].into(),
        }),
    ] {
        let (relay, taken) = after(begin.iter().cloned().chain([wrong]));
        assert!(taken.is_err());
        assert_eq!(relay.feed.position(), 4);
    }
    let (_, taken) = after([Frame::Head(head(0, 1, None))]);
    assert!(matches!(taken, Err(Unfit::OtherLog)));
}

#[test]
fn an_answer_without_news_is_for_who_asked_alone() {
    let (relay, taken) = after([
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 1000, None)),
        Frame::Head(head(4, 1001, Some([9; 16]))),
    ]);
    taken.unwrap();
    assert_eq!(relay.known.borrow().tip.unwrap().at.millis(), 1000);
    // The one before it may never have come: it was signed earlier.
    let (relay, taken) = after([
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 1000, None)),
        Frame::Delta(delta(5, 5)),
        Frame::Head(head(5, 1001, Some([9; 16]))),
    ]);
    taken.unwrap();
    assert_eq!(relay.known.borrow().tip.unwrap().sequence, 5);
}

#[test]
fn a_stream_that_begins_with_what_was_signed_before_an_answer_costs_nobody_a_checkpoint() {
    let (relay, taken) = after([
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 1000, None)),
        Frame::Head(head(4, 3000, Some([9; 16]))),
        Frame::Head(head(4, 2000, None)),
        Frame::Head(head(4, 4000, None)),
    ]);
    taken.unwrap();
    assert_eq!(relay.known.borrow().tip.unwrap().at.millis(), 4000);
    assert!(!relay.anew.load(Ordering::SeqCst));
    // Records with a clock that went back are another matter.
    let (relay, taken) = after([
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 3000, None)),
        Frame::Delta(delta(5, 5)),
        Frame::Head(head(5, 2000, None)),
    ]);
    assert!(matches!(taken, Err(Unfit::Feed(FeedError::Back))));
    assert!(relay.anew.load(Ordering::SeqCst), "it begins anew");
}

#[test]
fn a_new_epoch_goes_on_and_one_whose_clock_is_behind_begins_anew() {
    let of_epoch = |epoch, time| {
        let head = head(4, time, None);
        let mut says = taskmint_status::Head::decode(&head.body).unwrap();
        says.epoch = epoch;
        let body = says.encode().unwrap().to_vec().into();
        Frame::Head(wire::Head { body, ..head })
    };
    let begin = [Frame::Checkpoint(checkpoint(4)), of_epoch(1, 1000)];
    let (relay, taken) = after(begin.iter().cloned().chain([of_epoch(2, 1001)]));
    taken.unwrap();
    let known = relay.known.borrow().clone();
    assert_eq!((known.epoch, known.tip.unwrap().at.millis()), (2, 1001));
    let (relay, taken) = after(begin.iter().cloned().chain([of_epoch(2, 999)]));
    assert!(taken.is_err() && relay.known.borrow().tip.is_none());
}

#[test]
fn an_answer_for_whose_acknowledgement_somebody_waits_is_for_all() {
    let relay = Relay::new([0; 16]);
    let mut key = None;
    let mut copy = Copy::new(&relay, &mut key);
    let begin = [
        Frame::Checkpoint(checkpoint(4)),
        Frame::Head(head(4, 1000, None)),
    ];
    for frame in begin {
        copy.take(response(frame)).unwrap();
    }
    // What the server sends next to all is older than this, and so is not sent here.
    let answer = Frame::Head(head(4, 1001, Some([9; 16])));
    let prompt = wire::WatchResponse {
        prompt: true,
        ..response(answer)
    };
    copy.take(prompt).unwrap();
    assert_eq!(relay.known.borrow().tip.unwrap().at.millis(), 1001);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever comes is passed on or ends the stream.
    #[test]
    fn no_frames_make_a_relay_panic(
        frames in prop::collection::vec((0..6, any::<u64>(), any::<u64>(), any::<usize>(), any::<u8>()), 0..12),
    ) {
        let damaged = |octets: Bytes, at: usize, with: u8| {
            let mut octets = octets.to_vec();
            let at = at % octets.len();
            octets[at] ^= with;
            if with > 250 {
                octets.truncate(at);
            }
            Bytes::from(octets)
        };
        let frames = frames.into_iter().map(|(kind, a, b, at, with)| match kind {
            0 => Frame::Checkpoint(checkpoint(a % 9)),
            1 => Frame::Delta(delta(a % 9, a % 9 + b % 9)),
            2 => Frame::Head(head(a % 9, b % 9, (with > 99).then_some([with; 16]))),
            3 => Frame::Delta(wire::Delta {
                records: vec![with; at % 300].into(),
                first: a,
                last: b,
            }),
            4 => {
                let good = head(a, b, None);
                Frame::Head(wire::Head { body: damaged(good.body, at, with), ..good })
            }
            _ => {
                let good = checkpoint(a);
                Frame::Checkpoint(wire::Checkpoint { body: damaged(good.body, at, with), ..good })
            }
        });
        let relay = Relay::new([0; 16]);
        let mut key = None;
        let mut copy = Copy::new(&relay, &mut key);
        for frame in frames {
            drop(copy.take(response(frame)));
        }
    }
}
