//! What a relay, and what clocks can do to freshness (protocol P17).

use std::time::Duration;

use super::world::{MAX_AGE, World};
use crate::clock::{BootTime, WallTime};
use crate::record::Change;
use crate::watcher::{Config, Wish};

#[test]
fn a_frozen_relay_fails_closed() {
    let mut world = World::synced();
    world.pass(MAX_AGE);
    assert_eq!(world.status(1), Ok(()));
    world.pass(1);
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_relay_that_replays_the_last_head_fails_closed() {
    let mut world = World::synced();
    let head = world.server.head(None);
    for _ in 0..31 {
        world.pass(1_000);
        assert_eq!(world.take(head.clone()), None);
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_relay_that_delays_steadily_is_found_out() {
    // Everything reaches the verifier ten minutes late, the nonce's answer included: a new head
    // arrives every second, and by its arrival each looks fresh.
    let mut world = World::new(Config::default());
    let delay = 600_000;
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let mut late = vec![world.server.checkpoint(), world.server.head(Some(nonce))];
    for _ in 0..60 {
        world.pass(1_000);
        late.push(world.server.head(None));
    }
    world.pass(delay - 60_000);
    for frame in late {
        assert_eq!(world.take(frame), None);
        assert!(world.status(1).is_err());
        world.pass(1_000);
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_relay_that_begins_to_delay_is_found_out() {
    // The nonce was answered at once; only then everything is held back for longer and longer.
    let mut world = World::synced();
    let mut late = std::collections::VecDeque::new();
    for second in 1..=120 {
        world.pass(1_000);
        late.push_back(world.server.head(None));
        if second % 2 == 0 {
            let head = late.pop_front().unwrap();
            assert_eq!(world.take(head), None);
        }
        // By now the newest that came is half as old as the connection.
        assert_eq!(world.status(1).is_ok(), second <= 60, "after {second} s");
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_relay_that_plays_slowly_is_found_out() {
    // At 0.9 of the speed, heads arrive every 1.1 s of which each is 1 s newer than the last.
    let mut world = World::synced();
    let first = world.server.time;
    for tick in 1..=400 {
        world.pass(1_100);
        let mut slow = world.server.clone();
        slow.time = first.plus(tick * 1_000);
        let head = slow.head(None);
        assert_eq!(world.take(head), None);
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn the_nonce_counts_from_when_it_was_sent_not_answered() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let frames = [world.server.checkpoint(), world.server.head(Some(nonce))];
    world.pass(20_000);
    world.take_all(frames);
    assert_eq!(world.status(1), Ok(()));
    world.pass(10_001);
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_slow_answer_is_asked_for_again() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let frames = [world.server.checkpoint(), world.server.head(Some(nonce))];
    world.pass(20_000);
    world.take_all(frames);
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
    let nonce = world.nonce();
    world.watcher.ask(nonce, world.now);
    assert_eq!(world.watcher.tick(world.now), Wish::Nothing);
    let head = world.server.head(Some(nonce));
    world.take(head);
    assert_eq!(world.watcher.tick(world.now), Wish::Nothing);
    world.pass(MAX_AGE);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn an_answer_to_an_older_nonce_is_no_answer() {
    let mut world = World::new(Config::default());
    let old = world.nonce();
    world.watcher.connected(old, world.now);
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let frames = [
        world.server.checkpoint(),
        world.server.head(Some(old)),
        world.server.head(None),
    ];
    world.take_all(frames);
    assert_eq!(world.status(1), Err("STATUS_NONCE_UNANSWERED"));
}

#[test]
fn a_reconnect_closes_nothing_by_itself_but_counts_no_head_without_its_nonce() {
    let mut world = World::synced();
    world.pass(10_000);
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    assert_eq!(world.status(1), Ok(()));
    for _ in 0..21 {
        world.pass(1_000);
        let head = world.server.head(None);
        assert_eq!(world.take(head), None);
    }
    assert_eq!(world.status(1), Err("STATUS_STALE"));
    let nonce = world.nonce();
    world.watcher.ask(nonce, world.now);
    let head = world.server.head(Some(nonce));
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_host_that_slept_is_closed() {
    // CLOCK_BOOTTIME went on while it slept, and the wall clock with it.
    let mut world = World::synced();
    world.server.end(1);
    world.pass(8 * 3_600_000);
    assert_eq!(world.status(1), Err("CLOCK_DRIFT_USED"));
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
    world.connect();
    assert_eq!(world.status(1), Err("TASK_ENDED"));
}

#[test]
fn a_machine_that_was_paused_is_closed() {
    // A paused virtual machine's boot clock stops; its wall clock is put right afterwards.
    let mut world = World::synced();
    world.now.wall.0 += 600_000;
    assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
    // Putting the clock back doesn't open it again, and neither do heads without a nonce.
    world.now.wall.0 -= 600_000;
    assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
    let head = world.server.head(None);
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
    let nonce = world.nonce();
    world.watcher.ask(nonce, world.now);
    let head = world.server.head(Some(nonce));
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_wall_clock_that_is_wrong_but_steady_does_no_harm() {
    let mut world = World::new(Config::default());
    world.now.wall = WallTime(12);
    world.connect();
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_jump_while_the_nonce_is_away_spoils_the_answer() {
    let mut world = World::new(Config::default());
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    world.now.wall.0 += 600_000;
    let frames = [world.server.checkpoint(), world.server.head(Some(nonce))];
    world.take_all(frames);
    assert!(world.status(1).is_err());
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
}

#[test]
fn a_boot_clock_from_before_the_nonce_is_a_jump() {
    let mut world = World::synced();
    world.now.boot = BootTime(1);
    assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
}

#[test]
fn a_used_up_drift_allowance_closes_and_half_of_it_asks() {
    let mut world = World::synced();
    // One second at 500 millionths lasts 2,000 s.
    for second in 1..=2_001 {
        world.pass(1_000);
        let head = world.server.head(None);
        assert_eq!(world.take(head), None);
        let wish = if second > 1_000 {
            Wish::Nonce
        } else {
            Wish::Nothing
        };
        assert_eq!(world.watcher.tick(world.now), wish, "after {second} s");
        assert_eq!(world.status(1).is_ok(), second <= 2_000, "after {second} s");
    }
    assert_eq!(world.status(1), Err("CLOCK_DRIFT_USED"));
}

#[test]
fn no_verifier_allows_more_drift_than_any_may() {
    let config = Config {
        drift_allowance: Duration::from_secs(3600),
        ..Config::default()
    };
    let mut world = World::new(config);
    world.connect();
    // Two seconds at 500 millionths last 4,000 s.
    for second in 1..=4_001 {
        world.pass(1_000);
        let head = world.server.head(None);
        assert_eq!(world.take(head), None);
        assert_eq!(world.status(1).is_ok(), second <= 4_000, "after {second} s");
    }
}

#[test]
fn a_server_clock_that_leaps_ahead_closes_until_it_is_asked_again() {
    // Otherwise its heads would look fresh for as long as it leapt.
    let mut world = World::synced();
    world.server.time.0 += 600_000;
    let head = world.server.head(None);
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Err("CLOCK_JUMPED"));
    world.connect();
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_head_is_never_younger_than_its_arrival() {
    // Half a second ahead is within the allowance, and buys nothing.
    let mut world = World::synced();
    world.server.time.0 += 500;
    let head = world.server.head(None);
    assert_eq!(world.take(head), None);
    world.pass(MAX_AGE + 1);
    assert_eq!(world.status(1), Err("STATUS_STALE"));
}

#[test]
fn a_verifier_may_be_stricter_than_the_head_but_never_laxer() {
    for (staleness, bound) in [(5, 5_000), (500, MAX_AGE)] {
        let staleness = Some(Duration::from_secs(staleness));
        let mut world = World::new(Config {
            staleness,
            ..Config::default()
        });
        world.connect();
        world.pass(bound);
        assert_eq!(world.status(1), Ok(()));
        world.pass(1);
        assert_eq!(world.status(1), Err("STATUS_STALE"));
    }
}

#[test]
fn an_epoch_needs_a_nonce_of_its_own() {
    // Another epoch may be another machine's clock: its heads count once it has answered.
    let mut world = World::synced();
    world.server.epoch = 2;
    world.server.time.0 += 300;
    let frames = [world.server.write(Change::Epoch), world.server.head(None)];
    world.take_all(frames);
    assert_eq!(world.watcher.tick(world.now), Wish::Nonce);
    assert_eq!(
        world.status(1),
        Ok(()),
        "the last epoch's head is still young"
    );
    world.pass(MAX_AGE + 1);
    let head = world.server.head(None);
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Err("STATUS_STALE"));
    let nonce = world.nonce();
    world.watcher.ask(nonce, world.now);
    let head = world.server.head(Some(nonce));
    assert_eq!(world.take(head), None);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn a_head_of_the_last_epoch_does_not_count_by_the_new_ones_clock() {
    // The old machine's clock was far ahead, so by the new one's its heads look young for long.
    let mut world = World::new(Config::default());
    let checkpoint = world.server.checkpoint();
    let mut old = world.server.clone();
    let first = world.server.end(1);
    old.end(1);
    old.time.0 += 500;
    world.server.epoch = 2;
    world.server.write(Change::Epoch);
    let nonce = world.nonce();
    world.watcher.connected(nonce, world.now);
    let frames = [
        checkpoint,
        world.server.head(Some(nonce)),
        first,
        old.head(None),
    ];
    world.take_all(frames);
    assert_eq!(world.watcher.resume_position().unwrap().sequence, 1);
    assert_eq!(world.status(2), Err("STATUS_NOT_SYNCED"));
}

#[test]
fn an_older_head_that_is_repeated_takes_nothing_back() {
    let mut world = World::synced();
    let old = world.server.head(None);
    world.pass(20_000);
    let head = world.server.head(None);
    world.take_all([head, old]);
    world.pass(20_000);
    assert_eq!(world.status(1), Ok(()));
}

#[test]
fn an_ended_task_is_called_ended_even_by_a_watcher_that_is_cut_off() {
    let mut world = World::synced();
    let frames = [world.server.end(1), world.server.head(None)];
    world.take_all(frames);
    world.pass(10 * MAX_AGE);
    assert_eq!(world.status(1), Err("TASK_ENDED"));
    assert_eq!(world.status(2), Err("STATUS_STALE"));
}
