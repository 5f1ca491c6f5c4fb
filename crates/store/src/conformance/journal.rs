//! What was done and what was refused.

use std::sync::Arc;

use taskmint_model::{Audit, Decision};

use super::{RETENTION, sample};
use crate::{Change, Commit, Store, check_audit};

/// Audit records are numbered from 1 and each hash covers all before it (P32).
pub async fn audit_records_are_chained<S: Store>(store: &Arc<S>) {
    let mut audits = Vec::new();
    for number in 0..10 {
        let mut audit = sample::audit(&format!("task.{number}"));
        if number % 2 == 1 {
            audit = Audit {
                task: None,
                decision: Decision::Denied,
                reason: "NO_ENTRY".into(),
                owner: String::new(),
                ..audit
            };
        }
        audits.push(audit);
    }
    for pair in audits.chunks(2) {
        let changes = pair.iter().cloned().map(Change::Audit).collect();
        store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await
            .unwrap();
    }
    let lines = store.audit(1, 100).await.unwrap();
    assert_eq!(
        lines
            .iter()
            .map(|line| line.audit.clone())
            .collect::<Vec<_>>(),
        audits
    );
    assert_eq!(check_audit(None, &lines), Ok(()));
    assert_eq!(store.audit(4, 3).await.unwrap(), lines[3..6]);
    assert_eq!(store.audit(0, 1).await.unwrap(), lines[..1]);
    assert_eq!(store.audit(11, 9).await.unwrap(), []);
    assert_eq!(check_audit(Some((3, lines[2].hash)), &lines[3..]), Ok(()));
}

/// The newest denials come first; past the bound the oldest are gone, by id too.
pub async fn the_newest_denials_are_kept<S: Store>(store: &Arc<S>) {
    let kept = RETENTION.denials;
    let denials: Vec<_> = (1..=kept + 5).map(sample::denial).collect();
    for pair in denials.chunks(3) {
        let changes = pair
            .iter()
            .map(|denial| Change::PutDenial(Box::new(denial.clone())));
        let changes = changes.collect();
        store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await
            .unwrap();
    }
    let newest: Vec<_> = denials[5..].iter().rev().cloned().collect();
    assert_eq!(store.denials(100).await.unwrap(), newest);
    assert_eq!(store.denials(2).await.unwrap(), newest[..2]);
    for (at, denial) in denials.iter().enumerate() {
        let found = store.denial(denial.id).await.unwrap();
        assert_eq!(found.as_ref(), (at >= 5).then_some(denial), "denial {at}");
    }
}
