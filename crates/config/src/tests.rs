//! What people see: the table of mistakes, the sample files, overrides and origins.

mod agent;
mod samples;
mod server;
mod values;

use crate::{Overrides, ServerConfig};

/// A server configuration with nothing wrong, to add to.
const BASE: &str = "trust_domain = \"example.org\"\nkeys.kind = \"memory\"\n";

/// What is wrong with a text, one mistake a line, under the name `s`.
fn mistakes(text: &str) -> String {
    mistakes_with(text, &Overrides::none())
}

fn mistakes_with(text: &str, overrides: &Overrides) -> String {
    ServerConfig::parse(text, "s", overrides)
        .expect_err("a mistake")
        .to_string()
}

fn environment(pairs: &[(&str, &str)]) -> Overrides {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Overrides::new(pairs, [])
}

fn flags(sets: &[&str]) -> Overrides {
    Overrides::new([], sets.iter().map(|set| (*set).to_owned()))
}
