//! Entries from a TOML or JSON file.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use taskmint_model::{Timestamp, millis};
use taskmint_wire::admin;

use crate::exit::Failure;
use crate::output::parse_duration;

/// Several entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many {
    entries: Vec<Entry>,
}

/// What `entry show -o json` prints, and what people write.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    id: Option<String>,
    revision: u64,
    parent_id: Option<String>,
    parent_selectors: Vec<String>,
    spiffe_id: String,
    selectors: Vec<String>,
    x509_ttl: Option<String>,
    x509_ttl_ms: Option<u64>,
    jwt_ttl: Option<String>,
    jwt_ttl_ms: Option<u64>,
    key_type: Option<String>,
    dns_names: Vec<String>,
    hint: Option<String>,
    federates_with: Vec<String>,
    downstream: bool,
    owner: Option<String>,
    class: Option<String>,
    scopes: Vec<String>,
    audiences: Vec<String>,
    implicit: bool,
    descendants: bool,
    watch: bool,
    crl: bool,
    max_limit: Option<String>,
    max_limit_ms: Option<u64>,
    max_children: u32,
    max_depth: u32,
    expires_at: Option<String>,
    expires_at_ms: Option<u64>,
    labels: HashMap<String, String>,
    created_by: Option<String>,
    /// Read so that what was shown can be created elsewhere; the server sets its own.
    #[serde(rename = "created_at")]
    _created_at: Option<String>,
    created_at_ms: Option<u64>,
}

/// Reads a file: `.json` is JSON, anything else TOML.
pub(super) fn read(path: &Path) -> Result<Vec<admin::Entry>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    parse(&text, is_json).map_err(|why| Failure::usage(format!("{shown}: {why}")))
}

/// Reads one entry, or several.
pub(super) fn parse(text: &str, is_json: bool) -> Result<Vec<admin::Entry>, String> {
    let entries = if is_json {
        from_json(text)
    } else {
        from_toml(text)
    }?;
    if entries.is_empty() {
        return Err("there is no entry in it".to_owned());
    }
    entries.into_iter().map(Entry::wire).collect()
}

fn from_json(text: &str) -> Result<Vec<Entry>, String> {
    // By first character, so that a mistake is told with its place and not as "no variant".
    let read = match text.trim_start().chars().next() {
        Some('[') => serde_json::from_str(text),
        _ if is_many(text) => serde_json::from_str(text).map(|many: Many| many.entries),
        _ => serde_json::from_str(text).map(|entry| vec![entry]),
    };
    read.map_err(|error| error.to_string())
}

fn is_many(text: &str) -> bool {
    let value = serde_json::from_str::<serde_json::Value>(text);
    value.is_ok_and(|value| value.get("entries").is_some())
}

fn from_toml(text: &str) -> Result<Vec<Entry>, String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    let read = if table.contains_key("entries") {
        toml::from_str(text).map(|many: Many| many.entries)
    } else {
        toml::from_str(text).map(|entry| vec![entry])
    };
    read.map_err(|error| error.to_string())
}

impl Entry {
    fn wire(self) -> Result<admin::Entry, String> {
        let expires_at_ms = match (self.expires_at_ms, self.expires_at) {
            (Some(millis), _) => millis,
            (None, Some(text)) => text
                .parse::<Timestamp>()
                .map_err(|error| format!("expires_at: {error}"))?
                .millis(),
            (None, None) => 0,
        };
        Ok(admin::Entry {
            id: self.id.unwrap_or_default(),
            revision: self.revision,
            parent_id: self.parent_id.unwrap_or_default(),
            parent_selectors: self.parent_selectors,
            spiffe_id: self.spiffe_id,
            selectors: self.selectors,
            x509_ttl_ms: lifetime("x509_ttl", self.x509_ttl, self.x509_ttl_ms)?,
            jwt_ttl_ms: lifetime("jwt_ttl", self.jwt_ttl, self.jwt_ttl_ms)?,
            key_type: self.key_type.unwrap_or_default(),
            dns_names: self.dns_names,
            hint: self.hint.unwrap_or_default(),
            federates_with: self.federates_with,
            downstream: self.downstream,
            owner: self.owner.unwrap_or_default(),
            class: self.class.unwrap_or_default(),
            scopes: self.scopes,
            audiences: self.audiences,
            implicit: self.implicit,
            descendants: self.descendants,
            watch: self.watch,
            crl: self.crl,
            max_limit_ms: lifetime("max_limit", self.max_limit, self.max_limit_ms)?,
            max_children: self.max_children,
            max_depth: self.max_depth,
            expires_at_ms,
            labels: self.labels,
            created_by: self.created_by.unwrap_or_default(),
            created_at_ms: self.created_at_ms.unwrap_or_default(),
        })
    }
}

fn lifetime(name: &str, text: Option<String>, ms: Option<u64>) -> Result<u64, String> {
    match (text, ms) {
        (Some(_), Some(_)) => Err(format!(
            "`{name}` and `{name}_ms` are both given: remove one"
        )),
        (Some(text), None) => parse_duration(&text)
            .map(millis)
            .map_err(|why| format!("{name}: {why}")),
        (None, ms) => Ok(ms.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_or_many_can_be_written_in_both_notations() {
        let one = "spiffe_id = \"/a\"\nselectors = [\"unix:uid:1\"]\nx509_ttl = \"10m\"\n";
        let many = "[[entries]]\nspiffe_id = \"/a\"\n[[entries]]\nspiffe_id = \"/b\"\n";
        assert_eq!(parse(one, false).unwrap()[0].x509_ttl_ms, 600_000);
        assert_eq!(parse(many, false).unwrap().len(), 2);
        assert_eq!(parse(r#"{"spiffe_id": "/a"}"#, true).unwrap().len(), 1);
        assert_eq!(
            parse(r#"[{"spiffe_id": "/a"}, {}]"#, true).unwrap().len(),
            2
        );
        assert_eq!(parse(r#"{"entries": [{}, {}]}"#, true).unwrap().len(), 2);
    }

    #[test]
    fn a_mistake_in_a_file_is_told_with_its_place() {
        let table = [
            ("", true, "EOF"),
            ("[]", true, "there is no entry"),
            (r#"{"spifeid": 1}"#, true, "unknown field `spifeid`"),
            ("spifeid = 1\n", false, "unknown field `spifeid`"),
            (
                "x509_ttl = \"10\"\n",
                false,
                "x509_ttl: `10` is no duration",
            ),
            ("x509_ttl = \"10m\"\nx509_ttl_ms = 1\n", false, "both given"),
            ("expires_at = \"soon\"\n", false, "expires_at: `soon`"),
            ("= 1", false, "TOML parse error at line 1, column 1"),
        ];
        for (text, is_json, expected) in table {
            let why = parse(text, is_json).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }
}
