//! The one line that a new node needs.
//!
//! ```text
//! taskmint-join-v1:<trust domain>:<base64url of body>
//! body = root hash (32) | address length (1) | address | token | checksum (4)
//! ```
//!
//! It has no character that a shell, a URL or an environment file treats specially. White space is
//! dropped wherever it is, since terminals and mail wrap lines. The checksum, the first octets of
//! SHA-256 over all before it, is there to tell a damaged copy from a wrong one; it protects
//! nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use taskmint_id::TrustDomain;
use zeroize::{Zeroize as _, Zeroizing};

/// The version that is written and read.
pub const VERSION: u8 = 1;

const NAME: &str = "taskmint-join-v";
const PIN: usize = 32;
const CHECKSUM: usize = 4;
const MAX_TOKEN: usize = 512;
const MAX_TEXT: usize = 2048;

/// More of the stack than reading or writing a join string takes.
const STACK: usize = 16 << 10;

/// Where to join, what to trust there, and the token that lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    /// Of the format: [`VERSION`].
    pub version: u8,
    /// The trust domain to join.
    pub trust_domain: TrustDomain,
    /// Host and port of the server, at most 255 bytes.
    pub address: String,
    /// SHA-256 of the root's SubjectPublicKeyInfo.
    pub root_sha256: [u8; PIN],
    /// One-time token; none for a node that attests otherwise.
    pub token: Option<JoinToken>,
}

/// A one-time token: wiped on drop, silent in logs.
#[derive(Clone)]
pub struct JoinToken(Zeroizing<String>);

/// Text that is no join string. It is never quoted, since it holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinStringError {
    /// It does not begin as join strings do.
    #[error("not a join string: it does not begin with `taskmint-join-v1:`")]
    NotOne,
    /// Of a version that is not known here.
    #[error("join string is of another version than 1")]
    Version,
    /// The trust domain is malformed.
    #[error("join string names no trust domain")]
    TrustDomain,
    /// Characters are missing or changed.
    #[error("join string was cut or changed when it was copied")]
    Damaged,
    /// The address is not `host:port`, or too long.
    #[error("join string has no address of the form `host:port`")]
    Address,
    /// The token is empty, too long or not printable.
    #[error("join string has a token that is empty, over 512 bytes or not printable")]
    Token,
}

impl JoinToken {
    /// A token.
    ///
    /// # Errors
    /// [`JoinStringError::Token`] unless it is 1 to 512 bytes of printable ASCII.
    pub fn new(token: impl Into<String>) -> Result<Self, JoinStringError> {
        let token = Zeroizing::new(token.into());
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || token.len() > MAX_TOKEN || !printable {
            return Err(JoinStringError::Token);
        }
        Ok(Self(token))
    }

    /// The token itself: to be shown to the pinned server and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

// Compared in tests and by operators' tools only, never against what a stranger sent.
impl PartialEq for JoinToken {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for JoinToken {}

impl JoinString {
    /// A join string of the current version.
    ///
    /// # Errors
    /// [`JoinStringError::Address`].
    pub fn new(
        trust_domain: TrustDomain,
        address: impl Into<String>,
        root_sha256: [u8; PIN],
        token: Option<JoinToken>,
    ) -> Result<Self, JoinStringError> {
        let address = check_address(address.into())?;
        Ok(Self {
            version: VERSION,
            trust_domain,
            address,
            root_sha256,
            token,
        })
    }

    /// The text, token included: it is a secret while the token is not used up.
    ///
    /// # Errors
    /// [`JoinStringError::Address`] if the address was changed to something impossible.
    pub fn to_text(&self) -> Result<Zeroizing<String>, JoinStringError> {
        overwriting(|| self.write())
    }

    fn write(&self) -> Result<Zeroizing<String>, JoinStringError> {
        let length = u8::try_from(self.address.len()).map_err(|_| JoinStringError::Address)?;
        let prefix = format!("{NAME}{VERSION}:{}:", self.trust_domain);
        let token = self
            .token
            .as_ref()
            .map(JoinToken::expose)
            .unwrap_or_default();
        let len = PIN + 1 + self.address.len() + token.len() + CHECKSUM;
        let mut body = Zeroizing::new(Vec::with_capacity(len));
        body.extend_from_slice(&self.root_sha256);
        body.push(length);
        body.extend_from_slice(self.address.as_bytes());
        body.extend_from_slice(token.as_bytes());
        let sum = checksum(&prefix, &body);
        body.extend_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + len * 4 / 3 + 4));
        text.push_str(&prefix);
        BASE64_URL_SAFE_NO_PAD.encode_string(body.as_slice(), &mut text);
        Ok(text)
    }
}

impl FromStr for JoinString {
    type Err = JoinStringError;

    fn from_str(text: &str) -> Result<Self, JoinStringError> {
        overwriting(|| read(text))
    }
}

fn read(text: &str) -> Result<JoinString, JoinStringError> {
    // Beyond that it is something else, and not worth a copy.
    if text.len() > 2 * MAX_TEXT {
        return Err(JoinStringError::NotOne);
    }
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    compact.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    let rest = compact.strip_prefix(NAME).ok_or(JoinStringError::NotOne)?;
    let (version, rest) = rest.split_once(':').ok_or(JoinStringError::NotOne)?;
    if version != "1" {
        return Err(JoinStringError::Version);
    }
    let (name, encoded) = rest.split_once(':').ok_or(JoinStringError::Damaged)?;
    let trust_domain = TrustDomain::parse(name).map_err(|_| JoinStringError::TrustDomain)?;
    let mut decoded = BASE64_URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| JoinStringError::Damaged)?;
    let read = read_body(&format!("{NAME}1:{name}:"), &decoded, trust_domain);
    decoded.zeroize();
    read
}

/// Runs what handles a token, and then overwrites what that has left on the stack: hashers and
/// encoders keep octets of their own there, for as long as nothing else comes to lie in their place.
fn overwriting<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn below<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn overwrite() {
        let mut stack = [0_u8; STACK];
        stack.zeroize();
        std::hint::black_box(&stack);
    }
    let done = below(work);
    overwrite();
    done
}

fn read_body(
    prefix: &str,
    body: &[u8],
    trust_domain: TrustDomain,
) -> Result<JoinString, JoinStringError> {
    let (body, sum) = body
        .split_last_chunk::<CHECKSUM>()
        .ok_or(JoinStringError::Damaged)?;
    if checksum(prefix, body) != *sum {
        return Err(JoinStringError::Damaged);
    }
    let (root_sha256, rest) = body
        .split_first_chunk::<PIN>()
        .ok_or(JoinStringError::Damaged)?;
    let (length, rest) = rest.split_first().ok_or(JoinStringError::Address)?;
    let (address, token) = rest
        .split_at_checked(usize::from(*length))
        .ok_or(JoinStringError::Address)?;
    let address = str::from_utf8(address).map_err(|_| JoinStringError::Address)?;
    let token = match token {
        [] => None,
        token => {
            let token = str::from_utf8(token).map_err(|_| JoinStringError::Token)?;
            Some(JoinToken::new(token)?)
        }
    };
    JoinString::new(trust_domain, address, *root_sha256, token)
}

fn checksum(prefix: &str, body: &[u8]) -> [u8; CHECKSUM] {
    let digest: [u8; 32] = Sha256::new_with_prefix(prefix)
        .chain_update(body)
        .finalize()
        .into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

fn check_address(address: String) -> Result<String, JoinStringError> {
    let (host, port) = address.rsplit_once(':').ok_or(JoinStringError::Address)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':')),
        None => Some(host).filter(|host| !host.contains(':')),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    let host = bare.is_some_and(|host| !host.is_empty() && host.bytes().all(good));
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    if host && port && address.len() <= 255 {
        Ok(address)
    } else {
        Err(JoinStringError::Address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> JoinString {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let token = JoinToken::new("s3cret-token").unwrap();
        JoinString::new(trust_domain, "server.example:8443", [7; 32], Some(token)).unwrap()
    }

    #[test]
    fn a_join_string_is_one_line_without_special_characters() {
        let text = example().to_text().unwrap();
        assert!(text.starts_with("taskmint-join-v1:example.org:"));
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b":-_.".contains(&b))
        );
    }

    #[test]
    fn debug_hides_the_token() {
        let shown = format!("{:?}", example());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn wrapped_and_indented_text_is_read() {
        let text = example().to_text().unwrap();
        let (first, second) = text.split_at(40);
        assert_eq!(format!(" {first}\r\n  {second}\n").parse(), Ok(example()));
    }

    #[test]
    fn a_token_is_optional_and_never_empty() {
        let without = JoinString {
            token: None,
            ..example()
        };
        assert_eq!(without.to_text().unwrap().parse(), Ok(without));
        assert_eq!(JoinToken::new("").unwrap_err(), JoinStringError::Token);
        assert_eq!(JoinToken::new("a b").unwrap_err(), JoinStringError::Token);
    }

    #[test]
    fn what_is_no_join_string_is_refused_each_for_its_reason() {
        let text = example().to_text().unwrap();
        let cases = [
            (String::new(), JoinStringError::NotOne),
            ("x".repeat(5000), JoinStringError::NotOne),
            (text.replace("-v1:", "-v2:"), JoinStringError::Version),
            (
                text.replace("example.org", "Example.org"),
                JoinStringError::TrustDomain,
            ),
            (
                text.replace("example.org", "example.net"),
                JoinStringError::Damaged,
            ),
            (text[..text.len() - 1].to_owned(), JoinStringError::Damaged),
            (format!("{}=", *text), JoinStringError::Damaged),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<JoinString>(), Err(error));
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let with = |address: &str| JoinString::new(example().trust_domain, address, [0; 32], None);
        for good in ["a:1", "10.0.0.1:8443", "[::1]:65535", "a-b.c:80"] {
            assert!(with(good).is_ok(), "{good}");
        }
        for bad in [
            "", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "::1:80", "[a]:1", "a b:1", "a/b:1",
        ] {
            assert_eq!(with(bad), Err(JoinStringError::Address), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_join_string_comes_back(
            name in "[a-z0-9._-]{1,40}",
            host in "[a-z0-9.-]{1,60}",
            port in 1_u16..,
            root_sha256: [u8; 32],
            token in proptest::option::of("[!-~]{1,80}"),
        ) {
            let trust_domain = TrustDomain::parse(&name).unwrap();
            let token = token.map(|token| JoinToken::new(token).unwrap());
            let join = JoinString::new(trust_domain, format!("{host}:{port}"), root_sha256, token);
            let join = join.unwrap();
            prop_assert_eq!(join.to_text().unwrap().parse(), Ok(join));
        }

        #[test]
        fn one_changed_character_is_noticed(at: usize, to in "[A-Za-z0-9_-]") {
            let text = example().to_text().unwrap();
            let at = at % text.len();
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assume!(changed != *text);
            prop_assert!(changed.parse::<JoinString>().is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", body in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(text.parse::<JoinString>().is_err());
            let text = format!("taskmint-join-v1:a:{}", BASE64_URL_SAFE_NO_PAD.encode(body));
            prop_assert!(text.parse::<JoinString>().is_err());
        }
    }
}
