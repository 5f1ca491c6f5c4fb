//! Entries: what is accepted, and each way to be refused.

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

fn spiffe_id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn domain() -> TrustDomain {
    spiffe_id("spiffe://example.org").trust_domain().clone()
}

fn selectors(texts: &[&str]) -> Selectors {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn entry() -> Entry {
    Entry {
        id: EntryId::from_octets([7; 16]),
        revision: 1,
        parent: NodeMatch::Node(spiffe_id("spiffe://example.org/taskmint/node/join/n1")),
        spiffe_id: spiffe_id("spiffe://example.org/billing"),
        selectors: selectors(&["unix:uid:1000"]),
        ttls: EntryTtls::default(),
        key_type: KeyType::EcP256,
        dns_names: vec!["billing.example.org".to_owned(), "*.example.org".to_owned()],
        hint: "billing".to_owned(),
        federates_with: BTreeSet::new(),
        downstream: false,
        owner: "alice".to_owned(),
        class: "low".to_owned(),
        authority: Authority::default(),
        implicit: true,
        descendants: false,
        watch: false,
        crl: false,
        max_limit: Some(Entry::MAX_LIMIT),
        max_children: 3,
        max_depth: 3,
        expires_at: Some(NOW + Duration::from_secs(1)),
        labels: BTreeMap::from([("team".to_owned(), "billing".to_owned())]),
        created_by: "admin".to_owned(),
        created_at: NOW,
    }
}

#[test]
fn a_full_entry_is_accepted() {
    assert_eq!(entry().validate(&domain(), NOW), Ok(()));
}

#[test]
fn every_bad_entry_says_why() {
    type Spoil = fn(&mut Entry);
    let cases: &[(Spoil, &str)] = &[
        (
            |e| e.spiffe_id = spiffe_id("spiffe://other.org/x"),
            "not in trust domain `example.org`",
        ),
        (
            |e| e.spiffe_id = spiffe_id("spiffe://example.org"),
            "has no path",
        ),
        (
            |e| e.spiffe_id = spiffe_id("spiffe://example.org/taskmint/server/s"),
            "is reserved",
        ),
        (
            |e| e.spiffe_id = spiffe_id("spiffe://example.org/taskmint/node/a/b"),
            "is reserved",
        ),
        (
            |e| e.spiffe_id = spiffe_id("spiffe://example.org/taskmint/other"),
            "is reserved",
        ),
        (
            |e| e.spiffe_id = spiffe_id("spiffe://example.org/taskmint"),
            "is reserved",
        ),
        (
            |e| e.parent = NodeMatch::Node(spiffe_id("spiffe://example.org/billing")),
            "parent `spiffe://example.org/billing` is no node id",
        ),
        (
            |e| e.parent = NodeMatch::Node(spiffe_id("spiffe://other.org/taskmint/node/a/b")),
            "is no node id",
        ),
        (|e| e.selectors.clear(), "at least one selector"),
        (
            |e| {
                let many = 0..=MAX_SELECTORS;
                e.selectors = many
                    .map(|n| format!("unix:gid:{n}").parse().unwrap())
                    .collect();
            },
            "at most 256 selectors",
        ),
        (
            |e| e.ttls.x509 = Some(Duration::from_secs(4)),
            "x509_ttl is 4s",
        ),
        (
            |e| e.ttls.x509 = Some(Duration::from_secs(86_401)),
            "x509_ttl is 86401s",
        ),
        (|e| e.ttls.jwt = Some(Duration::ZERO), "jwt_ttl is 0ns"),
        (
            |e| e.ttls.jwt = Some(Duration::from_secs(3601)),
            "jwt_ttl is 3601s",
        ),
        (
            |e| e.max_limit = Some(Entry::MAX_LIMIT + Duration::from_secs(1)),
            "max_limit is",
        ),
        (|e| e.dns_names = vec![String::new()], "`` is no dns name"),
        (
            |e| e.dns_names = vec!["Upper.example.org".into()],
            "`Upper.example.org` is no dns name",
        ),
        (|e| e.dns_names = vec!["a..b".into()], "is no dns name"),
        (|e| e.dns_names = vec!["-a.b".into()], "is no dns name"),
        (|e| e.dns_names = vec!["a-.b".into()], "is no dns name"),
        (|e| e.dns_names = vec!["a.*.b".into()], "is no dns name"),
        (|e| e.dns_names = vec!["a b".into()], "is no dns name"),
        (|e| e.dns_names = vec!["a".repeat(64)], "is no dns name"),
        (|e| e.dns_names = vec!["a.".repeat(127)], "is no dns name"),
        (
            |e| e.dns_names = vec!["a".into(); 65],
            "at most 64 dns_names",
        ),
        (|e| e.hint = "h".repeat(1025), "hint has 1025 bytes"),
        (
            |e| e.hint = "a\nb".into(),
            "hint contains a control character",
        ),
        (|e| e.owner = "o".repeat(257), "owner has 257 bytes"),
        (|e| e.class = "c".repeat(65), "class has 65 bytes"),
        (
            |e| e.labels = BTreeMap::from([(String::new(), "x".into())]),
            "label is empty",
        ),
        (
            |e| e.labels = BTreeMap::from([("k".repeat(129), "x".into())]),
            "label has 129 bytes",
        ),
        (
            |e| e.labels = BTreeMap::from([("k".into(), "x\u{7}".into())]),
            "label value contains",
        ),
        (
            |e| e.labels = (0..65).map(|n| (n.to_string(), "x".into())).collect(),
            "64 labels",
        ),
        (
            |e| e.authority.scopes = BTreeSet::from([String::new()]),
            "scope is empty",
        ),
        (
            |e| e.authority.audiences = BTreeSet::from(["a".repeat(513)]),
            "audience has 513 bytes",
        ),
        (
            |e| e.authority.scopes = (0..65).map(|n| n.to_string()).collect(),
            "at most 64 scopes",
        ),
        (|e| e.expires_at = Some(NOW), "is in the past"),
        (
            |e| e.federates_with = BTreeSet::from([domain()]),
            "`federates_with` is not supported yet",
        ),
        (|e| e.downstream = true, "`downstream` is not supported yet"),
    ];
    for (spoil, why) in cases {
        let mut entry = entry();
        spoil(&mut entry);
        let refused = entry.validate(&domain(), NOW).unwrap_err().to_string();
        assert!(
            refused.to_lowercase().contains(&why.to_lowercase()),
            "{refused}, not {why}"
        );
    }
}

#[test]
fn an_entry_counts_on_its_node_or_where_its_selectors_do() {
    let mut entry = entry();
    let (n1, n2) = (
        "spiffe://example.org/taskmint/node/join/n1",
        "spiffe://example.org/taskmint/node/join/n2",
    );
    let facts = selectors(&["join:zone:a", "join:rack:3"]);
    assert!(entry.counts_on(&spiffe_id(n1), &Selectors::new()));
    assert!(!entry.counts_on(&spiffe_id(n2), &facts));
    for (wanted, counts) in [
        (&[][..], true),
        (&["join:zone:a"], true),
        (&["join:zone:b"], false),
    ] {
        entry.parent = NodeMatch::Selectors(selectors(wanted));
        assert_eq!(entry.counts_on(&spiffe_id(n2), &facts), counts);
    }
}

#[test]
fn an_entry_matches_who_has_all_its_selectors_until_it_expires() {
    let mut entry = entry();
    entry.selectors = selectors(&["unix:uid:1000", "unix:gid:1000"]);
    assert!(entry.matches(
        &selectors(&["unix:uid:1000", "unix:gid:1000", "unix:gid:4"]),
        NOW
    ));
    assert!(!entry.matches(&selectors(&["unix:uid:1000"]), NOW));
    let later = NOW + Duration::from_secs(1);
    assert!(!entry.matches(&selectors(&["unix:uid:1000", "unix:gid:1000"]), later));
}
