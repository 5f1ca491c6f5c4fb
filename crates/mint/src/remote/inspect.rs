//! What the signer gave is looked at before it leaves (P27).
//!
//! A credential has to be, octet for octet, what is built from the request around its signature. The
//! signature itself is verified of one in so many: to verify all would cost more than making them.

mod keys;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use taskmint_id::{P256PublicKey, TrustDomain};
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_status::Generation;
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::credential::{CaName, Sign, TokenHeader};
use crate::policy::Policy;
use crate::port::{KeyKind, LogStart, Sealed, Signed};
use crate::request::{Grant, JwtRequest, Refusal, Request, X509Request};

/// Octets of a token's signature, and of the base64url of it.
const SIGNATURE_LEN: usize = 64;
const SIGNATURE_TEXT: usize = 86;

/// Looks at what was signed.
pub(super) struct Inspector {
    trust_domain: TrustDomain,
    /// How long a certificate of the authority itself may last.
    longest: Duration,
    one_in: u32,
    seen: AtomicU32,
    /// Of the log that places are in; fixed by the load.
    generation: OnceLock<Generation>,
    keys: RwLock<HashMap<AuthorityId, Arc<Known>>>,
    /// The CA that certifies the log's key.
    ca: RwLock<Option<AuthorityId>>,
}

/// A key of the authority, by its public half.
struct Known {
    public: P256PublicKey,
    says: Says,
    /// Last second of its certificate; without one, none.
    until: Timestamp,
}

/// What a key's credentials begin with.
enum Says {
    Certificates(Box<CaName>),
    Tokens(TokenHeader),
    /// Heads, checkpoints and status lists.
    Log,
}

/// A credential that was asked for.
pub(super) enum Asked {
    X509(X509Request),
    Jwt(JwtRequest),
    /// No credential: whoever gets it compares it with what it has.
    Other,
}

impl From<&Request> for Asked {
    fn from(request: &Request) -> Self {
        match request {
            Request::X509(request) => Self::X509(request.clone()),
            // What is signed does not say the grant.
            Request::Jwt(request) => Self::Jwt(JwtRequest {
                facts: request.facts.clone(),
                grant: Grant(Vec::new()),
                audiences: request.audiences.clone(),
                status_uri: request.status_uri.clone(),
                ..*request
            }),
            _ => Self::Other,
        }
    }
}

impl Inspector {
    pub(super) fn new(policy: &Policy, one_in: u32) -> Self {
        Self {
            trust_domain: policy.trust_domain.clone(),
            longest: policy.caps.authority,
            one_in,
            seen: AtomicU32::new(0),
            generation: OnceLock::new(),
            keys: RwLock::default(),
            ca: RwLock::default(),
        }
    }

    /// What is loaded.
    pub(super) fn learn(&self, keys: &[Sealed], start: &LogStart) {
        if let Some(generation) = Generation::new(start.generation) {
            self.generation.get_or_init(|| generation);
        }
        for sealed in keys {
            self.learn_key(sealed.id, sealed.kind, &sealed.spki, &sealed.certificate);
            if sealed.active {
                self.activated(sealed.id);
            }
        }
    }

    /// A key signs from now on.
    pub(super) fn activated(&self, id: AuthorityId) {
        let known = self.known(id);
        if known.is_some_and(|known| matches!(known.says, Says::Certificates(_))) {
            *self.ca.write() = Some(id);
        }
    }

    fn known(&self, id: AuthorityId) -> Option<Arc<Known>> {
        self.keys.read().get(&id).cloned()
    }

    fn active_ca(&self) -> Option<Arc<Known>> {
        let id = *self.ca.read();
        self.known(id?)
    }

    /// A key that was made. A grant key has no public half, and signs nothing.
    fn learn_key(&self, id: AuthorityId, kind: KeyKind, spki: &[u8], certificate: &[u8]) {
        let Ok(public) = P256PublicKey::from_spki_der(spki) else {
            return;
        };
        let says = match kind {
            KeyKind::Ca { .. } => match CaName::new(&self.trust_domain, &public) {
                Ok(name) => Says::Certificates(Box::new(name)),
                Err(_) => return,
            },
            KeyKind::Jwt => Says::Tokens(TokenHeader::new(&public)),
            KeyKind::Log { .. } => Says::Log,
            KeyKind::Grant => return,
        };
        let until = keys::validity(certificate).map_or(Timestamp::MAX, |(_, to)| to);
        let known = Arc::new(Known {
            public,
            says,
            until,
        });
        self.keys.write().insert(id, known);
    }

    /// Looks at what was signed.
    ///
    /// # Errors
    /// When it is not what was asked for, or does not verify: it must not leave.
    pub(super) fn look_at(&self, asked: &Asked, signed: &Signed) -> Result<(), Refusal> {
        let known = self.known(signed.authority);
        let is_asked = known
            .as_ref()
            .is_some_and(|known| self.is_asked(known, asked, &signed.bytes));
        let fault = if !is_asked {
            "the signer signed something else than was asked for"
        } else if self.is_turn() && !known.is_some_and(|known| verifies(&known.public, signed)) {
            "the signer made a signature that does not verify"
        } else {
            return Ok(());
        };
        tracing::error!(authority = %signed.authority, "{fault}: is its memory or processor failing?");
        Err(Refusal::Failed(fault.to_owned()))
    }

    /// Whether the signature of this one is verified.
    fn is_turn(&self) -> bool {
        let seen = || self.seen.fetch_add(1, Ordering::Relaxed);
        self.one_in != 0 && seen().is_multiple_of(self.one_in)
    }

    fn is_asked(&self, known: &Known, asked: &Asked, bytes: &[u8]) -> bool {
        let built = match (&known.says, asked) {
            (Says::Certificates(ca), Asked::X509(request)) => {
                self.certificate(known, ca, request, bytes)
            }
            (Says::Tokens(header), Asked::Jwt(request)) => return is_token(header, request, bytes),
            (Says::Certificates(_) | Says::Log, Asked::Other) => return true,
            _ => None,
        };
        built.is_some_and(|built| built == bytes)
    }

    /// What a certificate has to be, around the signature that it has.
    fn certificate(
        &self,
        known: &Known,
        ca: &CaName,
        request: &X509Request,
        certificate: &[u8],
    ) -> Option<Vec<u8>> {
        let by = CameBack {
            public: &known.public,
            signature: certificate_signature(certificate)?.to_vec(),
        };
        let serial = request.serial(*self.generation.get()?);
        let key = request.key.point()?;
        ca.leaf(&by, request, &key, &serial).ok()
    }
}

/// Whether a token is what was asked for: the input that was to be signed, a dot, and a signature. Of
/// 64 octets base64url has one form alone, so what can be read back was written so.
fn is_token(header: &TokenHeader, request: &JwtRequest, token: &[u8]) -> bool {
    let Ok(input) = header.input(request) else {
        return false;
    };
    let rest = token.strip_prefix(input.as_bytes());
    let signature = rest.and_then(|rest| rest.strip_prefix(b"."));
    signature.is_some_and(|signature| {
        // As long as what it is read from, and no longer.
        let mut octets = [0; SIGNATURE_TEXT];
        signature.len() == SIGNATURE_TEXT
            && BASE64_URL_SAFE_NO_PAD
                .decode_slice(signature, &mut octets)
                .is_ok_and(|len| len == SIGNATURE_LEN)
    })
}

/// The signature that came back, whatever it is over.
struct CameBack<'a> {
    public: &'a P256PublicKey,
    signature: Vec<u8>,
}

impl Sign for CameBack<'_> {
    fn public(&self) -> &P256PublicKey {
        self.public
    }

    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(self.signature.clone())
    }
}

/// RFC 5280, 4.1: what is signed, the algorithm, and a BIT STRING without unused bits.
fn certificate_signature(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate) = Any::from_der(certificate).ok()?;
    let (rest, _) = Any::from_der(certificate.data).ok()?;
    let (rest, _) = Any::from_der(rest).ok()?;
    let (_, signature) = Any::from_der(rest).ok()?;
    signature.data.strip_prefix(&[0])
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

#[cfg(test)]
mod tests;
