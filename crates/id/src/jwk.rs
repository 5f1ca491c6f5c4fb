//! P-256 public keys, as SubjectPublicKeyInfo (RFC 5480) and as JWK (RFC 7517, 7518).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::json;

/// Length of a P-256 key as SPKI DER, in bytes.
pub const SPKI_LENGTH: usize = 91;
const POINT_LENGTH: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// All of an SPKI that comes before the point: for an uncompressed P-256 key it never varies, so
/// comparing it whole admits exactly one encoding of each key.
const SPKI_PREFIX: [u8; SPKI_LENGTH - POINT_LENGTH] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A point of the curve P-256, never the one at infinity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct P256PublicKey {
    x: [u8; 32],
    y: [u8; 32],
}

/// A P-256 public key as a JWK, with the members that name and scope it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    /// The key: `kty`, `crv`, `x`, `y`.
    pub key: P256PublicKey,
    /// `kid`.
    pub key_id: Option<String>,
    /// `use`.
    pub usage: Option<String>,
}

/// How bytes fail to be a P-256 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the one DER encoding of an uncompressed P-256 SPKI.
    #[error("not an uncompressed p-256 key in subject public key info form")]
    Spki,
    /// Not 65 bytes that begin with 4.
    #[error("not an uncompressed p-256 point")]
    Point,
    /// The coordinates name no point of the curve.
    #[error("point is not on the curve p-256")]
    OffCurve,
}

/// How JSON fails to be a P-256 public JWK.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JwkError {
    /// Not JSON, or a member twice.
    #[error("jwk is not json")]
    Json(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("jwk is not an object")]
    NotAnObject,
    /// It has a `d`: someone handed out a private key.
    #[error("jwk holds a private key")]
    PrivateKey,
    /// `kty` is missing or not `EC`.
    #[error("jwk is not of key type `EC`")]
    KeyType,
    /// `crv` is missing or not `P-256`.
    #[error("jwk is not on the curve `P-256`")]
    Curve,
    /// The named coordinate is missing, or not 32 bytes in base64url.
    #[error("jwk member `{0}` is not 32 bytes in base64url")]
    Coordinate(&'static str),
    /// The named member is there but no string.
    #[error("jwk member `{0}` is not a string")]
    NotAString(&'static str),
    /// The coordinates name no point.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The signature does not belong to this message and key. There is nothing more to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("signature does not verify")]
pub struct SignatureError;

impl P256PublicKey {
    /// Reads SPKI DER; uncompressed and named-curve only.
    ///
    /// # Errors
    ///
    /// [`KeyError::Spki`], [`KeyError::OffCurve`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let point = der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Spki)?;
        Self::from_sec1(point).map_err(|error| match error {
            KeyError::Point => KeyError::Spki,
            other => other,
        })
    }

    /// Reads an uncompressed point (SEC 1): `04 || x || y`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Point`], [`KeyError::OffCurve`].
    pub fn from_sec1(point: &[u8]) -> Result<Self, KeyError> {
        let (tag, rest) = point.split_first().ok_or(KeyError::Point)?;
        let (x, y) = rest.split_first_chunk::<32>().ok_or(KeyError::Point)?;
        let y: &[u8; 32] = y.try_into().map_err(|_| KeyError::Point)?;
        if *tag != UNCOMPRESSED {
            return Err(KeyError::Point);
        }
        Self::from_coordinates(*x, *y)
    }

    /// The point with these big-endian coordinates.
    ///
    /// # Errors
    ///
    /// [`KeyError::OffCurve`].
    pub fn from_coordinates(x: [u8; 32], y: [u8; 32]) -> Result<Self, KeyError> {
        let key = Self { x, y };
        match VerifyingKey::from_sec1_bytes(&key.to_sec1()) {
            Ok(_) => Ok(key),
            Err(_) => Err(KeyError::OffCurve),
        }
    }

    /// The x coordinate, big-endian.
    pub fn x(&self) -> &[u8; 32] {
        &self.x
    }

    /// The y coordinate, big-endian.
    pub fn y(&self) -> &[u8; 32] {
        &self.y
    }

    /// `04 || x || y`.
    pub fn to_sec1(&self) -> [u8; POINT_LENGTH] {
        join(&[&[UNCOMPRESSED], &self.x, &self.y])
    }

    /// The key as SPKI DER.
    pub fn to_spki_der(&self) -> [u8; SPKI_LENGTH] {
        join(&[&SPKI_PREFIX, &[UNCOMPRESSED], &self.x, &self.y])
    }

    /// SHA-256 of the SPKI DER.
    pub fn spki_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.to_spki_der()).into()
    }

    /// The JWK thumbprint (RFC 7638, SHA-256).
    pub fn thumbprint(&self) -> [u8; 32] {
        // Members in this order and without blanks, as section 3 fixes them.
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(self.x),
            URL_SAFE_NO_PAD.encode(self.y),
        );
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Sha256::digest(text).into()
    }

    /// The thumbprint in base64url, 43 characters: a `kid` that two keys never share.
    pub fn thumbprint_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.thumbprint())
    }

    /// Checks an ES256 signature, `r || s` in 64 bytes (RFC 7518 section 3.4), over `message`.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] whatever is wrong.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let key = VerifyingKey::from_sec1_bytes(&self.to_sec1()).map_err(|_| SignatureError)?;
        let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
        key.verify(message, &signature).map_err(|_| SignatureError)
    }

    /// Checks an ECDSA signature with SHA-256 in the DER form that certificates carry. Slow, as
    /// [`Self::verify`] is.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    pub fn verify_der(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let signature = Signature::from_der(signature).map_err(|_| SignatureError)?;
        self.verify(message, &signature.to_bytes())
    }
}

impl fmt::Debug for P256PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P256PublicKey({})", self.thumbprint_text())
    }
}

impl Jwk {
    /// Reads one JWK from JSON text.
    ///
    /// # Errors
    ///
    /// [`JwkError`].
    pub fn parse(text: &[u8]) -> Result<Self, JwkError> {
        match json::parse(text).map_err(JwkError::Json)? {
            Value::Object(members) => Self::from_members(&members),
            _ => Err(JwkError::NotAnObject),
        }
    }

    /// Reads one JWK from the members of a JSON object; unknown ones are ignored.
    ///
    /// # Errors
    ///
    /// [`JwkError`].
    pub fn from_members(members: &Map<String, Value>) -> Result<Self, JwkError> {
        if members.contains_key("d") {
            return Err(JwkError::PrivateKey);
        }
        if members.get("kty").and_then(Value::as_str) != Some("EC") {
            return Err(JwkError::KeyType);
        }
        if members.get("crv").and_then(Value::as_str) != Some("P-256") {
            return Err(JwkError::Curve);
        }
        Ok(Self {
            key: P256PublicKey::from_coordinates(
                coordinate(members, "x")?,
                coordinate(members, "y")?,
            )?,
            key_id: text(members, "kid")?,
            usage: text(members, "use")?,
        })
    }

    /// The members, as JSON.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "crv": "P-256",
            "kty": "EC",
            "x": URL_SAFE_NO_PAD.encode(self.key.x),
            "y": URL_SAFE_NO_PAD.encode(self.key.y),
        });
        if let Value::Object(members) = &mut value {
            let named = [("kid", &self.key_id), ("use", &self.usage)];
            for (name, text) in named
                .into_iter()
                .filter_map(|(n, t)| Some((n, t.as_ref()?)))
            {
                members.insert(name.to_owned(), Value::from(text.as_str()));
            }
        }
        value
    }
}

fn coordinate(members: &Map<String, Value>, name: &'static str) -> Result<[u8; 32], JwkError> {
    let text = members.get(name).and_then(Value::as_str);
    // 43 characters hold 32 bytes; anything longer is not worth decoding.
    text.filter(|text| text.len() == 43)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(JwkError::Coordinate(name))
}

fn text(members: &Map<String, Value>, name: &'static str) -> Result<Option<String>, JwkError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(JwkError::NotAString(name)),
    }
}

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut whole = [0; N];
    let bytes = parts.iter().flat_map(|part| part.iter());
    whole
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    whole
}

#[cfg(test)]
mod tests;
