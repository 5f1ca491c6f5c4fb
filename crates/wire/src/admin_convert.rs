//! Entries, nodes, denials and audit lines between model and wire.

use std::collections::BTreeSet;
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_model::{
    Authority, Denial, Entry, EntryId, EntryTtls, KeyType, NodeMatch, Selector, Selectors,
    Timestamp,
};

use crate::task_convert::BadField;
use crate::{admin, node};

fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, taskmint_model::millis)
}

fn duration(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// Reads selectors, bounded in number.
///
/// # Errors
/// Names the first ill-formed one, or says that there are too many.
pub fn selectors_from_wire(field: &'static str, items: &[String]) -> Result<Selectors, BadField> {
    if items.len() > 256 {
        return Err(BadField::new(field, "at most 256 selectors are accepted"));
    }
    items
        .iter()
        .map(|s| s.parse::<Selector>().map_err(|e| BadField::new(field, e)))
        .collect()
}

/// An entry for people and tools.
pub fn entry_to_wire(entry: &Entry) -> admin::Entry {
    let (parent_id, parent_selectors) = match &entry.parent {
        NodeMatch::Node(id) => (id.to_string(), Vec::new()),
        NodeMatch::Selectors(selectors) => (String::new(), texts(selectors)),
    };
    admin::Entry {
        id: entry.id.to_string(),
        revision: entry.revision,
        parent_id,
        parent_selectors,
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: texts(&entry.selectors),
        x509_ttl_ms: millis(entry.ttls.x509),
        jwt_ttl_ms: millis(entry.ttls.jwt),
        key_type: match entry.key_type {
            KeyType::EcP256 => "ec-p256".to_owned(),
        },
        dns_names: entry.dns_names.clone(),
        hint: entry.hint.clone(),
        federates_with: texts(&entry.federates_with),
        downstream: entry.downstream,
        owner: entry.owner.clone(),
        class: entry.class.clone(),
        scopes: entry.authority.scopes.iter().cloned().collect(),
        audiences: entry.authority.audiences.iter().cloned().collect(),
        implicit: entry.implicit,
        descendants: entry.descendants,
        watch: entry.watch,
        crl: entry.crl,
        max_limit_ms: millis(entry.max_limit),
        max_children: entry.max_children,
        max_depth: entry.max_depth.into(),
        expires_at_ms: entry.expires_at.map_or(0, Timestamp::millis),
        labels: entry.labels.clone().into_iter().collect(),
        created_by: entry.created_by.clone(),
        created_at_ms: entry.created_at.millis(),
    }
}

/// Reads an entry as somebody asks for it; id, revision, creator and time are the issuer's.
///
/// # Errors
/// Names the first field that can't be what it says.
pub fn entry_from_wire(entry: &admin::Entry, id: EntryId) -> Result<Entry, BadField> {
    let parent = if entry.parent_id.is_empty() {
        NodeMatch::Selectors(selectors_from_wire(
            "parent_selectors",
            &entry.parent_selectors,
        )?)
    } else if entry.parent_selectors.is_empty() {
        let id: SpiffeId = entry
            .parent_id
            .parse()
            .map_err(|e| BadField::new("parent_id", e))?;
        NodeMatch::Node(id)
    } else {
        let why = "give either a parent id or parent selectors, not both";
        return Err(BadField::new("parent_id", why));
    };
    let key_type = match entry.key_type.as_str() {
        "" | "ec-p256" => KeyType::EcP256,
        other => {
            let why = format!("`{other}` is not supported: only ec-p256 is");
            return Err(BadField::new("key_type", why));
        }
    };
    let federates_with: Result<BTreeSet<_>, _> =
        entry.federates_with.iter().map(|td| td.parse()).collect();
    Ok(Entry {
        id,
        revision: entry.revision,
        parent,
        spiffe_id: entry
            .spiffe_id
            .parse()
            .map_err(|e| BadField::new("spiffe_id", e))?,
        selectors: selectors_from_wire("selectors", &entry.selectors)?,
        ttls: EntryTtls {
            x509: duration(entry.x509_ttl_ms),
            jwt: duration(entry.jwt_ttl_ms),
        },
        key_type,
        dns_names: entry.dns_names.clone(),
        hint: entry.hint.clone(),
        federates_with: federates_with.map_err(|e| BadField::new("federates_with", e))?,
        downstream: entry.downstream,
        owner: entry.owner.clone(),
        class: entry.class.clone(),
        authority: Authority {
            scopes: entry.scopes.iter().cloned().collect(),
            audiences: entry.audiences.iter().cloned().collect(),
        },
        implicit: entry.implicit,
        descendants: entry.descendants,
        watch: entry.watch,
        crl: entry.crl,
        max_limit: duration(entry.max_limit_ms),
        max_children: entry.max_children,
        max_depth: u8::try_from(entry.max_depth).map_err(|e| BadField::new("max_depth", e))?,
        expires_at: (entry.expires_at_ms > 0).then(|| Timestamp::from_millis(entry.expires_at_ms)),
        labels: entry.labels.clone().into_iter().collect(),
        created_by: entry.created_by.clone(),
        created_at: Timestamp::from_millis(entry.created_at_ms),
    })
}

/// What an agent needs to know of an entry.
pub fn entry_to_agent(entry: &Entry) -> node::Entry {
    node::Entry {
        id: entry.id.to_string(),
        revision: entry.revision,
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: texts(&entry.selectors),
        hint: entry.hint.clone(),
        implicit: entry.implicit,
        descendants: entry.descendants,
        watch: entry.watch,
        crl: entry.crl,
        expires_at_ms: entry.expires_at.map_or(0, Timestamp::millis),
        x509_ttl_ms: millis(entry.ttls.x509),
        scopes: entry.authority.scopes.iter().cloned().collect(),
        audiences: entry.authority.audiences.iter().cloned().collect(),
        created_at_ms: entry.created_at.millis(),
    }
}

impl From<&Denial> for admin::Denial {
    fn from(denial: &Denial) -> Self {
        Self {
            id: denial.id.to_string(),
            at_ms: denial.at.millis(),
            node_id: denial
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            who: denial.who.clone(),
            action: denial.action.clone(),
            reason: denial.reason.clone(),
            message: denial.message.clone(),
            fix: denial.fix.clone(),
            selectors: texts(&denial.selectors),
            detail: denial.detail.clone(),
        }
    }
}
