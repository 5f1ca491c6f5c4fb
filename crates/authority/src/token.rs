//! JWT-SVIDs: JWT-SVID.md, ES256, compact.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::json;
use taskmint_id::P256PublicKey;
use taskmint_id::jws::{MAX_AUDIENCES, MAX_TOKEN};
use taskmint_mint::{JwtRequest, Refusal};
use taskmint_status::TaskBinding;
use taskmint_status::claim::{self, Claim};

use crate::signer::Signer;

/// The longest audience, in bytes.
const MAX_AUDIENCE: usize = 512;

/// A dot, and 64 octets in base64url.
const SIGNATURE_PART: usize = 1 + 86;

/// What signs tokens.
pub(crate) struct JwtSigner {
    signer: Signer,
    /// The header, encoded: it says exactly `alg`, `kid` and `typ` (JWT-SVID.md 2).
    header: String,
}

impl JwtSigner {
    pub(crate) fn new(signer: Signer) -> Self {
        let kid = signer.public().thumbprint_text();
        let header = json!({ "alg": "ES256", "kid": kid, "typ": "JWT" });
        let header = BASE64_URL_SAFE_NO_PAD.encode(header.to_string());
        Self { signer, header }
    }

    /// `kid`: the key's thumbprint.
    pub(crate) fn key_id(&self) -> String {
        self.signer.public().thumbprint_text()
    }

    pub(crate) fn public(&self) -> &P256PublicKey {
        self.signer.public()
    }

    /// Header and claims, encoded: what gets signed.
    ///
    /// # Errors
    /// [`Refusal::Audience`] when so many and long audiences make it longer than readers take.
    pub(crate) fn input(
        &self,
        request: &JwtRequest,
        binding: &TaskBinding,
    ) -> Result<String, Refusal> {
        let claims = serde_json::to_string(&Claims { request, binding });
        let claims = claims.map_err(|error| Refusal::Failed(error.to_string()))?;
        let len = self.header.len() + 1 + claims.len().div_ceil(3) * 4 + SIGNATURE_PART;
        if len > MAX_TOKEN {
            return Err(Refusal::Audience);
        }
        let mut input = String::with_capacity(len);
        input.push_str(&self.header);
        input.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut input);
        Ok(input)
    }

    /// The token.
    pub(crate) fn sign(&self, mut input: String) -> Result<Vec<u8>, Refusal> {
        let signature = self.signer.sign(input.as_bytes())?;
        input.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut input);
        Ok(input.into_bytes())
    }
}

/// At least one audience, each a bounded text without control characters.
pub(crate) fn check_audiences(audiences: &[String]) -> Result<(), Refusal> {
    let good = |audience: &String| {
        !audience.is_empty()
            && audience.len() <= MAX_AUDIENCE
            && !audience.chars().any(char::is_control)
    };
    if audiences.is_empty() || audiences.len() > MAX_AUDIENCES || !audiences.iter().all(good) {
        return Err(Refusal::Audience);
    }
    Ok(())
}

/// What a token says, in the order of the claims' names.
struct Claims<'a> {
    request: &'a JwtRequest,
    binding: &'a TaskBinding,
}

impl Serialize for Claims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { request, binding } = self;
        let mut claims = serializer.serialize_map(None)?;
        match request.audiences.as_slice() {
            // One as a text: the standard's own schema knows no list.
            [one] => claims.serialize_entry("aud", one)?,
            more => claims.serialize_entry("aud", more)?,
        }
        claims.serialize_entry("exp", &request.expires_at.secs())?;
        claims.serialize_entry(claim::TASK_CLAIM, &Claim::from(*binding))?;
        claims.serialize_entry("iat", &request.issued_at.secs())?;
        claims.serialize_entry("jti", &hex::encode(request.jti))?;
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
