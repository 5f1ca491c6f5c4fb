//! What the revocation log says of a token's task, once this agent follows it.

use std::sync::{Arc, OnceLock};

use taskmint_status::TaskBinding;
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_verifier::{Policy, Refused, StatusCheck};

use crate::agent::Agent;
use crate::relay;

/// The agent's own watch; until there is one, nothing is known of any task, and that is a no.
#[derive(Default)]
pub(crate) struct Status(OnceLock<Watch>);

impl Agent {
    /// Follows the revocation log, by the relay that verifiers of this node use too: once there is
    /// a session, and a log to follow.
    pub(crate) fn follow_log(&self) {
        let identity = self.identity.load_full();
        let (Some(identity), Some(_)) = (identity, self.watch_address.load_full()) else {
            return;
        };
        if self.status.0.get().is_some() {
            return;
        }
        let source = Source::Relay(self.sockets.revocation.clone());
        let name = relay::name(&identity);
        let mut options = Options::new(identity.trust_domain().clone(), source, name);
        options.drift_allowance = self.drift_allowance;
        let (trust, entropy) = (self.trust.clone(), Arc::clone(&self.entropy));
        match Watch::start(options, trust, Arc::new(SystemClocks), entropy) {
            // Two sessions at once there are not; if there were, one watch would be enough.
            Ok(watch) => drop(self.status.0.set(watch)),
            Err(error) => tracing::error!(%error, "the revocation log can't be followed"),
        }
    }
}

impl StatusCheck for Status {
    fn check(&self, binding: &TaskBinding) -> Result<(), Refused> {
        match self.0.get() {
            Some(watch) => watch.check(binding),
            None => Err(Refused::unavailable(
                "STATUS_UNKNOWN",
                "the agent does not follow the revocation log yet",
            )),
        }
    }

    fn policy(&self) -> Policy {
        self.0.get().map_or(Policy::Everyone, StatusCheck::policy)
    }
}
