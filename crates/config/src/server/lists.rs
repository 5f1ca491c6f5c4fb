//! What is there for those who don't watch: lists, and the public listener that serves them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use taskmint_id::{SpiffeId, TrustDomain};

use crate::reader::Reader;
use crate::types::{PublicUrl, Rate};
use crate::value::Value;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Certificate revocation lists (P22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    /// How long a list counts.
    pub ttl: Duration,
    /// How long a change may wait for the next list.
    pub interval: Duration,
}

/// Token status lists (P21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusList {
    /// How long a copy may be used before another is fetched.
    pub ttl: Duration,
    /// How long a list counts.
    pub lifetime: Duration,
}

/// The public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// Where it listens; off unless set.
    pub listen: Option<SocketAddr>,
    /// How it is secured; always there with `listen`.
    pub security: Option<PublicSecurity>,
    /// Who may introspect tokens, by an SVID of this trust domain.
    pub introspect_ids: Vec<SpiffeId>,
    /// Who may introspect tokens, by a secret: files with one each.
    pub introspect_secret_files: Vec<PathBuf>,
    /// How often one address may ask.
    pub per_client: Rate,
}

/// How the public listener is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicSecurity {
    /// By TLS, with a certificate that the world knows.
    Tls {
        /// The chain, PEM, leaf first.
        cert_file: PathBuf,
        /// Its key, PEM.
        key_file: PathBuf,
    },
    /// By a proxy in front.
    PlainHttp,
}

impl Crl {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        let ttl = reader
            .value("ttl")
            .within(10 * SECOND..=HOUR)
            .or(10 * MINUTE);
        let interval = reader
            .value("interval")
            .within(SECOND..=10 * MINUTE)
            .or(10 * SECOND);
        // A new list is made at half of the old one's life.
        if interval > ttl / 2 {
            let most = Value::show(&(ttl / 2));
            let text = format!("lists would run out between two: write at most {most}");
            reader.mistake("interval", text);
        }
        Self { ttl, interval }
    }
}

impl StatusList {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        let ttl = reader.value("ttl").within(SECOND..=HOUR).or(30 * SECOND);
        let lifetime = reader
            .value("lifetime")
            .within(2 * SECOND..=HOUR)
            .or(5 * MINUTE);
        if lifetime < 2 * ttl {
            let least = Value::show(&(2 * ttl));
            let text =
                format!("copies would run out before they are renewed: write {least} or more");
            reader.mistake("lifetime", text);
        }
        Self { ttl, lifetime }
    }
}

impl Public {
    /// `listen` and `url` are read elsewhere: they stand outside of the table.
    pub(super) fn read(
        reader: &mut Reader<'_, '_>,
        listen: Option<SocketAddr>,
        url: Option<&PublicUrl>,
        trust_domain: Option<&TrustDomain>,
    ) -> Self {
        let security = read_security(reader, listen.is_some());
        if security.as_ref().is_some_and(is_tls) && url.is_some_and(PublicUrl::is_plain_http) {
            let text = "the listener speaks TLS, but `public_url` says `http`: write `https` there";
            reader.warning("cert_file", text);
        }
        let ids = reader
            .value::<Vec<SpiffeId>>("introspect_ids")
            .check(|ids| match (trust_domain, ids.iter()) {
                (Some(own), mut ids) => match ids.find(|id| id.trust_domain() != own) {
                    Some(other) => Err(format!("`{other}` is of another trust domain")),
                    None => Ok(()),
                },
                (None, _) => Ok(()),
            });
        let introspect_ids = ids.or(Vec::new());
        if !introspect_ids.is_empty() && security == Some(PublicSecurity::PlainHttp) {
            let text = "nobody can show an SVID over plain http: use `introspect_secret_files`";
            reader.mistake("introspect_ids", text);
        }
        let introspect_secret_files = reader
            .value("introspect_secret_files")
            .or(Vec::<PathBuf>::new());
        let rate = Rate {
            per_second: 10_000,
            burst: 20_000,
        };
        let per_client = reader.table("per_client", |reader| Rate::read(reader, rate));
        Self {
            listen,
            security,
            introspect_ids,
            introspect_secret_files,
            per_client,
        }
    }
}

fn is_tls(security: &PublicSecurity) -> bool {
    matches!(security, PublicSecurity::Tls { .. })
}

fn read_security(reader: &mut Reader<'_, '_>, is_on: bool) -> Option<PublicSecurity> {
    let cert_file = reader.value::<PathBuf>("cert_file").optional();
    let key_file = reader.value::<PathBuf>("key_file").optional();
    let plain_http = reader.value("plain_http").or(false);
    match (cert_file, key_file, plain_http) {
        (Some(cert_file), Some(key_file), false) => Some(PublicSecurity::Tls {
            cert_file,
            key_file,
        }),
        (None, None, true) => Some(PublicSecurity::PlainHttp),
        (None, None, false) => {
            if is_on {
                let text = "missing, and `public_listen` is set: write `cert_file` and `key_file`, or \
                            `plain_http = true` behind a proxy of your own";
                reader.mistake("cert_file", text);
            }
            None
        }
        (_, _, true) => {
            let text = "contradicts `cert_file` and `key_file`: remove one or the others";
            reader.mistake("plain_http", text);
            None
        }
        (Some(_), None, false) => {
            reader.mistake("key_file", "missing: a certificate needs its key");
            None
        }
        (None, Some(_), false) => {
            reader.mistake("cert_file", "missing: a key needs its certificate");
            None
        }
    }
}
