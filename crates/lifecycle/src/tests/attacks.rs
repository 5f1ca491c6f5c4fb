//! The attacks that made the protocol's lines so, played.

use std::time::Duration;

use taskmint_model::{Actor, Cause, Entry, TaskKind};

use super::script::check;
use super::world::{World, ask, secs, spiffe_id};
use crate::{RENEWAL_GRACE, Refusal, Tree, extend, resume};

#[test]
fn p3_an_ended_implicit_task_bars_its_process() {
    for cause in ["completed", "failed", "cancelled", "revoked", "evicted"] {
        check(
            &format!("begin a implicit; end a {cause}; barred a"),
            &format!("| a:{cause}"),
        );
    }
}

#[test]
fn p3_an_implicit_task_that_time_ended_bars_nobody() {
    check(
        "begin a implicit; pass 86400; sweep; not-barred a",
        "| a:expired",
    );
}

#[test]
fn p3_what_nobody_decided_bars_nobody() {
    for cause in [
        "holder_died",
        "node_lost",
        "restored",
        "superseded",
        "entry_removed",
    ] {
        check(
            &format!("begin a implicit; end a {cause}; not-barred a"),
            &format!("| a:{cause}"),
        );
    }
}

#[test]
fn p3_losing_the_node_does_not_wash_off_a_suspension() {
    check(
        "begin a implicit; suspend a admin; end a node_lost; barred a",
        "| a:node_lost",
    );
}

#[test]
fn p3_a_resumed_task_is_barred_no_longer() {
    check(
        "begin a implicit; suspend a admin; resume a admin; lifted a",
        "| a:live",
    );
}

#[test]
fn p3_an_early_expiry_does_not_dodge_the_bar() {
    check(
        "begin a implicit; end a expired; not-barred a",
        "NOT_YET_EXPIRED | a:live",
    );
}

#[test]
fn p3_a_suspended_implicit_task_bars_its_process() {
    check(
        "begin a implicit; suspend a admin; barred a",
        "| a:suspended",
    );
}

#[test]
fn p3_waiting_out_a_suspension_does_not_lift_the_bar() {
    let mut world = World::new();
    let id = world.begin(ask(TaskKind::Implicit)).unwrap();
    world.suspend(id, Actor::Issuer).unwrap();
    world.barred.clear();
    world.now = world.now + secs(86_400);
    world.sweep();
    assert!(world.task(id).is_ended());
    assert!(world.barred.contains(&id));
}

#[test]
fn p3_an_explicit_task_bars_nobody() {
    check("begin a; end a revoked; not-barred a", "| a:revoked");
    check("begin a node; end a revoked; not-barred a", "| a:revoked");
}

#[test]
fn p4_no_limit_lies_beyond_what_entry_and_trust_domain_allow() {
    check("begin a limit=86400", "| a:live");
    check("begin a limit=86401", "BEYOND_LIMIT |");
    check("begin a ttl=86401", "BEYOND_LIMIT |");
    let mut world = World::new();
    world.defaults.max_limit = Duration::MAX;
    let id = world.begin(ask(TaskKind::Explicit)).unwrap();
    assert_eq!(world.task(id).times.limit, world.now + Entry::MAX_LIMIT);
    world.entry.max_limit = Some(secs(60));
    let id = world.begin(ask(TaskKind::Explicit)).unwrap();
    assert_eq!(world.task(id).times.limit, world.now + secs(60));
}

#[test]
fn p4_a_limit_asked_for_can_not_overflow() {
    let mut world = World::new();
    let mut asked = ask(TaskKind::Explicit);
    asked.limit = Some(Duration::MAX);
    assert_eq!(world.begin(asked).unwrap_err().reason(), "BEYOND_LIMIT");
}

#[test]
fn p4_what_was_ended_or_suspended_gets_no_successor() {
    check(
        "begin a implicit; end a revoked; succeed a b",
        "TASK_ENDED | a:revoked",
    );
    check(
        "begin a node; end a revoked; succeed a b",
        "TASK_ENDED | a:revoked",
    );
    check(
        "begin a implicit; suspend a admin; succeed a b",
        "TASK_SUSPENDED | a:suspended",
    );
    check(
        "begin a node; suspend a admin; succeed a b",
        "TASK_SUSPENDED | a:suspended",
    );
    check("begin a; succeed a b", "NO_SUCCESSOR | a:live");
    check(
        "begin a implicit; pass 86400; succeed a b",
        "DEADLINE_PASSED | a:live",
    );
}

#[test]
fn p4_an_explicit_task_can_not_pose_as_a_successor() {
    let mut world = World::new();
    let old = world.begin(ask(TaskKind::Explicit)).unwrap();
    let mut asked = ask(TaskKind::Explicit);
    asked.continues = Some(old);
    assert_eq!(world.begin(asked).unwrap_err().reason(), "NO_SUCCESSOR");
}

#[test]
fn p4_a_successor_has_a_new_id_and_place_and_names_the_old() {
    for kind in [TaskKind::Implicit, TaskKind::Node, TaskKind::Server] {
        let mut world = World::new();
        let old = world.begin(ask(kind)).unwrap();
        world.now = world.now + secs(80_000);
        let new = world.succeed(old).unwrap();
        let (old, new) = (world.task(old), world.task(new));
        assert_ne!((new.id, new.place), (old.id, old.place));
        assert_eq!(new.continues, Some(old.id));
        assert_eq!((&new.spiffe_id, &new.holder), (&old.spiffe_id, &old.holder));
        assert!(new.times.limit > old.times.limit);
    }
}

#[test]
fn p4_a_successor_is_due_while_the_old_task_still_lives() {
    check(
        "begin a implicit; not-due a; pass 82799; not-due a; pass 1; due a; pass 3600; not-due a",
        "| a:live",
    );
    check(
        "begin a node; pass 43199; not-due a; pass 1; due a",
        "| a:live",
    );
    check("begin a; pass 3599; not-due a", "| a:live");
    check(
        "begin a implicit; pass 83000; suspend a holder; not-due a",
        "| a:suspended",
    );
}

#[test]
fn p5_a_holder_can_not_undo_an_operator() {
    check(
        "begin a; suspend a admin; resume a holder",
        "SUSPENDED_BY_HIGHER | a:suspended",
    );
    check(
        "begin a; suspend a issuer; resume a admin",
        "SUSPENDED_BY_HIGHER | a:suspended",
    );
    check(
        "begin a; suspend a admin; resume a node",
        "SUSPENDED_BY_HIGHER | a:suspended",
    );
    check("begin a; suspend a holder; resume a holder", "| a:live");
    check("begin a; suspend a holder; resume a admin", "| a:live");
    check("begin a; suspend a node; resume a node", "| a:live");
}

#[test]
fn p5_suspending_again_does_not_take_over_an_operators_suspension() {
    check(
        "begin a; suspend a admin; suspend a holder; resume a holder",
        "ALREADY_SUSPENDED SUSPENDED_BY_HIGHER | a:suspended",
    );
}

#[test]
fn p5_an_operators_suspension_takes_over_the_holders() {
    check(
        "begin a; suspend a holder; suspend a admin; resume a holder; resume a admin",
        "SUSPENDED_BY_HIGHER | a:live",
    );
}

#[test]
fn p5_a_task_below_can_not_undo_the_root() {
    let tree = "begin a; delegate a b; delegate b c; delegate c d; ";
    for (steps, expected) in [
        (
            "suspend d a; resume d c",
            "SUSPENDED_BY_HIGHER | a:live b:live c:live d:suspended",
        ),
        (
            "suspend d a; resume d b",
            "SUSPENDED_BY_HIGHER | a:live b:live c:live d:suspended",
        ),
        ("suspend d c; resume d b", "| a:live b:live c:live d:live"),
        ("suspend d b; resume d a", "| a:live b:live c:live d:live"),
        (
            "suspend d c; resume d holder",
            "SUSPENDED_BY_HIGHER | a:live b:live c:live d:suspended",
        ),
        (
            "suspend d c; suspend d a; resume d c",
            "SUSPENDED_BY_HIGHER | a:live b:live c:live d:suspended",
        ),
    ] {
        check(&format!("{tree}{steps}"), expected);
    }
}

#[test]
fn p5_one_node_can_not_undo_another() {
    let mut world = World::new();
    let id = world.begin(ask(TaskKind::Explicit)).unwrap();
    world
        .suspend(id, Actor::Node(spiffe_id("/taskmint/node/join/n1")))
        .unwrap();
    let other = Actor::Node(spiffe_id("/taskmint/node/join/n2"));
    assert!(matches!(
        world.resume(id, other),
        Err(Refusal::SuspendedByHigher { .. })
    ));
}

#[test]
fn p5_a_task_is_suspended_while_any_task_above_it_is() {
    check(
        "begin a; delegate a b; delegate b c; suspend a admin",
        "| a:suspended b:suspended c:suspended",
    );
    check(
        "begin a; delegate a b; suspend a admin; resume b admin; suspend b holder; resume b holder",
        "SUSPENDED_ABOVE | a:suspended b:suspended",
    );
    check(
        "begin a; delegate a b; delegate b c; suspend a admin; resume a admin",
        "| a:live b:live c:live",
    );
}

#[test]
fn p5_nothing_wakes_because_its_parent_was_not_read() {
    let mut world = World::new();
    let root = world.begin(ask(TaskKind::Explicit)).unwrap();
    let middle = world
        .begin_below(Some(root), ask(TaskKind::Explicit))
        .unwrap();
    let child = world
        .begin_below(Some(middle), ask(TaskKind::Explicit))
        .unwrap();
    world.suspend(root, Actor::Issuer).unwrap();
    let tree = Tree {
        top: world.task(root).clone(),
        below: vec![world.task(child).clone()],
    };
    let changes = resume(tree, Actor::Issuer, false, world.now).unwrap();
    assert_eq!(
        changes
            .statuses
            .iter()
            .map(|status| status.task)
            .collect::<Vec<_>>(),
        [root]
    );
}

#[test]
fn p5_a_suspension_above_that_was_read_later_keeps_a_task_asleep() {
    let mut world = World::new();
    let root = world.begin(ask(TaskKind::Explicit)).unwrap();
    let child = world
        .begin_below(Some(root), ask(TaskKind::Explicit))
        .unwrap();
    let stale = world.task(child).clone();
    world.suspend(root, Actor::Issuer).unwrap();
    let refused = extend(
        &stale,
        &world.ancestors(child),
        world.now + secs(3600),
        world.now,
    );
    assert_eq!(refused, Err(Refusal::TaskSuspended { task: root }));
    world.suspend(child, Actor::Holder).unwrap();
    let tree = Tree {
        top: world.task(child).clone(),
        below: Vec::new(),
    };
    let changes = resume(tree, Actor::Holder, false, world.now).unwrap();
    assert!(
        changes.statuses.is_empty(),
        "its own record still says that one above is suspended"
    );
}

#[test]
fn p5_resuming_a_parent_wakes_no_child_that_was_suspended_for_itself() {
    check(
        "begin a; delegate a b; delegate b c; suspend b holder; suspend a admin; resume a admin",
        "| a:live b:suspended c:suspended",
    );
    check(
        "begin a; delegate a b; delegate b c; suspend a admin; suspend b holder; resume a admin",
        "| a:live b:suspended c:suspended",
    );
}

#[test]
fn p5_a_suspended_task_mints_extends_and_delegates_nothing() {
    check(
        "begin a; suspend a holder; mint a; extend a 7200; delegate a b",
        "TASK_SUSPENDED TASK_SUSPENDED TASK_SUSPENDED | a:suspended",
    );
    check(
        "begin a; delegate a b; suspend a holder; mint b; extend b 3600; delegate b c",
        "TASK_SUSPENDED TASK_SUSPENDED TASK_SUSPENDED | a:suspended b:suspended",
    );
}

#[test]
fn p5_deadlines_run_on_while_suspended() {
    check(
        "begin a ttl=60; suspend a holder; pass 60; resume a holder; sweep; resume a holder",
        "DEADLINE_PASSED TASK_ENDED | a:expired",
    );
}

#[test]
fn p5_only_a_suspended_task_is_resumed() {
    check("begin a; resume a admin", "NOT_SUSPENDED | a:live");
}

#[test]
fn p9_a_workload_can_not_pose_as_a_node_nor_a_node_as_a_workload() {
    let mut world = World::new();
    for (kind, path) in [
        (TaskKind::Explicit, "/taskmint/node/join/n1"),
        (TaskKind::Implicit, "/taskmint/server/s1"),
        (TaskKind::Explicit, "/taskmint/other"),
        (TaskKind::Explicit, ""),
        (TaskKind::Node, "/billing"),
        (TaskKind::Node, "/taskmint/server/s1"),
        (TaskKind::Server, "/taskmint/node/join/n1"),
    ] {
        let mut asked = ask(kind);
        asked.spiffe_id = spiffe_id(path);
        world.entry.spiffe_id = asked.spiffe_id.clone();
        assert_eq!(
            world.begin(asked).unwrap_err().reason(),
            "SPIFFE_ID_KIND",
            "{path}"
        );
    }
}

#[test]
fn p11_a_node_renews_for_a_week_after_its_time_and_not_after_an_end() {
    for swept in [false, true] {
        let mut world = World::new();
        let node = world.begin(ask(TaskKind::Node)).unwrap();
        let lapsed = world.now + secs(86_400);
        world.now = lapsed;
        if swept {
            world.sweep();
        }
        world.now = lapsed + RENEWAL_GRACE - secs(1);
        world.clone().succeed(node).unwrap();
        world.now = lapsed + RENEWAL_GRACE;
        world.succeed(node).unwrap_err();
    }
    let mut world = World::new();
    let node = world.begin(ask(TaskKind::Node)).unwrap();
    world.end(node, Cause::REVOKED, Actor::Issuer).unwrap();
    world.now = world.now + secs(86_400);
    assert_eq!(world.succeed(node).unwrap_err().reason(), "TASK_ENDED");
}
