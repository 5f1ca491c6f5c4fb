//! JWT-SVIDs: JWT-SVID.md, ES256, compact.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Serialize, Serializer};
use serde_json::json;
use taskmint_id::P256PublicKey;
use taskmint_id::jws::MAX_TOKEN;
use taskmint_status::claim::{self, Claim};

use super::Sign;
use crate::request::{JwtRequest, Refusal};

/// Most claims fit into so many octets.
const CLAIMS: usize = 768;

/// A dot, and 64 octets in base64url.
const SIGNATURE_PART: usize = 1 + 86;

/// The header of a key's tokens, encoded: it says exactly `alg`, `kid` and `typ` (JWT-SVID.md 2).
pub struct TokenHeader(String);

impl TokenHeader {
    /// `kid` is the key's thumbprint.
    #[must_use]
    pub fn new(key: &P256PublicKey) -> Self {
        let kid = key.thumbprint_text();
        let header = json!({ "alg": "ES256", "kid": kid, "typ": "JWT" });
        Self(BASE64_URL_SAFE_NO_PAD.encode(header.to_string()))
    }

    /// Header and claims, encoded: what gets signed.
    ///
    /// # Errors
    /// [`Refusal::Audience`] when so many and long audiences make it longer than readers take.
    pub fn input(&self, request: &JwtRequest) -> Result<String, Refusal> {
        let mut claims = Vec::with_capacity(CLAIMS);
        serde_json::to_writer(&mut claims, &Claims { request })
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        let len = self.0.len() + 1 + claims.len().div_ceil(3) * 4 + SIGNATURE_PART;
        if len > MAX_TOKEN {
            return Err(Refusal::Audience);
        }
        let mut input = String::with_capacity(len);
        input.push_str(&self.0);
        input.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut input);
        Ok(input)
    }

    /// The token of an input.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn signed(mut input: String, by: &impl Sign) -> Result<Vec<u8>, Refusal> {
        let signature = by.sign(input.as_bytes())?;
        input.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut input);
        Ok(input.into_bytes())
    }
}

/// What a token says, in the order of the claims' names.
struct Claims<'a> {
    request: &'a JwtRequest,
}

impl Serialize for Claims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = self.request;
        let binding = request.facts.binding();
        let mut claims = serializer.serialize_map(None)?;
        match request.audiences.as_slice() {
            // One as a text: the standard's own schema knows no list.
            [one] => claims.serialize_entry("aud", one)?,
            more => claims.serialize_entry("aud", more)?,
        }
        claims.serialize_entry("exp", &request.expires_at.secs())?;
        claims.serialize_entry(claim::TASK_CLAIM, &Claim::from(&binding))?;
        claims.serialize_entry("iat", &request.issued_at.secs())?;
        let mut jti = [0; 32];
        hex::encode_to_slice(request.jti, &mut jti).map_err(S::Error::custom)?;
        claims.serialize_entry("jti", str::from_utf8(&jti).map_err(S::Error::custom)?)?;
        if let Some(uri) = &request.status_uri {
            let idx = binding.place.index();
            let status = Status {
                status_list: Reference { idx, uri },
            };
            claims.serialize_entry("status", &status)?;
        }
        claims.serialize_entry("sub", request.facts.spiffe_id.as_str())?;
        claims.end()
    }
}

/// Where the token's status is looked up (Token Status List, 6.2).
#[derive(Serialize)]
struct Status<'a> {
    status_list: Reference<'a>,
}

#[derive(Serialize)]
struct Reference<'a> {
    idx: u64,
    uri: &'a str,
}
