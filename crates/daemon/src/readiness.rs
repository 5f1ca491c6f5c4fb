//! What must hold before a process says that it is ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Named conditions; ready when there is at least one and all are met, until the stop begins.
///
/// Register every condition before the first is met, or readiness shows too early.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    conditions: BTreeMap<&'static str, bool>,
    stopping: bool,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.stopping && !self.conditions.is_empty() && self.conditions.values().all(|met| *met)
    }
}

impl Readiness {
    /// No conditions yet, so not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, not met yet. The same name twice is the same condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.state.send_modify(|state| {
            state.conditions.entry(name).or_insert(false);
        });
        Condition {
            name,
            state: Arc::clone(&self.state),
        }
    }

    /// Whether all conditions are met.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// The names of the conditions that are not met; `stopping` once the stop has begun.
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.state.borrow();
        if state.stopping {
            return vec!["stopping"];
        }
        if state.conditions.is_empty() {
            return vec!["starting"];
        }
        state
            .conditions
            .iter()
            .filter(|(_, met)| !**met)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Returns once ready.
    pub async fn ready(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so this ends only when ready.
        drop(state.wait_for(State::is_ready).await);
    }

    /// Says no from now on, whatever the conditions say.
    pub fn stop(&self) {
        self.state.send_modify(|state| state.stopping = true);
    }
}

/// One thing that must hold. See [`Readiness::condition`].
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    state: Arc<watch::Sender<State>>,
}

impl Condition {
    /// Says whether it holds.
    pub fn set(&self, met: bool) {
        self.state
            .send_if_modified(|state| state.conditions.insert(self.name, met) != Some(met));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_when_every_condition_is_met() {
        let readiness = Readiness::new();
        assert_eq!(readiness.missing(), ["starting"]);
        let (store, signer) = (readiness.condition("store"), readiness.condition("signer"));
        store.set(true);
        assert_eq!(readiness.missing(), ["signer"]);
        assert!(!readiness.is_ready());
        signer.set(true);
        readiness.ready().await;
        assert!(readiness.missing().is_empty());
        store.set(false);
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_stopping_process_is_never_ready() {
        let readiness = Readiness::new();
        let condition = readiness.condition("store");
        readiness.stop();
        condition.set(true);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.missing(), ["stopping"]);
    }
}
