//! JWT-SVIDs, by JWT-SVID.md: ES256, and only the keys of the subject's own trust domain.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Map, Value};
use taskmint_id::jws::{
    Algorithm, ClaimsError, NumericDate, TokenError as Malformed, UnverifiedToken,
    check_times_and_audience,
};
use taskmint_id::{BundleSet, P256PublicKey, SpiffeId, TrustDomain};
use taskmint_model::{TaskId, Timestamp};
use taskmint_status::TaskBinding;
use taskmint_status::claim::{ClaimError, TASK_CLAIM, from_value};

/// What a token that was verified says.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// `aud`, the one asked for among them.
    pub audience: Vec<String>,
    /// `exp`.
    pub expires_at: Timestamp,
    /// Task and status place; of the log of the issuer's trust domain.
    pub binding: Option<TaskBinding>,
    /// All claims.
    pub claims: Map<String, Value>,
}

/// Why a token does not count here and now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No JWT-SVID, whoever signed it.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An algorithm of the standard that no key of a bundle here has.
    #[error("token algorithm `{0}` is not supported, only `ES256`")]
    Algorithm(&'static str),
    /// No `kid`: which key signed it would be a guess.
    #[error("token names no key")]
    KeyIdMissing,
    /// There is no bundle for the trust domain of `sub`.
    #[error("trust domain `{0}` is not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// The trust domain has no such key, or no longer.
    #[error("trust domain `{trust_domain}` has no key `{key_id}`")]
    UnknownKey {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The `kid`, cut.
        key_id: String,
    },
    /// Another signature than the key's.
    #[error("token signature does not verify")]
    Signature,
    /// Expired, not valid yet, or for somebody else.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The task claim is malformed.
    #[error("token's task binding does not count")]
    Binding(#[from] ClaimError),
}

impl VerifiedToken {
    /// Its task.
    pub fn task(&self) -> Option<TaskId> {
        Some(TaskId::from_octets(self.binding?.task))
    }
}

impl TokenError {
    /// A stable name, for callers, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "TOKEN_MALFORMED",
            Self::Algorithm(_) => "TOKEN_ALGORITHM_UNSUPPORTED",
            Self::KeyIdMissing => "TOKEN_WITHOUT_KEY_ID",
            Self::UnknownTrustDomain(_) => "TRUST_DOMAIN_UNKNOWN",
            Self::UnknownKey { .. } => "TOKEN_KEY_UNKNOWN",
            Self::Signature => "TOKEN_SIGNATURE_INVALID",
            Self::Claims(ClaimsError::Expired { .. }) => "TOKEN_EXPIRED",
            Self::Claims(ClaimsError::NotYetValid { .. }) => "TOKEN_NOT_YET_VALID",
            Self::Claims(_) => "TOKEN_FOR_OTHER_AUDIENCE",
            Self::Binding(_) => "TOKEN_BINDING_INVALID",
        }
    }
}

/// Verifies a JWT-SVID for `audience`, which is compared byte by byte. `leeway` forgives clocks
/// that disagree, for `exp` and `nbf` alike.
///
/// This says nothing about the task behind it: ask a [`StatusCheck`](crate::StatusCheck).
///
/// # Errors
/// [`TokenError`]: the first rule broken. The signature is judged before times and audience, so
/// the answer to a forged token says nothing about them.
pub fn verify_jwt(
    token: &str,
    audience: &str,
    bundles: &BundleSet,
    now: Timestamp,
    leeway: Duration,
) -> Result<VerifiedToken, TokenError> {
    let token = UnverifiedToken::parse(token)?;
    if token.header.algorithm != Algorithm::Es256 {
        return Err(TokenError::Algorithm(token.header.algorithm.name()));
    }
    let key = key_of(&token, bundles)?;
    // aws-lc takes a tenth of the time of `P256PublicKey::verify`.
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.to_sec1())
        .verify(token.signing_input.as_bytes(), &token.signature)
        .map_err(|_| TokenError::Signature)?;
    let claims = token.claims;
    let millis = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    check_times_and_audience(&claims, audience, NumericDate::from_millis(millis), leeway)?;
    let expires_at = u64::try_from(claims.expires.millis()).unwrap_or(0);
    Ok(VerifiedToken {
        spiffe_id: claims.subject,
        audience: claims.audience,
        expires_at: Timestamp::from_millis(expires_at),
        binding: claims.raw.get(TASK_CLAIM).map(from_value).transpose()?,
        claims: claims.raw,
    })
}

fn key_of<'a>(
    token: &UnverifiedToken<'_>,
    bundles: &'a BundleSet,
) -> Result<&'a P256PublicKey, TokenError> {
    let key_id = token
        .header
        .key_id
        .as_deref()
        .ok_or(TokenError::KeyIdMissing)?;
    let trust_domain = token.claims.subject.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| TokenError::UnknownTrustDomain(trust_domain.clone()))?;
    bundle
        .jwt_authority(key_id)
        .ok_or_else(|| TokenError::UnknownKey {
            trust_domain: trust_domain.clone(),
            key_id: key_id
                .chars()
                .take(64)
                .flat_map(char::escape_default)
                .collect(),
        })
}
