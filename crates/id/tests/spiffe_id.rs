//! SPIFFE ids against the shared vectors, both byte sweeps, and arbitrary input.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside test functions"
)]

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::prelude::*;
use serde::Deserialize;
use taskmint_id::{Kind, MAX_SPIFFE_ID, PathPrefix, SpiffeId, SpiffeIdError, TrustDomain};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    id: String,
    valid: bool,
    /// The error's stable word; for a valid id, what it shows.
    reason: String,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../tests/vectors/spiffe-id.json")).unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

#[test]
fn every_vector_is_judged_as_it_says() {
    let mut reasons = HashSet::new();
    for Vector { id, valid, reason } in vectors() {
        match SpiffeId::parse(&id) {
            Ok(parsed) => {
                assert!(valid, "`{id}` was read, and should not be: {reason}");
                assert_eq!(parsed.as_str(), id);
            }
            Err(error) => {
                assert!(!valid, "`{id}` was refused ({error}): {reason}");
                assert_eq!(error.reason(), reason, "`{id}`");
                reasons.insert(reason);
            }
        }
    }
    // Each way that a text can be wrong is in the vectors; the rest can't be told by a text.
    assert_eq!(reasons.len(), 17, "{reasons:?}");
}

#[test]
fn exactly_39_bytes_are_legal_in_a_trust_domain() {
    let legal: BTreeSet<u8> = (0..=255u8)
        .filter(|byte| {
            SpiffeId::from_bytes(&[b"spiffe://t", &[*byte][..], b"d/x"].concat()).is_ok()
        })
        .collect();
    let wanted: BTreeSet<u8> = (b'a'..=b'z').chain(b'0'..=b'9').chain(*b".-_").collect();
    // A slash there ends the trust domain: `spiffe://t/d/x` is another id.
    assert_eq!(
        legal,
        wanted.union(&BTreeSet::from([b'/'])).copied().collect()
    );
    let names =
        (0..=127u8).filter(|byte| TrustDomain::parse(&char::from(*byte).to_string()).is_ok());
    assert_eq!(names.collect::<BTreeSet<_>>(), wanted);
    assert_eq!(wanted.len(), 39);
}

#[test]
fn exactly_65_bytes_and_the_slash_are_legal_in_a_path() {
    let legal: BTreeSet<u8> = (0..=255u8)
        .filter(|byte| {
            SpiffeId::from_bytes(&[b"spiffe://td/a", &[*byte][..], b"b"].concat()).is_ok()
        })
        .collect();
    let letters = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9');
    assert_eq!(legal, letters.chain(*b".-_/").collect::<BTreeSet<u8>>());
    assert_eq!(legal.len(), 66);
}

#[test]
fn bytes_that_are_not_text_are_refused() {
    assert_eq!(
        SpiffeId::from_bytes(b"spiffe://td/\xff"),
        Err(SpiffeIdError::NotUtf8)
    );
}

#[test]
fn lengths_are_counted_over_the_whole_id() {
    let path = |bytes: usize| format!("/{}", "a".repeat(bytes - "spiffe://td/".len()));
    let longest = SpiffeId::new(&domain(), &path(MAX_SPIFFE_ID)).unwrap();
    assert_eq!(longest.as_str().len(), 2048);
    assert_eq!(SpiffeId::parse(longest.as_str()), Ok(longest));
    let error = SpiffeId::new(&domain(), &path(MAX_SPIFFE_ID + 1)).unwrap_err();
    assert_eq!(error, SpiffeIdError::TooLong { bytes: 2049 });
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
    let error = TrustDomain::parse(&"a".repeat(256)).unwrap_err();
    assert_eq!(error, SpiffeIdError::TrustDomainTooLong { bytes: 256 });
}

#[test]
fn an_id_knows_its_parts() {
    let id = SpiffeId::parse("spiffe://example.org/a/b").unwrap();
    assert_eq!(
        (id.trust_domain().as_str(), id.path()),
        ("example.org", "/a/b")
    );
    assert!(!id.is_root());
    let root = id.trust_domain().id();
    assert_eq!((root.as_str(), root.path()), ("spiffe://example.org", ""));
    assert!(root.is_root());
    assert!(id.under(&PathPrefix::parse("/a").unwrap()));
    assert!(!id.under(&PathPrefix::parse("/b").unwrap()));
    assert_eq!(
        SpiffeId::new(&domain(), "a"),
        Err(SpiffeIdError::PathNotAbsolute)
    );
    assert_eq!(SpiffeId::new(&domain(), ""), Ok(domain().id()));
}

#[test]
fn a_path_says_what_an_id_may_stand_for() {
    for (path, kind) in [
        ("", Kind::Root),
        ("/a", Kind::Workload),
        ("/taskminted", Kind::Workload),
        ("/Taskmint/server/a", Kind::Workload),
        ("/a/taskmint/server/a", Kind::Workload),
        ("/taskmint", Kind::OtherReserved),
        ("/taskmint/server", Kind::OtherReserved),
        ("/taskmint/server/a", Kind::Server),
        ("/taskmint/server/a/b", Kind::OtherReserved),
        ("/taskmint/servers/a", Kind::OtherReserved),
        ("/taskmint/node", Kind::OtherReserved),
        ("/taskmint/node/a", Kind::OtherReserved),
        ("/taskmint/node/a/b", Kind::Node),
        ("/taskmint/node/a/b/c", Kind::OtherReserved),
        ("/taskmint/a", Kind::OtherReserved),
    ] {
        let id = SpiffeId::new(&domain(), path).unwrap();
        assert_eq!(id.kind(), kind, "{path}");
        assert_eq!(
            id.is_reserved(),
            !matches!(kind, Kind::Root | Kind::Workload),
            "{path}"
        );
    }
}

#[test]
fn servers_and_nodes_are_named_by_whole_segments() {
    let server = SpiffeId::server(&domain(), "s1").unwrap();
    assert_eq!(server.as_str(), "spiffe://td/taskmint/server/s1");
    assert_eq!(
        (server.server_name(), server.node_name()),
        (Some("s1"), None)
    );
    let node = SpiffeId::node(&domain(), "join-token", "n1").unwrap();
    assert_eq!(node.as_str(), "spiffe://td/taskmint/node/join-token/n1");
    assert_eq!(
        (node.server_name(), node.node_name()),
        (None, Some(("join-token", "n1")))
    );
    for id in ["", "a/b", "/a", "a/"] {
        assert_eq!(
            SpiffeId::server(&domain(), id),
            Err(SpiffeIdError::NotOneSegment)
        );
        assert_eq!(
            SpiffeId::node(&domain(), "a", id),
            Err(SpiffeIdError::NotOneSegment)
        );
        assert_eq!(
            SpiffeId::node(&domain(), id, "a"),
            Err(SpiffeIdError::NotOneSegment)
        );
    }
    assert_eq!(
        SpiffeId::server(&domain(), ".."),
        Err(SpiffeIdError::DotSegment)
    );
    assert_eq!(
        SpiffeId::server(&domain(), "a%2fb"),
        Err(SpiffeIdError::PathPercent)
    );
}

#[test]
fn a_bare_name_is_no_id_and_an_id_is_no_name() {
    assert_eq!(SpiffeId::parse("example.org"), Err(SpiffeIdError::Scheme));
    let error = TrustDomain::parse("spiffe://example.org").unwrap_err();
    assert_eq!(error, SpiffeIdError::TrustDomainCharacter { byte: b':' });
}

#[test]
fn ids_travel_as_json_strings_and_are_judged_on_the_way_in() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://td/a\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/a\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://TD/a\"").is_err());
    let td: TrustDomain = serde_json::from_str("\"td\"").unwrap();
    assert_eq!(serde_json::to_string(&td).unwrap(), "\"td\"");
    assert!(serde_json::from_str::<TrustDomain>("\"\"").is_err());
    let prefix: PathPrefix = serde_json::from_str("\"/\"").unwrap();
    assert_eq!(serde_json::to_string(&prefix).unwrap(), "\"/\"");
    assert!(serde_json::from_str::<PathPrefix>("\"a\"").is_err());
}

#[test]
fn maps_keyed_by_ids_answer_to_their_text() {
    let ids = HashMap::from([(SpiffeId::parse("spiffe://td/a").unwrap(), 1)]);
    assert_eq!(
        (ids.get("spiffe://td/a"), ids.get("spiffe://td/A")),
        (Some(&1), None)
    );
    let domains = HashMap::from([(domain(), 1)]);
    assert_eq!(domains.get("td"), Some(&1));
}

#[test]
fn errors_show_a_hostile_byte_escaped() {
    let error = SpiffeId::parse("spiffe://td/\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        r"path has `\n`, which is none of `a-z A-Z 0-9 . - _`"
    );
}

prop_compose! {
    fn ids()(name in "[a-z0-9._-]{1,40}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){0,5}") -> String {
        format!("spiffe://{name}{path}")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_id_survives_being_shown(text in ids()) {
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.to_string(), text);
        prop_assert_eq!(&id.to_string().parse::<SpiffeId>().unwrap(), &id);
        prop_assert_eq!(&SpiffeId::new(id.trust_domain(), id.path()).unwrap(), &id);
        prop_assert_eq!(&serde_json::from_str::<SpiffeId>(&serde_json::to_string(&id).unwrap()).unwrap(), &id);
    }

    #[test]
    fn no_text_and_no_bytes_panic(text: String, bytes: Vec<u8>, tail in "[ -~]{0,20}") {
        SpiffeId::parse(&text).ok();
        SpiffeId::from_bytes(&bytes).ok();
        SpiffeId::parse(&format!("spiffe://{text}")).ok();
        TrustDomain::parse(&text).ok();
        PathPrefix::parse(&text).ok();
        if let Ok(id) = SpiffeId::parse(&format!("spiffe://td{tail}")) {
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"/:.-_".contains(&b)));
            let _ = (id.kind(), id.server_name(), id.node_name());
        }
    }

    #[test]
    fn a_name_of_any_text_makes_a_server_or_an_error(name: String) {
        if let Ok(id) = SpiffeId::server(&domain(), &name) {
            prop_assert_eq!(id.kind(), Kind::Server);
            prop_assert_eq!(id.server_name(), Some(name.as_str()));
        }
    }
}
