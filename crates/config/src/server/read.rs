//! Reads the server's configuration, and judges it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use taskmint_id::{SpiffeId, TrustDomain};

use super::{
    Admin, Credentials, Crl, Grant, JoinToken, KeyKind, Keys, NodeAttestors, Public, RateLimits,
    Revocation, ServerConfig, Signer, StatusList, StoreKind, TaskLimits, Verb, WatchLimits,
    X509Pop,
};
use crate::reader::Reader;
use crate::schema::Schema;
use crate::types::{
    Address, Log, PublicUrl, Rate, refuse_shared_ports, socket_path, warn_of_open_http,
};
use crate::value::Value;

/// The credential under which a service manager hands over the sealing key.
const SEALING_KEY: &str = "taskmint-sealing-key";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl Schema for ServerConfig {
    const PREFIX: &'static str = "TASKMINT_SERVER_";

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let trust_domain = reader
            .value::<TrustDomain>("trust_domain")
            .required("\"example.org\"");
        let data_dir = reader
            .value("data_dir")
            .or(PathBuf::from("/var/lib/taskmint-server"));
        let (listen, advertise) = read_listen(reader, "listen", "advertise", 8441);
        let (watch_listen, watch_advertise) =
            read_listen(reader, "watch_listen", "watch_advertise", 8442);
        let http_listen = reader.value("http_listen").or(loopback(8440));
        warn_of_open_http(reader, http_listen);
        let public_listen = reader.value::<SocketAddr>("public_listen").optional();
        refuse_shared_ports(
            reader,
            &[
                ("listen", listen),
                ("watch_listen", watch_listen),
                ("http_listen", http_listen),
                ("public_listen", public_listen.unwrap_or(loopback(0))),
            ],
        );
        let server_id = reader
            .value("server_id")
            .check(server_name)
            .or("server-1".to_owned());
        let public_url = read_public_url(reader);
        let public = reader.table("public", |reader| {
            Public::read(
                reader,
                public_listen,
                public_url.as_ref(),
                trust_domain.as_ref(),
            )
        });
        let crl = reader.table("crl", Crl::read);
        let status_list = reader.table("status_list", StatusList::read);
        let grace = reader
            .value("grace")
            .within(Duration::ZERO..=10 * MINUTE)
            .or(10 * SECOND);
        let log = reader.table("log", Log::read);
        let store = reader.table("store", |reader| {
            reader.value("kind").or(StoreKind::RocksDb)
        });
        let signer = reader.table("signer", Signer::read);
        let keys = reader.table("keys", |reader| Keys::read(reader, signer.socket.is_some()));
        warn_of_memory(reader, store, &keys);
        let tasks = reader.table("tasks", TaskLimits::read);
        let credentials = reader.table("credentials", |reader| {
            Credentials::read(reader, tasks.max_limit)
        });
        let revocation = reader.table("revocation", Revocation::read);
        let watch = reader.table("watch", WatchLimits::read);
        let rate_limits = reader.table("rate_limits", RateLimits::read);
        let node_attestors = reader.table("node_attestors", NodeAttestors::read);
        let admin = reader.table("admin", |reader| {
            Admin::read(reader, &data_dir, trust_domain.as_ref())
        });
        Some(Self {
            trust_domain: trust_domain?,
            server_id,
            data_dir,
            listen,
            advertise,
            watch_listen,
            watch_advertise,
            http_listen,
            public_url,
            public,
            crl,
            status_list,
            grace,
            log,
            store,
            keys,
            signer,
            credentials,
            tasks,
            revocation,
            watch,
            rate_limits,
            node_attestors,
            admin,
        })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn read_listen(
    reader: &mut Reader<'_, '_>,
    listen: &'static str,
    advertise: &'static str,
    port: u16,
) -> (SocketAddr, Option<Address>) {
    let address: SocketAddr = reader.value(listen).or(loopback(port));
    let told = reader.value(advertise).optional();
    if address.ip().is_unspecified() && !reader.is_given(advertise) {
        let text = format!("nobody can connect to {}: set `{advertise}`", address.ip());
        reader.warning(listen, text);
    }
    (address, told)
}

fn read_public_url(reader: &mut Reader<'_, '_>) -> Option<PublicUrl> {
    let url = reader.value::<PublicUrl>("public_url").optional();
    match &url {
        None if !reader.is_given("public_url") => reader.warning(
            "public_url",
            "unset, so tokens carry no `status` member, and only verifiers that watch learn of ends",
        ),
        Some(url) if url.is_plain_http() => {
            reader.warning("public_url", "anyone on the way can change what is fetched: use `https`");
        }
        _ => {}
    }
    url
}

fn warn_of_memory(reader: &mut Reader<'_, '_>, store: StoreKind, keys: &Keys) {
    if store == StoreKind::Memory {
        reader.warning(
            "store.kind",
            "with `memory`, every task and entry is gone after a restart",
        );
    } else if keys.kind == KeyKind::Memory {
        reader.warning(
            "keys.kind",
            "with `memory`, a restart makes new keys, and all that was issued before is refused",
        );
    }
}

/// A segment of a SPIFFE path (SPIFFE-ID.md, section 2.2).
fn server_name(name: &String) -> Result<(), String> {
    let is_plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_plain && (1..=64).contains(&name.len()) && name != "." && name != ".." {
        return Ok(());
    }
    Err("write 1 to 64 letters, digits, `-`, `_` or `.`, such as `\"server-1\"`".to_owned())
}

impl Keys {
    /// `elsewhere`: the signer is started by another, with keys of its own.
    fn read(reader: &mut Reader<'_, '_>, elsewhere: bool) -> Self {
        let kind = reader.value("kind").or(KeyKind::Sealed);
        let mut sealing_key_file = reader.value::<PathBuf>("sealing_key_file").optional();
        let mut passphrase_file = reader.value::<PathBuf>("passphrase_file").optional();
        let is_given = reader.is_given("sealing_key_file");
        if passphrase_file.is_some() && !is_given {
            reader.mistake(
                "passphrase_file",
                "opens nothing without `sealing_key_file`",
            );
            passphrase_file = None;
        }
        match kind {
            _ if elsewhere && is_given => reader.mistake(
                "sealing_key_file",
                "contradicts `signer.socket`: that signer has a sealing key of its own, and this \
                 process must not be able to read it",
            ),
            _ if elsewhere => {}
            KeyKind::Memory if is_given => reader.mistake(
                "sealing_key_file",
                "contradicts `keys.kind = \"memory\"`, which keeps no keys: remove one of them",
            ),
            KeyKind::Sealed if !is_given => {
                sealing_key_file = reader.credential(SEALING_KEY);
                if sealing_key_file.is_none() {
                    reader.mistake(
                        "sealing_key_file",
                        format!(
                            "missing, and no credential `{SEALING_KEY}` was given: write \
                             `sealing_key_file = \"/etc/taskmint/sealing-key\"` in `[keys]`, a \
                             file of mode 0600 with 32 random bytes; or name a signer that has it, \
                             `socket` in `[signer]`"
                        ),
                    );
                }
            }
            _ => {}
        }
        Self {
            kind,
            sealing_key_file,
            passphrase_file,
        }
    }
}

impl Signer {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let socket = reader.value::<PathBuf>("socket").optional();
        let path = reader.value::<PathBuf>("path").optional();
        let journal = reader.value::<PathBuf>("journal").optional();
        let workers = reader.value("workers").within(1..=64).optional();
        if socket.is_some() {
            let given = ["path", "journal", "workers"].into_iter();
            for key in given.filter(|key| reader.is_given(key)).collect::<Vec<_>>() {
                reader.mistake(
                    key,
                    "contradicts `signer.socket`: whoever starts that signer says so",
                );
            }
        }
        Self {
            socket,
            path,
            journal,
            workers,
            verify_one_in: reader.value("verify_one_in").within(0..=1_000_000).or(256),
            max_waiting: reader.value("max_waiting").within(64..=1_000_000).or(8192),
        }
    }
}

impl Credentials {
    fn read(reader: &mut Reader<'_, '_>, max_limit: Duration) -> Self {
        let x509_ttl_cap = reader.value("x509_ttl_cap").within(SECOND..=DAY).or(HOUR);
        let x509_ttl = reader
            .value("x509_ttl")
            .within(SECOND..=DAY)
            .or(10 * MINUTE);
        refuse_above(reader, "x509_ttl", x509_ttl, "x509_ttl_cap", x509_ttl_cap);
        let jwt_ttl_cap = reader
            .value("jwt_ttl_cap")
            .within(SECOND..=HOUR)
            .or(10 * MINUTE);
        let jwt_ttl = reader.value("jwt_ttl").within(SECOND..=HOUR).or(2 * MINUTE);
        refuse_above(reader, "jwt_ttl", jwt_ttl, "jwt_ttl_cap", jwt_ttl_cap);
        let node_ttl = reader
            .value("node_ttl")
            .within(10 * SECOND..=7 * DAY)
            .or(DAY);
        if node_ttl > max_limit {
            let limit = Value::show(&max_limit);
            let text =
                format!("longer than `tasks.max_limit`, which is {limit}: write at most that");
            reader.mistake("node_ttl", text);
        }
        let ca_ttl = reader
            .value("ca_ttl")
            .within(MINUTE..=3650 * DAY)
            .or(90 * DAY);
        // A new authority takes over at half-life, and until then what the old one signs must
        // fit into what is left of it.
        let longest = node_ttl.max(x509_ttl_cap).max(jwt_ttl_cap);
        if ca_ttl < 2 * longest {
            let twice = Value::show(&(2 * longest));
            let text =
                format!("less than twice the longest lifetime it signs: write {twice} or more");
            reader.mistake("ca_ttl", text);
        }
        // The authority refuses what begins more than 60 s off its own clock (P23).
        let backdate = reader
            .value("backdate")
            .within(Duration::ZERO..=50 * SECOND)
            .or(30 * SECOND);
        Self {
            ca_ttl,
            x509_ttl,
            x509_ttl_cap,
            jwt_ttl,
            jwt_ttl_cap,
            node_ttl,
            backdate,
        }
    }
}

fn refuse_above(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: Duration,
    cap_key: &str,
    cap: Duration,
) {
    if value > cap {
        let cap = Value::show(&cap);
        reader.mistake(
            key,
            format!("longer than `{cap_key}`, which is {cap}: write at most that"),
        );
    }
}

impl TaskLimits {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            max_limit: reader.value("max_limit").within(MINUTE..=30 * DAY).or(DAY),
            lease: reader.value("lease").within(SECOND..=HOUR).or(MINUTE),
            max_request_ids: reader
                .value("max_request_ids")
                .within(1..=1_000_000)
                .or(4_096),
        }
    }
}

impl Revocation {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let max_age = reader
            .value("max_age")
            .within(SECOND..=5 * MINUTE)
            .or(30 * SECOND);
        // A third: one heartbeat may be lost without closing a verifier.
        let heartbeat = reader.value("heartbeat").or_derived(max_age / 3);
        if heartbeat.is_zero() || heartbeat > max_age / 2 {
            let most = Value::show(&(max_age / 2));
            let text =
                format!("verifiers would close between two: write more than 0 and at most {most}");
            reader.mistake("heartbeat", text);
        }
        let leeway = reader
            .value("leeway")
            .within(Duration::ZERO..=5 * MINUTE)
            .or(MINUTE);
        let drift = reader
            .value("drift_allowance")
            .within(Duration::ZERO..=MINUTE);
        Self {
            max_age,
            heartbeat,
            leeway,
            drift_allowance: drift.or(2 * SECOND),
        }
    }
}

impl WatchLimits {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            max_watchers: reader
                .value("max_watchers")
                .within(1..=10_000_000)
                .or(100_000),
            max_per_identity: reader
                .value("max_per_identity")
                .within(1..=1_000_000)
                .or(64),
            max_waited_for: reader
                .value("max_waited_for")
                .within(1..=1_000_000)
                .or(20_000),
            waited_for: reader.value("waited_for").or(Vec::new()),
            checkpoint_after: reader
                .value("checkpoint_after")
                .within(1..=1_000_000)
                .or(100_000),
            threads: reader.value("threads").within(1..=1024).optional(),
        }
    }
}

impl RateLimits {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let node = Rate {
            per_second: 5_000,
            burst: 10_000,
        };
        let caller = Rate {
            per_second: 1_000,
            burst: 2_000,
        };
        Self {
            per_node: reader.table("per_node", |reader| Rate::read(reader, node)),
            per_caller: reader.table("per_caller", |reader| Rate::read(reader, caller)),
            per_entry: reader.table("per_entry", |reader| Rate::read(reader, node)),
        }
    }
}

impl NodeAttestors {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let read_ttl = |reader: &mut Reader<'_, '_>| {
            reader
                .value("ttl")
                .within(SECOND..=30 * DAY)
                .or(10 * MINUTE)
        };
        let join_token = reader
            .optional_table("join_token", read_ttl)
            .map(|ttl| JoinToken { ttl });
        let x509pop = reader.optional_table("x509pop", |reader| {
            let files = reader.value::<Vec<PathBuf>>("ca_files").check(|files| {
                if files.is_empty() {
                    Err("empty: name one CA at least".to_owned())
                } else {
                    Ok(())
                }
            });
            X509Pop {
                ca_files: files
                    .required("[\"/etc/taskmint/node-ca.pem\"]")
                    .unwrap_or_default(),
            }
        });
        if join_token.is_none() && x509pop.is_none() {
            return Self {
                join_token: Some(JoinToken { ttl: 10 * MINUTE }),
                x509pop,
            };
        }
        Self {
            join_token,
            x509pop,
        }
    }
}

impl Admin {
    fn read(
        reader: &mut Reader<'_, '_>,
        data_dir: &Path,
        trust_domain: Option<&TrustDomain>,
    ) -> Self {
        let socket = reader
            .value::<PathBuf>("socket")
            .or_derived(data_dir.join("admin.sock"));
        if let Err(text) = socket_path(&socket, 0) {
            reader.mistake("socket", text);
        }
        let allowed_uids = reader.value("allowed_uids").or(Vec::new());
        let grants = reader.tables("grants", |reader| Grant::read(reader, trust_domain));
        Self {
            socket,
            allowed_uids,
            grants: grants.into_iter().flatten().collect(),
        }
    }
}

impl Grant {
    fn read(reader: &mut Reader<'_, '_>, trust_domain: Option<&TrustDomain>) -> Option<Self> {
        let principal = reader
            .value::<SpiffeId>("principal")
            .check(|id| match trust_domain {
                Some(own) if id.trust_domain() != own => {
                    Err(format!("of another trust domain than `{}`", own.as_str()))
                }
                _ if id.is_root() => {
                    Err("a trust domain is nobody: write an ID with a path".to_owned())
                }
                _ => Ok(()),
            });
        let principal = principal.required("\"spiffe://example.org/orchestrator\"");
        let verbs = reader.value::<Vec<Verb>>("verbs").check(|verbs| {
            if verbs.is_empty() {
                Err("empty: name one verb at least".to_owned())
            } else {
                Ok(())
            }
        });
        let verbs = verbs.required("[\"read\"]");
        let path_prefix = reader.value("path_prefix").required("\"/team\"");
        Some(Self {
            principal: principal?,
            verbs: verbs?,
            path_prefix: path_prefix?,
        })
    }
}
