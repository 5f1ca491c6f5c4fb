use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{KeyKind, Place, StoreKind, Verb, show};

/// What is appended to [`BASE`], and what is then said; lines count from 3.
const TABLE: &[(&str, &str)] = &[
    // Unknown keys.
    (
        "server-id = \"a\"",
        "s:3:1: unknown key `server-id`: did you mean `server_id`?",
    ),
    (
        "[credentials]\nx509ttl = \"5m\"",
        "s:4:1: unknown key `credentials.x509ttl`: did you mean `credentials.x509_ttl`?",
    ),
    (
        "x509_ttl = \"5m\"",
        "s:3:1: unknown key `x509_ttl`: it belongs into `[credentials]`",
    ),
    (
        "verbs = [\"read\"]",
        "s:3:1: unknown key `verbs`: it belongs into `[[admin.grants]]`",
    ),
    (
        "[logs]\nlevel = \"info\"",
        "s:3:2: unknown key `logs`: did you mean `log`?",
    ),
    (
        "[log]\ncolour = true",
        "s:4:1: unknown key `log.colour`: known here are `format`, `level`",
    ),
    (
        "[keys.x]\nsealing_key = \"hunter2\"",
        "s:3:7: unknown key `keys.x`: known here are `kind`, `sealing_key_file`, `passphrase_file`",
    ),
    // Wrong types.
    (
        "server_id = 7",
        "s:3:13: `server_id` is an integer: write a string",
    ),
    (
        "grace = 10",
        "s:3:9: `grace` is an integer: write a duration such as `\"10m\"`",
    ),
    (
        "log = \"info\"",
        "s:3:7: `log` is a string: write a table, `[log]`",
    ),
    (
        "[watch]\nmax_watchers = \"many\"",
        "s:4:16: `watch.max_watchers` is a string: write a whole number such as `1000`",
    ),
    (
        "[admin]\nallowed_uids = 1000",
        "s:4:16: `admin.allowed_uids` is an integer: write a list, in `[` and `]`",
    ),
    (
        "[admin]\nallowed_uids = [0,\n  \"root\"]",
        "s:5:3: `admin.allowed_uids`: a member is a string, not a whole number such as `1000`: write a list, in `[` and `]`",
    ),
    (
        "[admin]\ngrants = 1",
        "s:4:10: `admin.grants` is an integer: write `[[admin.grants]]`",
    ),
    // Wrong content.
    (
        "grace = \"10 minutes\"",
        "s:3:9: `grace`: `10 minutes` is no duration: write a duration such as `\"10m\"`",
    ),
    (
        "listen = \"localhost:1\"",
        "s:3:10: `listen`: `localhost:1` is none: write an IP address and port such as `\"127.0.0.1:8441\"`",
    ),
    (
        "server_id = \"a/b\"",
        "s:3:13: `server_id`: write 1 to 64 letters, digits, `-`, `_` or `.`, such as `\"server-1\"`",
    ),
    (
        "[store]\nkind = \"sqlite\"",
        "s:4:8: `store.kind`: `sqlite` is unknown: write `\"rocksdb\"` or `\"memory\"`",
    ),
    (
        "[log]\nlevel = \"loud\"",
        "s:4:9: `log.level`: `loud` is no level: write a level (`\"info\"`), or levels by target (`\"info,taskmint_issuer=debug\"`)",
    ),
    (
        "public_url = \"https://x.org/\"",
        "s:3:14: `public_url`: `https://x.org/` ends with a slash: write a URL such as `\"https://taskmint.example.org\"`",
    ),
    (
        "[admin]\nallowed_uids = [4294967296]",
        "s:4:17: `admin.allowed_uids`: `4294967296` does not fit (a member is a whole number such as `1000`): write a list, in `[` and `]`",
    ),
    // Out of range.
    (
        "grace = \"1d\"",
        "s:3:9: `grace`: \"24h\" is out of range: write \"0s\" to \"10m\"",
    ),
    (
        "[tasks]\nmax_limit = \"31d\"",
        "s:4:13: `tasks.max_limit`: \"31d\" is out of range: write \"1m\" to \"30d\"",
    ),
    (
        "[watch]\nmax_watchers = 0",
        "s:4:16: `watch.max_watchers`: 0 is out of range: write 1 to 10000000",
    ),
    // Contradictions.
    (
        "keys.sealing_key_file = \"/k\"",
        "s:3:25: `keys.sealing_key_file`: contradicts `keys.kind = \"memory\"`, which keeps no keys: remove one of them",
    ),
    (
        "credentials.x509_ttl = \"2h\"",
        "s:3:24: `credentials.x509_ttl`: longer than `x509_ttl_cap`, which is \"1h\": write at most that",
    ),
    (
        "credentials.jwt_ttl_cap = \"1m\"",
        "s:3:1: `credentials.jwt_ttl`: longer than `jwt_ttl_cap`, which is \"1m\": write at most that",
    ),
    (
        "tasks.max_limit = \"12h\"",
        "s:1:1: `credentials.node_ttl`: longer than `tasks.max_limit`, which is \"12h\": write at most that",
    ),
    (
        "credentials.ca_ttl = \"1d\"",
        "s:3:22: `credentials.ca_ttl`: less than twice the longest lifetime it signs: write \"2d\" or more",
    ),
    (
        "revocation.heartbeat = \"30s\"",
        "s:3:24: `revocation.heartbeat`: verifiers would close between two: write more than 0 and at most \"15s\"",
    ),
    (
        "listen = \"0.0.0.0:1\"\nhttp_listen = \"127.0.0.1:1\"",
        "s:4:15: `http_listen`: \"127.0.0.1:1\" is taken by `listen`: write another port",
    ),
    (
        "public_listen = \"127.0.0.1:9\"",
        "s:1:1: `public.cert_file`: missing, and `public_listen` is set: write `cert_file` and `key_file`, or `plain_http = true` behind a proxy of your own",
    ),
    (
        "public.cert_file = \"/c\"",
        "s:3:1: `public.key_file`: missing: a certificate needs its key",
    ),
    (
        "public = { cert_file = \"/c\", key_file = \"/k\", plain_http = true }",
        "s:3:60: `public.plain_http`: contradicts `cert_file` and `key_file`: remove one or the others",
    ),
    (
        "public = { plain_http = true, introspect_ids = [\"spiffe://example.org/a\"] }",
        "s:3:48: `public.introspect_ids`: nobody can show an SVID over plain http: use `introspect_secret_files`",
    ),
    (
        "public.introspect_ids = [\"spiffe://example.com/a\"]",
        "s:3:25: `public.introspect_ids`: `spiffe://example.com/a` is of another trust domain",
    ),
    (
        "crl.interval = \"6m\"",
        "s:3:16: `crl.interval`: lists would run out between two: write at most \"5m\"",
    ),
    (
        "status_list.ttl = \"4m\"",
        "s:3:1: `status_list.lifetime`: copies would run out before they are renewed: write \"8m\" or more",
    ),
    // Lists of tables.
    (
        "[[admin.grants]]\nprincipal = \"spiffe://example.org/a\"",
        "s:3:1: missing key `admin.grants[0].path_prefix`: write `path_prefix = \"/team\"`\ns:3:1: missing key `admin.grants[0].verbs`: write `verbs = [\"read\"]`",
    ),
    (
        "[[admin.grants]]\nprincipal = \"spiffe://other.org/a\"\nverbs = []\npath_prefix = \"/\"",
        "s:4:13: `admin.grants[0].principal`: of another trust domain than `example.org`\ns:5:9: `admin.grants[0].verbs`: empty: name one verb at least",
    ),
    (
        "[node_attestors.x509pop]",
        "s:3:17: missing key `node_attestors.x509pop.ca_files`: write `ca_files = [\"/etc/taskmint/node-ca.pem\"]` in `[node_attestors.x509pop]`",
    ),
];

#[test]
fn every_mistake_says_where_and_what_to_write() {
    for (text, expected) in TABLE {
        assert_eq!(
            &mistakes(&format!("{BASE}{text}\n")),
            expected,
            "for: {text}"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = "trustdomain = \"example.org\"\ngrace = 10\n[log]\nlevel = \"loud\"\nformat = [\n";
    let found = mistakes(text);
    let places: Vec<&str> = found
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(place, _)| place)
        .collect();
    let keys = [
        "trust_domain",
        "trustdomain",
        "grace",
        "loud",
        "not TOML",
        "sealing_key_file",
    ];
    for key in keys {
        assert!(found.contains(key), "{key} in {found}");
    }
    assert!(places.is_sorted(), "{found}");
}

#[test]
fn a_file_that_is_no_toml_is_read_as_far_as_it_goes() {
    let found = mistakes(
        "trust_domain = example.org\nkeys.kind = \"memory\"\nlisten = \"nowhere\"\nlisten = \"127.0.0.1:1\"\n",
    );
    assert!(found.contains("s:1:16: not TOML: "), "{found}");
    assert!(found.contains("s:3:10: `listen`"), "{found}");
    assert!(found.contains("s:4:1: not TOML: duplicate key"), "{found}");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let overrides = flags(&["keys.sealing_key_file=hunter2"]);
    let found = mistakes_with(
        "trust_domain = \"example.org\"\nsealing_key = \"hunter2\"",
        &overrides,
    );
    assert!(!found.contains("hunter2"), "{found}");
    assert!(
        found.contains("flag `--set keys.sealing_key_file`: "),
        "{found}"
    );
}

#[test]
fn what_was_typed_can_not_drive_the_terminal() {
    let found = mistakes(&format!(
        "{BASE}\"\\u001b[2J\" = 1\ngrace = \"\\u001b[2J{}\"\n",
        "x".repeat(500)
    ));
    assert!(!found.contains('\u{1b}'), "{found:?}");
    assert!(found.lines().all(|line| line.len() < 400), "{found}");
}

#[test]
fn columns_count_characters() {
    let found = mistakes(&format!("{BASE}\"ä€\" = 1\nlog = {{ \"ö\" = 1 }}\n"));
    assert!(found.contains("s:4:9: unknown key `log.ö`"), "{found}");
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = ServerConfig::parse(BASE, "s", &Overrides::none()).expect("right");
    let seconds = Duration::from_secs;
    assert_eq!(config.credentials.x509_ttl, seconds(600));
    assert_eq!(config.credentials.jwt_ttl, seconds(120));
    assert_eq!(config.credentials.node_ttl, seconds(86_400));
    assert_eq!(config.credentials.backdate, seconds(30));
    assert_eq!(config.tasks.max_limit, seconds(86_400));
    assert_eq!(config.tasks.lease, seconds(60));
    assert_eq!(config.tasks.max_request_ids, 4_096);
    assert_eq!(config.revocation.max_age, seconds(30));
    assert_eq!(config.revocation.heartbeat, seconds(10));
    assert_eq!(config.revocation.leeway, seconds(60));
    assert_eq!(config.store, StoreKind::RocksDb);
    assert_eq!(
        config.admin.socket,
        Path::new("/var/lib/taskmint-server/admin.sock")
    );
    assert!(config.node_attestors.join_token.is_some() && config.node_attestors.x509pop.is_none());
    for address in [config.listen, config.watch_listen, config.http_listen] {
        assert!(address.ip().is_loopback());
    }
}

#[test]
fn thirty_days_are_the_longest_limit() {
    let config = ServerConfig::parse(
        &format!("{BASE}tasks.max_limit = \"720h\""),
        "s",
        &Overrides::none(),
    );
    assert_eq!(
        config.expect("right").tasks.max_limit,
        Duration::from_secs(30 * 86_400)
    );
}

#[test]
fn grants_and_attestors_are_read() {
    let text = format!(
        "{BASE}[[admin.grants]]\nprincipal = \"spiffe://example.org/a\"\nverbs = [\"begin\", \"end\"]\n\
         path_prefix = \"/team\"\n[node_attestors.x509pop]\nca_files = [\"/a\", \"/b\"]\n"
    );
    let config = ServerConfig::parse(&text, "s", &Overrides::none()).expect("right");
    let grant = config.admin.grants.first().expect("one grant");
    assert_eq!(grant.verbs, [Verb::Begin, Verb::End]);
    assert_eq!(grant.path_prefix.as_str(), "/team");
    let pop = config.node_attestors.x509pop.expect("switched on");
    assert_eq!(pop.ca_files, [Path::new("/a"), Path::new("/b")]);
    assert!(
        config.node_attestors.join_token.is_none(),
        "only what is named is on"
    );
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let text = format!("{BASE}grace = \"1s\"\nserver_id = \"file\"\n[log]\nlevel = \"warn\"\n");
    let environment = [
        ("TASKMINT_SERVER_GRACE", "2s"),
        ("TASKMINT_SERVER_LOG_LEVEL", "debug"),
        ("TASKMINT_SERVER_ADMIN_ALLOWED_UIDS", "0, 1000"),
        ("TASKMINT_SERVER_WATCH_MAX_WATCHERS", "5"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let overrides = Overrides::new(environment, ["grace=3s", "grace=4s"].map(String::from));
    let checked = ServerConfig::check(&text, "server.toml", &overrides).expect("right");
    assert_eq!(checked.config.grace, Duration::from_secs(4));
    assert_eq!(checked.config.log.level.as_str(), "debug");
    assert_eq!(checked.config.admin.allowed_uids, [0, 1000]);
    assert_eq!(checked.config.watch.max_watchers, 5);
    let origin = |key: &str| {
        let setting = checked.settings.iter().find(|setting| setting.key == key);
        setting.expect("a setting").origin.to_string()
    };
    assert_eq!(origin("grace"), "flag `--set grace`");
    assert_eq!(
        origin("log.level"),
        "environment variable `TASKMINT_SERVER_LOG_LEVEL`"
    );
    assert_eq!(origin("server_id"), "server.toml:4:13");
    assert_eq!(origin("log.format"), "default");
}

#[test]
fn wrong_overrides_are_mistakes_of_their_own() {
    let overrides = Overrides::new(
        [
            ("TASKMINT_SERVER_LOG_LEVL".to_owned(), "info".to_owned()),
            ("TASKMINT_SERVER_GRACE".to_owned(), "soon".to_owned()),
        ],
        ["grac=1s", "log=info", "server_id"].map(String::from),
    );
    assert_eq!(
        mistakes_with(BASE, &overrides),
        "environment variable `TASKMINT_SERVER_GRACE`: `grace`: `soon` is no duration: write a duration such as `\"10m\"`\n\
         environment variable `TASKMINT_SERVER_LOG_LEVL`: did you mean `TASKMINT_SERVER_LOG_LEVEL`?\n\
         flag `--set grac`: unknown key: did you mean `grace`?\n\
         flag `--set log`: `log` is a table: set one key in it\n\
         flag `--set server_id`: no value: write `--set key=value`"
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let overrides = environment(&[
        ("TASKMINT_SERVER_CONFIG", "/etc/taskmint/server.toml"),
        ("TASKMINT_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("TASKMINT_SERVER_SERVICE_PORT_API", "8441"),
        ("TASKMINT_SERVER_PORT_8441_TCP_ADDR", "10.0.0.1"),
        ("TASKMINT_AGENT_GRACE", "soon"),
    ]);
    ServerConfig::parse(BASE, "s", &overrides).expect("none of these is ours");
}

#[test]
fn an_override_switches_an_attestor_on() {
    let overrides = flags(&["node_attestors.x509pop.ca_files=/a,/b"]);
    let config = ServerConfig::parse(BASE, "s", &overrides).expect("right");
    assert_eq!(config.node_attestors.x509pop.expect("on").ca_files.len(), 2);
}

#[test]
fn the_sealing_key_may_come_from_the_service_manager() {
    let overrides = environment(&[("CREDENTIALS_DIRECTORY", "/run/credentials/x")]);
    let config =
        ServerConfig::parse("trust_domain = \"example.org\"", "s", &overrides).expect("right");
    assert_eq!(config.keys.kind, KeyKind::Sealed);
    let file = config.keys.sealing_key_file.expect("from the credentials");
    assert_eq!(file, Path::new("/run/credentials/x/taskmint-sealing-key"));

    let found = mistakes("trust_domain = \"example.org\"\n[keys]\nkind = \"sealed\"\n");
    assert!(
        found.starts_with("s:2:2: `keys.sealing_key_file`: missing"),
        "{found}"
    );
}

#[test]
fn what_is_perhaps_not_meant_is_a_warning() {
    let warned = |text: &str| {
        let checked = ServerConfig::check(&format!("{BASE}{text}"), "s", &Overrides::none());
        let warnings = checked.expect("right").warnings;
        warnings
            .into_iter()
            .map(|warning| warning.to_string())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let cases = [
        (
            "",
            "s:1:1: `public_url`: unset, so tokens carry no `status` member",
        ),
        (
            "",
            "s:2:13: `keys.kind`: with `memory`, a restart makes new keys",
        ),
        (
            "store.kind = \"memory\"",
            "s:3:14: `store.kind`: with `memory`, every task and entry is gone",
        ),
        (
            "http_listen = \"0.0.0.0:80\"",
            "s:3:15: `http_listen`: anyone who reaches this address",
        ),
        (
            "listen = \"[::]:1\"",
            "s:3:10: `listen`: nobody can connect to ::: set `advertise`",
        ),
        (
            "public_url = \"http://x.org\"",
            "s:3:14: `public_url`: anyone on the way",
        ),
    ];
    for (text, expected) in cases {
        assert!(warned(text).contains(expected), "{text}: {}", warned(text));
    }
    assert!(!warned("public_url = \"https://x.org\"").contains("public_url"));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = format!("{BASE}server_id = \"a-1\"\npublic_url = \"https://x.org/status\"\n");
    let checked = ServerConfig::check(&text, "s", &Overrides::none()).expect("right");
    let shown = show(&checked.settings, true);
    assert!(
        shown.contains("public_url = \"https://x.org/status\""),
        "{shown}"
    );
    assert!(shown.contains("# advertise is unset"), "{shown}");
    assert!(
        shown.contains("  # s:3:13\n") && shown.contains("  # default\n"),
        "{shown}"
    );
    let again = ServerConfig::check(&shown, "t", &Overrides::none()).expect("right");
    let values = |settings: &[crate::Setting]| {
        settings
            .iter()
            .map(|setting| (setting.key.clone(), setting.value.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&again.settings), values(&checked.settings));
}

#[test]
fn a_text_without_end_is_refused_unread() {
    let found = mistakes(&"#".repeat(crate::MAX_TEXT + 1));
    assert!(found.starts_with("s:1:1: longer than"), "{found}");
}

#[test]
fn a_file_that_can_not_be_read_says_which() {
    let error = ServerConfig::load(Path::new("/nowhere/server.toml"), &Overrides::none());
    assert_eq!(
        error.expect_err("absent").to_string(),
        "cannot read `/nowhere/server.toml`"
    );
}

fn check_places(text: &str) {
    let Err(found) = ServerConfig::parse(text, "s", &Overrides::none()) else {
        return;
    };
    assert!(!found.mistakes.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for mistake in found.mistakes {
        let Place::File { line, column, .. } = mistake.place else {
            panic!("{mistake}")
        };
        let length = lines[line - 1].chars().count();
        assert!((1..=length + 1).contains(&column), "{mistake} in {text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_text_is_judged_with_places_inside_of_it(text in ".{0,200}") {
        check_places(&text);
    }

    #[test]
    fn a_broken_sample_is_judged_with_places_inside_of_it(
        start in any::<prop::sample::Index>(),
        length in 0..40_usize,
        patch in "[\\[\\]\"=a-z0-9_. \n\u{e4}{}]{0,8}",
    ) {
        let sample = super::samples::SERVER_FULL;
        let start = start.index(sample.len());
        let end = (start + length).min(sample.len());
        check_places(&format!("{}{patch}{}", &sample[..start], &sample[end..]));
    }
}
