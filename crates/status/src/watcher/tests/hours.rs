//! Hours that pass: buckets that begin and end, the floor that follows, and verifiers that were away
//! meanwhile.

use super::world::{HOUR, MAX_AGE, World};
use crate::map::Status;
use crate::place::{HOUR_MS, Place, Slot};
use crate::record::{Cause, Change};
use crate::verdict::Verdict;
use crate::view::StatusView;
use crate::watcher::{Applied, Fault, Frame, Watcher, Wish};

const LEEWAY: u64 = 60_000;

fn slot(bucket: u32, index: u64) -> Slot {
    Slot::new(bucket, index).unwrap()
}

fn place(world: &World, bucket: u32, index: u64) -> Place {
    slot(bucket, index).in_log(world.server.log)
}

fn end(world: &mut World, bucket: u32, index: u64) -> Frame {
    world.server.write(Change::End {
        slot: slot(bucket, index),
        task: [3; 16],
        cause: Cause::COMPLETED,
    })
}

/// Takes a frame, and lets a view take over what came of it, as a verifier does.
fn take(world: &mut World, view: &StatusView, frame: Frame) {
    let step = world.step(frame);
    assert_eq!(step.fault, None);
    view.publish(&step.applied, world.watcher.freshness());
}

/// Lets a nonce be answered where the watcher wants one.
fn tick(world: &mut World, view: &StatusView) {
    if world.watcher.tick(world.now) == Wish::Nonce {
        let nonce = world.nonce();
        world.watcher.ask(nonce, world.now);
        let head = world.server.head(Some(nonce));
        take(world, view, head);
    }
}

fn agree(world: &World, view: &StatusView, place: Place) -> Verdict {
    let verdict = world.watcher.status(place, world.now);
    assert_eq!(view.status(place, world.now), verdict);
    verdict
}

#[test]
fn one_index_in_two_hours_is_two_places() {
    let mut world = World::synced();
    let frames = [end(&mut world, HOUR, 5), end(&mut world, HOUR + 1, 6)];
    world.take_all(frames);
    let head = world.server.head(None);
    world.take_all([head]);
    let ask = |bucket, index| world.ask(place(&world, bucket, index));
    assert_eq!([ask(HOUR, 5), ask(HOUR, 6)], [Err("TASK_ENDED"), Ok(())]);
    assert_eq!(
        [ask(HOUR + 1, 5), ask(HOUR + 1, 6)],
        [Ok(()), Err("TASK_ENDED")]
    );
}

#[test]
fn a_day_of_hours_passes_without_a_gap() {
    let mut world = World::synced();
    let view = StatusView::new();
    let checkpoint = world.server.checkpoint();
    // The view begins with what the watcher already has.
    let mut first = Watcher::new(Default::default());
    let first = first.on_frame(checkpoint, &world.server.key, world.now);
    view.publish(&first.applied, world.watcher.freshness());
    for minute in 1..=36 * 60_u64 {
        world.pass(15_000);
        tick(&mut world, &view);
        let head = world.server.head(None);
        take(&mut world, &view, head);
        world.pass(45_000);
        let hour = HOUR + (minute / 60) as u32;
        // Tasks whose limit lies up to a day ahead end, in this hour's bucket and in later ones.
        for bucket in [hour, hour + 1, hour + 24] {
            let frame = end(&mut world, bucket, minute);
            take(&mut world, &view, frame);
        }
        // P16: never before the hour's end and the leeway.
        if minute % 60 == LEEWAY / 60_000 && hour > HOUR {
            let frame = world.server.write(Change::Floor { bucket: hour });
            take(&mut world, &view, frame);
        }
        tick(&mut world, &view);
        let head = world.server.head(None);
        take(&mut world, &view, head);
        let refused = |reason: &str, verdict| matches!(verdict, Verdict::Refused(why) if why.reason() == reason);
        for bucket in [hour, hour + 1, hour + 24] {
            assert!(refused(
                "TASK_ENDED",
                agree(&world, &view, place(&world, bucket, minute))
            ));
            assert_eq!(
                agree(&world, &view, place(&world, bucket, minute + 5_000)),
                Verdict::Valid
            );
        }
        let over = agree(&world, &view, place(&world, hour - 1, 40_000));
        assert_eq!(
            refused("BUCKET_BELOW_FLOOR", over),
            hour == HOUR || minute % 60 >= 1,
            "minute {minute}"
        );
        let far = agree(&world, &view, place(&world, hour + 26, 1));
        assert!(refused("BUCKET_BEYOND_LIMIT", far));
    }
    // What is over is forgotten, and the rest is what one who comes now is told.
    let checkpoint = world.server.checkpoint();
    let mut late = Watcher::new(Default::default());
    let told = late.on_frame(checkpoint, &world.server.key, world.now);
    let [Applied::Reset(snapshot)] = &told.applied[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (snapshot.floor, *snapshot.maps.keys().next().unwrap()),
        (HOUR + 35, HOUR + 35)
    );
    for (bucket, map) in &snapshot.maps {
        for index in 0..3_000 {
            assert_eq!(view.get(*bucket, index), map.get(index), "{bucket}/{index}");
        }
    }
}

/// A server that goes on for a day while nobody listens.
fn a_day_alone(world: &mut World) {
    world.pass(24 * HOUR_MS);
    end(world, HOUR + 26, 7);
    world.server.write(Change::Suspend {
        slot: slot(HOUR + 26, 8),
        task: [8; 16],
    });
    world.server.write(Change::Floor { bucket: HOUR + 24 });
}

#[test]
fn a_verifier_asleep_for_a_day_is_closed_until_the_server_has_answered() {
    let mut world = World::synced();
    let frames = [end(&mut world, HOUR + 24, 1), world.server.head(None)];
    world.take_all(frames);
    a_day_alone(&mut world);
    // Boot clock and wall clock went on together: nothing jumped, everything is old.
    let later = place(&world, HOUR + 26, 7);
    assert_eq!(world.ask(later), Err("CLOCK_DRIFT_USED"));
    assert_eq!(world.ask(place(&world, HOUR + 24, 1)), Err("TASK_ENDED"));
    // Frames of a connection from before the sleep open nothing, however young they are.
    let head = world.server.head(None);
    assert_eq!(world.take(head), None);
    assert!(world.ask(place(&world, HOUR + 24, 2)).is_err());
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);

    world.connect();
    assert_eq!(world.ask(place(&world, HOUR + 24, 2)), Ok(()));
    assert_eq!(world.ask(later), Err("TASK_ENDED"));
    assert_eq!(
        world.ask(place(&world, HOUR + 26, 8)),
        Err("TASK_SUSPENDED")
    );
    assert_eq!(world.status(1), Err("BUCKET_BELOW_FLOOR"));
    assert_eq!(world.ask(place(&world, HOUR + 48, 1)), Ok(()));
    assert_eq!(
        world.ask(place(&world, HOUR + 49, 1)),
        Err("BUCKET_BEYOND_LIMIT")
    );
}

#[test]
fn a_verifier_asleep_for_longer_than_records_are_kept_is_told_by_a_checkpoint() {
    let mut world = World::synced();
    let frames = [end(&mut world, HOUR + 24, 1), world.server.head(None)];
    world.take_all(frames);
    a_day_alone(&mut world);
    let nonce = world.nonce();
    let hello = world.watcher.connected(nonce, world.now);
    assert_eq!(hello.resume.unwrap().sequence, 1);
    let checkpoint = world.server.checkpoint();
    let told = world.step(checkpoint);
    assert_eq!(told.fault, None);
    assert!(matches!(&told.applied[..], [Applied::Reset(_)]));
    assert!(
        world.ask(place(&world, HOUR + 24, 2)).is_err(),
        "the nonce is not answered yet"
    );
    let head = world.server.head(Some(nonce));
    world.take_all([head]);
    assert_eq!(world.ask(place(&world, HOUR + 24, 2)), Ok(()));
    assert_eq!(world.ask(place(&world, HOUR + 24, 1)), Err("TASK_ENDED"));
    assert_eq!(world.ask(place(&world, HOUR + 26, 7)), Err("TASK_ENDED"));
    assert_eq!(world.status(1), Err("BUCKET_BELOW_FLOOR"));
}

#[test]
fn a_checkpoint_from_before_the_sleep_opens_nothing_after_it() {
    let mut world = World::synced();
    let frames = [end(&mut world, HOUR + 24, 1), world.server.head(None)];
    world.take_all(frames);
    let (checkpoint, head) = (world.server.checkpoint(), world.server.head(None));
    a_day_alone(&mut world);
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    world.take_all([checkpoint, head]);
    world.pass(MAX_AGE / 2);
    assert!(world.ask(place(&world, HOUR + 26, 7)).is_err());
    assert!(world.ask(place(&world, HOUR + 26, 9)).is_err());
}

#[test]
fn no_checkpoint_lowers_the_floor() {
    let mut world = World::synced();
    let frames = [
        world.server.write(Change::Floor { bucket: HOUR + 1 }),
        world.server.head(None),
    ];
    world.take_all(frames);
    world.server.end(1);
    world.server.floor = HOUR;
    let checkpoint = world.server.checkpoint();
    assert_eq!(world.take(checkpoint), Some(Fault::Fork { sequence: 2 }));
}

#[test]
fn hours_are_the_servers_however_the_verifiers_clock_was_set() {
    for step in [-25 * 3_600_000_i64, 25 * 3_600_000] {
        let mut world = World::synced();
        world.now.wall.0 = world.now.wall.0.checked_add_signed(step).unwrap();
        assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
        assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
        let nonce = world.nonce();
        world.watcher.ask(nonce, world.now);
        let head = world.server.head(Some(nonce));
        world.take_all([head]);
        let ahead = |hours| place(&world, HOUR + hours, 1);
        assert_eq!(world.ask(ahead(0)), Ok(()));
        assert_eq!(world.ask(ahead(24)), Ok(()));
        assert_eq!(world.ask(ahead(25)), Err("BUCKET_BEYOND_LIMIT"));
    }
}

#[test]
fn a_suspension_that_outlives_its_hour_goes_with_it() {
    let mut world = World::synced();
    let frames = [
        world.server.suspend(4),
        world.server.head(None),
        world.server.write(Change::Floor { bucket: HOUR + 1 }),
        world.server.resume(4),
        world.server.head(None),
    ];
    world.take_all(frames);
    assert_eq!(world.status(4), Err("BUCKET_BELOW_FLOOR"));
    let map = world.server.maps.get(&HOUR);
    assert!(map.is_none_or(|map| map.get(4) != Status::Ended));
}
