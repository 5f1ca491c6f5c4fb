//! Requests, denials and audit records.

use taskmint_model::{Audit, Decision, Denial};
use taskmint_store::{AuditLine, RequestKey, RequestRecord};

use super::{
    Bad, Read, array, at, id, octets, pb, process, selectors, spiffe_id, to_process, to_selectors,
};

impl From<&RequestRecord> for pb::Request {
    fn from(request: &RequestRecord) -> Self {
        Self {
            via: request.key.via.clone(),
            process: request.key.process.as_ref().map(to_process),
            method: request.key.method.clone(),
            id: request.key.id.to_vec(),
            digest: request.digest.to_vec(),
            task: octets(request.task),
            bucket: request.bucket,
        }
    }
}

impl TryFrom<pb::Request> for RequestRecord {
    type Error = Bad;
    fn try_from(record: pb::Request) -> Read<Self> {
        let key = RequestKey {
            via: record.via,
            process: record.process.map(process).transpose()?,
            method: record.method,
            id: array(&record.id, "request id")?,
        };
        let digest = array(&record.digest, "digest")?;
        Ok(Self {
            key,
            digest,
            task: id(&record.task)?,
            bucket: record.bucket,
        })
    }
}

impl From<&Denial> for pb::Denial {
    fn from(denial: &Denial) -> Self {
        Self {
            id: octets(denial.id),
            at: denial.at.millis(),
            node: denial.node.as_ref().map(ToString::to_string),
            who: denial.who.clone(),
            action: denial.action.clone(),
            reason: denial.reason.clone(),
            message: denial.message.clone(),
            fix: denial.fix.clone(),
            selectors: Some(to_selectors(&denial.selectors)),
            detail: denial.detail.clone(),
        }
    }
}

impl TryFrom<pb::Denial> for Denial {
    type Error = Bad;
    fn try_from(record: pb::Denial) -> Read<Self> {
        Ok(Self {
            id: id(&record.id)?,
            at: at(record.at),
            node: record.node.as_deref().map(spiffe_id).transpose()?,
            who: record.who,
            action: record.action,
            reason: record.reason,
            message: record.message,
            fix: record.fix,
            selectors: selectors(record.selectors)?,
            detail: record.detail,
        })
    }
}

impl From<&AuditLine> for pb::Audit {
    fn from(line: &AuditLine) -> Self {
        let audit = &line.audit;
        let decision = match audit.decision {
            Decision::Allowed => pb::Decision::Allowed,
            Decision::Denied => pb::Decision::Denied,
        };
        Self {
            number: line.number,
            hash: line.hash.to_vec(),
            at: audit.at.millis(),
            who: audit.who.clone(),
            owner: audit.owner.clone(),
            task: audit.task.map(octets),
            action: audit.action.to_string(),
            resource: audit.resource.clone(),
            decision: decision.into(),
            reason: audit.reason.to_string(),
        }
    }
}

impl TryFrom<pb::Audit> for AuditLine {
    type Error = Bad;
    fn try_from(record: pb::Audit) -> Read<Self> {
        let decision = match record.decision() {
            pb::Decision::Unspecified => return Err(Bad("decision")),
            pb::Decision::Allowed => Decision::Allowed,
            pb::Decision::Denied => Decision::Denied,
        };
        let audit = Audit {
            at: at(record.at),
            who: record.who,
            owner: record.owner,
            task: record.task.as_deref().map(id).transpose()?,
            action: record.action.into(),
            resource: record.resource,
            decision,
            reason: record.reason.into(),
        };
        Ok(Self {
            number: record.number,
            hash: array(&record.hash, "hash")?,
            audit,
        })
    }
}
