//! Values that both configurations use.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::reader::Reader;
use crate::sheet::quoted;
use crate::value::{Value, Written, Wrong};

/// Longest path of a unix socket, in bytes: `sun_path` without its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// One of a few words.
macro_rules! choice {
    ($vis:vis $type:ident, $what:literal, { $($word:literal => $variant:ident),+ $(,)? }) => {
        impl $type {
            /// As it is written in the configuration.
            $vis fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl $crate::value::Written for $type {
            const WHAT: &'static str = $what;

            fn parse(text: &str) -> Result<Self, $crate::value::Wrong> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err($crate::value::Wrong::content(
                        format!("`{}` is unknown", $crate::sheet::quoted(other)),
                    )),
                }
            }

            fn write(&self) -> String {
                self.as_str().to_owned()
            }
        }
    };
}
pub(crate) use choice;

/// Where a secret is: never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file, which [`secret::read`](crate::secret::read) reads.
    File(PathBuf),
    /// On standard input, written `-`, which
    /// [`secret::read_standard_input`](crate::secret::read_standard_input) reads.
    StandardInput,
}

impl Written for SecretSource {
    const WHAT: &'static str = "an absolute path such as `\"/etc/taskmint/join-string\"`, or `\"-\"` \
                                for standard input";

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "-" => Ok(Self::StandardInput),
            path => PathBuf::parse(path).map(Self::File),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::File(path) => path.write(),
            Self::StandardInput => "-".to_owned(),
        }
    }
}

/// How logs look and what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is logged.
    pub level: LogFilter,
}

impl Log {
    pub(crate) fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            format: reader.value("format").or(LogFormat::Text),
            level: reader.value("level").or(LogFilter("info".to_owned())),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A JSON object for each event.
    Json,
}

choice!(pub LogFormat, "`\"text\"` or `\"json\"`", { "text" => Text, "json" => Json });

/// Log levels: one for all (`info`), or by target (`info,taskmint_issuer=debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// As `tracing`'s filter reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Written for LogFilter {
    const WHAT: &'static str =
        "a level (`\"info\"`), or levels by target (`\"info,taskmint_issuer=debug\"`)";

    fn parse(text: &str) -> Result<Self, Wrong> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_target = |name: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
        };
        for directive in text.split(',') {
            let right = match directive.split_once('=') {
                Some((target, level)) => is_target(target) && LEVELS.contains(&level),
                None => LEVELS.contains(&directive),
            };
            if !right {
                return Err(Wrong::content(format!(
                    "`{}` is no level",
                    quoted(directive)
                )));
            }
        }
        Ok(Self(text.to_owned()))
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Written for Address {
    const WHAT: &'static str = "a host and port such as `\"taskmint.example.org:8441\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::content(format!("`{}` is none", quoted(text)));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(host) => host
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| wrong())?
                .to_string(),
            None if is_host(host) => host.to_ascii_lowercase(),
            None => return Err(wrong()),
        };
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|port| is_number && *port != 0)
            .ok_or_else(wrong)?;
        Ok(Self { host, port })
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// A DNS name or an IPv4 address.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.split('.').all(is_label)
}

/// A SHA-256, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Written for Fingerprint {
    const WHAT: &'static str = "a SHA-256 in 64 hexadecimal digits";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Wrong::content(format!("`{}` is none", quoted(text))))?;
        Ok(Self(bytes))
    }

    fn write(&self) -> String {
        hex::encode(self.0)
    }
}

/// Where the world finds status lists: `https`, a host, perhaps a path; no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether anyone on the way could change what is fetched there.
    pub fn is_plain_http(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl Written for PublicUrl {
    const WHAT: &'static str = "a URL such as `\"https://taskmint.example.org\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |how: &str| Wrong::content(format!("`{}` {how}", quoted(text)));
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or_else(|| wrong("is no https URL"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "-"));
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        // A port of our choice where none is given: the address parser wants one.
        let with_port = if host == authority {
            format!("{authority}:443")
        } else {
            authority.into()
        };
        if authority.contains('@') || <Address as Written>::parse(&with_port).is_err() {
            return Err(wrong("has no host"));
        }
        if path.is_empty() || path.ends_with('/') {
            return Err(wrong("ends with a slash"));
        }
        if !path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._~/".contains(c))
        {
            return Err(wrong("has more than a plain path"));
        }
        Ok(Self(text.to_owned()))
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Sustained, in calls a second.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

impl Rate {
    pub(crate) fn read(reader: &mut Reader<'_, '_>, default: Rate) -> Self {
        let per_second = reader
            .value("per_second")
            .within(1..=1_000_000)
            .or(default.per_second);
        let burst = reader
            .value("burst")
            .within(1..=1_000_000)
            .or(default.burst);
        Self { per_second, burst }
    }
}

/// Judges the path of a unix socket, with `extra` bytes to come after it.
pub(crate) fn socket_path(path: &std::path::Path, extra: usize) -> Result<(), String> {
    let length = path.as_os_str().len() + extra;
    if length <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(format!(
        "{length} bytes are too long for a unix socket: at most {MAX_SOCKET_PATH}"
    ))
}

/// Warns where health and metrics can be read from elsewhere.
pub(crate) fn warn_of_open_http(reader: &mut Reader<'_, '_>, address: SocketAddr) {
    if !is_loopback(address.ip()) {
        reader.warning(
            "http_listen",
            "anyone who reaches this address can read the metrics",
        );
    }
}

pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Reports listen addresses that are the same, but for port 0, which means any.
pub(crate) fn refuse_shared_ports(reader: &mut Reader<'_, '_>, listens: &[(&str, SocketAddr)]) {
    for (index, (key, address)) in listens.iter().enumerate() {
        let earlier = listens
            .iter()
            .take(index)
            .find(|(_, other)| clash(*address, *other));
        if let Some((other, _)) = earlier {
            reader.mistake(
                key,
                format!(
                    "{} is taken by `{other}`: write another port",
                    address.show()
                ),
            );
        }
    }
}

fn clash(one: SocketAddr, two: SocketAddr) -> bool {
    let same_ip = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
    one.port() != 0 && one.port() == two.port() && same_ip
}

/// Reports paths that are given to two things.
pub(crate) fn refuse_shared_paths(reader: &mut Reader<'_, '_>, paths: &[(&str, &std::path::Path)]) {
    for (index, (key, path)) in paths.iter().enumerate() {
        let earlier = paths.iter().take(index).find(|(_, other)| other == path);
        if let Some((other, _)) = earlier {
            reader.mistake(key, format!("the same path as `{other}`: write another"));
        }
    }
}
