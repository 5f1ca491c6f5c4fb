//! With all guards nothing is found; without any one of them something is.

use stateright::{Checker as _, Expectation, Model as _, Path, Property};

use super::{counterexample, shortest, ticks};
use crate::*;

/// Searches a scope to its end: nothing that must not happen does, and everything that should be
/// possible is.
fn holds(scope: Scope) {
    let search = Search {
        scope: scope.longer(ticks()),
        guards: Guards::all(),
    };
    let checker = search.checker().spawn_dfs().join();
    let found = checker.discoveries();
    for Property {
        name, expectation, ..
    } in search.properties()
    {
        match (found.contains_key(name), expectation) {
            (true, Expectation::Always) => {
                let path = shortest(search, name).map(Path::into_actions);
                panic!("{}: not `{name}`: {path:#?}", scope.name)
            }
            (false, Expectation::Sometimes) => panic!("{}: never `{name}`", scope.name),
            _ => {}
        }
    }
    println!("{}: {} states", scope.name, checker.unique_state_count());
}

#[test]
fn no_relay_gets_an_ended_task_accepted_past_the_bound() {
    holds(Scope::RELAY);
}

#[test]
fn no_relay_that_makes_frames_up_gets_an_ended_task_accepted_past_the_bound() {
    holds(Scope::FORGER);
}

#[test]
fn an_ended_task_stays_refused_when_its_hour_is_over() {
    holds(Scope::FLOOR);
}

#[test]
fn a_restarted_verifier_refuses_what_it_applied_before() {
    holds(Scope::RESTART);
}

#[test]
fn an_end_outlives_a_crash_and_a_new_machine() {
    holds(Scope::CRASH);
}

#[test]
fn a_crash_while_issuing_leaves_no_credential_without_its_record() {
    holds(Scope::MINT);
}

#[test]
fn a_restored_backup_revives_nothing() {
    holds(Scope::RESTORE);
}

/// Something is found without the guard, and ends with what the property forbids.
fn is_missed(guard: Guard, property: &'static str) {
    is_missed_in(Scope::of(guard), guard, property);
}

fn is_missed_in(scope: Scope, guard: Guard, property: &'static str) {
    let path = counterexample(guard, scope, property);
    let path = path.unwrap_or_else(|| panic!("nothing is found without {guard:?}"));
    println!(
        "without {guard:?}, not `{property}`: {:#?}",
        path.into_actions()
    );
}

#[test]
fn without_the_head_signature_a_relay_keeps_an_ended_task_alive() {
    is_missed(Guard::HeadSignature, DEAD_EVERYWHERE);
}

#[test]
fn without_the_checkpoint_digest_a_relay_hides_an_end_that_counts_as_applied() {
    is_missed(Guard::CheckpointDigest, APPLIED_IS_REFUSED);
    is_missed(Guard::CheckpointDigest, DEAD_EVERYWHERE);
}

#[test]
fn without_the_log_hash_a_relay_puts_another_record_in_the_place_of_an_end() {
    is_missed(Guard::LogHash, APPLIED_IS_REFUSED);
    is_missed(Guard::LogHash, DEAD_EVERYWHERE);
}

#[test]
fn without_the_floor_an_end_is_forgotten_with_its_hour() {
    is_missed(Guard::Floor, APPLIED_IS_REFUSED);
    is_missed(Guard::Floor, DEAD_EVERYWHERE);
}

#[test]
fn without_the_nonce_a_relay_that_delays_everything_looks_fresh() {
    is_missed(Guard::Nonce, DEAD_EVERYWHERE);
}

#[test]
fn without_a_nonce_for_each_epoch_a_clock_that_is_ahead_makes_old_heads_fresh() {
    is_missed(Guard::EpochNonce, DEAD_EVERYWHERE);
}

#[test]
fn without_the_answered_position_a_restarted_verifier_forgets_what_it_applied() {
    is_missed(Guard::AnsweredPosition, APPLIED_IS_REFUSED);
}

#[test]
fn without_staleness_a_frozen_relay_keeps_an_ended_task_alive() {
    is_missed(Guard::Staleness, DEAD_EVERYWHERE);
}

#[test]
fn without_durable_before_visible_a_crash_undoes_an_end() {
    is_missed(Guard::DurableBeforeVisible, ENDS_ARE_FINAL);
    is_missed(Guard::DurableBeforeVisible, DEAD_EVERYWHERE);
}

#[test]
fn without_durable_before_visible_a_crash_leaves_a_credential_without_its_record() {
    is_missed_in(Scope::MINT, Guard::DurableBeforeVisible, NEVER_VALID);
    is_missed_in(Scope::MINT, Guard::DurableBeforeVisible, PLACE_ONCE);
}

#[test]
fn without_a_new_generation_a_restore_revives_the_ended() {
    is_missed(Guard::GenerationAfterRestore, ENDS_ARE_FINAL);
    is_missed(Guard::GenerationAfterRestore, DEAD_EVERYWHERE);
    is_missed(Guard::GenerationAfterRestore, PLACE_ONCE);
}
