//! What the signer says of a key that it made, and how it certifies the log's (P27).
//!
//! A certificate has to be, octet for octet, what is built from the announced public key and from what
//! was asked for, around the signature that it has; and that signature is verified, each time.

use std::time::Duration;

use taskmint_id::P256PublicKey;
use taskmint_model::{AuthorityId, Timestamp};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CameBack, Inspector, Known, Says, certificate_signature};
use crate::credential::{CaName, Validity, ca_serial, key_id};
use crate::port::{KeyKind, Prepared};
use crate::request::{LogKeyRequest, Refusal};

/// The most that certificates are backdated for clocks that are behind (P33), whatever is configured.
const BACKDATED: Duration = Duration::from_secs(3600);

/// What a key has to be for.
struct Wanted {
    kind: KeyKind,
    id: AuthorityId,
    /// When it was asked for.
    at: Timestamp,
}

impl Inspector {
    /// Looks at a key that was made, and remembers it.
    ///
    /// # Errors
    /// When it is not what was asked for, or its certificate does not verify: it must not be kept.
    pub(in crate::remote) fn look_at_key(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        at: Timestamp,
        prepared: &Prepared,
    ) -> Result<(), Refusal> {
        match self.is_wanted(&Wanted { kind, id, at }, prepared) {
            Some(true) => {}
            _ => return Err(untrue(id, "another key or certificate than was asked for")),
        }
        self.learn_key(id, kind, &prepared.spki, &prepared.certificate);
        Ok(())
    }

    /// Looks at another certificate of the log's key.
    ///
    /// # Errors
    /// As [`Self::look_at_key`].
    pub(in crate::remote) fn look_at_log_key(
        &self,
        request: LogKeyRequest,
        certificate: &[u8],
    ) -> Result<(), Refusal> {
        let (log, ca) = (self.known(request.key), self.known(request.by));
        let is_wanted = log.zip(ca).and_then(|(log, ca)| {
            let (from, to) = validity(certificate)?;
            let lasts = from < to && to.since(from) <= self.longest && to <= ca.until;
            let is_built = self.is_log_key(&ca, &log.public, (from, to), certificate)?;
            Some(lasts && is_built)
        });
        match is_wanted {
            Some(true) => Ok(()),
            _ => Err(untrue(
                request.key,
                "another certificate of the log's key than was asked for",
            )),
        }
    }

    /// `None` where a part is malformed.
    fn is_wanted(&self, wanted: &Wanted, prepared: &Prepared) -> Option<bool> {
        let named = prepared.id == wanted.id;
        let never = prepared.expires_at == Timestamp::MAX && prepared.certificate.is_empty();
        if wanted.kind == KeyKind::Grant {
            let key_id = prepared.key_id == wanted.id.to_string();
            return Some(named && never && key_id && prepared.spki.is_empty());
        }
        let key = P256PublicKey::from_spki_der(&prepared.spki).ok()?;
        let key_is = |text: String| prepared.key_id == text && key.to_spki_der() == *prepared.spki;
        if wanted.kind == KeyKind::Jwt {
            return Some(named && never && key_is(key.thumbprint_text()));
        }
        let validity = validity(&prepared.certificate)?;
        let lasts = self.lasts_as(wanted, validity)? && prepared.expires_at == validity.1;
        let is_built = match wanted.kind {
            KeyKind::Ca { .. } => {
                self.is_anchor(wanted.id, &key, validity, &prepared.certificate)?
            }
            _ => self.is_log_key(&*self.active_ca()?, &key, validity, &prepared.certificate)?,
        };
        Some(named && lasts && is_built && key_is(hex::encode(key_id(&key))))
    }

    /// Whether a certificate counts from now on, for as long as was asked for; the log's key not
    /// longer than its CA.
    fn lasts_as(&self, wanted: &Wanted, (from, to): Validity) -> Option<bool> {
        let until = |ttl_secs| {
            let until = wanted.at + Duration::from_secs(ttl_secs);
            until.min(Timestamp::MAX).floor_to_second()
        };
        let until = match wanted.kind {
            KeyKind::Ca { ttl_secs } => until(ttl_secs),
            KeyKind::Log { ttl_secs } => until(ttl_secs).min(self.active_ca()?.until),
            KeyKind::Jwt | KeyKind::Grant => return None,
        };
        Some(from <= wanted.at && wanted.at.since(from) <= BACKDATED && to == until)
    }

    fn is_anchor(
        &self,
        id: AuthorityId,
        key: &P256PublicKey,
        validity: Validity,
        certificate: &[u8],
    ) -> Option<bool> {
        let name = CaName::new(&self.trust_domain, key).ok()?;
        let by = came_back(key, certificate)?;
        let built = name.anchor(&by, &ca_serial(id), validity).ok()?;
        Some(built == certificate && is_signed_by(key, certificate))
    }

    fn is_log_key(
        &self,
        ca: &Known,
        key: &P256PublicKey,
        validity: Validity,
        certificate: &[u8],
    ) -> Option<bool> {
        let Says::Certificates(name) = &ca.says else {
            return None;
        };
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let serial = parsed.raw_serial().try_into().ok()?;
        if !is_log_key_serial(serial) {
            return None;
        }
        let by = came_back(&ca.public, certificate)?;
        let built = name.log_key(&by, key, serial, validity).ok()?;
        Some(built == certificate && is_signed_by(&ca.public, certificate))
    }
}

/// Whether it is in the range of the log keys' serials: no certificate of a task has such a one.
fn is_log_key_serial(serial: &[u8; 17]) -> bool {
    let [first, random @ ..] = *serial;
    let own = crate::credential::log_key_serial(random);
    own.first() == Some(&first)
}

fn came_back<'a>(key: &'a P256PublicKey, certificate: &[u8]) -> Option<CameBack<'a>> {
    Some(CameBack {
        public: key,
        signature: certificate_signature(certificate)?.to_vec(),
    })
}

fn is_signed_by(key: &P256PublicKey, certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        let signature = &certificate.signature_value.data;
        let signed = certificate.tbs_certificate.as_ref();
        key.verify_der(signed, signature).is_ok()
    })
}

/// First and last second, of one certificate with nothing behind it.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let second = |at: i64| u64::try_from(at).ok().map(Timestamp::from_secs);
    let from = second(validity.not_before.timestamp())?;
    let to = second(validity.not_after.timestamp())?;
    rest.is_empty().then_some((from, to))
}

fn untrue(id: AuthorityId, what: &str) -> Refusal {
    tracing::error!(authority = %id, "the signer made {what}: is its memory failing, or is it no signer of ours?");
    Refusal::Failed(format!("the signer made {what}"))
}
