//! Lifetimes of credentials (contract line 1, P23, P33).

use std::time::Duration;

use proptest::prelude::*;
use taskmint_model::{TaskKind, Timestamp};

use super::world::{START, World, ask, secs};
use crate::{Ask, Lifetime, MAX_BACKDATE, lifetime};

fn task(ttl: Duration) -> taskmint_model::Task {
    let mut world = World::new();
    let id = world
        .begin(Ask {
            ttl: Some(ttl),
            ..ask(TaskKind::Explicit)
        })
        .unwrap();
    world.task(id).clone()
}

#[test]
fn a_credential_ends_at_the_earliest_of_deadline_cap_and_what_was_asked() {
    // Task, asked, cap, backdate; then seconds from now of not-before and not-after.
    for (deadline, ttl, cap, backdate, before, after) in [
        (3600, 600, 3600, 30, 30, 600),
        (300, 600, 3600, 30, 30, 300),
        (3600, 600, 600, 30, 30, 570),
        (3600, 7200, 60, 0, 0, 60),
        (3600, 600, 3600, 3600, 59, 600),
    ] {
        let got = lifetime(
            &task(secs(deadline)),
            secs(ttl),
            secs(cap),
            secs(backdate),
            START,
        );
        let (not_before, not_after) = (START - secs(before), START + secs(after));
        assert_eq!(
            got,
            Ok(Lifetime {
                not_before,
                not_after
            })
        );
    }
}

#[test]
fn less_than_a_second_is_no_lifetime() {
    let task = task(Duration::from_millis(900));
    let refused = lifetime(&task, secs(60), secs(60), secs(0), START).unwrap_err();
    assert_eq!(refused.reason(), "DEADLINE_NEAR");
    let task = self::task(secs(60));
    let refused = lifetime(&task, secs(0), secs(60), secs(0), START).unwrap_err();
    assert_eq!(refused.reason(), "NO_TIME");
    let refused = lifetime(&task, secs(60), secs(20), secs(30), START).unwrap_err();
    assert_eq!(refused.reason(), "NO_TIME");
}

proptest! {
    #[test]
    fn a_lifetime_stays_within_every_bound(
        deadline in 1u64..90_000_000, ttl in 0u64..90_000_000, cap in 0u64..90_000_000,
        backdate in 0u64..120_000, later in 0u64..90_000_000,
    ) {
        let millis = Duration::from_millis;
        let deadline = millis(deadline.min(86_400_000));
        let task = task(deadline);
        let now = START + millis(later);
        if let Ok(got) = lifetime(&task, millis(ttl), millis(cap), millis(backdate), now) {
            prop_assert!(now < task.times.deadline);
            prop_assert!(got.not_before <= now && now < got.not_after);
            prop_assert!(now.since(got.not_before) < MAX_BACKDATE + secs(1));
            prop_assert!(got.not_after <= task.times.deadline);
            prop_assert!(got.not_after <= now + millis(ttl));
            prop_assert!(got.not_after.since(got.not_before) <= millis(cap));
            prop_assert!(got.not_after < Timestamp::from_secs(3600 * (u64::from(task.place.bucket()) + 1)));
            prop_assert_eq!(got.not_after.millis() % 1000 + got.not_before.millis() % 1000, 0);
        }
    }
}
