//! The searches, and the real watcher beside the model.

mod guards;
mod real;
mod replay;
mod walk;

use stateright::{Checker as _, HasDiscoveries, Model as _, Path};

use crate::{Action, Guard, Guards, Scope, Search, Tick, World};

/// A number from the environment: `tests/run --full` asks for more than `cargo test` does.
fn setting<N: std::str::FromStr>(name: &str, otherwise: N) -> N {
    match std::env::var(name) {
        Ok(value) => value.parse().ok().unwrap_or_else(|| panic!("{name}")),
        Err(_) => otherwise,
    }
}

/// How many instants longer than usual a search is.
fn ticks() -> Tick {
    setting("TASKMINT_MODEL_TICKS", 0)
}

/// The shortest way to break a property where a guard is missing, if there is one.
fn counterexample(
    guard: Guard,
    scope: Scope,
    property: &'static str,
) -> Option<Path<World, Action>> {
    let guards = Guards::without(guard);
    shortest(Search { scope, guards }, property)
}

fn shortest(search: Search, property: &'static str) -> Option<Path<World, Action>> {
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = search.checker().finish_when(wanted).spawn_bfs().join();
    checker.discovery(property)
}
