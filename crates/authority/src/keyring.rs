//! All keys at one instant: which exist, and which sign.
//!
//! A keyring never changes; a rotation puts another in its place. So signing takes no lock, and a
//! key is wiped when the last signature that uses it is done.

use std::collections::HashMap;
use std::sync::Arc;

use taskmint_mint::credential::{CaName, TokenHeader};
use taskmint_mint::{KeyKind, Refusal};
use taskmint_model::{AuthorityId, Timestamp};

use crate::grant::GrantKey;
use crate::signer::Signer;

/// A CA.
pub(crate) struct CaKey {
    pub(crate) id: AuthorityId,
    pub(crate) name: CaName,
    pub(crate) signer: Signer,
    pub(crate) to: Timestamp,
}

/// A JWT key.
pub(crate) struct JwtKey {
    pub(crate) id: AuthorityId,
    pub(crate) header: TokenHeader,
    pub(crate) signer: Signer,
}

/// The log's key.
pub(crate) struct LogKey {
    pub(crate) id: AuthorityId,
    pub(crate) signer: Signer,
    pub(crate) to: Timestamp,
}

/// Any key; sharing it copies no key.
#[derive(Clone)]
pub(crate) enum Key {
    Ca(Arc<CaKey>),
    Jwt(Arc<JwtKey>),
    Log(Arc<LogKey>),
    Grant(Arc<GrantKey>),
}

/// All keys, and which of them are active.
#[derive(Clone, Default)]
pub(crate) struct Keyring {
    keys: HashMap<AuthorityId, Key>,
    ca: Option<Arc<CaKey>>,
    jwt: Option<Arc<JwtKey>>,
    log: Option<Arc<LogKey>>,
    grant: Option<Arc<GrantKey>>,
}

impl Key {
    pub(crate) fn id(&self) -> AuthorityId {
        match self {
            Self::Ca(key) => key.id,
            Self::Jwt(key) => key.id,
            Self::Log(key) => key.id,
            Self::Grant(key) => key.id,
        }
    }
}

impl Keyring {
    pub(crate) fn ca(&self) -> Result<&Arc<CaKey>, Refusal> {
        self.ca.as_ref().ok_or(Refusal::NoActiveKey("CA".into()))
    }

    pub(crate) fn jwt(&self) -> Result<&Arc<JwtKey>, Refusal> {
        self.jwt.as_ref().ok_or(Refusal::NoActiveKey("JWT".into()))
    }

    pub(crate) fn log(&self) -> Result<&Arc<LogKey>, Refusal> {
        self.log.as_ref().ok_or(Refusal::NoActiveKey("log".into()))
    }

    pub(crate) fn grant(&self) -> Result<&Arc<GrantKey>, Refusal> {
        self.grant
            .as_ref()
            .ok_or(Refusal::NoActiveKey("grant".into()))
    }

    /// A grant key, active or not: grants outlive the rotation of the key that made them.
    pub(crate) fn grant_key(&self, id: AuthorityId) -> Option<&Arc<GrantKey>> {
        match self.keys.get(&id)? {
            Key::Grant(key) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn get(&self, id: AuthorityId) -> Result<&Key, Refusal> {
        self.keys.get(&id).ok_or(Refusal::Authority(id))
    }

    /// With one more key, which signs nothing yet.
    pub(crate) fn with(&self, key: Key) -> Result<Self, Refusal> {
        let id = key.id();
        if self.keys.contains_key(&id) {
            return Err(Refusal::Authority(id));
        }
        let mut next = self.clone();
        next.keys.insert(id, key);
        Ok(next)
    }

    /// With this key as the one that signs.
    pub(crate) fn activated(&self, id: AuthorityId) -> Result<Self, Refusal> {
        let mut next = self.clone();
        match self.get(id)?.clone() {
            Key::Ca(key) => next.ca = Some(key),
            Key::Jwt(key) => next.jwt = Some(key),
            Key::Log(key) => next.log = Some(key),
            Key::Grant(key) => next.grant = Some(key),
        }
        Ok(next)
    }

    /// Without this key.
    pub(crate) fn without(&self, id: AuthorityId) -> Result<Self, Refusal> {
        if self.is_active(id) {
            return Err(Refusal::Authority(id));
        }
        let mut next = self.clone();
        next.keys.remove(&id).ok_or(Refusal::Authority(id))?;
        Ok(next)
    }

    /// Whether a key of this kind is active already.
    pub(crate) fn has_active(&self, kind: KeyKind) -> bool {
        match kind {
            KeyKind::Ca { .. } => self.ca.is_some(),
            KeyKind::Jwt => self.jwt.is_some(),
            KeyKind::Log { .. } => self.log.is_some(),
            KeyKind::Grant => self.grant.is_some(),
        }
    }

    fn is_active(&self, id: AuthorityId) -> bool {
        self.ca.as_ref().is_some_and(|key| key.id == id)
            || self.jwt.as_ref().is_some_and(|key| key.id == id)
            || self.log.as_ref().is_some_and(|key| key.id == id)
            || self.grant.as_ref().is_some_and(|key| key.id == id)
    }
}
