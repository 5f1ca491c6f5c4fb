//! The real watcher is given what the model's verifier is given, step by step, and must say the
//! same: the same frames refused, the same position applied, the same answer for every place, now
//! and for as long as a head can count.
//!
//! Where the model is looser than the code, by abstraction: it has no drift allowance, no wall
//! clock that jumps, no largest limit, no suspension, and remembers no hashes but the applied one.
//! None of these shows in the replayed worlds: clocks run true, all hours are near, and the only
//! contradictions are those of a server without its guards.

use super::real::{Keys, Real, position};
use super::walk::walk;
use super::{counterexample, setting};
use crate::*;

/// Model and code, side by side.
struct Lockstep<'k> {
    world: World,
    guards: Guards,
    real: Vec<Real<'k>>,
    accepted: usize,
    ended: usize,
}

impl<'k> Lockstep<'k> {
    fn new(search: &Search, keys: &'k Keys) -> Self {
        let world = search.begin();
        let real = (0..world.verifiers.len())
            .map(|_| Real::new(keys))
            .collect();
        Self {
            world,
            guards: search.guards,
            real,
            accepted: 0,
            ended: 0,
        }
    }

    fn step(&mut self, action: Action) {
        let before = self.world.verifiers.clone();
        let refused = self.world.step(action, self.guards).is_err();
        let tick = self.world.now;
        match action {
            Action::Connect(at) => self.real[at].connect(tick),
            Action::Ask(at) => self.real[at].ask(tick),
            Action::Restart(at) => self.real[at].restart(),
            // Frames that come after a fault and before the next connection reach nobody.
            Action::Deliver(at, frame) if before[at].connected => {
                let fault = self.real[at].take(frame, before[at].staged(), tick);
                assert_eq!(fault, refused, "whether {frame:?} is refused");
            }
            _ => {}
        }
        self.compare();
    }

    fn compare(&mut self) {
        for (verifier, real) in self.world.verifiers.iter().zip(&self.real) {
            assert_eq!(real.position(), position(verifier.position()), "applied");
            assert_eq!(real.watcher.forked_at().is_some(), verifier.is_forked());
            for place in Place::all() {
                for tick in self.world.now..=self.world.now + MAX_AGE as Tick + 1 {
                    let model = verifier.check(place, self.guards, tick);
                    let model = model.map_err(Refusal::reason);
                    assert_eq!(real.check(place, tick), model, "{place:?} at {tick}");
                }
                let now = real.check(place, self.world.now);
                self.accepted += usize::from(now.is_ok());
                self.ended += usize::from(now == Err("TASK_ENDED"));
            }
        }
    }

    /// Whether the real code accepts what a receipt forbids.
    fn is_broken(&self) -> bool {
        let now = self.world.now;
        let broken = |at: usize, real: &Real<'_>, place: Place| {
            let receipt = self.world.fate(place).receipt;
            real.check(place, now).is_ok()
                && receipt.is_some_and(|r| r.is_applied(at) || now > r.dead_by)
        };
        let mut all = self.real.iter().enumerate();
        all.any(|(at, real)| Place::all().any(|place| broken(at, real, place)))
    }
}

#[test]
fn the_real_watcher_says_what_the_model_says_on_random_walks() {
    let keys = Keys::new();
    let (mut accepted, mut ended) = (0, 0);
    for seed in 0..setting("TASKMINT_MODEL_WALKS", 5_000) / 10 {
        let search = Search {
            scope: Scope::WIDE,
            guards: Guards::all(),
        };
        let mut lockstep = Lockstep::new(&search, &keys);
        walk(&search, seed, 120, |action, world| {
            lockstep.step(action);
            assert_eq!(lockstep.world, *world, "walk {seed}");
        });
        assert!(!lockstep.is_broken());
        accepted += lockstep.accepted;
        ended += lockstep.ended;
    }
    // Walks in which everything is refused would prove nothing.
    assert!(accepted > 1_000 && ended > 1_000, "{accepted} and {ended}");
}

/// What breaks a verifier without the guard doesn't break the real one, which has it.
#[test]
fn the_real_watcher_withstands_what_breaks_a_verifier_without_a_guard() {
    let keys = Keys::new();
    let verifiers = [
        (Guard::HeadSignature, DEAD_EVERYWHERE),
        (Guard::CheckpointDigest, APPLIED_IS_REFUSED),
        (Guard::CheckpointDigest, DEAD_EVERYWHERE),
        (Guard::LogHash, APPLIED_IS_REFUSED),
        (Guard::LogHash, DEAD_EVERYWHERE),
        (Guard::Floor, APPLIED_IS_REFUSED),
        (Guard::Floor, DEAD_EVERYWHERE),
        (Guard::Nonce, DEAD_EVERYWHERE),
        (Guard::EpochNonce, DEAD_EVERYWHERE),
        (Guard::AnsweredPosition, APPLIED_IS_REFUSED),
        (Guard::Staleness, DEAD_EVERYWHERE),
    ];
    for (guard, property) in verifiers {
        let scope = Scope::of(guard);
        let path = counterexample(guard, scope, property).unwrap();
        let search = Search {
            scope,
            guards: Guards::all(),
        };
        let mut lockstep = Lockstep::new(&search, &keys);
        for action in path.into_actions() {
            lockstep.step(action);
            assert!(!lockstep.is_broken(), "{guard:?} is missing");
        }
    }
}

/// No verifier can make up for what a server does without its guards: the real one is broken by it,
/// too, which shows that the oracle of the other tests can say so.
#[test]
fn the_real_watcher_is_deceived_by_a_server_without_a_guard() {
    let keys = Keys::new();
    for guard in [Guard::DurableBeforeVisible, Guard::GenerationAfterRestore] {
        let scope = Scope::of(guard);
        let path = counterexample(guard, scope, DEAD_EVERYWHERE).unwrap();
        let search = Search {
            scope,
            guards: Guards::without(guard),
        };
        let mut lockstep = Lockstep::new(&search, &keys);
        path.into_actions()
            .into_iter()
            .for_each(|action| lockstep.step(action));
        assert!(lockstep.is_broken(), "{guard:?}");
    }
}
