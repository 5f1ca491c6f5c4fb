//! What a relay, and what a server can do to the log (protocol P14 to P16).

use std::sync::Arc;

use super::world::{HOUR, LOG, Server, World};
use crate::checkpoint::CheckpointError;
use crate::clock::WallTime;
use crate::delta::Delta;
use crate::head::HeadError;
use crate::map::{Status, StatusMap};
use crate::place::{Generation, LogId, Place};
use crate::record::{Cause, Change, Record};
use crate::statement::Shown;
use crate::view::StatusView;
use crate::watcher::{Applied, Config, Fault, Fork, Frame, Watcher};

fn second() -> Generation {
    Generation::new(2).unwrap()
}

#[test]
fn a_watcher_that_heard_nothing_refuses() {
    let mut world = World::new(Config::default());
    assert_eq!(world.status(1), Err("STATUS_NOT_SYNCED"));
    let nonce = world.nonce();
    let hello = world.watcher.connected(nonce, world.now);
    assert_eq!(hello.resume, None);
    let checkpoint = world.server.checkpoint();
    assert_eq!(world.take(checkpoint), None);
    assert_eq!(world.status(1), Err("STATUS_NONCE_UNANSWERED"));
}

#[test]
fn an_end_is_refused_once_its_head_has_come() {
    let mut world = World::synced();
    let delta = world.server.end(1);
    assert_eq!(world.step(delta).applied, []);
    let head = world.server.head(None);
    let step = world.step(head);
    let change = Applied::Status {
        place: world.server.place(1),
        task: [1; 16],
        status: Status::Ended,
        cause: Some(Cause::REVOKED),
    };
    assert_eq!((step.applied, step.fault), (vec![change], None));
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Ok(()));
}

#[test]
fn a_head_that_overtakes_its_records_counts_once_they_come() {
    let mut world = World::synced();
    let delta = world.server.end(1);
    let head = world.server.head(None);
    assert_eq!(world.step(head).applied, []);
    assert_eq!(world.step(delta).applied.len(), 1);
    assert_eq!(world.status(1), Err("TASK_ENDED"));
}

#[test]
fn a_head_before_its_checkpoint_counts_once_that_comes() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let (head, checkpoint) = (world.server.head(Some(nonce)), world.server.checkpoint());
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Err("STATUS_NOT_SYNCED"));
    assert_eq!(world.take(checkpoint), None);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_relay_cannot_end_a_live_task() {
    let mut world = World::synced();
    let mut forger = world.server.clone();
    let forged = forger.end(1);
    assert_eq!(world.step(forged).applied, []);
    assert_eq!(world.status(1), Ok(()));
    // The genuine head unmasks the record, and nothing of it stays.
    world.server.end(2);
    let head = world.server.head(None);
    assert_eq!(world.take(head), Some(Fault::Forged { sequence: 1 }));
    world.connect();
    assert_eq!(world.status(1), Ok(()));
    assert_eq!(world.status(2), Err("TASK_ENDED"));
}

#[test]
fn a_relay_cannot_resume_a_suspended_task() {
    let mut world = World::synced();
    let suspend = world.server.suspend(1);
    let head = world.server.head(None);
    assert_eq!((world.take(suspend), world.take(head)), (None, None));
    assert_eq!(world.status(1), Err("TASK_SUSPENDED"));
    let mut forger = world.server.clone();
    let forged = forger.resume(1);
    assert_eq!(world.take(forged), None);
    assert_eq!(world.status(1), Err("TASK_SUSPENDED"));
    let resume = world.server.resume(1);
    assert!(matches!(
        world.take(resume),
        None | Some(Fault::Forged { .. })
    ));
    world.connect();
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_head_that_nobody_signed_is_refused() {
    let mut world = World::synced();
    let Frame::Head(mut head) = world.server.head(None) else {
        unreachable!()
    };
    head.bytes[80] ^= 1;
    assert_eq!(
        world.take(Frame::Head(head.clone())),
        Some(Fault::Head(HeadError::Signature))
    );
    head.bytes[80] ^= 1;
    head.key.0[0] ^= 1;
    assert_eq!(
        world.take(Frame::Head(head)),
        Some(Fault::Head(HeadError::Signature))
    );
}

#[test]
fn a_signed_checkpoint_is_no_head_and_the_reverse() {
    let mut world = World::synced();
    let Frame::Checkpoint { signed, .. } = world.server.checkpoint() else {
        unreachable!()
    };
    let Frame::Head(head) = world.server.head(None) else {
        unreachable!()
    };
    let as_head = crate::head::SignedHead {
        bytes: signed.bytes.clone(),
        signature: signed.signature,
        key: signed.key,
    };
    assert_eq!(
        world.take(Frame::Head(as_head)),
        Some(Fault::Head(HeadError::Length(signed.bytes.len())))
    );
    let as_checkpoint = crate::checkpoint::SignedCheckpoint {
        bytes: head.bytes,
        signature: head.signature,
        key: head.key,
    };
    let fault = world.take(Frame::Checkpoint {
        signed: as_checkpoint,
        maps: vec![],
    });
    assert_eq!(fault, Some(Fault::Checkpoint(CheckpointError::Tag)));
}

#[test]
fn a_head_of_an_epoch_before_its_checkpoints_is_refused() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let old = world.server.head(Some(nonce));
    world.server.epoch = 2;
    let checkpoint = world.server.checkpoint();
    assert_eq!(world.take(checkpoint), None);
    assert_eq!(world.take(old), Some(Fault::Fenced { found: 1, known: 2 }));
    assert!(world.status(1).is_err());
}

#[test]
fn a_server_that_was_rolled_back_in_place_is_a_fork() {
    // Restored without a new generation: an earlier position, signed later.
    let mut world = World::synced();
    let mut rolled_back = world.server.clone();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    rolled_back.time.0 += 1;
    assert_eq!(
        world.take(rolled_back.head(None)),
        Some(Fault::Fork { sequence: 0 })
    );
    assert_eq!(world.status(2), Err("LOG_FORKED"));
}

#[test]
fn a_fenced_writer_is_refused() {
    let mut world = World::synced();
    let mut old = world.server.clone();
    world.server.epoch = 2;
    let frames = [world.server.write(Change::Epoch), world.server.head(None)];
    world.take_all(frames);
    old.write(Change::Epoch);
    old.write(Change::Epoch);
    let head = old.head(None);
    assert_eq!(world.take(head), Some(Fault::Fenced { found: 1, known: 2 }));
    let record = Record {
        sequence: 2,
        epoch: 1,
        time: WallTime(1),
        change: Change::Epoch,
    };
    let delta = Frame::Delta(Delta::new(vec![record]).unwrap());
    assert_eq!(
        world.take(delta),
        Some(Fault::Fenced { found: 1, known: 2 })
    );
}

#[test]
fn a_dropped_record_is_a_gap() {
    let mut world = World::synced();
    world.server.end(1);
    let second = world.server.end(2);
    assert_eq!(world.take(second), Some(Fault::Gap { last: 0, found: 2 }));
    world.connect();
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Err("TASK_ENDED"));
}

#[test]
fn a_relay_that_drops_an_end_and_passes_heads_fails_closed() {
    let mut world = World::synced();
    world.server.end(1);
    for _ in 0..31 {
        world.pass(1_000);
        let head = world.server.head(None);
        assert_eq!(world.take(head), None);
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn records_that_never_get_a_head_are_bounded() {
    let mut world = World::synced();
    let record = |sequence| Record {
        sequence,
        epoch: 1,
        time: WallTime(1),
        change: Change::Epoch,
    };
    let mut at = 1;
    let fault = loop {
        let delta = Delta::new((at..at + 4096).map(record).collect()).unwrap();
        at += 4096;
        if let Some(fault) = world.take(Frame::Delta(delta)) {
            break fault;
        }
    };
    assert_eq!(fault, Fault::TooManyPending);
    assert_eq!(at, 1 + 17 * 4096);
}

#[test]
fn a_repeated_record_that_differs_is_forged() {
    let mut world = World::synced();
    let mut forger = world.server.clone();
    let frames = [world.server.end(1), forger.end(2)];
    let faults = frames.map(|frame| world.take(frame));
    assert_eq!(faults, [None, Some(Fault::Forged { sequence: 1 })]);
}

#[test]
fn what_one_connection_left_undone_does_not_spoil_the_next() {
    let mut world = World::synced();
    let forged = world.server.clone().end(2);
    world.server.end(1);
    world.take_all([forged]);
    world.connect();
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Ok(()));
}

#[test]
fn a_forged_checkpoint_map_is_refused() {
    let mut world = World::new(Config::default());
    world.server.end(1);
    let Frame::Checkpoint { signed, mut maps } = world.server.checkpoint() else {
        unreachable!()
    };
    let mut forged = StatusMap::new();
    forged.set(2, Status::Ended).unwrap();
    maps[0].bytes = forged.pack();
    let fault = world.take(Frame::Checkpoint {
        signed: signed.clone(),
        maps,
    });
    assert_eq!(
        fault,
        Some(Fault::Checkpoint(CheckpointError::Digest { bucket: HOUR }))
    );
    assert_eq!(fault.unwrap().reason(), "CHECKPOINT_MAP_MISMATCH");
    let fault = world.take(Frame::Checkpoint {
        signed,
        maps: vec![],
    });
    assert_eq!(fault.unwrap().reason(), "CHECKPOINT_MAP_MISMATCH");
    assert_eq!(world.watcher.resume_position(), None);
}

#[test]
fn a_replayed_checkpoint_does_not_undo_an_end() {
    let mut world = World::synced();
    let before = world.server.checkpoint();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    assert_eq!(
        world.take(before),
        Some(Fault::CheckpointBehind {
            found: 0,
            applied: 1
        })
    );
    assert_eq!(world.status(1), Err("TASK_ENDED"));
}

#[test]
fn a_restarted_verifier_does_not_go_back_behind_the_answer_to_its_nonce() {
    // It had applied the end and said so. The relay hands its successor a checkpoint and a head of
    // before, both genuine and the head fresh by the successor's own clock.
    let mut world = World::synced();
    let old = [world.server.checkpoint(), world.server.head(None)];
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    assert!(world.watcher.acknowledge().is_some());
    world.watcher = Watcher::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let answer = world.server.head(Some(nonce));
    assert_eq!(world.take(answer), None);
    world.take_all(old);
    assert_eq!(world.status(1), Err("STATUS_NOT_SYNCED"));
    let missing = world.server.after(0).unwrap();
    let head = world.server.head(None);
    world.take_all([missing, head]);
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Ok(()));
}

#[test]
fn an_old_checkpoint_waits_for_a_head_that_its_deltas_lead_to() {
    let mut world = World::new(Config::default());
    let old = world.server.checkpoint();
    let delta = world.server.end(1);
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let head = world.server.head(Some(nonce));
    assert_eq!((world.take(old), world.take(head)), (None, None));
    assert!(world.status(1).is_err());
    assert_eq!(world.take(delta), None);
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Ok(()));
}

#[test]
fn a_checkpoint_catches_up_and_keeps_what_is_ended() {
    let mut world = World::synced();
    for index in 1..100 {
        world.server.end(index);
    }
    let checkpoint = world.server.checkpoint();
    let step = world.step(checkpoint);
    assert!(matches!(&step.applied[..], [Applied::Reset(_)]));
    assert_eq!(world.status(99), Err("TASK_ENDED"));
    assert_eq!(world.watcher.resume_position().unwrap().sequence, 99);
}

#[test]
fn a_checkpoint_in_which_an_end_came_back_is_a_fork() {
    let mut world = World::synced();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    world.server.end(2);
    world
        .server
        .maps
        .get_mut(&HOUR)
        .unwrap()
        .set(1, Status::Valid)
        .unwrap();
    let checkpoint = world.server.checkpoint();
    assert_eq!(world.take(checkpoint), Some(Fault::Fork { sequence: 2 }));
    assert_eq!(world.status(3), Err("LOG_FORKED"));
}

/// What the next connection says of the fork; whether what it was shown proves it.
fn reported(world: &mut World) -> (Fork, bool) {
    let nonce = world.nonce();
    let hello = world.watcher.connected(nonce, world.now);
    let fork = hello.fork.expect("a fork is to be reported");
    let read = |shown: &Arc<Shown>| shown.signed.open(&world.server.key).unwrap();
    let says: Vec<_> = fork.shown.iter().map(read).collect();
    let is_proven = matches!(&*says, [one, other] if one.contradicts(other));
    (fork, is_proven)
}

#[test]
fn a_fork_that_was_seen_before_anything_was_applied_is_reported_with_its_proof() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let mut other = world.server.clone();
    world.server.end(1);
    other.end(2);
    assert_eq!(world.take(world.server.head(None)), None);
    let fault = world.take(other.head(None));
    assert_eq!(fault, Some(Fault::Fork { sequence: 1 }));
    assert_eq!(world.watcher.resume_position(), None);
    let (fork, is_proven) = reported(&mut world);
    assert_eq!((fork.log, fork.sequence), (LOG, 1));
    assert!(is_proven);
}

#[test]
fn what_comes_after_a_fork_does_not_take_its_proof_away() {
    let mut world = World::synced();
    let mut other = world.server.clone();
    other.end(2);
    world.server.end(1);
    world.take_all([world.server.checkpoint(), world.server.head(None)]);
    assert!(world.take(other.head(None)).is_some());
    let first = reported(&mut world);
    assert!(first.1);
    for frame in [world.server.head(None), other.checkpoint()] {
        assert!(world.take(frame).is_some());
    }
    assert_eq!(reported(&mut world), first);
}

#[test]
fn a_head_whose_records_never_came_is_proof_all_the_same() {
    // A relay plays a copy that is further on, and then the server that was followed.
    let mut world = World::synced();
    let mut copy = world.server.clone();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    for index in 5..9 {
        copy.end(index);
    }
    assert_eq!(world.take(copy.head(None)), None);
    copy.time.0 += 1_000;
    world.pass(2_000);
    let fault = world.take(world.server.head(None));
    assert!(matches!(fault, Some(Fault::Fork { .. })), "{fault:?}");
    assert!(reported(&mut world).1);
}

#[test]
fn an_old_head_that_is_played_again_takes_no_proof_away() {
    let mut world = World::synced();
    let mut copy = world.server.clone();
    let old = world.server.head(None);
    world.server.end(1);
    copy.end(2);
    let frames = [world.server.checkpoint(), world.server.head(None), old];
    world.take_all(frames);
    assert!(world.take(copy.head(None)).is_some());
    assert!(reported(&mut world).1);
}

#[test]
fn two_hashes_for_one_position_are_a_fork_until_a_new_generation() {
    let mut world = World::synced();
    let mut other = world.server.clone();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    other.end(2);
    let head = other.head(None);
    let fault = world.take(head).unwrap();
    assert_eq!(fault, Fault::Fork { sequence: 1 });
    assert!(fault.is_final());
    assert_eq!(world.watcher.forked_at(), Some(1));
    assert_eq!(world.status(5), Err("LOG_FORKED"));

    // Neither time nor a new connection opens it again.
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let head = world.server.head(Some(nonce));
    assert_eq!(world.take(head), Some(Fault::Fork { sequence: 1 }));
    assert_eq!(world.status(5), Err("LOG_FORKED"));

    world.server = Server::restored(LogId([8; 8]), second());
    world.connect();
    assert_eq!(world.status(5), Ok(()));
}

#[test]
fn a_fork_is_seen_at_a_position_long_passed() {
    let mut world = World::synced();
    let mut other = world.server.clone();
    other.end(200);
    for index in 0..50 {
        let frames = [world.server.end(index), world.server.head(None)];
        world.take_all(frames);
    }
    let head = other.head(None);
    assert_eq!(world.take(head), Some(Fault::Fork { sequence: 1 }));
    // Both are named; what contradicts the second one was no head.
    assert!(!reported(&mut world).1);
}

#[test]
fn a_head_whose_time_goes_back_within_an_epoch_is_a_fork() {
    let mut world = World::synced();
    world.server.end(1);
    world.server.time.0 -= 1;
    let head = world.server.head(None);
    assert_eq!(world.take(head), Some(Fault::Fork { sequence: 1 }));
}

#[test]
fn a_lower_generation_is_refused() {
    let mut world = World::synced();
    let old = world.server.clone();
    world.server = Server::restored(LogId([8; 8]), second());
    world.server.previous = Some((LOG, Generation::FIRST));
    world.connect();
    assert_eq!(
        world.ask(Place::new(LOG, HOUR, 1).unwrap()),
        Err("LOG_UNKNOWN")
    );
    assert_eq!(world.status(1), Ok(()));
    let lower = Fault::LowerGeneration {
        found: Generation::FIRST,
        known: second(),
    };
    let frames = [old.head(None), old.checkpoint()];
    assert_eq!(
        frames.map(|frame| world.take(frame)),
        [Some(lower), Some(lower)]
    );
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_restored_log_replaces_the_old_one_and_closes_until_it_is_in_step() {
    let mut world = World::synced();
    let old = world.server.place(1);
    world.server = Server::restored(LogId([8; 8]), second());
    let head = world.server.head(None);
    let step = world.step(head);
    assert!(matches!(&step.applied[..], [Applied::Reset(empty)] if empty.maps.is_empty()));
    assert_eq!(world.ask(old), Err("LOG_UNKNOWN"));
    assert_eq!(world.status(1), Err("STATUS_NOT_SYNCED"));
    assert_eq!(world.watcher.resume_position(), None);
    // Its server's clock has answered nothing yet: what the old one's did holds no more.
    let frames = [world.server.checkpoint(), world.server.head(None)];
    world.take_all(frames);
    assert_eq!(world.status(1), Err("STATUS_NONCE_UNANSWERED"));
    world.connect();
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn two_logs_of_one_generation_are_a_fork() {
    let mut world = World::synced();
    let other = Server::restored(LogId([9; 8]), Generation::FIRST);
    assert_eq!(
        world.take(other.head(None)),
        Some(Fault::Fork { sequence: 0 })
    );
    assert!(reported(&mut world).1);
}

#[test]
fn a_log_that_is_not_the_expected_one_is_refused() {
    let expected = Some((LogId([9; 8]), Generation::FIRST));
    let mut world = World::new(Config {
        expected,
        ..Config::default()
    });
    let head = world.server.head(None);
    assert_eq!(world.take(head), Some(Fault::OtherLog { found: LOG }));
    let expected = Some((LogId([9; 8]), second()));
    let mut world = World::new(Config {
        expected,
        ..Config::default()
    });
    let head = world.server.head(None);
    let lower = Fault::LowerGeneration {
        found: Generation::FIRST,
        known: second(),
    };
    assert_eq!(world.take(head), Some(lower));
}

#[test]
fn a_bucket_below_the_floor_is_refused_and_only_a_record_moves_it() {
    let mut world = World::synced();
    let below = Place::new(LOG, HOUR, 3).unwrap();
    assert_eq!(world.ask(below), Ok(()));
    let frames = [
        world.server.write(Change::Floor { bucket: HOUR + 1 }),
        world.server.head(None),
    ];
    let last = frames.map(|frame| world.step(frame).applied).concat();
    assert_eq!(last, [Applied::Floor { bucket: HOUR + 1 }]);
    assert_eq!(world.ask(below), Err("BUCKET_BELOW_FLOOR"));
    assert_eq!(world.ask(Place::new(LOG, HOUR + 1, 3).unwrap()), Ok(()));

    let lone = crate::head::Head {
        floor: HOUR + 2,
        ..world.server.unsigned_head(None)
    };
    let head = world.server.sign(&lone);
    assert_eq!(world.take(head), Some(Fault::Fork { sequence: 1 }));
    assert!(reported(&mut world).1);
}

#[test]
fn a_bucket_beyond_the_largest_limit_is_refused() {
    // 24 hours of limit and a minute of leeway, by the server's clock.
    let mut world = World::synced();
    let ahead = |hours| Place::new(LOG, HOUR + hours, 1).unwrap();
    assert_eq!(world.ask(ahead(24)), Ok(()));
    assert_eq!(world.ask(ahead(25)), Err("BUCKET_BEYOND_LIMIT"));
    world.pass(3_600_000 - 59_000);
    world.connect();
    assert_eq!(world.ask(ahead(25)), Ok(()));
    assert_eq!(world.ask(ahead(26)), Err("BUCKET_BEYOND_LIMIT"));
}

#[test]
fn ends_are_final_whatever_later_records_say() {
    let mut world = World::synced();
    let frames = [
        world.server.end(1),
        world.server.resume(1),
        world.server.head(None),
    ];
    world.take_all(frames);
    assert_eq!(world.status(1), Err("TASK_ENDED"));
}

#[test]
fn acknowledgements_are_cumulative_and_not_repeated() {
    let mut world = World::synced();
    assert_eq!(world.watcher.acknowledge().unwrap().sequence, 0);
    let delta = world.server.end(1);
    world.take(delta);
    assert_eq!(world.watcher.acknowledge(), None, "not applied yet");
    let frames = [world.server.end(2), world.server.head(None)];
    world.take_all(frames);
    assert_eq!(world.watcher.acknowledge().unwrap().sequence, 2);
    assert_eq!(world.watcher.acknowledge(), None);
    world.connect();
    assert_eq!(
        world.watcher.acknowledge().unwrap().sequence,
        2,
        "a new connection hears it again"
    );
}

#[test]
fn a_view_answers_as_its_watcher_does() {
    let mut world = World::new(Config::default());
    let view = StatusView::new();
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let frames = [
        world.server.end(1),
        world.server.checkpoint(),
        world.server.head(Some(nonce)),
        world.server.end(2),
        world.server.suspend(40_000),
        world.server.head(None),
        world.server.write(Change::Floor { bucket: HOUR + 1 }),
        world.server.head(None),
    ];
    for frame in frames {
        let step = world.step(frame);
        view.publish(&step.applied, world.watcher.freshness());
        for index in [1, 2, 3, 40_000] {
            let place = world.server.place(index);
            assert_eq!(
                view.status(place, world.now),
                world.watcher.status(place, world.now)
            );
        }
    }
    assert_eq!(view.check(world.now), Ok(()));
}
