//! How keys come about: made, sealed, certified, opened again.

use std::sync::Arc;
use std::time::Duration;

use taskmint_id::P256PublicKey;
use taskmint_mint::credential::{
    CaName, Sign as _, TokenHeader, Validity, ca_serial, key_id, log_key_serial,
};
use taskmint_mint::journal::What;
use taskmint_mint::{KeyKind, Prepared, Refusal, Sealed};
use taskmint_model::{AuthorityId, Timestamp};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::chain::padded;
use crate::core::Core;
use crate::grant::GrantKey;
use crate::keyring::{CaKey, JwtKey, Key, Keyring, LogKey};
use crate::sealing::{Content, Label};
use crate::secret::Secret;
use crate::signer::{Form, Signer, new_secret};

impl Core {
    /// A new key with what the caller keeps of it.
    pub(crate) fn make(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
        ring: &Keyring,
    ) -> Result<(Key, Prepared), Refusal> {
        let (from, to) = self.validity(kind, now, ring)?;
        let secret = match kind {
            KeyKind::Grant => Secret::filled(|bytes| self.entropy.fill(bytes)),
            _ => new_secret(&*self.entropy)?,
        };
        let content = Content { secret, from, to };
        let sealed = self.seal(kind, id, &content)?;
        let key = self.key(kind, id, content)?;
        let certificate = match &key {
            Key::Ca(ca) => self.anchor(ca, (from, to))?,
            Key::Log(log) => self.certify(log.signer.public(), ring.ca()?, (from, to))?,
            Key::Jwt(_) | Key::Grant(_) => Vec::new(),
        };
        let spki = key
            .public()
            .map_or_else(Vec::new, |public| public.to_spki_der().to_vec());
        let key_id = key.key_id();
        Ok((
            key,
            Prepared {
                id,
                sealed,
                spki,
                certificate,
                key_id,
                expires_at: to,
            },
        ))
    }

    /// A key that the store kept.
    pub(crate) fn open(&self, sealed: &Sealed) -> Result<Key, Refusal> {
        let none = Refusal::Sealed("this authority keeps keys in memory alone".into());
        let sealing = self.sealing.as_ref().ok_or(none)?;
        let content = sealing.open(&self.label(sealed.kind, sealed.id), &sealed.blob)?;
        let key = self.key(sealed.kind, sealed.id, content)?;
        if matches!(key, Key::Ca(_) | Key::Log(_)) && !is_for(&sealed.certificate, key.public()) {
            return Err(Refusal::Sealed("its certificate is another key's".into()));
        }
        Ok(key)
    }

    /// A certificate for the log's key by `ca`, ending when either does.
    pub(crate) fn certify(
        &self,
        key: &P256PublicKey,
        ca: &CaKey,
        (from, to): Validity,
    ) -> Result<Vec<u8>, Refusal> {
        let validity = (from, to.min(ca.to));
        self.check_ttl(validity)?;
        let serial = log_key_serial(self.entropy.array());
        self.chain.add(What::Certificate, &padded(&serial));
        ca.name.log_key(&ca.signer, key, &serial, validity)
    }

    fn anchor(&self, ca: &CaKey, validity: Validity) -> Result<Vec<u8>, Refusal> {
        let serial = ca_serial(ca.id);
        self.chain.add(What::Certificate, &padded(&serial));
        ca.name.anchor(&ca.signer, &serial, validity)
    }

    fn validity(&self, kind: KeyKind, now: Timestamp, ring: &Keyring) -> Result<Validity, Refusal> {
        let from = self.backdated(now);
        let until = |ttl_secs| {
            (now + Duration::from_secs(ttl_secs))
                .min(Timestamp::MAX)
                .floor_to_second()
        };
        let to = match kind {
            KeyKind::Ca { ttl_secs } => until(ttl_secs),
            KeyKind::Log { ttl_secs } => until(ttl_secs).min(ring.ca()?.to),
            KeyKind::Jwt | KeyKind::Grant => return Ok((from, Timestamp::MAX)),
        };
        if to <= now {
            let cap_secs = self.policy.caps.authority.as_secs();
            return Err(Refusal::Lifetime {
                asked_secs: 0,
                cap_secs,
            });
        }
        self.check_ttl((from, to))?;
        Ok((from, to))
    }

    fn key(&self, kind: KeyKind, id: AuthorityId, content: Content) -> Result<Key, Refusal> {
        let Content { secret, to, .. } = content;
        Ok(match kind {
            KeyKind::Ca { .. } => {
                let signer = Signer::new(&secret, Form::Asn1)?;
                let name = CaName::new(&self.policy.trust_domain, signer.public())?;
                Key::Ca(Arc::new(CaKey {
                    id,
                    name,
                    signer,
                    to,
                }))
            }
            KeyKind::Jwt => {
                let signer = Signer::new(&secret, Form::Fixed)?;
                let header = TokenHeader::new(signer.public());
                Key::Jwt(Arc::new(JwtKey { id, header, signer }))
            }
            KeyKind::Log { .. } => {
                let signer = Signer::new(&secret, Form::Fixed)?;
                Key::Log(Arc::new(LogKey { id, signer, to }))
            }
            KeyKind::Grant => Key::Grant(Arc::new(GrantKey::new(id, &secret))),
        })
    }

    fn seal(&self, kind: KeyKind, id: AuthorityId, content: &Content) -> Result<Vec<u8>, Refusal> {
        match &self.sealing {
            Some(sealing) => sealing.seal(&self.label(kind, id), content, &*self.entropy),
            None => Ok(Vec::new()),
        }
    }

    fn label(&self, kind: KeyKind, id: AuthorityId) -> Label<'_> {
        Label {
            trust_domain: &self.policy.trust_domain,
            id,
            kind,
        }
    }
}

impl Key {
    fn public(&self) -> Option<&P256PublicKey> {
        match self {
            Self::Ca(key) => Some(key.signer.public()),
            Self::Jwt(key) => Some(key.signer.public()),
            Self::Log(key) => Some(key.signer.public()),
            Self::Grant(_) => None,
        }
    }

    /// `kid` of a JWT key, subject key id of a CA or the log's key, id of a grant key.
    fn key_id(&self) -> String {
        match self {
            Self::Ca(key) => hex::encode(key_id(key.signer.public())),
            Self::Jwt(key) => key.signer.public().thumbprint_text(),
            Self::Log(key) => hex::encode(key_id(key.signer.public())),
            Self::Grant(key) => key.id.to_string(),
        }
    }
}

/// Whether a certificate is this key's.
pub(crate) fn is_for(certificate: &[u8], key: Option<&P256PublicKey>) -> bool {
    let Ok((rest, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let spki = certificate.tbs_certificate.subject_pki.raw;
    rest.is_empty() && key.is_some_and(|key| key.to_spki_der() == spki)
}
