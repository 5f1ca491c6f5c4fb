//! SPIFFE ids (SPIFFE-ID.md section 2) and the names Taskmint keeps for itself.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::{MAX_TRUST_DOMAIN, PathPrefix, TrustDomain};

/// Longest SPIFFE id, in bytes, `spiffe://` included.
pub const MAX_SPIFFE_ID: usize = 2048;

const SCHEME: &str = "spiffe://";
const RESERVED: &str = "/taskmint";

/// A SPIFFE id, such as `spiffe://example.org/billing`: at most 2,048 bytes, compared byte by byte.
///
/// Cloning shares the text.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

/// What a SPIFFE id may stand for, by its path. Paths below `/taskmint/` are reserved: no entry,
/// mint or import may use one (design protocol, line 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No path: the trust domain itself. Authorities carry it, workloads never do.
    Root,
    /// `/taskmint/server/<id>`.
    Server,
    /// `/taskmint/node/<attestor>/<id>`.
    Node,
    /// Anything outside `/taskmint`.
    Workload,
    /// `/taskmint` itself, or below it but neither server nor node: stands for nothing.
    OtherReserved,
}

/// How a text fails to be a SPIFFE id, a trust domain name or a path: one variant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// Nothing was given.
    #[error("spiffe id is empty")]
    Empty,
    /// The bytes are not text.
    #[error("spiffe id is not utf-8")]
    NotUtf8,
    /// More than [`MAX_SPIFFE_ID`] bytes.
    #[error("spiffe id has {bytes} bytes, more than {MAX_SPIFFE_ID}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It does not begin with `spiffe://`, in lower case.
    #[error("spiffe id does not begin with `spiffe://`")]
    Scheme,
    /// A `?`, even with nothing after it.
    #[error("spiffe id has a query")]
    Query,
    /// A `#`, even with nothing after it.
    #[error("spiffe id has a fragment")]
    Fragment,
    /// An `@` in the authority.
    #[error("spiffe id has a user")]
    UserInfo,
    /// A `:` in the authority.
    #[error("spiffe id has a port")]
    Port,
    /// The trust domain name is empty.
    #[error("trust domain is missing")]
    TrustDomainMissing,
    /// The trust domain name has more than [`MAX_TRUST_DOMAIN`] bytes.
    #[error("trust domain has {bytes} bytes, more than {MAX_TRUST_DOMAIN}")]
    TrustDomainTooLong {
        /// Its length.
        bytes: usize,
    },
    /// An upper-case letter in the trust domain name.
    #[error("trust domain has the upper-case letter `{}`", byte.escape_ascii())]
    TrustDomainUpperCase {
        /// The letter.
        byte: u8,
    },
    /// A percent sign in the trust domain name.
    #[error("trust domain is percent-encoded")]
    TrustDomainPercent,
    /// A byte in the trust domain name that is none of `a-z 0-9 . - _`.
    #[error("trust domain has `{}`, which is none of `a-z 0-9 . - _`", byte.escape_ascii())]
    TrustDomainCharacter {
        /// The byte.
        byte: u8,
    },
    /// The path does not begin with a slash.
    #[error("path does not begin with `/`")]
    PathNotAbsolute,
    /// The path ends with a slash.
    #[error("path ends with `/`")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("path has an empty segment")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("path has a segment `.` or `..`")]
    DotSegment,
    /// A percent sign in the path.
    #[error("path is percent-encoded")]
    PathPercent,
    /// A byte in a path segment that is none of `a-z A-Z 0-9 . - _`.
    #[error("path has `{}`, which is none of `a-z A-Z 0-9 . - _`", byte.escape_ascii())]
    PathCharacter {
        /// The byte.
        byte: u8,
    },
    /// A name that has to be exactly one path segment is none, or several.
    #[error("name is not exactly one path segment")]
    NotOneSegment,
}

impl SpiffeIdError {
    /// A stable word for this way of being wrong, as the shared vectors spell it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::NotUtf8 => "NOT_UTF8",
            Self::TooLong { .. } => "TOO_LONG",
            Self::Scheme => "SCHEME",
            Self::Query => "QUERY",
            Self::Fragment => "FRAGMENT",
            Self::UserInfo => "USER_INFO",
            Self::Port => "PORT",
            Self::TrustDomainMissing => "TRUST_DOMAIN_MISSING",
            Self::TrustDomainTooLong { .. } => "TRUST_DOMAIN_TOO_LONG",
            Self::TrustDomainUpperCase { .. } => "TRUST_DOMAIN_UPPER_CASE",
            Self::TrustDomainPercent => "TRUST_DOMAIN_PERCENT",
            Self::TrustDomainCharacter { .. } => "TRUST_DOMAIN_CHARACTER",
            Self::PathNotAbsolute => "PATH_NOT_ABSOLUTE",
            Self::TrailingSlash => "TRAILING_SLASH",
            Self::EmptySegment => "EMPTY_SEGMENT",
            Self::DotSegment => "DOT_SEGMENT",
            Self::PathPercent => "PATH_PERCENT",
            Self::PathCharacter { .. } => "PATH_CHARACTER",
            Self::NotOneSegment => "NOT_ONE_SEGMENT",
        }
    }
}

impl SpiffeId {
    /// Reads a SPIFFE id.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`] says in which way the text is wrong; the first way found, if several.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        check_length(uri.len())?;
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        match rest.bytes().find(|byte| matches!(byte, b'?' | b'#')) {
            Some(b'?') => return Err(SpiffeIdError::Query),
            Some(_) => return Err(SpiffeIdError::Fragment),
            None => {}
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(SpiffeIdError::UserInfo);
        }
        // A bracket is an IPv6 literal, whose colons are no port.
        if authority.contains(':') && !authority.starts_with('[') {
            return Err(SpiffeIdError::Port);
        }
        let trust_domain = TrustDomain::parse(authority)?;
        check_path(path)?;
        Ok(Self {
            uri: Arc::from(uri),
            trust_domain,
        })
    }

    /// Reads a SPIFFE id from bytes, such as those of a certificate's URI name.
    ///
    /// # Errors
    ///
    /// As [`SpiffeId::parse`], and [`SpiffeIdError::NotUtf8`].
    pub fn from_bytes(uri: &[u8]) -> Result<Self, SpiffeIdError> {
        Self::parse(std::str::from_utf8(uri).map_err(|_| SpiffeIdError::NotUtf8)?)
    }

    /// The id of `path` in a trust domain; the empty path gives the root.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`], the variants that speak of the path or the whole length.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_length(SCHEME.len() + trust_domain.as_str().len() + path.len())?;
        check_path(path)?;
        Ok(Self::join(trust_domain, path))
    }

    /// The trust domain's own id, which has no path.
    pub fn root(trust_domain: &TrustDomain) -> Self {
        Self::join(trust_domain, "")
    }

    /// The id of a server: `/taskmint/server/<id>`.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`] if `id` is not one path segment, or the whole gets too long.
    pub fn server(trust_domain: &TrustDomain, id: &str) -> Result<Self, SpiffeIdError> {
        check_segment(id)?;
        Self::new(trust_domain, &format!("{RESERVED}/server/{id}"))
    }

    /// The id of a node: `/taskmint/node/<attestor>/<id>`.
    ///
    /// # Errors
    ///
    /// [`SpiffeIdError`] if either name is not one path segment, or the whole gets too long.
    pub fn node(
        trust_domain: &TrustDomain,
        attestor: &str,
        id: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(attestor)?;
        check_segment(id)?;
        Self::new(trust_domain, &format!("{RESERVED}/node/{attestor}/{id}"))
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, beginning with a slash; empty for the root.
    pub fn path(&self) -> &str {
        self.uri
            .get(SCHEME.len() + self.trust_domain.as_str().len()..)
            .unwrap_or_default()
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Whether it has no path.
    pub fn is_root(&self) -> bool {
        self.path().is_empty()
    }

    /// Whether its path is `prefix` or below it. The trust domain is not compared.
    pub fn under(&self, prefix: &PathPrefix) -> bool {
        prefix.covers(self.path())
    }

    /// What it may stand for.
    pub fn kind(&self) -> Kind {
        if self.is_root() {
            return Kind::Root;
        }
        if !self.is_reserved() {
            return Kind::Workload;
        }
        if self.server_name().is_some() {
            Kind::Server
        } else if self.node_name().is_some() {
            Kind::Node
        } else {
            Kind::OtherReserved
        }
    }

    /// Whether its path is `/taskmint` or below it.
    pub fn is_reserved(&self) -> bool {
        self.reserved_rest().is_some()
    }

    /// The `<id>` of `/taskmint/server/<id>`.
    pub fn server_name(&self) -> Option<&str> {
        let id = self.reserved_rest()?.strip_prefix("/server/")?;
        (!id.contains('/')).then_some(id)
    }

    /// The `(<attestor>, <id>)` of `/taskmint/node/<attestor>/<id>`.
    pub fn node_name(&self) -> Option<(&str, &str)> {
        let (attestor, id) = self
            .reserved_rest()?
            .strip_prefix("/node/")?
            .split_once('/')?;
        (!id.contains('/')).then_some((attestor, id))
    }

    fn reserved_rest(&self) -> Option<&str> {
        let rest = self.path().strip_prefix(RESERVED)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    fn join(trust_domain: &TrustDomain, path: &str) -> Self {
        let uri = Arc::from(format!("{SCHEME}{trust_domain}{path}"));
        Self {
            uri,
            trust_domain: trust_domain.clone(),
        }
    }
}

/// Whether `path` is empty or an absolute path by the letter of section 2.2.
pub(crate) fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let rest = path
        .strip_prefix('/')
        .ok_or(SpiffeIdError::PathNotAbsolute)?;
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    rest.split('/').try_for_each(|segment| match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ => check_characters(segment),
    })
}

fn check_characters(segment: &str) -> Result<(), SpiffeIdError> {
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            b'%' => return Err(SpiffeIdError::PathPercent),
            _ => return Err(SpiffeIdError::PathCharacter { byte }),
        }
    }
    Ok(())
}

fn check_segment(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() || name.contains('/') {
        return Err(SpiffeIdError::NotOneSegment);
    }
    Ok(())
}

fn check_length(bytes: usize) -> Result<(), SpiffeIdError> {
    if bytes > MAX_SPIFFE_ID {
        return Err(SpiffeIdError::TooLong { bytes });
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}

// The trust domain is part of the text, so the text alone decides.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.uri
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.uri
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(uri)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(uri: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&uri)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}
