//! The hash chain of the audit log (P32): bytes that no store may choose for itself.

use sha2::{Digest, Sha256};
use taskmint_model::{Audit, Decision};

use crate::port::AuditLine;

/// Begins every audit record's bytes.
const TAG: &[u8; 16] = b"taskmint audt v1";

/// The hash before the first record.
pub const AUDIT_START: [u8; 32] = [0; 32];

/// The chain hash of an audit record: SHA-256 over the hash before it, its number and its fields.
///
/// Each text has its length before it (eight octets, big-endian), so that no two records have the
/// same bytes.
pub fn audit_hash(before: &[u8; 32], number: u64, audit: &Audit) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(TAG);
    hash.update(before);
    hash.update(number.to_be_bytes());
    hash.update(audit.at.millis().to_be_bytes());
    hash.update([match audit.decision {
        Decision::Allowed => 1,
        Decision::Denied => 2,
    }]);
    match audit.task {
        None => hash.update([0]),
        Some(task) => {
            hash.update([1]);
            hash.update(task.octets());
        }
    }
    for text in [
        &*audit.who,
        &*audit.owner,
        &*audit.action,
        &*audit.resource,
        &*audit.reason,
    ] {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

/// Checks that `lines` follow one another and `before`, the line that comes before the first.
///
/// # Errors
/// The number of the first line that does not follow.
pub fn check_audit(before: Option<(u64, [u8; 32])>, lines: &[AuditLine]) -> Result<(), u64> {
    let (mut number, mut hash) = before.unwrap_or((0, AUDIT_START));
    for line in lines {
        number += 1;
        hash = audit_hash(&hash, number, &line.audit);
        if line.number != number || line.hash != hash {
            return Err(line.number);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_model::Timestamp;

    fn audit(who: &str, owner: &str) -> Audit {
        Audit {
            at: Timestamp::from_secs(7),
            who: who.to_owned(),
            owner: owner.to_owned(),
            task: None,
            action: "task.begin".into(),
            resource: String::new(),
            decision: Decision::Allowed,
            reason: "".into(),
        }
    }

    fn lines() -> Vec<AuditLine> {
        let mut hash = AUDIT_START;
        (1..=3)
            .map(|number| {
                let audit = audit("uid:1", &number.to_string());
                hash = audit_hash(&hash, number, &audit);
                AuditLine {
                    number,
                    hash,
                    audit,
                }
            })
            .collect()
    }

    #[test]
    fn the_bytes_are_those_of_the_decision_note() {
        // Computed by hand from docs/decisions/0002-store-layout.md, with Python's hashlib.
        let task = taskmint_model::TaskId::from_octets([7; 16]);
        let full = Audit {
            task: Some(task),
            decision: Decision::Denied,
            resource: "entry 1".to_owned(),
            reason: "NO_ENTRY".into(),
            ..audit("uid:1", "ana")
        };
        let hash = audit_hash(&[1; 32], 2, &full);
        let hash: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(
            hash,
            "2bf8b38558b849b4dce49c7c9abceecb82c09e721ac8d69eb516da1c58b146b3"
        );
    }

    #[test]
    fn a_letter_moved_between_fields_changes_the_hash() {
        let one = audit_hash(&AUDIT_START, 1, &audit("ab", "c"));
        assert_ne!(one, audit_hash(&AUDIT_START, 1, &audit("a", "bc")));
        assert_ne!(one, audit_hash(&AUDIT_START, 2, &audit("ab", "c")));
    }

    #[test]
    fn an_edited_or_missing_line_is_noticed() {
        assert_eq!(check_audit(None, &lines()), Ok(()));
        let mut edited = lines();
        edited[1].audit.owner = "another".to_owned();
        assert_eq!(check_audit(None, &edited), Err(2));
        let mut short = lines();
        short.remove(0);
        assert_eq!(check_audit(None, &short), Err(2));
        let first = lines()[0].clone();
        assert_eq!(
            check_audit(Some((first.number, first.hash)), &short),
            Ok(())
        );
    }
}
