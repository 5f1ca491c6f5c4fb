//! Denials: kept, so that `explain` can tell their story (contract line 11).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Audit, Decision, Denial, DenialId, Timestamp};
use taskmint_store::{Change, Commit};

use crate::refused::Refused;
use crate::{Issuer, Principal};

/// The reason for which a watcher is denied that was shown another history of the log (P15).
pub const OTHER_HISTORY: &str = "OTHER_HISTORY";

/// The story of a watcher that follows another history is kept at most so often: all watchers of a
/// log that forked come at once.
const BETWEEN_ALARMS: Duration = Duration::from_secs(1);

/// And that of the same watcher: one that lies comes again and again, and is not to hide the others.
const SAME: Duration = Duration::from_secs(60);

/// When such stories were kept.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<Timestamp>,
    /// Of the last minute, so a few dozen.
    by: HashMap<String, Timestamp>,
}

impl Alarms {
    fn is_due(&self, who: &str, now: Timestamp) -> bool {
        let Kept { last, by } = &mut *self.0.lock();
        // A clock may be set back.
        let is_recent = |at: Timestamp, within| at <= now && now.since(at) < within;
        by.retain(|_, at| is_recent(*at, SAME));
        if by.contains_key(who) || last.is_some_and(|last| is_recent(last, BETWEEN_ALARMS)) {
            return false;
        }
        *last = Some(now);
        by.insert(who.to_owned(), now);
        true
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

    /// Counts a watcher that follows another history of the log (P15); whether its story is to be
    /// kept, or that of another was a moment ago.
    pub fn contradicted(&self, who: &str) -> bool {
        self.watchers.contradicted();
        self.alarms.is_due(who, self.clock.now())
    }

    /// Keeps a denial that an agent gave, unless it is one story of a fork too many.
    ///
    /// # Errors
    /// When the store can't write.
    pub async fn take_denial(&self, denial: Denial) -> Result<(), Refused> {
        if denial.reason == OTHER_HISTORY {
            if !self.contradicted(&denial.who) {
                return Ok(());
            }
            tracing::error!(
                watcher = denial.who,
                detail = ?denial.detail,
                "an agent's watcher follows another history of this log: does an old copy of the server run?"
            );
        }
        self.put_denial(denial).await
    }

    async fn put_denial(&self, denial: Denial) -> Result<(), Refused> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_comes_again_and_again_hides_nobody() {
        let alarms = Alarms::default();
        let at = Timestamp::from_millis;
        assert!(alarms.is_due("liar", at(10_000)));
        assert!(!alarms.is_due("other", at(10_500)), "one a second");
        for tick in 11_000..12_000 {
            assert!(!alarms.is_due("liar", at(tick)));
        }
        assert!(alarms.is_due("other", at(12_000)));
        assert!(!alarms.is_due("liar", at(69_999)));
        assert!(alarms.is_due("liar", at(70_000)));
        assert!(alarms.is_due("liar", at(5_000)), "the clock was set back");
    }
}
