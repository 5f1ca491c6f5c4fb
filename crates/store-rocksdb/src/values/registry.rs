//! Entries, nodes, tokens, bars and authorities.

use std::time::Duration;

use taskmint_id::TrustDomain;
use taskmint_model::millis;
use taskmint_model::{
    Bar, Entry, EntryTtls, JoinToken, KeyType, Node, NodeMatch, NodeState, NodeSvid,
};
use taskmint_store::{AuthorityRecord, AuthorityState, KeyUse};

use super::{
    Bad, Read, array, at, id, octets, pb, process, selectors, spiffe_id, to_process, to_selectors,
};

impl From<&Entry> for pb::Entry {
    fn from(entry: &Entry) -> Self {
        let parent = match &entry.parent {
            NodeMatch::Node(id) => pb::entry::Parent::ParentNode(id.to_string()),
            NodeMatch::Selectors(of) => pb::entry::Parent::ParentSelectors(to_selectors(of)),
        };
        let key_type = match entry.key_type {
            KeyType::EcP256 => pb::KeyType::EcP256,
        };
        Self {
            id: octets(entry.id),
            revision: entry.revision,
            parent: Some(parent),
            spiffe_id: entry.spiffe_id.to_string(),
            selectors: Some(to_selectors(&entry.selectors)),
            x509_ttl: entry.ttls.x509.map(millis),
            jwt_ttl: entry.ttls.jwt.map(millis),
            key_type: key_type.into(),
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            federates_with: entry
                .federates_with
                .iter()
                .map(|td| td.as_str().to_owned())
                .collect(),
            downstream: entry.downstream,
            owner: entry.owner.clone(),
            class: entry.class.clone(),
            authority: Some((&entry.authority).into()),
            implicit: entry.implicit,
            descendants: entry.descendants,
            watch: entry.watch,
            crl: entry.crl,
            max_limit: entry.max_limit.map(millis),
            max_children: entry.max_children,
            max_depth: entry.max_depth.into(),
            expires_at: entry.expires_at.map(|at| at.millis()),
            labels: entry.labels.clone(),
            created_by: entry.created_by.clone(),
            created_at: entry.created_at.millis(),
        }
    }
}

impl TryFrom<pb::Entry> for Entry {
    type Error = Bad;
    fn try_from(record: pb::Entry) -> Read<Self> {
        let key_type = record.key_type();
        let federates_with = record.federates_with.iter();
        let federates_with =
            federates_with.map(|name| TrustDomain::parse(name).map_err(|_| Bad("trust domain")));
        Ok(Self {
            id: id(&record.id)?,
            revision: record.revision,
            parent: match record.parent.ok_or(Bad("no parent"))? {
                pb::entry::Parent::ParentNode(id) => NodeMatch::Node(spiffe_id(&id)?),
                pb::entry::Parent::ParentSelectors(of) => {
                    NodeMatch::Selectors(selectors(Some(of))?)
                }
            },
            spiffe_id: spiffe_id(&record.spiffe_id)?,
            selectors: selectors(record.selectors)?,
            ttls: EntryTtls {
                x509: record.x509_ttl.map(Duration::from_millis),
                jwt: record.jwt_ttl.map(Duration::from_millis),
            },
            key_type: match key_type {
                pb::KeyType::Unspecified => return Err(Bad("key type")),
                pb::KeyType::EcP256 => KeyType::EcP256,
            },
            dns_names: record.dns_names,
            hint: record.hint,
            federates_with: federates_with.collect::<Read<_>>()?,
            downstream: record.downstream,
            owner: record.owner,
            class: record.class,
            authority: record.authority.unwrap_or_default().into(),
            implicit: record.implicit,
            descendants: record.descendants,
            watch: record.watch,
            crl: record.crl,
            max_limit: record.max_limit.map(Duration::from_millis),
            max_children: record.max_children,
            max_depth: record.max_depth.try_into().map_err(|_| Bad("depth"))?,
            expires_at: record.expires_at.map(at),
            labels: record.labels,
            created_by: record.created_by,
            created_at: at(record.created_at),
        })
    }
}

impl From<&Node> for pb::Node {
    fn from(node: &Node) -> Self {
        let state = match node.state {
            NodeState::Active => pb::NodeState::Active,
            NodeState::Suspended => pb::NodeState::Suspended,
            NodeState::Evicted => pb::NodeState::Evicted,
            NodeState::Banned => pb::NodeState::Banned,
        };
        Self {
            id: node.id.to_string(),
            version: node.version,
            attestor: node.attestor.clone(),
            selectors: Some(to_selectors(&node.selectors)),
            key_hash: node.key_hash.to_vec(),
            state: state.into(),
            current: Some((&node.current).into()),
            pending: node.pending.as_ref().map(Into::into),
            attested_at: node.attested_at.millis(),
            seen_at: node.seen_at.millis(),
        }
    }
}

impl TryFrom<pb::Node> for Node {
    type Error = Bad;
    fn try_from(record: pb::Node) -> Read<Self> {
        Ok(Self {
            state: match record.state() {
                pb::NodeState::Unspecified => return Err(Bad("node state")),
                pb::NodeState::Active => NodeState::Active,
                pb::NodeState::Suspended => NodeState::Suspended,
                pb::NodeState::Evicted => NodeState::Evicted,
                pb::NodeState::Banned => NodeState::Banned,
            },
            id: spiffe_id(&record.id)?,
            version: record.version,
            attestor: record.attestor,
            selectors: selectors(record.selectors)?,
            key_hash: array(&record.key_hash, "key hash")?,
            current: record.current.ok_or(Bad("no svid"))?.try_into()?,
            pending: record.pending.map(TryInto::try_into).transpose()?,
            attested_at: at(record.attested_at),
            seen_at: at(record.seen_at),
        })
    }
}

impl From<&NodeSvid> for pb::NodeSvid {
    fn from(svid: &NodeSvid) -> Self {
        Self {
            task: octets(svid.task),
            serial: svid.serial.to_vec(),
            expires_at: svid.expires_at.millis(),
            certificate: svid.certificate.clone(),
            request: svid.request.map(|id| id.to_vec()),
        }
    }
}

impl TryFrom<pb::NodeSvid> for NodeSvid {
    type Error = Bad;
    fn try_from(record: pb::NodeSvid) -> Read<Self> {
        let request = record.request.as_deref();
        Ok(Self {
            task: id(&record.task)?,
            serial: array(&record.serial, "serial")?,
            expires_at: at(record.expires_at),
            request: request.map(|id| array(id, "request id")).transpose()?,
            certificate: record.certificate,
        })
    }
}

impl From<&JoinToken> for pb::JoinToken {
    fn from(token: &JoinToken) -> Self {
        Self {
            hash: token.hash.to_vec(),
            node: token.node.clone(),
            selectors: Some(to_selectors(&token.selectors)),
            expires_at: token.expires_at.millis(),
            consumed_by: token.consumed_by.map(|key| key.to_vec()),
            created_by: token.created_by.clone(),
            created_at: token.created_at.millis(),
        }
    }
}

impl TryFrom<pb::JoinToken> for JoinToken {
    type Error = Bad;
    fn try_from(record: pb::JoinToken) -> Read<Self> {
        let consumed_by = record.consumed_by.as_deref();
        Ok(Self {
            hash: array(&record.hash, "hash")?,
            node: record.node,
            selectors: selectors(record.selectors)?,
            expires_at: at(record.expires_at),
            consumed_by: consumed_by.map(|key| array(key, "key hash")).transpose()?,
            created_by: record.created_by,
            created_at: at(record.created_at),
        })
    }
}

impl From<&Bar> for pb::Bar {
    fn from(bar: &Bar) -> Self {
        Self {
            entry: octets(bar.entry),
            node: bar.node.to_string(),
            process: Some(to_process(&bar.process)),
            task: octets(bar.task),
            at: bar.at.millis(),
        }
    }
}

impl TryFrom<pb::Bar> for Bar {
    type Error = Bad;
    fn try_from(record: pb::Bar) -> Read<Self> {
        Ok(Self {
            entry: id(&record.entry)?,
            node: spiffe_id(&record.node)?,
            process: process(record.process.ok_or(Bad("no process"))?)?,
            task: id(&record.task)?,
            at: at(record.at),
        })
    }
}

impl From<&AuthorityRecord> for pb::AuthorityKey {
    fn from(record: &AuthorityRecord) -> Self {
        let usage = match record.usage {
            KeyUse::Ca => pb::KeyUse::Ca,
            KeyUse::Jwt => pb::KeyUse::Jwt,
            KeyUse::Log => pb::KeyUse::Log,
            KeyUse::Grant => pb::KeyUse::Grant,
        };
        let state = match record.state {
            AuthorityState::Prepared => pb::AuthorityState::Prepared,
            AuthorityState::Active => pb::AuthorityState::Active,
            AuthorityState::Retired => pb::AuthorityState::Retired,
        };
        Self {
            id: octets(record.id),
            usage: usage.into(),
            state: state.into(),
            sealed: record.sealed.clone(),
            spki: record.spki.clone(),
            certificate: record.certificate.clone(),
            key_id: record.key_id.clone(),
            created_at: record.created_at.millis(),
            expires_at: record.expires_at.millis(),
            activated_at: record.activated_at.map(|at| at.millis()),
            retired_at: record.retired_at.map(|at| at.millis()),
        }
    }
}

impl TryFrom<pb::AuthorityKey> for AuthorityRecord {
    type Error = Bad;
    fn try_from(record: pb::AuthorityKey) -> Read<Self> {
        Ok(Self {
            usage: match record.usage() {
                pb::KeyUse::Unspecified => return Err(Bad("key use")),
                pb::KeyUse::Ca => KeyUse::Ca,
                pb::KeyUse::Jwt => KeyUse::Jwt,
                pb::KeyUse::Log => KeyUse::Log,
                pb::KeyUse::Grant => KeyUse::Grant,
            },
            state: match record.state() {
                pb::AuthorityState::Unspecified => return Err(Bad("authority state")),
                pb::AuthorityState::Prepared => AuthorityState::Prepared,
                pb::AuthorityState::Active => AuthorityState::Active,
                pb::AuthorityState::Retired => AuthorityState::Retired,
            },
            id: id(&record.id)?,
            sealed: record.sealed,
            spki: record.spki,
            certificate: record.certificate,
            key_id: record.key_id,
            created_at: at(record.created_at),
            expires_at: at(record.expires_at),
            activated_at: record.activated_at.map(at),
            retired_at: record.retired_at.map(at),
        })
    }
}
