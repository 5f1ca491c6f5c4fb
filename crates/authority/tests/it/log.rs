//! Heads and checkpoints: one history, forwards only.

use std::time::Duration;

use taskmint_mint::{CheckpointRequest, HeadRequest, LogStart, Refusal, Request};
use taskmint_model::Timestamp;
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::clock::Millis;
use taskmint_status::{ChainHash, Change, Checkpoint, Generation, Head, LogId, Record, WallTime};

use crate::support::{Desk, LOG, empty, policy, public, record, start};

fn head(desk: &Desk, request: HeadRequest) -> Head {
    let signed = desk.sign_head(request).unwrap();
    assert!(
        public(&desk.log)
            .verify(&signed.bytes, &signed.signature)
            .is_ok()
    );
    let head = Head::decode(&signed.bytes).unwrap();
    let tail = signed.tail;
    assert_eq!(
        (head.signer.instance, head.signer.counter, head.signer.hash),
        (tail.instance, tail.counter, tail.hash),
        "a head names the link that it is"
    );
    head
}

fn with(desk: &Desk, records: Vec<Record>) -> HeadRequest {
    HeadRequest {
        records,
        ..desk.heartbeat()
    }
}

#[test]
fn a_head_hashes_the_records_itself() {
    let desk = Desk::new();
    let records = vec![record(1, 1, desk.now()), record(2, 1, desk.now())];
    let expected = records
        .iter()
        .fold(ChainHash::genesis(LOG, Generation::FIRST), |hash, r| {
            hash.then(&r.encode())
        });
    let mut request = with(&desk, records);
    request.nonce = Some([9; 16]);
    let head = head(&desk, request);
    assert_eq!((head.sequence, head.log_hash), (2, expected));
    assert_eq!(
        (head.log, head.generation, head.epoch),
        (LOG, Generation::FIRST, 1)
    );
    assert_eq!(
        (head.time, head.max_age),
        (WallTime(desk.now().millis()), Millis(30_000))
    );
    assert_eq!((head.nonce, head.previous), (Some([9; 16]), None));
    assert_eq!((head.floor, head.largest_limit_hours), (0, 720));
}

#[test]
fn two_heads_for_one_position_are_refused() {
    let desk = Desk::new();
    let first = head(&desk, with(&desk, vec![record(1, 1, desk.now())]));
    let mut other = record(1, 1, desk.now());
    other.change = Change::Floor { bucket: 1 };
    let refused = desk.sign_head(with(&desk, vec![other])).unwrap_err();
    assert_eq!(refused, Refusal::Log { at: 1, to: 1 });
    // Even the very same record is not appended twice.
    let refused = desk
        .sign_head(with(&desk, vec![record(1, 1, desk.now())]))
        .unwrap_err();
    assert_eq!(refused, Refusal::Log { at: 1, to: 1 });
    // A heartbeat says the same again.
    let again = head(&desk, desk.heartbeat());
    assert_eq!(
        (again.sequence, again.log_hash),
        (first.sequence, first.log_hash)
    );
}

#[test]
fn a_gap_or_a_step_back_in_the_log_is_refused_and_changes_nothing() {
    let desk = Desk::new();
    head(&desk, with(&desk, vec![record(1, 1, desk.now())]));
    for numbers in [
        vec![3],
        vec![0],
        vec![2, 2],
        vec![2, 4],
        vec![2, 1],
        vec![u64::MAX],
    ] {
        let records = numbers.iter().map(|n| record(*n, 1, desk.now())).collect();
        let refused = desk.sign_head(with(&desk, records)).unwrap_err();
        assert!(matches!(refused, Refusal::Log { .. }), "{numbers:?}");
    }
    assert_eq!(head(&desk, desk.heartbeat()).sequence, 1);
}

#[test]
fn time_never_goes_back_within_an_epoch() {
    let desk = Desk::new();
    head(&desk, desk.heartbeat());
    let earlier = desk.now() - Duration::from_millis(1);
    let back = HeadRequest {
        at: earlier,
        ..desk.heartbeat()
    };
    assert_eq!(
        desk.sign_head(back.clone()).unwrap_err(),
        Refusal::LogValue("time".into())
    );
    let checkpoint = CheckpointRequest {
        at: earlier,
        ..desk.checkpoint(0)
    };
    let refused = desk.sign(Request::Checkpoint(checkpoint)).unwrap_err();
    assert_eq!(refused, Refusal::LogValue("time".into()));
    // A new writer's clock may be behind.
    assert_eq!(head(&desk, HeadRequest { epoch: 2, ..back }).epoch, 2);
}

#[test]
fn an_epoch_that_was_left_does_not_come_back() {
    let desk = Desk::new();
    head(
        &desk,
        HeadRequest {
            epoch: 3,
            ..desk.heartbeat()
        },
    );
    let old = HeadRequest {
        epoch: 2,
        ..desk.heartbeat()
    };
    assert_eq!(
        desk.sign_head(old).unwrap_err(),
        Refusal::LogValue("epoch".into())
    );
    let now = HeadRequest {
        epoch: 3,
        ..desk.heartbeat()
    };
    let stale = HeadRequest {
        records: vec![record(1, 2, desk.now())],
        ..now.clone()
    };
    assert_eq!(
        desk.sign_head(stale).unwrap_err(),
        Refusal::LogValue("epoch".into())
    );
    let ahead = HeadRequest {
        records: vec![record(1, 4, desk.now())],
        ..now
    };
    assert_eq!(
        desk.sign_head(ahead).unwrap_err(),
        Refusal::LogValue("epoch".into())
    );
}

#[test]
fn the_floor_moves_by_a_record_only_and_never_back() {
    let desk = Desk::new();
    let claimed = HeadRequest {
        floor: 5,
        ..desk.heartbeat()
    };
    assert_eq!(
        desk.sign_head(claimed).unwrap_err(),
        Refusal::LogValue("floor".into())
    );
    let floor = |sequence, bucket| Record {
        change: Change::Floor { bucket },
        ..record(sequence, 1, desk.now())
    };
    let moved = HeadRequest {
        floor: 5,
        ..with(&desk, vec![floor(1, 5)])
    };
    assert_eq!(head(&desk, moved).floor, 5);
    let back = HeadRequest {
        floor: 4,
        ..with(&desk, vec![floor(2, 4)])
    };
    assert_eq!(
        desk.sign_head(back).unwrap_err(),
        Refusal::LogValue("floor".into())
    );
}

#[test]
fn another_log_or_generation_gets_no_head() {
    let desk = Desk::new();
    let other = LogId([8; 8]);
    let request = HeadRequest {
        log: other,
        ..desk.heartbeat()
    };
    assert_eq!(
        desk.sign_head(request).unwrap_err(),
        Refusal::OtherLog(other)
    );
    let request = HeadRequest {
        generation: 2,
        ..desk.heartbeat()
    };
    assert_eq!(
        desk.sign_head(request).unwrap_err(),
        Refusal::LogValue("generation".into())
    );
}

#[test]
fn a_head_can_not_promise_freshness_for_long_or_from_the_future() {
    let desk = Desk::new();
    for max_age_ms in [0, 300_001, u64::MAX] {
        let refused = desk
            .sign_head(HeadRequest {
                max_age_ms,
                ..desk.heartbeat()
            })
            .unwrap_err();
        assert!(matches!(refused, Refusal::Lifetime { .. }), "{max_age_ms}");
    }
    let at = desk.now() + Duration::from_secs(61);
    let refused = desk
        .sign_head(HeadRequest {
            at,
            ..desk.heartbeat()
        })
        .unwrap_err();
    assert_eq!(refused, Refusal::Clock(at));
}

#[test]
fn a_checkpoint_is_signed_at_the_newest_position_only() {
    let desk = Desk::new();
    head(&desk, with(&desk, vec![record(1, 1, desk.now())]));
    for sequence in [0, 2] {
        let refused = desk
            .sign(Request::Checkpoint(desk.checkpoint(sequence)))
            .unwrap_err();
        assert_eq!(
            refused,
            Refusal::Log {
                at: 1,
                to: sequence
            }
        );
    }
    let digests = vec![BucketDigest {
        bucket: 4,
        chunks: 1,
        digest: [3; 32],
    }];
    let request = CheckpointRequest {
        digests: digests.clone(),
        ..desk.checkpoint(1)
    };
    let signed = desk.sign(Request::Checkpoint(request)).unwrap();
    assert!(
        public(&desk.log)
            .verify(&signed.bytes, &signed.signature)
            .is_ok()
    );
    let checkpoint = Checkpoint::decode(&signed.bytes).unwrap();
    let head = head(&desk, desk.heartbeat());
    assert_eq!(
        (checkpoint.sequence, checkpoint.log_hash),
        (1, head.log_hash)
    );
    assert_eq!(
        (checkpoint.buckets, checkpoint.signer.counter),
        (digests, signed.tail.counter)
    );
}

#[test]
fn a_checkpoint_of_no_shape_is_refused_and_leaves_no_link() {
    let desk = Desk::new();
    let before = desk.sign_head(desk.heartbeat()).unwrap().tail.counter;
    let digest = |bucket| BucketDigest {
        bucket,
        chunks: 1,
        digest: [3; 32],
    };
    let request = CheckpointRequest {
        digests: vec![digest(4), digest(4)],
        ..desk.checkpoint(0)
    };
    assert!(matches!(
        desk.sign(Request::Checkpoint(request)),
        Err(Refusal::Failed(_))
    ));
    let floor = CheckpointRequest {
        floor: 1,
        ..desk.checkpoint(0)
    };
    let refused = desk.sign(Request::Checkpoint(floor)).unwrap_err();
    assert_eq!(refused, Refusal::LogValue("floor".into()));
    assert_eq!(
        desk.sign_head(desk.heartbeat()).unwrap().tail.counter,
        before + 1
    );
}

#[test]
fn the_log_cannot_be_set_back_by_loading_again() {
    let desk = Desk::new();
    head(&desk, with(&desk, vec![record(1, 1, desk.now())]));
    assert!(matches!(
        desk.core.load(&[], &start()),
        Err(Refusal::Failed(_))
    ));
    assert_eq!(head(&desk, desk.heartbeat()).sequence, 1);
}

#[test]
fn a_start_goes_on_from_where_the_store_stands() {
    let desk = Desk::new();
    let at = desk.now() + Duration::from_secs(5);
    let start = LogStart {
        sequence: 70,
        hash: [5; 32],
        epoch: 4,
        floor: 9,
        at,
        ..start()
    };
    let core = empty(policy(), &desk.clock, &desk.entropy);
    let sealed = crate::support::kept(&desk.log, taskmint_mint::KeyKind::Log { ttl_secs: 0 }, true);
    core.load(&[sealed], &start).unwrap();
    let sign = |request| core.issue(vec![Request::Head(request)]).remove(0);
    let request = HeadRequest {
        epoch: 4,
        floor: 9,
        ..desk.heartbeat()
    };
    assert_eq!(
        sign(request.clone()).unwrap_err(),
        Refusal::LogValue("time".into())
    );
    desk.clock.advance(Duration::from_secs(5));
    let records = vec![record(71, 4, desk.now())];
    let expected = ChainHash([5; 32]).then(&records[0].encode());
    let signed = sign(HeadRequest {
        records,
        at: desk.now(),
        ..request
    })
    .unwrap();
    let head = Head::decode(&signed.bytes).unwrap();
    assert_eq!(
        (head.sequence, head.log_hash, head.floor),
        (71, expected, 9)
    );
}

#[test]
fn a_restored_log_names_the_one_before_it() {
    let desk = Desk::new();
    let (old, second) = (LogId([6; 8]), Generation::new(2).unwrap());
    let hash = ChainHash::genesis(LOG, second).0;
    let start = LogStart {
        generation: 2,
        replaces: Some(old),
        hash,
        ..start()
    };
    let core = empty(policy(), &desk.clock, &desk.entropy);
    let sealed = crate::support::kept(&desk.log, taskmint_mint::KeyKind::Log { ttl_secs: 0 }, true);
    core.load(&[sealed], &start).unwrap();
    let request = HeadRequest {
        generation: 2,
        ..desk.heartbeat()
    };
    let signed = core.issue(vec![Request::Head(request)]).remove(0).unwrap();
    let head = Head::decode(&signed.bytes).unwrap();
    assert_eq!(
        (head.generation, head.previous),
        (second, Some((old, Generation::FIRST)))
    );
}

#[test]
fn a_start_that_makes_no_sense_is_refused() {
    let desk = Desk::new();
    let wrong = [
        LogStart {
            generation: 0,
            ..start()
        },
        LogStart {
            replaces: Some(LogId([6; 8])),
            ..start()
        },
        LogStart {
            hash: [0; 32],
            ..start()
        },
    ];
    for start in wrong {
        let core = empty(policy(), &desk.clock, &desk.entropy);
        assert!(
            matches!(core.load(&[], &start), Err(Refusal::Failed(_))),
            "{start:?}"
        );
    }
}

#[test]
fn before_the_load_there_is_no_log_to_sign_for() {
    let desk = Desk::new();
    let core = empty(policy(), &desk.clock, &desk.entropy);
    assert_eq!(core.grant(&desk.workload()), Err(Refusal::OtherLog(LOG)));
    let answer = core.issue(vec![Request::Head(desk.heartbeat())]).remove(0);
    assert_eq!(answer.unwrap_err(), Refusal::NoActiveKey("log".into()));
    assert_eq!(start().at, Timestamp::default());
}
