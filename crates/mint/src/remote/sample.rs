//! Verifying some of the signatures before they leave (P27): all would cost more than making them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use taskmint_id::P256PublicKey;
use taskmint_model::AuthorityId;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::port::{Sealed, Signed};
use crate::request::Refusal;

/// Verifies one of so many signatures by the key that is said to have made it.
pub(super) struct Sampler {
    one_in: u32,
    seen: AtomicU32,
    keys: Mutex<HashMap<AuthorityId, P256PublicKey>>,
}

impl Sampler {
    pub(super) fn new(one_in: u32) -> Self {
        Self {
            one_in,
            seen: AtomicU32::new(0),
            keys: Mutex::default(),
        }
    }

    /// The public keys of what is loaded.
    pub(super) fn learn(&self, keys: &[Sealed]) {
        for sealed in keys {
            self.learn_public(sealed.id, &sealed.spki);
        }
    }

    /// A key that was made.
    pub(super) fn learn_public(&self, id: AuthorityId, spki: &[u8]) {
        if let Ok(key) = P256PublicKey::from_spki_der(spki) {
            self.keys.lock().insert(id, key);
        }
    }

    /// Verifies it, if it is its turn.
    ///
    /// # Errors
    /// When it does not verify: it must not leave.
    pub(super) fn look_at(&self, signed: &Signed) -> Result<(), Refusal> {
        let seen = || self.seen.fetch_add(1, Ordering::Relaxed);
        if self.one_in == 0 || !seen().is_multiple_of(self.one_in) {
            return Ok(());
        }
        let Some(key) = self.keys.lock().get(&signed.authority).cloned() else {
            return Ok(());
        };
        if verifies(&key, signed) {
            return Ok(());
        }
        tracing::error!(authority = %signed.authority, "the signer made a signature that does not verify: is its memory or processor failing?");
        Err(Refusal::Failed("a signature does not verify".to_owned()))
    }
}

/// A head or checkpoint, a token or status list, a certificate or a CRL.
fn verifies(key: &P256PublicKey, signed: &Signed) -> bool {
    if !signed.signature.is_empty() {
        return key.verify(&signed.bytes, &signed.signature).is_ok();
    }
    if let Ok(text) = std::str::from_utf8(&signed.bytes) {
        let parts = text.rsplit_once('.');
        return parts.is_some_and(|(input, signature)| {
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
            signature.is_ok_and(|signature| key.verify(input.as_bytes(), &signature).is_ok())
        });
    }
    if let Ok((_, certificate)) = X509Certificate::from_der(&signed.bytes) {
        let tbs = certificate.tbs_certificate.as_ref();
        return key
            .verify_der(tbs, &certificate.signature_value.data)
            .is_ok();
    }
    CertificateRevocationList::from_der(&signed.bytes).is_ok_and(|(_, list)| {
        let tbs = list.tbs_cert_list.as_ref();
        key.verify_der(tbs, &list.signature_value.data).is_ok()
    })
}
