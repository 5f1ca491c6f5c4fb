//! The configuration of `taskmint-server` and `taskmint-agent`.
//!
//! A file is read whole: every mistake in it is reported at once, with line, column and what to
//! write instead, before anything is opened or bound. Environment variables override the file and
//! flags override both; where each value came from is kept.
//!
//! ```
//! use taskmint_config::{Overrides, ServerConfig};
//!
//! let text = "trustdomain = \"example.org\"\n[credentials]\nx509_ttl = 600\n";
//! let flags = ["keys.kind=memory"];
//! let overrides = Overrides::new([], flags.map(String::from));
//! let mistakes = ServerConfig::parse(text, "server.toml", &overrides).unwrap_err();
//! assert_eq!(
//!     mistakes.to_string(),
//!     "server.toml:1:1: missing key `trust_domain`: write `trust_domain = \"example.org\"`\n\
//!      server.toml:1:1: unknown key `trustdomain`: did you mean `trust_domain`?\n\
//!      server.toml:3:12: `credentials.x509_ttl` is an integer: write a duration such as `\"10m\"`",
//! );
//! ```
//!
//! Secrets are never values here, only paths to files ([`secret::read`] reads those), and no
//! message repeats what was given where a path is expected.

mod agent;
mod mistake;
mod overrides;
mod reader;
mod schema;
pub mod secret;
mod server;
mod sheet;
mod show;
mod types;
mod value;

pub use agent::{
    AgentConfig, AgentLimits, AgentRevocation, NodeAttestor, Server, UnixAttestor,
    WorkloadAttestors, WorkloadSockets,
};
pub use mistake::{Mistake, Mistakes, Place};
pub use overrides::Overrides;
pub use schema::{Checked, LoadError, MAX_TEXT};
pub use server::{
    Admin, Credentials, Crl, Grant, JoinToken, KeyKind, Keys, NodeAttestors, Public,
    PublicSecurity, RateLimits, Revocation, ServerConfig, Signer, StatusList, StoreKind,
    TaskLimits, Verb, WatchLimits, X509Pop,
};
pub use sheet::{Key, Setting};
pub use show::show;
pub use types::{Address, Fingerprint, Log, LogFilter, LogFormat, PublicUrl, Rate, SecretSource};
pub use value::parse_duration;

#[cfg(test)]
mod tests;
