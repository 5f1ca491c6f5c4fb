//! Bundles as SPIFFE JSON: a JWK Set with a sequence number and a refresh hint.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Bundle, BundleError, CertificateError, X509Authority};
use crate::jwk::{Jwk, JwkError, P256PublicKey};
use crate::{TrustDomain, json};

/// Most bytes of one bundle document: 2 MiB.
pub const MAX_BUNDLE: usize = 2 << 20;
/// Most keys in one bundle.
pub const MAX_KEYS: usize = 1024;

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";

/// A bundle as read, and what of its document was left aside, as the standard demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What was understood.
    pub bundle: Bundle,
    /// What was not; worth a line in the log, since nothing signed by these keys will verify.
    pub ignored: Vec<Ignored>,
}

/// A key that a reader ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Why.
    pub reason: IgnoredReason,
}

/// Why a key is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IgnoredReason {
    /// `use` is missing, or neither `x509-svid` nor `jwt-svid`.
    Use,
    /// Its key type is missing, or none that is supported for its use: JWT-SVID keys are P-256.
    KeyType,
    /// An `x509-svid` key without a certificate.
    NoCertificate,
}

impl Bundle {
    /// Reads a bundle; what [`Bundle::read`] would report as ignored is not told.
    ///
    /// # Errors
    ///
    /// As [`Bundle::read`].
    pub fn parse(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        Ok(Self::read(trust_domain, text)?.bundle)
    }

    /// Reads the bundle of `trust_domain` from SPIFFE JSON. Unknown members, uses and key types
    /// are ignored; of several certificates in an `x5c` the first counts. A missing sequence
    /// number reads as 0, a refresh hint of 0 as none.
    ///
    /// # Errors
    ///
    /// [`BundleError`] for what is malformed in a key that is known, or around the keys.
    pub fn read(trust_domain: TrustDomain, text: &[u8]) -> Result<Reading, BundleError> {
        check_length(text, MAX_BUNDLE)?;
        Self::from_value(trust_domain, &json::parse(text).map_err(BundleError::Json)?)
    }

    pub(super) fn from_value(
        trust_domain: TrustDomain,
        document: &Value,
    ) -> Result<Reading, BundleError> {
        let document = document.as_object().ok_or(BundleError::NotAnObject)?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or(BundleError::KeysMissing)?;
        if keys.len() > MAX_KEYS {
            return Err(BundleError::TooManyKeys { count: keys.len() });
        }
        let sequence = integer(document, "spiffe_sequence", BundleError::Sequence)?;
        let hint = integer(document, "spiffe_refresh_hint", BundleError::RefreshHint)?;
        let mut bundle = Bundle::new(trust_domain)
            .with_sequence(sequence)
            .with_refresh_hint(Duration::from_secs(hint));
        let mut ignored = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let members = key
                .as_object()
                .ok_or(BundleError::KeyNotAnObject { index })?;
            if let Some(reason) = bundle.take(index, members)? {
                ignored.push(Ignored { index, reason });
            }
        }
        Ok(Reading { bundle, ignored })
    }

    fn take(
        &mut self,
        index: usize,
        members: &Map<String, Value>,
    ) -> Result<Option<IgnoredReason>, BundleError> {
        match members.get("use").and_then(Value::as_str) {
            Some(X509_SVID) => self.take_x509(index, members),
            Some(JWT_SVID) => self.take_jwt(index, members),
            _ => Ok(Some(IgnoredReason::Use)),
        }
    }

    fn take_x509(
        &mut self,
        index: usize,
        members: &Map<String, Value>,
    ) -> Result<Option<IgnoredReason>, BundleError> {
        if members.contains_key("d") {
            return Err(BundleError::Key {
                index,
                source: JwkError::PrivateKey,
            });
        }
        if !matches!(
            members.get("kty").and_then(Value::as_str),
            Some("EC" | "RSA" | "OKP")
        ) {
            return Ok(Some(IgnoredReason::KeyType));
        }
        let at = |source| BundleError::Certificate { index, source };
        let der = match certificate(members).map_err(at)? {
            Some(der) => der,
            None => return Ok(Some(IgnoredReason::NoCertificate)),
        };
        let authority = match X509Authority::from_der(&der) {
            Err(CertificateError::UnsupportedKey) => return Ok(Some(IgnoredReason::KeyType)),
            other => other.map_err(at)?,
        };
        // Someone who reads only the JWK, and someone who reads only the certificate, must trust
        // the same key.
        let same = |(name, text): (&&str, &String)| {
            members.get(*name).and_then(Value::as_str) == Some(text.as_str())
        };
        if !authority.parameters().iter().all(same) {
            return Err(BundleError::KeyMismatch { index });
        }
        self.add_x509_authority(authority);
        Ok(None)
    }

    fn take_jwt(
        &mut self,
        index: usize,
        members: &Map<String, Value>,
    ) -> Result<Option<IgnoredReason>, BundleError> {
        match Jwk::from_members(members) {
            Ok(jwk) => {
                self.add_jwt_authority(&jwk.key_id.unwrap_or_default(), jwk.key)?;
                Ok(None)
            }
            Err(JwkError::KeyType | JwkError::Curve) => Ok(Some(IgnoredReason::KeyType)),
            Err(source) => Err(BundleError::Key { index, source }),
        }
    }

    /// The bundle as SPIFFE JSON, as bundle endpoints publish it: with its sequence number, with
    /// a refresh hint only if there is one, and with no member that the standard doesn't name.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    /// The JWT-SVID keys alone as a JWK Set, as the Workload API carries them.
    ///
    /// Each key keeps `use: jwt-svid`. That is what the standard says, it lets a reader tell
    /// the keys of several uses apart, and go-spiffe, java-spiffe and the Python and Rust
    /// `spiffe` packages read it. General JWKS readers that look for `use: sig` skip such keys;
    /// for these, a JWKS of another form is published elsewhere.
    pub fn to_jwt_jwks_json(&self) -> String {
        json!({ "keys": self.jwt_keys().collect::<Vec<_>>() }).to_string()
    }

    pub(super) fn to_value(&self) -> Value {
        let x509 = self.x509_authorities().iter().map(x509_key);
        let keys: Vec<Value> = x509.chain(self.jwt_keys()).collect();
        match self.refresh_hint() {
            None => json!({ "keys": keys, "spiffe_sequence": self.sequence() }),
            Some(hint) => json!({
                "keys": keys,
                "spiffe_refresh_hint": hint.as_secs(),
                "spiffe_sequence": self.sequence(),
            }),
        }
    }

    fn jwt_keys(&self) -> impl Iterator<Item = Value> {
        self.jwt_authorities()
            .iter()
            .map(|(key_id, key)| jwt_key(key_id, key))
    }
}

pub(super) fn check_length(text: &[u8], limit: usize) -> Result<(), BundleError> {
    if text.len() > limit {
        return Err(BundleError::TooLong {
            bytes: text.len(),
            limit,
        });
    }
    Ok(())
}

fn x509_key(authority: &X509Authority) -> Value {
    let parameters = authority.parameters().iter();
    let mut members: BTreeMap<&str, Value> = parameters
        .map(|(name, text)| (*name, Value::from(text.as_str())))
        .collect();
    members.insert("use", Value::from(X509_SVID));
    members.insert("x5c", json!([STANDARD.encode(authority.der())]));
    json!(members)
}

fn jwt_key(key_id: &str, key: &P256PublicKey) -> Value {
    Jwk {
        key: *key,
        key_id: Some(key_id.to_owned()),
        usage: Some(JWT_SVID.to_owned()),
    }
    .to_value()
}

fn integer(
    document: &Map<String, Value>,
    name: &str,
    wrong: BundleError,
) -> Result<u64, BundleError> {
    match document.get(name) {
        None => Ok(0),
        Some(value) => value.as_u64().ok_or(wrong),
    }
}

/// The first certificate of `x5c`; none if the member is missing or empty.
fn certificate(members: &Map<String, Value>) -> Result<Option<Vec<u8>>, CertificateError> {
    let Some(chain) = members.get("x5c") else {
        return Ok(None);
    };
    let chain = chain.as_array().ok_or(CertificateError::Base64)?;
    let Some(first) = chain.first() else {
        return Ok(None);
    };
    let text = first.as_str().ok_or(CertificateError::Base64)?;
    STANDARD
        .decode(text)
        .map(Some)
        .map_err(|_| CertificateError::Base64)
}
