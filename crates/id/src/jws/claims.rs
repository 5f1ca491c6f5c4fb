//! The payload of a JWT-SVID (section 3).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::TokenError;
use crate::SpiffeId;

/// Most values of `aud`.
pub const MAX_AUDIENCES: usize = 64;

/// The last second of the year 9999. A time beyond it is a mistake, such as milliseconds.
const LAST_SECOND: i64 = 253_402_300_799;

/// What a JWT-SVID claims.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// `sub`, which has a path.
    pub subject: SpiffeId,
    /// `aud`: one or more, none of them empty.
    pub audience: Vec<String>,
    /// `exp`.
    pub expires: NumericDate,
    /// `nbf`.
    pub not_before: Option<NumericDate>,
    /// `iat`. It says when the token was made and is never read as "not before".
    pub issued: Option<NumericDate>,
    /// `jti`.
    pub id: Option<String>,
    /// All claims, these included.
    pub raw: Map<String, Value>,
}

/// A point in time as JWTs write it (RFC 7519 section 2), to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericDate {
    millis: i64,
}

/// Why a token, true or not, does not count here and now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// `exp` has passed, leeway included.
    #[error("token expired at {expires}, and it is {now}")]
    Expired {
        /// When it did.
        expires: NumericDate,
        /// The time it was held against.
        now: NumericDate,
    },
    /// `nbf` has not come, leeway included.
    #[error("token is valid from {not_before} on, and it is {now}")]
    NotYetValid {
        /// From when it is.
        not_before: NumericDate,
        /// The time it was held against.
        now: NumericDate,
    },
    /// `aud` does not name this audience.
    #[error("token is not for the audience `{0}`")]
    Audience(String),
}

impl NumericDate {
    /// A time in seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        Self {
            millis: seconds.saturating_mul(1000),
        }
    }

    /// A time in milliseconds since 1970.
    pub fn from_millis(millis: i64) -> Self {
        Self { millis }
    }

    /// Seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.millis.div_euclid(1000)
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.millis
    }

    fn plus(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self {
            millis: self.millis.saturating_add(span),
        }
    }

    fn read(number: &Number) -> Option<Self> {
        if let Some(seconds) = number.as_i64() {
            return (0..=LAST_SECOND)
                .contains(&seconds)
                .then(|| Self::from_seconds(seconds));
        }
        let seconds = number
            .as_f64()
            .filter(|s| (0.0..=LAST_SECOND as f64).contains(s))?;
        Some(Self {
            millis: (seconds * 1000.0).floor() as i64,
        })
    }
}

impl fmt::Display for NumericDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.seconds(), self.millis.rem_euclid(1000))
    }
}

impl From<SystemTime> for NumericDate {
    fn from(time: SystemTime) -> Self {
        // Before 1970 no token is valid, whichever instant it is.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_seconds(0).plus(since)
    }
}

impl Claims {
    /// Reads the claims that the standard names; all others stay in [`Claims::raw`].
    ///
    /// # Errors
    ///
    /// [`TokenError`], the variants that speak of claims.
    pub fn from_members(members: Map<String, Value>) -> Result<Self, TokenError> {
        Ok(Self {
            subject: subject(&members)?,
            audience: audience(&members)?,
            expires: time(&members, "exp")?.ok_or(TokenError::ClaimMissing("exp"))?,
            not_before: time(&members, "nbf")?,
            issued: time(&members, "iat")?,
            id: text(&members, "jti")?.map(str::to_owned),
            raw: members,
        })
    }
}

/// Whether the token counts now and for `audience`, which is compared byte by byte.
///
/// `leeway` forgives clocks that disagree, for `exp` and `nbf` alike: the token is expired from
/// `exp + leeway` on.
///
/// # Errors
///
/// [`ClaimsError`].
pub fn check_times_and_audience(
    claims: &Claims,
    audience: &str,
    now: NumericDate,
    leeway: Duration,
) -> Result<(), ClaimsError> {
    if now >= claims.expires.plus(leeway) {
        return Err(ClaimsError::Expired {
            expires: claims.expires,
            now,
        });
    }
    if let Some(not_before) = claims.not_before
        && not_before > now.plus(leeway)
    {
        return Err(ClaimsError::NotYetValid { not_before, now });
    }
    if !claims.audience.iter().any(|named| named == audience) {
        return Err(ClaimsError::Audience(audience.to_owned()));
    }
    Ok(())
}

fn subject(members: &Map<String, Value>) -> Result<SpiffeId, TokenError> {
    let id = text(members, "sub")?.ok_or(TokenError::ClaimMissing("sub"))?;
    let id = SpiffeId::parse(id).map_err(TokenError::Subject)?;
    if id.is_root() {
        Err(TokenError::SubjectRoot)
    } else {
        Ok(id)
    }
}

fn audience(members: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    let values = match members.get("aud") {
        None => return Err(TokenError::ClaimMissing("aud")),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(values)) => values,
        Some(_) => return Err(TokenError::ClaimType("aud")),
    };
    if values.is_empty() {
        return Err(TokenError::AudienceEmpty);
    }
    if values.len() > MAX_AUDIENCES {
        return Err(TokenError::TooManyAudiences {
            count: values.len(),
        });
    }
    values.iter().map(one_audience).collect()
}

fn one_audience(value: &Value) -> Result<String, TokenError> {
    match value.as_str() {
        None => Err(TokenError::ClaimType("aud")),
        Some("") => Err(TokenError::AudienceEmpty),
        Some(text) => Ok(text.to_owned()),
    }
}

fn time(
    members: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<NumericDate>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => NumericDate::read(number)
            .map(Some)
            .ok_or(TokenError::Time(name)),
        Some(_) => Err(TokenError::ClaimType(name)),
    }
}

fn text<'a>(
    members: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(TokenError::ClaimType(name)),
    }
}
