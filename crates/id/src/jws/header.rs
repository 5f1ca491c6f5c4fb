//! The JOSE header of a JWT-SVID: `alg`, `kid`, `typ` and nothing else (section 2).

use serde_json::{Map, Value};

use super::TokenError;
use crate::json::shown;

/// A JWT-SVID's header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`; the standard makes it optional, every issuer of ours sets it.
    pub key_id: Option<String>,
    /// `typ`.
    pub kind: Option<Type>,
}

/// The nine algorithms that a JWT-SVID may be signed with (section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 7518 section 3.1")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

/// What `typ` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// `JWT`.
    Jwt,
    /// `JOSE`.
    Jose,
}

impl Algorithm {
    /// Reads a name, which is case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }

    /// The name in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }
}

impl Header {
    /// Reads a header from its members.
    ///
    /// # Errors
    ///
    /// [`TokenError`], the variants that speak of the header.
    pub fn from_members(members: &Map<String, Value>) -> Result<Self, TokenError> {
        let stray = members
            .keys()
            .find(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"));
        if let Some(name) = stray {
            return Err(TokenError::HeaderMember(shown(name)));
        }
        let name = text(members, "alg")?.ok_or(TokenError::AlgorithmMissing)?;
        let algorithm =
            Algorithm::from_name(name).ok_or_else(|| TokenError::Algorithm(shown(name)))?;
        let kind = match text(members, "typ")? {
            None => None,
            Some("JWT") => Some(Type::Jwt),
            Some("JOSE") => Some(Type::Jose),
            Some(other) => return Err(TokenError::Type(shown(other))),
        };
        let key_id = text(members, "kid")?.map(str::to_owned);
        Ok(Self {
            algorithm,
            key_id,
            kind,
        })
    }
}

fn text<'a>(
    members: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(TokenError::HeaderText(name)),
    }
}
