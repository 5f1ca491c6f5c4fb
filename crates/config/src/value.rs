//! From TOML, or the text of a variable or flag, to typed values.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use taskmint_id::{PathPrefix, SpiffeId, TrustDomain};
use toml::Spanned;
use toml::de::DeValue;

use crate::sheet::quoted;

/// A value as it was given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    /// In the file.
    Toml(&'a Spanned<DeValue<'a>>),
    /// In an environment variable or a flag: always text.
    Text(&'a str),
}

/// Why a raw value is none of the type asked for.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The part at fault, where it is not the whole.
    pub(crate) span: Option<Range<usize>>,
    pub(crate) text: WrongText,
}

#[derive(Debug)]
pub(crate) enum WrongText {
    /// Of another type, with an article: `an integer`.
    Type(&'static str),
    /// Of the right type, but no such value: `"x" is no duration`.
    Content(String),
    /// As before, but what was given may be a secret and is not repeated.
    Hidden,
}

impl WrongText {
    pub(crate) fn describe(&self, key: &str, what: &str) -> String {
        match self {
            Self::Type(found) => format!("`{key}` is {found}: write {what}"),
            Self::Content(text) => format!("`{key}`: {text}: write {what}"),
            Self::Hidden => format!("`{key}`: write {what}"),
        }
    }
}

impl Wrong {
    /// Another type was expected.
    pub(crate) fn of_type(found: &'static str) -> Self {
        Self {
            span: None,
            text: WrongText::Type(found),
        }
    }

    /// The type is right, the content is not; `text` says how, without full stop.
    pub(crate) fn content(text: impl Into<String>) -> Self {
        Self {
            span: None,
            text: WrongText::Content(text.into()),
        }
    }

    /// The content is wrong and perhaps secret: it is not shown.
    pub(crate) fn hidden() -> Self {
        Self {
            span: None,
            text: WrongText::Hidden,
        }
    }
}

/// What a key can hold.
pub(crate) trait Value: Sized {
    /// With an article and an example: `a duration such as "10m"`.
    const WHAT: &'static str;

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// Every way in which it is wrong: a list may be wrong in several places.
    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>>;

    /// Writes the value as TOML.
    fn show(&self) -> String;
}

/// A value written as a string, in a notation of its own.
pub(crate) trait Written: Sized {
    const WHAT: &'static str;
    fn parse(text: &str) -> Result<Self, Wrong>;
    fn write(&self) -> String;
}

impl<T: Written> Value for T {
    const WHAT: &'static str = <T as Written>::WHAT;

    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>> {
        let text = match raw {
            Raw::Text(text) => text,
            Raw::Toml(value) => match value.get_ref() {
                DeValue::String(text) => text.as_ref(),
                other => return Err(vec![Wrong::of_type(type_name(other))]),
            },
        };
        T::parse(text).map_err(|wrong| vec![wrong])
    }

    fn show(&self) -> String {
        string(&self.write())
    }
}

impl Value for bool {
    const WHAT: &'static str = "`true` or `false`";

    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>> {
        let wrong = match raw {
            Raw::Toml(value) => match value.get_ref() {
                DeValue::Boolean(value) => return Ok(*value),
                other => Wrong::of_type(type_name(other)),
            },
            Raw::Text("true") => return Ok(true),
            Raw::Text("false") => return Ok(false),
            Raw::Text(text) => Wrong::content(format!("`{}` is neither", quoted(text))),
        };
        Err(vec![wrong])
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

fn read_integer<T: TryFrom<i128>>(raw: Raw<'_>) -> Result<T, Vec<Wrong>> {
    let (digits, radix) = match raw {
        Raw::Text(text) => (text.trim(), 10),
        Raw::Toml(value) => match value.get_ref() {
            DeValue::Integer(value) => (value.as_str(), value.radix()),
            other => return Err(vec![Wrong::of_type(type_name(other))]),
        },
    };
    let number = i128::from_str_radix(digits, radix)
        .ok()
        .and_then(|n| T::try_from(n).ok());
    number.ok_or_else(|| vec![Wrong::content(format!("`{}` does not fit", quoted(digits)))])
}

impl Value for u32 {
    const WHAT: &'static str = "a whole number such as `1000`";

    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>> {
        read_integer(raw)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    const WHAT: &'static str = "a whole number such as `1000`";

    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>> {
        read_integer(raw)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A list in TOML; in a variable or flag its members between commas.
impl<T: Value> Value for Vec<T> {
    const WHAT: &'static str = "a list, in `[` and `]`";

    fn read(raw: Raw<'_>) -> Result<Self, Vec<Wrong>> {
        let items: Vec<Raw<'_>> = match raw {
            Raw::Text(text) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                items.map(Raw::Text).collect()
            }
            Raw::Toml(value) => match value.get_ref() {
                DeValue::Array(items) => items.iter().map(Raw::Toml).collect(),
                other => return Err(vec![Wrong::of_type(type_name(other))]),
            },
        };
        let (mut values, mut wrongs) = (Vec::new(), Vec::new());
        for item in items {
            match T::read(item) {
                Ok(value) => values.push(value),
                Err(found) => {
                    wrongs.extend(found.into_iter().map(|wrong| member(wrong, item, T::WHAT)))
                }
            }
        }
        if wrongs.is_empty() {
            Ok(values)
        } else {
            Err(wrongs)
        }
    }

    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(Value::show).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Points at the member, and says what members are.
fn member(wrong: Wrong, item: Raw<'_>, what: &str) -> Wrong {
    let here = match item {
        Raw::Toml(value) => Some(value.span()),
        Raw::Text(_) => None,
    };
    let text = match wrong.text {
        WrongText::Type(found) => format!("a member is {found}, not {what}"),
        WrongText::Content(text) => format!("{text} (a member is {what})"),
        WrongText::Hidden => format!("a member is not {what}"),
    };
    Wrong {
        span: wrong.span.or(here),
        text: WrongText::Content(text),
    }
}

impl Written for String {
    const WHAT: &'static str = "a string";

    fn parse(text: &str) -> Result<Self, Wrong> {
        Ok(text.to_owned())
    }

    fn write(&self) -> String {
        self.clone()
    }
}

/// Whole numbers with `ms`, `s`, `m`, `h` or `d`, larger units first: `1h30m`.
impl Written for Duration {
    const WHAT: &'static str = "a duration such as `\"10m\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        parse_duration(text)
            .ok_or_else(|| Wrong::content(format!("`{}` is no duration", quoted(text))))
    }

    fn write(&self) -> String {
        let (seconds, ms) = (self.as_secs(), self.as_millis());
        match seconds {
            0 if ms == 0 => "0s".to_owned(),
            _ if self.subsec_millis() != 0 => format!("{ms}ms"),
            s if s % 86_400 == 0 && s > 86_400 => format!("{}d", s / 86_400),
            s if s % 3_600 == 0 => format!("{}h", s / 3_600),
            s if s % 60 == 0 => format!("{}m", s / 60),
            s => format!("{s}s"),
        }
    }
}

/// A duration as configuration has it: `90s`, `1h30m`, `250ms`; none if it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut below) = (text, 0_u64, u64::MAX);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        if millis >= below {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(millis)?)?;
        (rest, below) = (tail, millis);
    }
    Some(Duration::from_millis(total))
}

/// Absolute: the working folder of a service is not what its operator thinks. What was given is
/// never repeated, for it may be the secret itself where a path to it belongs.
impl Written for PathBuf {
    const WHAT: &'static str = "an absolute path such as `\"/var/lib/taskmint\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let path = Self::from(text);
        if path.is_absolute() && !text.contains('\0') {
            Ok(path)
        } else {
            Err(Wrong::hidden())
        }
    }

    fn write(&self) -> String {
        self.display().to_string()
    }
}

impl Written for SocketAddr {
    const WHAT: &'static str = "an IP address and port such as `\"127.0.0.1:8441\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::content(format!("`{}` is none", quoted(text))))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Written for TrustDomain {
    const WHAT: &'static str = "a trust domain such as `\"example.org\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::parse(text).map_err(|error| Wrong::content(error.to_string()))
    }

    fn write(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Written for SpiffeId {
    const WHAT: &'static str = "a SPIFFE ID such as `\"spiffe://example.org/orchestrator\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::parse(text).map_err(|error| Wrong::content(error.to_string()))
    }

    fn write(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Written for PathPrefix {
    const WHAT: &'static str = "a path prefix such as `\"/team\"`";

    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::parse(text).map_err(|error| Wrong::content(error.to_string()))
    }

    fn write(&self) -> String {
        self.as_str().to_owned()
    }
}

/// The type of a TOML value, with its article.
pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A TOML basic string.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
