//! Random walks through the widest scope, which is too wide to be searched whole.

use stateright::{Expectation, Model as _};

use super::setting;
use crate::*;

/// Small, fast and the same everywhere (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

/// How often each kind of step is taken: uniformly, forged frames would be nearly all.
fn weight(action: &Action) -> usize {
    match action {
        Action::Tick | Action::Sync => 3,
        Action::Crash | Action::Restore { .. } | Action::Restart(_) => 1,
        Action::Mint(_) | Action::End(_) | Action::RaiseFloor | Action::Start { .. } => 4,
        Action::Connect(_) | Action::Ask(_) | Action::Acknowledge(_) => 3,
        Action::Answer(_) => 4,
        Action::Deliver(_, frame) => match frame {
            Frame::Head { forged: true, .. } | Frame::Checkpoint { forged: true, .. } => 1,
            Frame::Head { answer: true, .. } => 12,
            Frame::Head { .. } => 8,
            Frame::Checkpoint { .. } => 4,
            Frame::Record { .. } => 6,
        },
    }
}

/// A kind of step; within a kind each step is as likely.
fn kind(action: &Action) -> (std::mem::Discriminant<Action>, usize) {
    (std::mem::discriminant(action), weight(action))
}

/// The next step: a kind by its weight, then one of that kind.
pub(super) fn choose(actions: &[Action], dice: &mut Dice) -> Option<Action> {
    let mut kinds: Vec<_> = actions.iter().map(kind).collect();
    kinds.sort_by_key(|(_, weight)| *weight);
    kinds.dedup();
    let mut at = dice.below(kinds.iter().map(|(_, weight)| weight).sum::<usize>().max(1));
    let chosen = kinds.into_iter().find(|(_, weight)| {
        let hit = at < *weight;
        at = at.saturating_sub(*weight);
        hit
    })?;
    let alike: Vec<_> = actions.iter().filter(|a| kind(a) == chosen).collect();
    alike
        .get(dice.below(alike.len().max(1)))
        .map(|action| **action)
}

/// Walks from the start, and shows every step and the world after it.
pub(super) fn walk(search: &Search, seed: u64, steps: usize, mut see: impl FnMut(Action, &World)) {
    let mut dice = Dice(seed);
    let mut world = search.begin();
    let mut actions = Vec::new();
    for _ in 0..steps {
        actions.clear();
        search.actions(&world, &mut actions);
        let Some(action) = choose(&actions, &mut dice) else {
            return;
        };
        // That a frame was refused is part of the walk.
        let _refused = world.step(action, search.guards);
        see(action, &world);
    }
}

#[test]
fn no_random_walk_through_everything_at_once_breaks_a_property() {
    let search = Search {
        scope: Scope::WIDE,
        guards: Guards::all(),
    };
    let properties = search.properties();
    let mut happened = std::collections::BTreeSet::new();
    for seed in 0..setting("TASKMINT_MODEL_WALKS", 5_000) {
        let mut taken = Vec::new();
        walk(&search, seed, 120, |action, world| {
            taken.push(action);
            for property in &properties {
                let holds = (property.condition)(&search, world);
                match property.expectation {
                    Expectation::Always => {
                        assert!(holds, "not `{}` in walk {seed}: {taken:#?}", property.name);
                    }
                    _ if holds => drop(happened.insert(property.name)),
                    _ => {}
                }
            }
        });
    }
    for property in properties {
        let must = property.expectation == Expectation::Sometimes;
        assert!(
            !must || happened.contains(property.name),
            "never `{}`",
            property.name
        );
    }
}
