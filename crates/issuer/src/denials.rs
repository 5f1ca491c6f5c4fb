//! Denials: kept, so that `explain` can tell their story (contract line 11).

use taskmint_id::SpiffeId;
use taskmint_model::{Audit, Decision, Denial, DenialId};
use taskmint_store::{Change, Commit};

use crate::refused::Refused;
use crate::{Issuer, Principal};

/// The reason for which a watcher is denied that was shown another history of the log (P15).
pub const OTHER_HISTORY: &str = "OTHER_HISTORY";

impl Issuer {
    /// Keeps a refusal and gives it an id. If the store can't keep it, the refusal stands all the
    /// same, without one.
    pub async fn keep_denial(
        &self,
        who: &Principal,
        node: Option<&SpiffeId>,
        action: &str,
        mut refused: Refused,
    ) -> Refused {
        let now = self.clock.now();
        let id = DenialId::new(now, &*self.entropy);
        let denial = Denial {
            id,
            at: now,
            node: node.cloned(),
            who: who.to_string(),
            action: action.to_owned(),
            reason: refused.reason.to_owned(),
            message: refused.message.clone(),
            fix: refused.fix.clone(),
            selectors: refused.facts.clone(),
            detail: refused.detail.clone(),
        };
        if self.put_denial(denial).await.is_ok() {
            refused.id = Some(id);
        }
        refused
    }

    /// Keeps a denial that an agent gave.
    ///
    /// # Errors
    /// When the store can't write.
    pub async fn put_denial(&self, denial: Denial) -> Result<(), Refused> {
        if denial.reason == OTHER_HISTORY {
            self.watchers.contradicted();
        }
        tracing::warn!(
            id = %denial.id,
            reason = denial.reason,
            who = denial.who,
            action = denial.action,
            "denied: {}",
            denial.message
        );
        let audit = Audit {
            at: denial.at,
            who: denial.who.clone(),
            owner: String::new(),
            task: None,
            action: denial.action.clone().into(),
            resource: denial.id.to_string(),
            decision: Decision::Denied,
            reason: denial.reason.clone().into(),
        };
        let changes = vec![Change::PutDenial(Box::new(denial)), Change::Audit(audit)];
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        Ok(())
    }
}
