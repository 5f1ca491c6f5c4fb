//! The audit log (P32).

use clap::Subcommand;
use taskmint_client::Admin;
use taskmint_model::{Audit, Decision, Timestamp};
use taskmint_store::{AuditLine, check_audit};
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Record};

/// Lines of one call.
const PAGE: u32 = 1000;

/// `taskmint audit`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List lines, oldest first.
    List {
        /// Number of the first line.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Recompute the hash chain over the whole log. Compare the last hash with one noted earlier:
    /// a server that rewrote everything can only be told by that.
    Verify,
}

const COLUMNS: &[Column] = &[
    ("NUMBER", "number"),
    ("AT", "at"),
    ("WHO", "who"),
    ("ACTION", "action"),
    ("RESOURCE", "resource"),
    ("DECISION", "decision"),
    ("REASON", "reason"),
    ("TASK", "task_id"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        match self {
            Self::List { from, limit } => {
                let mut records = Vec::new();
                let (mut from, mut left) = (from.max(1), limit);
                while left > 0 {
                    let page = page(&mut admin, from, left.min(PAGE)).await?;
                    let Some(last) = page.last() else { break };
                    from = last.number + 1;
                    left = left.saturating_sub(u32::try_from(page.len()).unwrap_or(u32::MAX));
                    records.extend(page.iter().map(record));
                }
                context.out.list(COLUMNS, &records)
            }
            Self::Verify => {
                let verified = verify(&mut admin).await?;
                context.out.one(&verified)
            }
        }
    }
}

async fn page(admin: &mut Admin, from: u64, size: u32) -> Result<Vec<admin::AuditLine>, Failure> {
    let request = admin::ListAuditRequest {
        from,
        page_size: size,
        ..Default::default()
    };
    Ok(admin.list_audit(request).await?.into_inner().lines)
}

async fn verify(admin: &mut Admin) -> Result<Record, Failure> {
    let mut before = None;
    loop {
        let from = before.map_or(1, |(number, _)| number + 1);
        let lines = page(admin, from, PAGE).await?;
        if lines.is_empty() {
            break;
        }
        let lines: Vec<_> = lines.iter().map(line).collect::<Result<_, _>>()?;
        check_audit(before, &lines).map_err(broken)?;
        before = lines.last().map(|line| (line.number, line.hash));
    }
    let (lines, hash) = before.unwrap_or((0, taskmint_store::AUDIT_START));
    Ok(Record::new()
        .flag("verified", true)
        .number("lines", lines)
        .octets("hash", hash))
}

fn broken(number: u64) -> Failure {
    Failure::Refused {
        reason: "AUDIT_CHAIN_BROKEN".to_owned(),
        message: format!("line {number} of the audit log does not follow the line before it"),
    }
}

/// A line as it was hashed.
fn line(line: &admin::AuditLine) -> Result<AuditLine, Failure> {
    let broken = || broken(line.number);
    let task = match line.task_id.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|_| broken())?),
    };
    let decision = match line.decision.as_str() {
        "allowed" => Decision::Allowed,
        "denied" => Decision::Denied,
        _ => return Err(broken()),
    };
    Ok(AuditLine {
        number: line.number,
        hash: line.hash.as_slice().try_into().map_err(|_| broken())?,
        audit: Audit {
            at: Timestamp::from_millis(line.at_ms),
            who: line.who.clone(),
            owner: line.owner.clone(),
            task,
            action: line.action.clone().into(),
            resource: line.resource.clone(),
            decision,
            reason: line.reason.clone().into(),
        },
    })
}

fn record(line: &admin::AuditLine) -> Record {
    Record::new()
        .number("number", line.number)
        .instant("at", line.at_ms)
        .text("who", &line.who)
        .text("owner", &line.owner)
        .text("task_id", &line.task_id)
        .text("action", &line.action)
        .text("resource", &line.resource)
        .text("decision", &line.decision)
        .text("reason", &line.reason)
        .octets("hash", line.hash.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_store::{AUDIT_START, audit_hash};

    fn wire(number: u64) -> admin::AuditLine {
        admin::AuditLine {
            number,
            at_ms: 1_000 * number,
            who: "uid:0".to_owned(),
            task_id: "0198c0de-0000-7000-8000-000000000000".to_owned(),
            action: "task.begin".to_owned(),
            decision: "allowed".to_owned(),
            hash: vec![0; 32],
            ..Default::default()
        }
    }

    #[test]
    fn a_chain_over_the_wire_is_the_chain_that_was_stored() {
        let mut lines = vec![wire(1), wire(2)];
        let mut hash = AUDIT_START;
        for wire in &mut lines {
            hash = audit_hash(&hash, wire.number, &line(wire).unwrap().audit);
            wire.hash = hash.to_vec();
        }
        let read = |lines: &[admin::AuditLine]| -> Vec<AuditLine> {
            lines.iter().map(|wire| line(wire).unwrap()).collect()
        };
        assert_eq!(check_audit(None, &read(&lines)), Ok(()));
        lines[0].who = "uid:1".to_owned();
        assert_eq!(check_audit(None, &read(&lines)), Err(1));
    }

    #[test]
    fn a_line_has_its_shape() {
        let json = record(&wire(3)).json();
        assert_eq!(
            (&json["number"], &json["who"]),
            (&3.into(), &"uid:0".into())
        );
        assert_eq!(json["at"], "1970-01-01T00:00:03Z");
        assert_eq!(json["hash"].as_str().unwrap().len(), 64);
    }
}
