//! Answers out of what the issuer keeps: no lookups, no decisions.

use taskmint_issuer::AuthorityView;
use taskmint_model::{
    Bar, CredentialKind, Decision, Issuance, JoinToken, Node, NodeState, Timestamp,
};
use taskmint_store::{AuditLine, AuthorityState, KeyUse};
use taskmint_wire::admin;

pub(super) fn node(node: &Node, connected: bool, live_tasks: u64) -> admin::Node {
    admin::Node {
        id: node.id.to_string(),
        attestor: node.attestor.clone(),
        selectors: node.selectors.iter().map(ToString::to_string).collect(),
        state: match node.state {
            NodeState::Active => "active",
            NodeState::Suspended => "suspended",
            NodeState::Evicted => "evicted",
            NodeState::Banned => "banned",
        }
        .to_owned(),
        task_id: node.current.task.to_string(),
        serial: hex::encode(node.current.serial),
        svid_expires_at_ms: node.current.expires_at.millis(),
        attested_at_ms: node.attested_at.millis(),
        seen_at_ms: node.seen_at.millis(),
        connected,
        live_tasks,
    }
}

pub(super) fn token(token: JoinToken) -> admin::Token {
    admin::Token {
        id: hex::encode(token.hash.split_at(16).0),
        node: token.node,
        selectors: token.selectors.iter().map(ToString::to_string).collect(),
        expires_at_ms: token.expires_at.millis(),
        consumed: token.consumed_by.is_some(),
        created_by: token.created_by,
    }
}

pub(super) fn bar(bar: &Bar) -> admin::Bar {
    admin::Bar {
        entry_id: bar.entry.to_string(),
        node_id: bar.node.to_string(),
        process: bar.process.to_string(),
        task_id: bar.task.to_string(),
        at_ms: bar.at.millis(),
    }
}

pub(super) fn audit_line(line: AuditLine) -> admin::AuditLine {
    let audit = line.audit;
    admin::AuditLine {
        number: line.number,
        hash: line.hash.to_vec(),
        at_ms: audit.at.millis(),
        who: audit.who,
        owner: audit.owner,
        task_id: audit.task.map(|task| task.to_string()).unwrap_or_default(),
        action: audit.action.into_owned(),
        resource: audit.resource,
        decision: match audit.decision {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
        }
        .to_owned(),
        reason: audit.reason.into_owned(),
    }
}

pub(super) fn authority(view: &AuthorityView) -> admin::Authority {
    let record = &view.record;
    let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::millis);
    admin::Authority {
        id: record.id.to_string(),
        r#use: match record.usage {
            KeyUse::Ca => "ca",
            KeyUse::Jwt => "jwt",
            KeyUse::Log => "log",
            KeyUse::Grant => "grant",
        }
        .to_owned(),
        state: match record.state {
            AuthorityState::Prepared => "prepared",
            AuthorityState::Active => "active",
            AuthorityState::Retired => "retired",
        }
        .to_owned(),
        key_id: record.key_id.clone(),
        created_at_ms: record.created_at.millis(),
        activated_at_ms: millis(record.activated_at),
        retired_at_ms: millis(record.retired_at),
        expires_at_ms: record.expires_at.millis(),
        needed_until_ms: millis(view.needed_until),
    }
}

pub(super) fn issuance(issuance: &Issuance) -> admin::Issuance {
    admin::Issuance {
        kind: match issuance.kind {
            CredentialKind::X509Svid => "x509",
            CredentialKind::JwtSvid => "jwt",
        }
        .to_owned(),
        serial: issuance.serial.to_vec(),
        bucket: issuance.place.bucket(),
        at_ms: issuance.at.millis(),
        expires_at_ms: issuance.expires_at.millis(),
        authority_id: issuance.authority.to_string(),
    }
}
