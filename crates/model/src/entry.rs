//! Registration entries: who gets which identity, under which limits (P30).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taskmint_id::{SpiffeId, TrustDomain};

use crate::selector::MAX_SELECTORS;
use crate::text::{TextError, bounded};
use crate::{Authority, EntryId, Selectors, Timestamp};

/// A registration entry: selectors on a node -> a SPIFFE ID and what its tasks may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names the entry for ever.
    pub id: EntryId,
    /// Goes up with every change.
    pub revision: u64,
    /// On which nodes the entry counts.
    pub parent: NodeMatch,
    /// The identity that its tasks carry.
    pub spiffe_id: SpiffeId,
    /// What a caller must be attested to be; all of them, at least one.
    pub selectors: Selectors,
    /// Credential lifetimes; unset means the trust domain's.
    pub ttls: EntryTtls,
    /// Key algorithm of its SVIDs.
    pub key_type: KeyType,
    /// DNS names put into X.509-SVIDs beside the SPIFFE ID.
    pub dns_names: Vec<String>,
    /// Operator's hint for choosing among several SVIDs; at most 1,024 bytes, never authority.
    pub hint: String,
    /// Foreign trust domains whose bundles its workloads receive. Not yet used.
    pub federates_with: BTreeSet<TrustDomain>,
    /// Whether it may sign for others. Not yet used.
    pub downstream: bool,
    /// On whose behalf its tasks act unless they say otherwise.
    pub owner: String,
    /// Risk class. Not yet used by policy.
    pub class: String,
    /// Widest authority that a task of this entry may have.
    pub authority: Authority,
    /// Whether unmodified SPIFFE clients get a task as long as their process.
    pub implicit: bool,
    /// Whether descendants of a task's holder share the task without matching the entry.
    pub descendants: bool,
    /// Whether its identity is waited for when an end is (P19).
    pub watch: bool,
    /// Whether its workloads receive revocation lists beside their SVIDs (P22).
    pub crl: bool,
    /// Longest life of a task, begin to limit; unset means the trust domain's.
    pub max_limit: Option<Duration>,
    /// The most live children of one task.
    pub max_children: u32,
    /// How deep delegation may go below a root task.
    pub max_depth: u8,
    /// After this instant the entry matches nobody.
    pub expires_at: Option<Timestamp>,
    /// Operator's own notes.
    pub labels: BTreeMap<String, String>,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// On which nodes an entry counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeMatch {
    /// On the node with this id.
    Node(SpiffeId),
    /// On every node that is attested to be all of these; none means every node.
    Selectors(Selectors),
}

/// Credential lifetimes of an entry; unset means the trust domain's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryTtls {
    /// Of X.509-SVIDs.
    pub x509: Option<Duration>,
    /// Of JWT-SVIDs.
    pub jwt: Option<Duration>,
}

/// Key algorithm of an entry's SVIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyType {
    /// ECDSA over NIST P-256.
    #[default]
    EcP256,
}

/// A field of an entry that is stored and checked, but whose feature does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not supported yet; leave it out")]
pub struct NotYet(pub &'static str);

/// Why an entry was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The SPIFFE ID belongs to another trust domain.
    #[error("spiffe id `{id}` is not in trust domain `{expected}`")]
    ForeignTrustDomain {
        /// The id asked for.
        id: SpiffeId,
        /// This issuer's trust domain.
        expected: TrustDomain,
    },
    /// The SPIFFE ID is a trust domain's own.
    #[error("spiffe id `{0}` has no path: a workload's must have one")]
    NoPath(SpiffeId),
    /// P9: `/taskmint/` names servers and nodes.
    #[error("spiffe id `{0}` lies below /taskmint/, which is reserved for servers and nodes")]
    Reserved(SpiffeId),
    /// The parent is no node id.
    #[error("parent `{0}` is no node id: expected spiffe://<trust domain>/taskmint/node/...")]
    Parent(SpiffeId),
    /// Without selectors it would match everybody.
    #[error("an entry needs at least one selector, or it would match every process")]
    NoSelectors,
    /// More selectors than an attestation can have.
    #[error("an entry may have at most {MAX_SELECTORS} selectors")]
    TooManySelectors,
    /// A lifetime outside its bounds.
    #[error("{name} is {got:?}; it must lie between {min:?} and {max:?}")]
    Lifetime {
        /// Which lifetime.
        name: &'static str,
        /// What was asked for.
        got: Duration,
        /// The least accepted.
        min: Duration,
        /// The most accepted.
        max: Duration,
    },
    /// A DNS name that no certificate may carry.
    #[error("`{0}` is no DNS name")]
    DnsName(String),
    /// More DNS names or labels than accepted.
    #[error("at most {max} {name} are accepted")]
    TooMany {
        /// Of what.
        name: &'static str,
        /// The bound.
        max: usize,
    },
    /// Expires before it begins.
    #[error("expires_at `{0}` is in the past")]
    Expired(Timestamp),
    /// A text that is too long, empty or unprintable.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A field whose feature does not exist yet.
    #[error(transparent)]
    NotYet(#[from] NotYet),
}

impl Entry {
    /// The shortest credential lifetime that still survives clock skew and a slow network.
    pub const MIN_TTL: Duration = Duration::from_secs(5);
    /// The longest X.509-SVID of a workload.
    pub const MAX_X509_TTL: Duration = Duration::from_secs(24 * 3600);
    /// The longest JWT-SVID.
    pub const MAX_JWT_TTL: Duration = Duration::from_secs(3600);
    /// The longest task (P4).
    pub const MAX_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

    /// Checks everything that does not depend on other entries.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn validate(&self, trust_domain: &TrustDomain, now: Timestamp) -> Result<(), EntryError> {
        self.validate_identity(trust_domain)?;
        let min = Self::MIN_TTL;
        for (name, got, max) in [
            ("x509_ttl", self.ttls.x509, Self::MAX_X509_TTL),
            ("jwt_ttl", self.ttls.jwt, Self::MAX_JWT_TTL),
            ("max_limit", self.max_limit, Self::MAX_LIMIT),
        ] {
            if let Some(got) = got.filter(|got| *got < min || *got > max) {
                return Err(EntryError::Lifetime {
                    name,
                    got,
                    min,
                    max,
                });
            }
        }
        self.validate_names()?;
        if let Some(at) = self.expires_at.filter(|at| *at <= now) {
            return Err(EntryError::Expired(at));
        }
        if !self.federates_with.is_empty() {
            return Err(NotYet("federates_with").into());
        }
        if self.downstream {
            return Err(NotYet("downstream").into());
        }
        Ok(())
    }

    fn validate_identity(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        let id = &self.spiffe_id;
        if id.trust_domain() != trust_domain {
            let expected = trust_domain.clone();
            return Err(EntryError::ForeignTrustDomain {
                id: id.clone(),
                expected,
            });
        }
        if id.path().is_empty() {
            return Err(EntryError::NoPath(id.clone()));
        }
        if id.is_reserved() {
            return Err(EntryError::Reserved(id.clone()));
        }
        if let NodeMatch::Node(node) = &self.parent
            && (node.kind() != taskmint_id::Kind::Node || node.trust_domain() != trust_domain)
        {
            return Err(EntryError::Parent(node.clone()));
        }
        if self.selectors.is_empty() {
            return Err(EntryError::NoSelectors);
        }
        if self.selectors.len() > MAX_SELECTORS {
            return Err(EntryError::TooManySelectors);
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), EntryError> {
        for (name, len) in [
            ("dns_names", self.dns_names.len()),
            ("labels", self.labels.len()),
        ] {
            if len > 64 {
                return Err(EntryError::TooMany { name, max: 64 });
            }
        }
        for name in &self.dns_names {
            if !is_dns_name(name) {
                return Err(EntryError::DnsName(name.chars().take(80).collect()));
            }
        }
        bounded("hint", &self.hint, 1024)?;
        bounded("owner", &self.owner, 256)?;
        bounded("class", &self.class, 64)?;
        for (key, value) in &self.labels {
            if key.is_empty() {
                return Err(TextError::Empty { name: "label" }.into());
            }
            bounded("label", key, 128)?;
            bounded("label value", value, 1024)?;
        }
        Ok(self.authority.validate()?)
    }

    /// Whether the entry counts on a node with this id and these selectors.
    pub fn counts_on(&self, node: &SpiffeId, node_selectors: &Selectors) -> bool {
        match &self.parent {
            NodeMatch::Node(id) => id == node,
            NodeMatch::Selectors(wanted) => wanted.is_subset(node_selectors),
        }
    }

    /// Whether a caller with these attested selectors matches the entry at `now`.
    pub fn matches(&self, caller: &Selectors, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at) && self.selectors.is_subset(caller)
    }
}

/// Whether it is a DNS name as certificates carry it: LDH labels, perhaps a leading `*.`.
pub fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests;
