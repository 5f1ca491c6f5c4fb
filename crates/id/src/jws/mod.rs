//! JWT-SVIDs (JWT-SVID.md) as far as they can be judged without a key.
//!
//! [`UnverifiedToken::parse`] says what a token claims; nothing in it is to be believed before
//! its signature was checked with a key of the trust domain in `sub`, found by `kid`.

mod claims;
mod header;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

pub use claims::{Claims, ClaimsError, MAX_AUDIENCES, NumericDate, check_times_and_audience};
pub use header::{Algorithm, Header, Type};

use crate::jwk::SignatureError;
use crate::{P256PublicKey, SpiffeIdError, json};

/// Most bytes of a token: 16 KiB.
pub const MAX_TOKEN: usize = 16 << 10;

/// A JWT-SVID taken apart, its signature not checked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UnverifiedToken<'a> {
    /// The JOSE header.
    pub header: Header,
    /// The payload.
    pub claims: Claims,
    /// What is signed: header and payload as they came.
    pub signing_input: &'a str,
    /// The signature, as bytes.
    pub signature: Vec<u8>,
}

/// The parts of a compact JWS, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compact<'a> {
    /// The header, not yet read as JSON.
    pub header: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// What is signed: header and payload as they came.
    pub signing_input: &'a str,
    /// The signature, as bytes; never empty.
    pub signature: Vec<u8>,
}

/// One of the three parts of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Header,
    /// The second.
    Payload,
    /// The third.
    Signature,
}

/// How a text fails to be a JWT-SVID, whoever signed it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// More than [`MAX_TOKEN`] bytes.
    #[error("token has {bytes} bytes, more than {MAX_TOKEN}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not three parts joined by dots: no compact serialization.
    #[error("token is not three parts joined by dots")]
    Parts,
    /// A part is not base64url without padding.
    #[error("token {0} is not base64url")]
    Base64(Part),
    /// The signature is empty.
    #[error("token is not signed")]
    NotSigned,
    /// A part is not JSON, or has a member twice.
    #[error("token {part} is not json")]
    Json {
        /// Which.
        part: Part,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// A part is JSON, but no object.
    #[error("token {0} is not an object")]
    NotAnObject(Part),
    /// The header has a member other than `alg`, `kid`, `typ`.
    #[error("token header has the member `{0}`")]
    HeaderMember(String),
    /// The header member is no string.
    #[error("token header member `{0}` is not a string")]
    HeaderText(&'static str),
    /// The header has no `alg`.
    #[error("token names no algorithm")]
    AlgorithmMissing,
    /// The `alg` is none of the nine that JWT-SVIDs may use.
    #[error("token algorithm `{0}` is not allowed")]
    Algorithm(String),
    /// The `typ` is neither `JWT` nor `JOSE`.
    #[error("token type `{0}` is not allowed")]
    Type(String),
    /// A claim that has to be there is not.
    #[error("claim `{0}` is missing")]
    ClaimMissing(&'static str),
    /// A claim is of the wrong JSON type.
    #[error("claim `{0}` is of the wrong type")]
    ClaimType(&'static str),
    /// The `sub` is no SPIFFE id.
    #[error("claim `sub` is not a spiffe id")]
    Subject(#[source] SpiffeIdError),
    /// The `sub` is a trust domain, not a workload of it.
    #[error("claim `sub` has no path")]
    SubjectRoot,
    /// The `aud` names nobody.
    #[error("claim `aud` is empty")]
    AudienceEmpty,
    /// The `aud` names more than [`MAX_AUDIENCES`].
    #[error("claim `aud` has {count} values, more than {MAX_AUDIENCES}")]
    TooManyAudiences {
        /// How many.
        count: usize,
    },
    /// A time before 1970 or after the year 9999.
    #[error("claim `{0}` is not a time")]
    Time(&'static str),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

impl<'a> Compact<'a> {
    /// Splits and decodes a compact JWS.
    ///
    /// # Errors
    ///
    /// [`TokenError::TooLong`], [`TokenError::Parts`], [`TokenError::Base64`],
    /// [`TokenError::NotSigned`].
    pub fn split(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong { bytes: token.len() });
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenError::Parts)?;
        if payload.contains('.') {
            return Err(TokenError::Parts);
        }
        if signature.is_empty() {
            return Err(TokenError::NotSigned);
        }
        Ok(Self {
            header: decode(header, Part::Header)?,
            payload: decode(payload, Part::Payload)?,
            signing_input,
            signature: decode(signature, Part::Signature)?,
        })
    }
}

impl<'a> UnverifiedToken<'a> {
    /// Reads a token by all rules that need no key, no clock and no expectation. The algorithm
    /// is judged before the payload is looked at.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let compact = Compact::split(token)?;
        let header = Header::from_members(&object(&compact.header, Part::Header)?)?;
        let claims = Claims::from_members(object(&compact.payload, Part::Payload)?)?;
        let Compact {
            signing_input,
            signature,
            ..
        } = compact;
        Ok(Self {
            header,
            claims,
            signing_input,
            signature,
        })
    }
}

/// Checks the signature of an ES256 token. This is the slow, dependency-light way; see the
/// verifier for the fast one.
///
/// # Errors
///
/// [`SignatureError`], also for a token of another algorithm.
pub fn verify_es256(
    token: &UnverifiedToken<'_>,
    key: &P256PublicKey,
) -> Result<(), SignatureError> {
    if token.header.algorithm != Algorithm::Es256 {
        return Err(SignatureError);
    }
    key.verify(token.signing_input.as_bytes(), &token.signature)
}

fn decode(text: &str, part: Part) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| TokenError::Base64(part))
}

fn object(bytes: &[u8], part: Part) -> Result<Map<String, Value>, TokenError> {
    match json::parse(bytes).map_err(|source| TokenError::Json { part, source })? {
        Value::Object(members) => Ok(members),
        _ => Err(TokenError::NotAnObject(part)),
    }
}

#[cfg(test)]
mod tests;
