//! Random scripts: whatever is called in whichever order, these hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use taskmint_model::{Actor, Authority, Cause, Limits, State, Task, TaskId, TaskKind};
use taskmint_status::Status;

use super::world::{World, ask, node, secs};
use crate::{Ask, Refusal, lifetime, may_mint};

/// One step. Tasks are picked by number, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Begin(TaskKind, Wish),
    Delegate(usize, Wish),
    Succeed(usize),
    Extend(usize, u64),
    Suspend(usize, Who),
    Resume(usize, Who),
    End(usize, Cause, Who),
    Pass(u64),
    Sweep,
}

/// What a begin asks for, sometimes too much.
#[derive(Debug, Clone)]
struct Wish {
    authority: Option<(Items, Items)>,
    ttl: Option<u64>,
    limit: Option<u64>,
    limits: Option<(u32, u8)>,
}

/// Scopes, or audiences.
type Items = BTreeSet<&'static str>;

/// Who acts; an ancestor by how far above it is.
#[derive(Debug, Clone, Copy)]
enum Who {
    Holder,
    Ancestor(usize),
    Node,
    Admin,
    Issuer,
}

fn wish() -> impl Strategy<Value = Wish> {
    // Each with one that the entry lacks.
    let scope = prop::sample::select(vec!["a", "b", "c", "d"]);
    let audience = prop::sample::select(vec!["x", "y", "z"]);
    let items = |item| prop::collection::btree_set(item, 0..3);
    // Mostly modest: trees that are refused at their root never get deep.
    (
        prop::option::weighted(0.2, (items(scope), items(audience))),
        prop::option::weighted(0.2, 1u64..4000),
        prop::option::weighted(0.2, 1u64..8000),
        prop::option::weighted(0.2, (0u32..4, 0u8..4)),
    )
        .prop_map(|(authority, ttl, limit, limits)| Wish {
            authority,
            ttl,
            limit,
            limits,
        })
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        Just(Who::Holder),
        (0usize..3).prop_map(Who::Ancestor),
        Just(Who::Node),
        Just(Who::Admin),
        Just(Who::Issuer),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![
        TaskKind::Explicit,
        TaskKind::Explicit,
        TaskKind::Implicit,
        TaskKind::Node,
    ]);
    let cause = prop::sample::select(vec![
        Cause::COMPLETED,
        Cause::REVOKED,
        Cause::EXPIRED,
        Cause::HOLDER_DIED,
        Cause::NODE_LOST,
    ]);
    let pick = 0usize..16;
    prop_oneof![
        2 => (kind, wish()).prop_map(|(kind, wish)| Step::Begin(kind, wish)),
        6 => (pick.clone(), wish()).prop_map(|(of, wish)| Step::Delegate(of, wish)),
        1 => pick.clone().prop_map(Step::Succeed),
        2 => (pick.clone(), 0u64..6000).prop_map(|(of, ttl)| Step::Extend(of, ttl)),
        4 => (pick.clone(), who()).prop_map(|(of, by)| Step::Suspend(of, by)),
        4 => (pick.clone(), who()).prop_map(|(of, by)| Step::Resume(of, by)),
        1 => (pick, cause, who()).prop_map(|(of, cause, by)| Step::End(of, cause, by)),
        1 => (1u64..2000).prop_map(Step::Pass),
        1 => Just(Step::Sweep),
    ]
}

fn wished(kind: TaskKind, wish: &Wish) -> Ask {
    let owned = |items: &Items| items.iter().map(|item| (*item).to_owned()).collect();
    let authority = |(scopes, audiences): &(Items, Items)| Authority {
        scopes: owned(scopes),
        audiences: owned(audiences),
    };
    Ask {
        authority: wish.authority.as_ref().map(authority),
        ttl: wish.ttl.map(secs),
        limit: wish.limit.map(secs),
        limits: wish
            .limits
            .map(|(children, depth)| Limits { children, depth }),
        ..ask(kind)
    }
}

/// The task of a number, and the actor that a `Who` is for it.
fn pick(world: &World, of: usize) -> Option<TaskId> {
    world
        .tasks
        .keys()
        .nth(of % world.tasks.len().max(1))
        .copied()
}

fn actor(world: &World, task: TaskId, who: Who) -> Actor {
    match who {
        Who::Holder => Actor::Holder,
        Who::Node => Actor::Node(node()),
        Who::Admin => Actor::Admin("root".to_owned()),
        Who::Issuer => Actor::Issuer,
        Who::Ancestor(up) => {
            let above = world.ancestors(task);
            let ancestor = above.get(up % above.len().max(1));
            ancestor.map_or(Actor::Holder, |ancestor| Actor::Ancestor(ancestor.id))
        }
    }
}

/// Plays a step. Returns the task whose own suspension it may have touched, and by whom.
fn play(world: &mut World, step: &Step) -> Result<Option<(TaskId, Actor)>, Refusal> {
    let target = |world: &World, of: usize| pick(world, of);
    match step {
        Step::Begin(kind, wish) => world.begin(wished(*kind, wish)).map(|_| None),
        Step::Pass(time) => {
            world.now = world.now + secs(*time);
            Ok(None)
        }
        Step::Sweep => {
            world.sweep();
            Ok(None)
        }
        Step::Delegate(of, wish) => match target(world, *of) {
            Some(id) => world
                .begin_below(Some(id), wished(TaskKind::Explicit, wish))
                .map(|_| None),
            None => Ok(None),
        },
        Step::Succeed(of) => match target(world, *of) {
            Some(id) => world.succeed(id).map(|_| None),
            None => Ok(None),
        },
        Step::Extend(of, ttl) => match target(world, *of) {
            Some(id) => world.extend(id, secs(*ttl)).map(|()| None),
            None => Ok(None),
        },
        Step::Suspend(of, who) => act(world, *of, *who, World::suspend),
        Step::Resume(of, who) => act(world, *of, *who, World::resume),
        Step::End(of, cause, who) => {
            act(world, *of, *who, |world, id, by| world.end(id, *cause, by))
        }
    }
}

fn act(
    world: &mut World,
    of: usize,
    who: Who,
    rule: impl FnOnce(&mut World, TaskId, Actor) -> Result<(), Refusal>,
) -> Result<Option<(TaskId, Actor)>, Refusal> {
    let Some(id) = pick(world, of) else {
        return Ok(None);
    };
    let by = actor(world, id, who);
    rule(world, id, by.clone()).map(|()| Some((id, by)))
}

/// How high an actor stands over a task, from scratch: among ancestors by their depth.
fn height(world: &World, actor: &Actor) -> (u8, u8) {
    let above = match actor {
        Actor::Ancestor(task) => u8::MAX - world.task(*task).depth,
        _ => 0,
    };
    (actor.rank(), above)
}

fn own(task: &Task) -> Option<&Actor> {
    match &task.state {
        State::Suspended { own: Some(own), .. } => Some(&own.by),
        _ => None,
    }
}

fn suspended(task: &Task) -> bool {
    matches!(task.state, State::Suspended { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_is_called_the_rules_hold(steps in prop::collection::vec(step(), 1..64)) {
        let mut world = World::new();
        for step in &steps {
            let before = world.clone();
            let played = play(&mut world, step);
            match &played {
                Err(refusal) => {
                    prop_assert!(!refusal.reason().is_empty() && !refusal.fix().is_empty());
                    prop_assert_eq!(&world.tasks, &before.tasks, "a refusal changes nothing");
                    prop_assert_eq!(&world.statuses, &before.statuses);
                }
                Ok(touched) => nobody_lower_lifts(&before, &world, touched.as_ref())?,
            }
            ends_are_final(&before, &world)?;
            no_child_exceeds_its_parent(&world)?;
            places_are_used_once(&before, &world)?;
            ends_reach_every_descendant_once(&world)?;
            suspension_is_that_of_all_above(&world)?;
            the_log_gives_the_state(&world)?;
            credentials_stay_within_their_task(&world)?;
        }
    }
}

fn ends_are_final(before: &World, after: &World) -> Result<(), TestCaseError> {
    for task in before.tasks.values().filter(|task| task.is_ended()) {
        prop_assert_eq!(task, after.task(task.id));
    }
    Ok(())
}

fn no_child_exceeds_its_parent(world: &World) -> Result<(), TestCaseError> {
    let mut children: BTreeMap<TaskId, u32> = BTreeMap::new();
    for child in world.tasks.values() {
        prop_assert!(child.times.deadline <= child.times.limit);
        prop_assert!(child.authority.is_within(&world.entry.authority));
        let Some(parent) = child.parent else { continue };
        let parent = world.task(parent);
        prop_assert!(child.authority.is_within(&parent.authority));
        // An ended task's deadline says nothing any more, and its parent's may have moved.
        prop_assert!(child.times.deadline <= parent.times.deadline);
        prop_assert!(child.times.limit <= parent.times.limit);
        prop_assert!(child.limits.children <= parent.limits.children);
        prop_assert!(child.limits.depth < parent.limits.depth);
        prop_assert_eq!((child.depth, child.root), (parent.depth + 1, parent.root));
        *children.entry(parent.id).or_default() += u32::from(!child.is_ended());
    }
    for task in world.tasks.values() {
        let live = children.get(&task.id).copied().unwrap_or_default();
        prop_assert_eq!(task.children, live);
        prop_assert!(live <= task.limits.children);
    }
    Ok(())
}

fn places_are_used_once(before: &World, after: &World) -> Result<(), TestCaseError> {
    let places: BTreeSet<_> = after.tasks.values().map(|task| task.place).collect();
    prop_assert_eq!(places.len(), after.tasks.len());
    for task in after.tasks.values() {
        prop_assert_eq!(task.place.bucket(), task.times.limit.hour());
        prop_assert!(task.times.limit.since(task.times.opened) <= secs(86_400));
    }
    for task in before.tasks.values() {
        let now = after.task(task.id);
        prop_assert_eq!((task.place, task.times.limit), (now.place, now.times.limit));
        prop_assert!(task.times.deadline <= now.times.deadline);
    }
    Ok(())
}

fn ends_reach_every_descendant_once(world: &World) -> Result<(), TestCaseError> {
    for task in world.tasks.values() {
        let ends = world.statuses.iter().filter(|status| {
            status.task == task.id && status.status == Status::Ended && status.cause.is_some()
        });
        prop_assert_eq!(ends.count(), usize::from(task.is_ended()));
        if task.is_ended() {
            prop_assert!(world.descendants(task.id).iter().all(Task::is_ended));
        }
    }
    Ok(())
}

fn suspension_is_that_of_all_above(world: &World) -> Result<(), TestCaseError> {
    for task in world.tasks.values().filter(|task| !task.is_ended()) {
        let above = world
            .ancestors(task.id)
            .iter()
            .any(|above| own(above).is_some());
        prop_assert_eq!(suspended(task), above || own(task).is_some());
        if let State::Suspended { inherited, .. } = task.state {
            prop_assert_eq!(inherited, above);
        }
    }
    Ok(())
}

fn the_log_gives_the_state(world: &World) -> Result<(), TestCaseError> {
    let mut bits = BTreeMap::new();
    for status in &world.statuses {
        prop_assert_eq!(status.place, world.task(status.task).place);
        let before = bits
            .insert(status.place, status.status)
            .unwrap_or(Status::Valid);
        prop_assert_ne!(before, status.status, "a record that changes nothing");
        prop_assert_ne!(before, Status::Ended, "a record after an end");
    }
    for task in world.tasks.values() {
        let expected = match task.state {
            State::Live => Status::Valid,
            State::Suspended { .. } => Status::Suspended,
            State::Ended { .. } => Status::Ended,
        };
        prop_assert_eq!(
            bits.get(&task.place).copied().unwrap_or(Status::Valid),
            expected
        );
    }
    Ok(())
}

/// A task's own suspension goes, or changes hands, only by an act on that task, of somebody at
/// least as high.
fn nobody_lower_lifts(
    before: &World,
    after: &World,
    touched: Option<&(TaskId, Actor)>,
) -> Result<(), TestCaseError> {
    for task in before.tasks.values() {
        let (Some(placed), now) = (own(task), after.task(task.id)) else {
            continue;
        };
        if now.is_ended() || own(now) == Some(placed) {
            continue;
        }
        let Some((_, by)) = touched.filter(|(id, _)| *id == task.id) else {
            return Err(TestCaseError::fail(
                "a suspension went without an act on its task",
            ));
        };
        prop_assert!(height(before, by) >= height(before, placed));
    }
    Ok(())
}

fn credentials_stay_within_their_task(world: &World) -> Result<(), TestCaseError> {
    for task in world.tasks.values() {
        let minted = lifetime(task, secs(600), secs(3600), secs(30), world.now);
        prop_assert!(minted.is_err() || may_mint(task, world.now).is_ok());
        let Ok(minted) = minted else { continue };
        for above in world.ancestors(task.id) {
            prop_assert!(
                above.is_live(world.now),
                "minted below a task that is not live"
            );
            prop_assert!(minted.not_after <= above.times.deadline);
        }
    }
    Ok(())
}
