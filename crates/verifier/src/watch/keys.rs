//! The log's keys: which of them an active CA of the trust domain vouches for (P15).

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use taskmint_id::jwk::KeyError;
use taskmint_id::{BundleSet, P256PublicKey, TrustDomain};
use taskmint_model::Timestamp;
use taskmint_status::extension::HEAD_SIGNING_OID_DER;
use taskmint_status::head::SIGNATURE_LEN;
use taskmint_status::{HeadKeys, KeyId};
use webpki::KeyUsage;

use crate::path::verify_path;
use crate::peer::{check_no_authority, not_after, parse, uris};
use crate::{SvidError, Trust};

/// How many keys of one log are known at a time: the current one and its neighbours in a rotation.
const MAX_KEYS: usize = 4;

/// Certified keys of one trust domain's log.
#[derive(Debug)]
pub struct LogKeys {
    trust_domain: TrustDomain,
    /// What the keys were judged by: other bundles, and they are judged again.
    bundles: Arc<BundleSet>,
    keys: Vec<LogKey>,
    /// The one that this stream named last.
    current: Option<KeyId>,
}

#[derive(Debug)]
struct LogKey {
    id: KeyId,
    key: P256PublicKey,
    not_after: Timestamp,
    certificate: CertificateDer<'static>,
}

/// Why a certificate certifies no key of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefused {
    /// No frame of this stream has named a key yet.
    #[error("no key was named")]
    Unnamed,
    /// There is no bundle for the trust domain.
    #[error("trust domain `{0}` is not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// It has a URI name: an SVID must not sign heads.
    #[error("the certificate is an svid's")]
    IsSvid,
    /// A CA's, malformed, expired, without the head-signing usage, or not by a CA of the bundle.
    #[error(transparent)]
    Certificate(#[from] SvidError),
    /// Not a P-256 key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl LogKeys {
    /// None known yet.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            bundles: Arc::default(),
            keys: Vec::new(),
            current: None,
        }
    }

    /// A new stream has named no key yet; what was certified stays so.
    pub fn reconnected(&mut self) {
        self.current = None;
    }

    /// The key that a frame speaks of: that of `certificate`, or without one the stream's last.
    ///
    /// # Errors
    /// [`KeyRefused`].
    pub fn named(
        &mut self,
        certificate: &[u8],
        trust: &Trust,
        now: Timestamp,
    ) -> Result<KeyId, KeyRefused> {
        self.refresh(trust, now);
        if !certificate.is_empty() {
            self.current = Some(self.admit(certificate, now)?);
        }
        self.current.ok_or(KeyRefused::Unnamed)
    }

    /// Who certified a key, in DER; empty where it is not known any more.
    pub(super) fn certificate(&self, key: KeyId) -> &[u8] {
        let known = self.keys.iter().find(|known| known.id == key);
        known.map_or(&[], |known| &known.certificate)
    }

    /// Drops keys that have expired, and those whose CA is in the bundle no more.
    fn refresh(&mut self, trust: &Trust, now: Timestamp) {
        let bundles = trust.get();
        let same = Arc::ptr_eq(&bundles, &self.bundles);
        self.bundles = bundles;
        let (bundles, trust_domain) = (&self.bundles, &self.trust_domain);
        self.keys.retain(|key| {
            key.not_after.secs() >= now.secs()
                && (same || judge(&key.certificate, trust_domain, bundles, now).is_ok())
        });
    }

    fn admit(&mut self, certificate: &[u8], now: Timestamp) -> Result<KeyId, KeyRefused> {
        if let Some(known) = self
            .keys
            .iter()
            .find(|key| *key.certificate == *certificate)
        {
            return Ok(known.id);
        }
        let certificate = CertificateDer::from(certificate.to_vec());
        let key = judge(&certificate, &self.trust_domain, &self.bundles, now)?;
        let id = key.id;
        self.keys.retain(|other| other.id != id);
        if self.keys.len() >= MAX_KEYS {
            self.keys.remove(0);
        }
        self.keys.push(key);
        Ok(id)
    }
}

impl HeadKeys for LogKeys {
    fn verify(&self, key: &KeyId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let Some(known) = self.keys.iter().find(|known| known.id == *key) else {
            return false;
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, known.key.to_sec1())
            .verify(message, signature)
            .is_ok()
    }
}

fn judge(
    certificate: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<LogKey, KeyRefused> {
    let parsed = parse(certificate)?;
    check_no_authority(&parsed)?;
    if !uris(&parsed)?.is_empty() {
        return Err(KeyRefused::IsSvid);
    }
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| KeyRefused::UnknownTrustDomain(trust_domain.clone()))?;
    verify_path(
        certificate,
        &[],
        bundle,
        now,
        KeyUsage::required(HEAD_SIGNING_OID_DER),
    )?;
    let key = P256PublicKey::from_spki_der(parsed.public_key().raw)?;
    Ok(LogKey {
        id: KeyId(key.spki_sha256()),
        key,
        not_after: not_after(&parsed),
        certificate: certificate.clone().into_owned(),
    })
}
