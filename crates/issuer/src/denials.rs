//! Denials: kept, so that `explain` can tell their story (contract line 11).

use std::time::Duration;

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Audit, Decision, Denial, DenialId, Timestamp};
use taskmint_store::{Change, Commit};

use crate::refused::Refused;
use crate::{Issuer, Principal};

/// The reason for which a watcher is denied that was shown another history of the log (P15).
pub const OTHER_HISTORY: &str = "OTHER_HISTORY";

/// The story of a watcher that was shown another history is kept at most so often: all watchers of a
/// log that forked come at once, and one that lies comes again and again.
const BETWEEN_ALARMS: Duration = Duration::from_secs(1);

/// When such a story was last kept.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<Option<Timestamp>>);

impl Alarms {
    fn is_due(&self, now: Timestamp) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| now.since(last) >= BETWEEN_ALARMS || now < last);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

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

    /// Counts a watcher that was shown another history of the log (P15); whether its story is to be
    /// kept, or another one's was a moment ago.
    pub fn contradicted(&self) -> bool {
        self.watchers.contradicted();
        self.alarms.is_due(self.clock.now())
    }

    /// Keeps a denial that an agent gave, unless it is one story of a fork too many.
    ///
    /// # Errors
    /// When the store can't write.
    pub async fn take_denial(&self, denial: Denial) -> Result<(), Refused> {
        if denial.reason == OTHER_HISTORY && !self.contradicted() {
            return Ok(());
        }
        self.put_denial(denial).await
    }

    async fn put_denial(&self, denial: Denial) -> Result<(), Refused> {
        if denial.reason == OTHER_HISTORY {
            tracing::error!(
                watcher = denial.who,
                detail = ?denial.detail,
                "a watcher was shown another history of this log: does an old copy of the server run, or has \
                 somebody else its keys?"
            );
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
