//! Certificates that are issued.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use taskmint_authority::{Caps, Policy};
use taskmint_mint::{Class, Refusal, Request, X509Request};
use taskmint_status::{Generation, Place};

use crate::lint::{dns_names, lint_ca, lint_leaf, lint_log_key, parse};
use crate::support::{Desk, LOG, policy};

#[test]
fn the_ca_and_the_log_key_have_the_certificates_that_spiffe_and_p15_ask_for() {
    let desk = Desk::new();
    lint_ca(&desk.ca.certificate, "example.org");
    lint_log_key(&desk.log.certificate, &desk.ca.certificate);
    let expires = parse(&desk.ca.certificate).validity().not_after.timestamp();
    assert_eq!(desk.ca.expires_at.secs(), expires as u64);
    assert_eq!(desk.ca.key_id.len(), 40);
    assert!(desk.jwt.certificate.is_empty() && desk.grant.spki.is_empty());
}

#[test]
fn every_class_gets_a_leaf_that_names_its_task_and_place() {
    let desk = Desk::new();
    let names = [
        ("/billing", Class::Workload),
        ("/taskmint/node/join_token/a1", Class::Node),
        ("/taskmint/server/s1", Class::Server),
    ];
    for (path, class) in names {
        let facts = desk.facts(path, class);
        let request = desk.x509(&facts);
        let random = request.serial_random;
        let signed = desk.sign_x509(request).unwrap();
        let (serial, binding) = lint_leaf(&signed.bytes, &desk.ca.certificate, &facts.spiffe_id);
        assert_eq!(serial.place_in(LOG, Generation::FIRST), Ok(facts.place));
        assert_eq!((serial.random, binding.place), (random, facts.place));
        assert_eq!(
            (binding.task, binding.root),
            (facts.task.octets(), facts.root.octets())
        );
        assert_eq!(signed.authority, desk.ca.id);
        assert!(signed.signature.is_empty());
    }
}

#[test]
fn times_key_and_dns_names_are_the_ones_asked_for() {
    let desk = Desk::new();
    let mut request = desk.x509(&desk.workload());
    request.dns_names = vec![
        "billing.example.org".to_owned(),
        "*.b.example.org".to_owned(),
    ];
    let asked = request.clone();
    let signed = desk.sign_x509(request).unwrap();
    lint_leaf(&signed.bytes, &desk.ca.certificate, &asked.facts.spiffe_id);
    let certificate = parse(&signed.bytes);
    assert_eq!(
        dns_names(&certificate),
        ["billing.example.org", "*.b.example.org"]
    );
    assert_eq!(certificate.public_key().raw, asked.key.spki);
    let validity = certificate.validity();
    assert_eq!(
        validity.not_before.timestamp() as u64,
        asked.not_before.secs()
    );
    assert_eq!(
        validity.not_after.timestamp() as u64,
        asked.not_after.secs()
    );
}

#[test]
fn the_longest_spiffe_id_and_the_largest_place_fit() {
    let desk = Desk::new();
    let path = format!("/{}", "a".repeat(2048 - "spiffe://example.org/".len()));
    let mut facts = desk.facts(&path, Class::Workload);
    facts.place = Place::new(LOG, facts.limit.hour(), (1 << 40) - 1).unwrap();
    let signed = desk.mint(&facts).unwrap();
    lint_leaf(&signed.bytes, &desk.ca.certificate, &facts.spiffe_id);
}

#[test]
fn a_batch_answers_each_request_in_its_place() {
    let desk = Desk::new();
    let good = desk.x509(&desk.workload());
    let bad = X509Request {
        dns_names: vec!["not a name".to_owned()],
        ..good.clone()
    };
    let token = desk.jwt(&desk.workload());
    let batch = [
        Request::X509(good.clone()),
        Request::X509(bad),
        Request::Jwt(token),
    ];
    let answers = desk.core.issue(batch.into());
    assert_eq!(answers[0].as_ref().unwrap().authority, desk.ca.id);
    assert!(matches!(answers[1], Err(Refusal::DnsName(_))));
    assert_eq!(answers[2].as_ref().unwrap().authority, desk.jwt.id);
    // A refusal is no signature, so it is no link.
    let counters: Vec<_> = answers
        .iter()
        .flatten()
        .map(|signed| signed.tail.counter)
        .collect();
    assert_eq!(counters[1], counters[0] + 1);
}

#[test]
fn signatures_on_many_threads_are_one_chain() {
    let desk = Desk::new();
    let request = desk.x509(&desk.workload());
    let counters = thread::scope(|scope| {
        let sign = || {
            let batch = vec![Request::X509(request.clone()); 16];
            let answers = desk.core.issue(batch);
            answers
                .into_iter()
                .map(|signed| signed.unwrap().tail.counter)
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(sign)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<HashSet<_>>()
    });
    let (first, last) = (
        counters.iter().min().unwrap(),
        counters.iter().max().unwrap(),
    );
    assert_eq!((counters.len() as u64, last - first + 1), (64, 64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is asked for: what comes back lies within limit, bucket, cap, CA and clock.
    #[test]
    fn no_request_whatsoever_yields_a_certificate_past_limit_or_cap(
        from in -200_i64..200,
        length in -10_i64..9_000,
        limit in -100_i64..10_000,
        bucket in -1_i64..4,
        cap in 1_u64..7_200,
        millis in 0_u64..1_000,
        class in 0_u8..3,
    ) {
        let caps = Caps {
            workload: Duration::from_secs(cap),
            node: Duration::from_secs(cap / 2 + 1),
            ..Caps::default()
        };
        let desk = Desk::with(Policy { caps, ..policy() });
        desk.clock.advance(Duration::from_millis(millis));
        let now = desk.now();
        let at = |secs: i64| {
            let millis = now.millis().checked_add_signed(secs * 1000).unwrap();
            taskmint_model::Timestamp::from_millis(millis)
        };
        let (path, class) = match class {
            0 => ("/billing", Class::Workload),
            1 => ("/taskmint/node/x509pop/n", Class::Node),
            _ => ("/taskmint/server/s", Class::Server),
        };
        let mut facts = desk.facts(path, class);
        facts.limit = at(limit);
        let hour = i64::from(now.hour()) + bucket;
        facts.place = Place::new(LOG, hour as u32, 7).unwrap();
        let grant = desk.core.grant(&facts);
        let mut request = desk.x509(&desk.workload());
        request.not_before = at(from);
        request.not_after = at(from + length);
        if let Ok(grant) = grant {
            request.facts = facts.clone();
            request.grant = grant;
            if let Ok(signed) = desk.sign_x509(request) {
                let (serial, _) = lint_leaf(&signed.bytes, &desk.ca.certificate, &facts.spiffe_id);
                let certificate = parse(&signed.bytes);
                let first = certificate.validity().not_before.timestamp();
                let last = certificate.validity().not_after.timestamp();
                let now = now.secs() as i64;
                prop_assert!((first - now).abs() <= 61, "{first} {now}");
                prop_assert!(last > first && last - first <= caps.x509(class).as_secs() as i64);
                prop_assert!(last as u64 <= facts.limit.secs());
                prop_assert!((last as u64) < (u64::from(serial.slot.bucket()) + 1) * 3600);
            }
        }
    }
}
