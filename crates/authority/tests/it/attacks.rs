//! What a front end that was taken over might ask for.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::{Class, Facts, Grant, JwtRequest, KeyKind, Refusal, X509Request};
use taskmint_model::{TaskId, Timestamp};
use taskmint_status::place::bucket_end;
use taskmint_status::{LogId, Place};
use taskmint_testkit::SeededEntropy;

use crate::lint::lint_leaf;
use crate::support::{Desk, LOG, empty, policy, start, trust_domain};

const SPKI_PREFIX_LEN: usize = 26;

#[test]
fn a_ca_bit_cannot_be_asked_for() {
    let desk = Desk::new();
    let good = desk.x509(&desk.workload());
    // A CA's certificate or a request with extensions where a key belongs.
    for spki in [
        desk.ca.certificate.clone(),
        [good.key.spki.clone(), vec![0x30, 3, 1, 1, 255]].concat(),
    ] {
        let mut request = good.clone();
        request.key.spki = spki;
        assert_eq!(desk.sign_x509(request).unwrap_err(), Refusal::Key);
    }
    // Even for the CA's own key there is only a leaf to be had, whatever the class.
    for (path, class) in [
        ("/a", Class::Workload),
        ("/taskmint/server/a", Class::Server),
    ] {
        let facts = desk.facts(path, class);
        let mut request = desk.x509(&facts);
        request.key.spki = desk.ca.spki.clone();
        let signed = desk.sign_x509(request).unwrap();
        lint_leaf(&signed.bytes, &desk.ca.certificate, &facts.spiffe_id);
    }
}

#[test]
fn a_workload_cannot_pose_as_a_server() {
    let desk = Desk::new();
    let reserved = [
        "/taskmint/server/s1",
        "/taskmint/node/join_token/n1",
        "/taskmint",
        "/taskmint/server",
        "/taskmint/other",
    ];
    for path in reserved {
        let facts = desk.facts(path, Class::Workload);
        let refused = Refusal::Name {
            id: facts.spiffe_id.clone(),
            class: Class::Workload,
        };
        assert_eq!(desk.mint(&facts).unwrap_err(), refused, "{path}");
    }
}

#[test]
fn a_node_is_no_server_and_neither_has_an_ordinary_name() {
    let desk = Desk::new();
    for (path, class) in [
        ("/taskmint/server/s1", Class::Node),
        ("/taskmint/node/join_token/n1", Class::Server),
        ("/taskmint/node/join_token", Class::Node),
        ("/taskmint/node/join_token/n1/x", Class::Node),
        ("/billing", Class::Node),
        ("/billing", Class::Server),
    ] {
        let facts = desk.facts(path, class);
        let refused = Refusal::Name {
            id: facts.spiffe_id.clone(),
            class,
        };
        assert_eq!(desk.mint(&facts).unwrap_err(), refused, "{path}");
    }
}

#[test]
fn the_trust_domain_itself_is_no_leaf() {
    let desk = Desk::new();
    for class in [Class::Workload, Class::Node, Class::Server] {
        let facts = Facts {
            spiffe_id: trust_domain().id(),
            class,
            ..desk.workload()
        };
        assert!(matches!(
            desk.mint(&facts).unwrap_err(),
            Refusal::Name { .. }
        ));
    }
}

#[test]
fn a_foreign_trust_domain_is_refused() {
    let desk = Desk::new();
    for foreign in ["example.com", "example.org.", "a.example.org"] {
        let trust_domain = TrustDomain::parse(foreign).unwrap();
        let spiffe_id = SpiffeId::new(&trust_domain, "/billing").unwrap();
        let facts = Facts {
            spiffe_id: spiffe_id.clone(),
            ..desk.workload()
        };
        assert_eq!(
            desk.mint(&facts).unwrap_err(),
            Refusal::ForeignTrustDomain(spiffe_id)
        );
    }
}

#[test]
fn a_grant_for_other_facts_is_refused() {
    let desk = Desk::new();
    let facts = desk.workload();
    let grant = desk.core.grant(&facts).unwrap();
    let later = facts.limit + Duration::from_millis(1);
    let other = TaskId::new(desk.now(), &*desk.entropy);
    let place = |bucket, index| Place::new(LOG, bucket, index).unwrap();
    let (bucket, index) = (facts.place.bucket(), facts.place.index());
    let restated = [
        Facts {
            task: other,
            ..facts.clone()
        },
        Facts {
            root: other,
            ..facts.clone()
        },
        Facts {
            task: other,
            root: other,
            ..facts.clone()
        },
        Facts {
            spiffe_id: facts.spiffe_id.trust_domain().id(),
            ..facts.clone()
        },
        Facts {
            spiffe_id: SpiffeId::new(&trust_domain(), "/admin").unwrap(),
            ..facts.clone()
        },
        Facts {
            spiffe_id: SpiffeId::new(&trust_domain(), "/billing2").unwrap(),
            ..facts.clone()
        },
        Facts {
            place: place(bucket, index + 1),
            ..facts.clone()
        },
        Facts {
            place: place(bucket + 1, index),
            ..facts.clone()
        },
        Facts {
            place: Place::new(LogId([8; 8]), bucket, index).unwrap(),
            ..facts.clone()
        },
        Facts {
            limit: later,
            ..facts.clone()
        },
        Facts {
            class: Class::Node,
            ..facts.clone()
        },
        Facts {
            class: Class::Server,
            ..facts.clone()
        },
    ];
    for facts in restated {
        assert_eq!(
            desk.forge(&facts, grant.clone()).unwrap_err(),
            Refusal::Grant,
            "{facts:?}"
        );
        let good = desk.jwt(&desk.workload());
        let request = JwtRequest {
            facts: facts.clone(),
            grant: grant.clone(),
            ..good
        };
        assert_eq!(
            desk.sign_jwt(request).unwrap_err(),
            Refusal::Grant,
            "{facts:?}"
        );
    }
    assert!(desk.forge(&facts, grant).is_ok());
}

#[test]
fn a_grant_of_another_authority_or_none_is_refused() {
    let desk = Desk::new();
    let facts = desk.workload();
    let own = desk.core.grant(&facts).unwrap();
    // An authority of the attacker's own, whose grant key has the same id.
    let entropy = Arc::new(SeededEntropy::new(666));
    let foreign = empty(policy(), &desk.clock, &entropy);
    foreign.load(&[], &start()).unwrap();
    foreign
        .prepare(KeyKind::Grant, desk.grant.id, desk.now())
        .unwrap();
    foreign.activate(desk.grant.id).unwrap();
    let foreign = foreign.grant(&facts).unwrap().0;
    assert_eq!(foreign[..17], own.0[..17]);
    let mut flipped = own.0.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut other_key = own.0.clone();
    other_key[1] ^= 1;
    let longer = [own.0.clone(), vec![0]].concat();
    for grant in [
        Vec::new(),
        own.0[..48].to_vec(),
        vec![1; 49],
        flipped,
        other_key,
        longer,
    ] {
        assert_eq!(
            desk.forge(&facts, Grant(grant)).unwrap_err(),
            Refusal::Grant
        );
    }
}

#[test]
fn a_point_off_the_curve_is_refused() {
    let desk = Desk::new();
    let good = desk.x509(&desk.workload());
    let point = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut spki = good.key.spki.clone();
        edit(&mut spki);
        spki
    };
    let bad = [
        point(&|spki| *spki.last_mut().unwrap() ^= 1),
        point(&|spki| spki[SPKI_PREFIX_LEN + 1..].fill(0)),
        point(&|spki| spki[SPKI_PREFIX_LEN + 1..].fill(0xff)),
        // Compressed, hybrid, at infinity.
        point(&|spki| {
            spki.truncate(SPKI_PREFIX_LEN + 33);
            spki[1] -= 32;
            spki[SPKI_PREFIX_LEN - 2] -= 32;
            spki[SPKI_PREFIX_LEN] = 2;
        }),
        point(&|spki| spki[SPKI_PREFIX_LEN] = 6),
        point(&|spki| spki.truncate(SPKI_PREFIX_LEN + 1)),
        // Another curve's name over the same point.
        point(&|spki| spki[22] = 6),
        point(&|spki| spki.push(0)),
        Vec::new(),
    ];
    for spki in bad {
        let mut request = good.clone();
        request.key.spki = spki.clone();
        assert_eq!(
            desk.sign_x509(request).unwrap_err(),
            Refusal::Key,
            "{spki:02x?}"
        );
    }
}

#[test]
fn a_dns_name_that_is_none_is_refused() {
    let desk = Desk::new();
    let good = desk.x509(&desk.workload());
    let long = format!("{}.example", "a.".repeat(130));
    let names = [
        "",
        ".",
        "a..b",
        "-a",
        "a-",
        "a b",
        "A",
        "a_b",
        "*",
        "*.",
        "*.*.a",
        "a.*",
        "\u{e9}",
        "a\0b",
        "spiffe://example.org/x",
        "a/b",
        "a,DNS:b",
        &long,
    ];
    for name in names {
        let request = X509Request {
            dns_names: vec!["ok".to_owned(), name.to_owned()],
            ..good.clone()
        };
        assert!(
            matches!(desk.sign_x509(request).unwrap_err(), Refusal::DnsName(_)),
            "{name}"
        );
    }
    let request = X509Request {
        dns_names: vec!["a".to_owned(); 65],
        ..good
    };
    assert!(matches!(
        desk.sign_x509(request).unwrap_err(),
        Refusal::DnsName(_)
    ));
}

#[test]
fn a_certificate_past_limit_cap_or_clock_is_refused() {
    let desk = Desk::new();
    let good = desk.x509(&desk.workload());
    let secs = Duration::from_secs;
    let with = |from: Timestamp, to: Timestamp| {
        desk.sign_x509(X509Request {
            not_before: from,
            not_after: to,
            ..good.clone()
        })
    };
    let now = desk.now();
    for off in [
        now - secs(61),
        now + secs(61),
        Timestamp::default(),
        Timestamp::MAX,
    ] {
        assert_eq!(with(off, off + secs(60)).unwrap_err(), Refusal::Clock(off));
    }
    assert!(with(now - secs(60), now + secs(60)).is_ok());
    assert!(with(now + secs(60), now + secs(120)).is_ok());
    for to in [now, now - secs(1), now + secs(3661), Timestamp::MAX] {
        assert!(
            matches!(with(now, to).unwrap_err(), Refusal::Lifetime { .. }),
            "{to}"
        );
    }
    assert!(with(now, now + secs(3660)).is_ok());

    // A node's cap is wide, so its limit is what holds.
    let facts = desk.facts("/taskmint/node/join_token/n1", Class::Node);
    let mut request = desk.x509(&facts);
    request.not_after = facts.limit;
    assert!(desk.sign_x509(request.clone()).is_ok());
    request.not_after = facts.limit + secs(1);
    let refused = Refusal::PastLimit {
        not_after: request.not_after,
        limit: facts.limit,
    };
    assert_eq!(desk.sign_x509(request).unwrap_err(), refused);
}

#[test]
fn a_limit_outside_its_bucket_or_too_far_ahead_is_not_granted() {
    let desk = Desk::new();
    let facts = desk.workload();
    let end = Timestamp::from_millis(bucket_end(facts.place.bucket()).0);
    let refused = Refusal::PastLimit {
        not_after: end,
        limit: end,
    };
    assert_eq!(
        desk.core.grant(&Facts {
            limit: end,
            ..facts.clone()
        }),
        Err(refused)
    );
    let last = end - Duration::from_millis(1);
    assert!(
        desk.core
            .grant(&Facts {
                limit: last,
                ..facts.clone()
            })
            .is_ok()
    );

    let limit = desk.now() + Duration::from_secs(31 * 24 * 3600);
    let place = Place::new(LOG, limit.hour(), 1).unwrap();
    let refused = desk.core.grant(&Facts {
        limit,
        place,
        ..facts
    });
    assert!(matches!(refused, Err(Refusal::PastLimit { .. })));
}

#[test]
fn a_place_of_another_log_is_not_granted() {
    let desk = Desk::new();
    let facts = desk.workload();
    let other = LogId([8; 8]);
    let place = Place::new(other, facts.place.bucket(), 1).unwrap();
    assert_eq!(
        desk.core.grant(&Facts { place, ..facts }),
        Err(Refusal::OtherLog(other))
    );
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let desk = Desk::new();
    desk.clock
        .set(desk.ca.expires_at - Duration::from_secs(300));
    let request = desk.x509(&desk.workload());
    let refused = Refusal::PastLimit {
        not_after: request.not_after,
        limit: desk.ca.expires_at,
    };
    assert_eq!(desk.sign_x509(request).unwrap_err(), refused);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_octets_are_no_key_and_no_grant(
        octets in proptest::collection::vec(any::<u8>(), 0..128),
        at in 0_usize..91,
        to: u8,
    ) {
        let desk = Desk::new();
        let facts = desk.workload();
        prop_assert_eq!(desk.forge(&facts, Grant(octets.clone())).unwrap_err(), Refusal::Grant);
        let mut request = desk.x509(&facts);
        request.key.spki = octets;
        prop_assert_eq!(desk.sign_x509(request).unwrap_err(), Refusal::Key);
        let mut request = desk.x509(&facts);
        let before = request.key.spki[at];
        request.key.spki[at] = to;
        prop_assert_eq!(desk.sign_x509(request).is_ok(), to == before);
    }
}
