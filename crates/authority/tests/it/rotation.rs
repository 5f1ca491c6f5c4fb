//! Keys: prepared, activated, retired, sealed, opened again.

use std::time::Duration;

use proptest::prelude::*;
use taskmint_authority::{Core, InProcess, Policy, SealingKey, SealingKeyError};
use taskmint_id::TrustDomain;
use taskmint_mint::{Authority as _, KeyKind, LogKeyRequest, Prepared, Refusal, Request, Sealed};
use taskmint_model::{Clock as _, Timestamp};
use taskmint_testkit::{ManualClock, SeededEntropy};

use crate::lint::{lint_ca, lint_leaf, lint_log_key, parse};
use crate::support::{CA_TTL, Desk, SEALING, empty, kept, policy, start};

const CA: KeyKind = KeyKind::Ca { ttl_secs: CA_TTL };
const LOG: KeyKind = KeyKind::Log { ttl_secs: CA_TTL };

fn all(desk: &Desk) -> Vec<Sealed> {
    vec![
        kept(&desk.ca, CA, true),
        kept(&desk.jwt, KeyKind::Jwt, true),
        kept(&desk.log, LOG, true),
        kept(&desk.grant, KeyKind::Grant, true),
    ]
}

#[test]
fn a_restart_signs_on_with_the_same_keys_and_honours_old_grants() {
    let desk = Desk::new();
    let request = desk.x509(&desk.workload());
    let before = desk.sign_x509(request.clone()).unwrap();
    let core = empty(policy(), &desk.clock, &desk.entropy);
    core.load(&all(&desk), &start()).unwrap();
    let after = core
        .issue(vec![Request::X509(request.clone())])
        .remove(0)
        .unwrap();
    lint_leaf(&after.bytes, &desk.ca.certificate, &request.facts.spiffe_id);
    let (before_der, after_der) = (parse(&before.bytes), parse(&after.bytes));
    assert_eq!(
        before_der.tbs_certificate.as_ref(),
        after_der.tbs_certificate.as_ref()
    );
    assert_ne!(
        before.tail.instance, after.tail.instance,
        "a start is a new instance"
    );
    let token = core
        .issue(vec![Request::Jwt(desk.jwt(&request.facts))])
        .remove(0)
        .unwrap();
    assert_eq!(token.authority, desk.jwt.id);
}

#[test]
fn a_prepared_key_signs_nothing_and_the_one_before_an_activated_one_signs_no_more() {
    let desk = Desk::new();
    let facts = desk.workload();
    let next = desk.core.prepare(CA, desk.id(), desk.now()).unwrap();
    lint_ca(&next.certificate, "example.org");
    assert_ne!(next.key_id, desk.ca.key_id);
    assert_eq!(
        desk.sign_x509(desk.x509(&facts)).unwrap().authority,
        desk.ca.id
    );
    desk.core.activate(next.id).unwrap();
    let signed = desk.sign_x509(desk.x509(&facts)).unwrap();
    assert_eq!(signed.authority, next.id);
    lint_leaf(&signed.bytes, &next.certificate, &facts.spiffe_id);
}

#[test]
fn a_retired_key_is_gone_and_the_active_one_can_not_be_retired() {
    let desk = Desk::new();
    let refused = |id| Err(Refusal::Authority(id));
    assert_eq!(desk.core.retire(desk.ca.id), refused(desk.ca.id));
    let next = desk.core.prepare(CA, desk.id(), desk.now()).unwrap();
    desk.core.activate(next.id).unwrap();
    desk.core.retire(desk.ca.id).unwrap();
    assert_eq!(desk.core.activate(desk.ca.id), refused(desk.ca.id));
    assert_eq!(desk.core.retire(desk.ca.id), refused(desk.ca.id));
    let unknown = desk.id();
    assert_eq!(desk.core.activate(unknown), refused(unknown));
}

#[test]
fn a_grant_outlives_the_rotation_of_its_key_but_not_its_retirement() {
    let desk = Desk::new();
    let request = desk.x509(&desk.workload());
    let next = desk
        .core
        .prepare(KeyKind::Grant, desk.id(), desk.now())
        .unwrap();
    desk.core.activate(next.id).unwrap();
    assert!(desk.sign_x509(request.clone()).is_ok());
    assert_ne!(desk.core.grant(&request.facts).unwrap(), request.grant);
    desk.core.retire(desk.grant.id).unwrap();
    assert_eq!(desk.sign_x509(request).unwrap_err(), Refusal::Grant);
}

#[test]
fn the_log_key_is_certified_by_a_new_ca_and_expires_with_it() {
    let desk = Desk::new();
    let short = desk
        .core
        .prepare(KeyKind::Ca { ttl_secs: 7200 }, desk.id(), desk.now())
        .unwrap();
    let request = LogKeyRequest {
        key: desk.log.id,
        by: short.id,
    };
    // P15: by the active one, and no other.
    let refused = desk.core.certify_log_key(request).unwrap_err();
    assert_eq!(refused, Refusal::Authority(short.id));
    desk.core.activate(short.id).unwrap();
    let certificate = desk.core.certify_log_key(request).unwrap();
    lint_log_key(&certificate, &short.certificate);
    let last = parse(&certificate).validity().not_after.timestamp();
    assert_eq!(last as u64, short.expires_at.secs());
    assert_ne!(
        parse(&certificate).raw_serial(),
        parse(&desk.log.certificate).raw_serial()
    );

    let log = desk.core.prepare(LOG, desk.id(), desk.now()).unwrap();
    assert_eq!(log.expires_at, short.expires_at);
    for request in [
        LogKeyRequest {
            key: desk.jwt.id,
            by: short.id,
        },
        LogKeyRequest {
            key: desk.log.id,
            by: desk.jwt.id,
        },
        // It was active once.
        LogKeyRequest {
            key: desk.log.id,
            by: desk.ca.id,
        },
        LogKeyRequest {
            key: desk.id(),
            by: short.id,
        },
    ] {
        assert!(matches!(
            desk.core.certify_log_key(request),
            Err(Refusal::Authority(_))
        ));
    }
}

#[test]
fn a_log_key_needs_a_ca_and_a_key_needs_a_new_id_and_a_possible_lifetime() {
    let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(5).into());
    let core = empty(policy(), &clock, &entropy);
    let desk = Desk::new();
    let now = clock.now();
    let refused = core.prepare(LOG, desk.id(), now).unwrap_err();
    assert_eq!(refused, Refusal::NoActiveKey("CA".into()));
    let taken = desk
        .core
        .prepare(KeyKind::Jwt, desk.jwt.id, now)
        .unwrap_err();
    assert_eq!(taken, Refusal::Authority(desk.jwt.id));
    for ttl_secs in [0, 20 * 365 * 24 * 3600, u64::MAX] {
        let refused = core
            .prepare(KeyKind::Ca { ttl_secs }, desk.id(), now)
            .unwrap_err();
        assert!(matches!(refused, Refusal::Lifetime { .. }), "{ttl_secs}");
    }
    let late = now + Duration::from_secs(61);
    assert_eq!(
        core.prepare(CA, desk.id(), late).unwrap_err(),
        Refusal::Clock(late)
    );
}

#[test]
fn without_keys_everything_is_refused_by_name() {
    let desk = Desk::new();
    let core = empty(policy(), &desk.clock, &desk.entropy);
    core.load(&[kept(&desk.grant, KeyKind::Grant, false)], &start())
        .unwrap();
    let facts = desk.workload();
    assert_eq!(
        core.grant(&facts),
        Err(Refusal::NoActiveKey("grant".into()))
    );
    let sign = |request| core.issue(vec![request]).remove(0).unwrap_err();
    let x509 = desk.x509(&facts);
    assert_eq!(
        sign(Request::X509(x509.clone())),
        Refusal::NoActiveKey("CA".into())
    );
    assert_eq!(
        sign(Request::Jwt(desk.jwt(&facts))),
        Refusal::NoActiveKey("JWT".into())
    );
}

#[test]
fn a_torn_or_edited_blob_does_not_open() {
    let desk = Desk::new();
    let good = kept(&desk.jwt, KeyKind::Jwt, true);
    let load = |blob: Vec<u8>| {
        let core = empty(policy(), &desk.clock, &desk.entropy);
        core.load(
            &[Sealed {
                blob,
                ..good.clone()
            }],
            &start(),
        )
    };
    for len in 0..good.blob.len() {
        assert!(
            matches!(load(good.blob[..len].to_vec()), Err(Refusal::Sealed(_))),
            "{len}"
        );
    }
    for at in 0..good.blob.len() {
        let mut blob = good.blob.clone();
        blob[at] ^= 0x10;
        assert!(matches!(load(blob), Err(Refusal::Sealed(_))), "{at}");
    }
    assert!(matches!(
        load([&good.blob[..], &[0]].concat()),
        Err(Refusal::Sealed(_))
    ));
    assert_eq!(load(good.blob.clone()), Ok(()));
}

#[test]
fn a_blob_opens_only_as_what_it_is_under_its_key_and_trust_domain() {
    let desk = Desk::new();
    let load = |policy: Policy, key: [u8; 32], sealed: Sealed| {
        let sealing = Some(SealingKey::from_bytes(&key));
        let core = Core::new(
            policy,
            sealing,
            std::sync::Arc::new(desk.clock.clone()),
            desk.entropy.clone(),
        );
        core.load(&[sealed], &start())
    };
    let good = kept(&desk.ca, CA, true);
    assert_eq!(load(policy(), SEALING, good.clone()), Ok(()));
    let other = Policy::new(TrustDomain::parse("example.com").unwrap());
    let wrong = [
        load(policy(), [1; 32], good.clone()),
        load(other, SEALING, good.clone()),
        load(
            policy(),
            SEALING,
            Sealed {
                id: desk.jwt.id,
                ..good.clone()
            },
        ),
        load(
            policy(),
            SEALING,
            Sealed {
                kind: KeyKind::Jwt,
                ..good.clone()
            },
        ),
        load(
            policy(),
            SEALING,
            Sealed {
                kind: LOG,
                ..good.clone()
            },
        ),
        load(
            policy(),
            SEALING,
            Sealed {
                blob: desk.jwt.sealed.clone(),
                ..good.clone()
            },
        ),
        load(
            policy(),
            SEALING,
            Sealed {
                certificate: desk.log.certificate.clone(),
                ..good.clone()
            },
        ),
        load(
            policy(),
            SEALING,
            Sealed {
                certificate: Vec::new(),
                ..good
            },
        ),
    ];
    for (at, wrong) in wrong.into_iter().enumerate() {
        assert!(matches!(wrong, Err(Refusal::Sealed(_))), "{at}: {wrong:?}");
    }
}

#[test]
fn a_load_that_fails_takes_nothing_over_and_may_be_tried_again() {
    let desk = Desk::new();
    let core = empty(policy(), &desk.clock, &desk.entropy);
    let mut torn = all(&desk);
    torn[3].blob.pop();
    assert!(matches!(
        core.load(&torn, &start()),
        Err(Refusal::Sealed(_))
    ));
    assert_eq!(
        core.grant(&desk.workload()),
        Err(Refusal::OtherLog(crate::support::LOG))
    );
    let mut twice = all(&desk);
    let next = desk
        .core
        .prepare(KeyKind::Jwt, desk.id(), desk.now())
        .unwrap();
    twice.push(kept(&next, KeyKind::Jwt, true));
    assert!(matches!(
        core.load(&twice, &start()),
        Err(Refusal::Sealed(_))
    ));
    assert_eq!(core.load(&all(&desk), &start()), Ok(()));
    assert!(core.grant(&desk.workload()).is_ok());
}

#[test]
fn a_blob_holds_nothing_of_the_public_key_or_the_last_blob() {
    let desk = Desk::new();
    let Prepared { sealed, spki, .. } = &desk.ca;
    assert_ne!(sealed[..], desk.jwt.sealed[..]);
    assert!(
        !sealed
            .windows(8)
            .any(|window| spki.windows(8).any(|other| other == window))
    );
}

#[tokio::test]
async fn in_memory_nothing_is_sealed_and_nothing_is_opened() {
    let desk = Desk::new();
    let clock = std::sync::Arc::new(desk.clock.clone());
    let authority = InProcess::in_memory(policy(), clock, desk.entropy.clone());
    let sealed = vec![kept(&desk.jwt, KeyKind::Jwt, true)];
    assert!(matches!(
        authority.load(sealed, start()).await,
        Err(Refusal::Sealed(_))
    ));
    authority.load(Vec::new(), start()).await.unwrap();
    for kind in [CA, KeyKind::Grant] {
        let prepared = authority
            .prepare(kind, desk.id(), desk.now())
            .await
            .unwrap();
        assert!(prepared.sealed.is_empty());
        authority.activate(prepared.id).await.unwrap();
    }
    let facts = desk.workload();
    let mut request = desk.x509(&facts);
    request.grant = authority.grant(&facts).await.unwrap();
    let answers = authority.issue(vec![Request::X509(request)]).await;
    assert!(answers[0].is_ok());
}

#[test]
fn a_sealing_key_is_read_as_octets_or_as_hexadecimal() {
    let desk = Desk::new();
    let text = format!(" {}\n", hex::encode(SEALING));
    for content in [&SEALING[..], text.as_bytes()] {
        let sealing = SealingKey::parse(content).ok();
        let clock = std::sync::Arc::new(desk.clock.clone());
        let core = Core::new(policy(), sealing, clock, desk.entropy.clone());
        assert_eq!(core.load(&all(&desk), &start()), Ok(()));
    }
    for wrong in [&b""[..], &[0; 31], &[b'a'; 63], &[b'g'; 64], &[b'a'; 66]] {
        assert_eq!(
            SealingKey::parse(wrong).err(),
            Some(SealingKeyError::Shape(wrong.len()))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_clock_in_any_year_makes_a_ca_or_refuses(secs in 0..Timestamp::MAX.secs(), ttl in 1_u64..400_000_000) {
        let clock = ManualClock::new(Timestamp::from_secs(secs));
        let entropy = SeededEntropy::new(secs).into();
        let core = empty(policy(), &clock, &entropy);
        let id = taskmint_model::AuthorityId::new(clock.now(), &*entropy);
        if let Ok(prepared) = core.prepare(KeyKind::Ca { ttl_secs: ttl }, id, clock.now()) {
            lint_ca(&prepared.certificate, "example.org");
            let last = parse(&prepared.certificate).validity().not_after.timestamp();
            prop_assert_eq!(last as u64, prepared.expires_at.secs().min(Timestamp::MAX.secs()));
        }
    }
}
