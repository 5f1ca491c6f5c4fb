//! An entry's fields as flags.

use std::time::Duration;

use clap::Args;
use taskmint_model::{Clock, SystemClock, millis};
use taskmint_wire::admin;

use crate::exit::Failure;
use crate::output::parse_duration;

/// What an entry is asked to be; what is not given stays.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "fields", multiple = true)]
pub(super) struct Fields {
    /// The identity: a SPIFFE ID, or its path alone.
    #[arg(long)]
    spiffe_id: Option<String>,
    /// What a caller must be attested to be, all of them; may be repeated.
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// The only node on which it counts: its SPIFFE ID, or the path alone.
    #[arg(long)]
    parent_id: Option<String>,
    /// What a node must be attested to be for it to count there; may be repeated.
    #[arg(long = "parent-selector", value_name = "TYPE:VALUE")]
    parent_selectors: Vec<String>,
    /// Lifetime of X.509-SVIDs.
    #[arg(long, value_parser = parse_duration)]
    x509_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs.
    #[arg(long, value_parser = parse_duration)]
    jwt_ttl: Option<Duration>,
    /// A DNS name in X.509-SVIDs; may be repeated.
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<String>,
    /// What tells it apart where a process has several identities.
    #[arg(long)]
    hint: Option<String>,
    /// On whose behalf its tasks act, unless they say otherwise.
    #[arg(long)]
    owner: Option<String>,
    /// Risk class.
    #[arg(long)]
    class: Option<String>,
    /// What its tasks may do, `*` for everything; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// For whom its tasks may fetch tokens, `*` for everybody; may be repeated.
    #[arg(long = "audience", value_name = "AUDIENCE")]
    audiences: Vec<String>,
    /// Unmodified SPIFFE clients get a task as long as their process.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "true|false")]
    implicit: Option<bool>,
    /// Descendants of a holder share its task without matching the entry themselves.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "true|false")]
    descendants: Option<bool>,
    /// Ends are waited for until it has heard of them.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "true|false")]
    watch: Option<bool>,
    /// Its workloads receive certificate revocation lists beside their SVIDs.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "true|false")]
    crl: Option<bool>,
    /// The longest life of a task.
    #[arg(long, value_parser = parse_duration)]
    max_limit: Option<Duration>,
    /// The most live children of one task.
    #[arg(long)]
    max_children: Option<u32>,
    /// How deep a task may be delegated.
    #[arg(long)]
    max_depth: Option<u32>,
    /// After this time it matches nobody.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// A note; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl Fields {
    /// A new entry.
    pub(super) fn entry(self) -> Result<admin::Entry, Failure> {
        if self.spiffe_id.is_none() || self.selectors.is_empty() {
            let why = "an entry needs `--spiffe-id` and at least one `--selector`, or a `--file`";
            return Err(Failure::usage(why));
        }
        let mut entry = admin::Entry::default();
        self.apply(&mut entry);
        Ok(entry)
    }

    /// Changes what was given.
    pub(super) fn apply(self, entry: &mut admin::Entry) {
        set(&mut entry.spiffe_id, self.spiffe_id);
        set(&mut entry.parent_id, self.parent_id);
        set(&mut entry.hint, self.hint);
        set(&mut entry.owner, self.owner);
        set(&mut entry.class, self.class);
        set(&mut entry.implicit, self.implicit);
        set(&mut entry.descendants, self.descendants);
        set(&mut entry.watch, self.watch);
        set(&mut entry.crl, self.crl);
        set(&mut entry.max_children, self.max_children);
        set(&mut entry.max_depth, self.max_depth);
        set(&mut entry.x509_ttl_ms, self.x509_ttl.map(millis));
        set(&mut entry.jwt_ttl_ms, self.jwt_ttl.map(millis));
        set(&mut entry.max_limit_ms, self.max_limit.map(millis));
        let expires_at = self
            .expires_in
            .map(|after| (SystemClock.now() + after).millis());
        set(&mut entry.expires_at_ms, expires_at);
        replace(&mut entry.selectors, self.selectors);
        replace(&mut entry.parent_selectors, self.parent_selectors);
        replace(&mut entry.dns_names, self.dns_names);
        replace(&mut entry.scopes, self.scopes);
        replace(&mut entry.audiences, self.audiences);
        if !self.labels.is_empty() {
            entry.labels = self.labels.into_iter().collect();
        }
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

fn replace(field: &mut Vec<String>, given: Vec<String>) {
    if !given.is_empty() {
        *field = given;
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write `key=value`")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_and_lists_are_replaced() {
        let mut entry = admin::Entry {
            owner: "ann".to_owned(),
            scopes: vec!["a".to_owned(), "b".to_owned()],
            implicit: true,
            ..Default::default()
        };
        let fields = Fields {
            scopes: vec!["c".to_owned()],
            implicit: Some(false),
            x509_ttl: Some(Duration::from_secs(60)),
            ..Default::default()
        };
        fields.apply(&mut entry);
        assert_eq!(
            (entry.owner.as_str(), entry.implicit, entry.x509_ttl_ms),
            ("ann", false, 60_000)
        );
        assert_eq!(entry.scopes, ["c"]);
    }

    #[test]
    fn an_entry_without_identity_or_selectors_is_refused_before_it_is_sent() {
        let fields = Fields {
            spiffe_id: Some("/a".to_owned()),
            ..Default::default()
        };
        assert_eq!(fields.entry().unwrap_err().code(), crate::exit::USAGE);
    }
}
