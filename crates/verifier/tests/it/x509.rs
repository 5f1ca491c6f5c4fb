//! Chains that are no X.509-SVIDs, each refused for its reason (X509-25 to X509-30).

use std::time::Duration;

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use taskmint_id::BundleSet;
use taskmint_status::extension::{HEAD_SIGNING_OID, TASK_BINDING_OID};
use taskmint_testkit::{Constraints, LeafSpec, TestCa, TestLeaf, Usage};
use taskmint_verifier::{PeerSvid, Policy, Refused, StatusCheck, SvidError, judge, verify_x509};

use crate::world::{Statuses, World, chain, serial};

fn verify(world: &World, leaf: &TestLeaf) -> Result<PeerSvid, SvidError> {
    verify_x509(&chain(leaf), &world.bundles(), world.now())
}

fn refused(world: &World, spec: &LeafSpec) -> &'static str {
    verify(world, &world.issue(spec)).unwrap_err().reason()
}

#[test]
fn a_good_svid_says_who_for_which_task_and_until_when() {
    let world = World::new();
    let leaf = world.task("/billing", 17);
    let peer = verify(&world, &leaf).unwrap();
    let binding = world.binding(17);
    assert_eq!(peer.spiffe_id, world.id("/billing"));
    assert_eq!(
        (peer.binding, peer.place()),
        (Some(binding), Some(binding.place))
    );
    assert_eq!(peer.task().unwrap().octets(), binding.task);
    assert_eq!(peer.serial, serial(&binding));
    assert_eq!(peer.not_after, world.now() + Duration::from_secs(600));
    assert_eq!(peer.spki, leaf.key.spki());
}

#[test]
fn an_svid_of_an_issuer_without_tasks_names_none() {
    let world = World::new();
    let mut spec = world.spec("/billing");
    spec.serial = vec![0x11; 16];
    let peer = verify(&world, &world.issue(&spec)).unwrap();
    assert_eq!((peer.binding, peer.serial), (None, [0; 20]));
}

#[test]
fn a_leaf_of_one_trust_domain_under_the_root_of_another_is_refused_though_both_are_trusted() {
    let (ours, theirs) = (World::of("a.example", 1), World::of("b.example", 2));
    let both: BundleSet = [ours.bundle(), theirs.bundle()].into_iter().collect();
    let posing = theirs
        .ca
        .svid(&ours.id("/billing"), ours.now(), &theirs.entropy);
    let error = verify_x509(&chain(&posing), &both, ours.now()).unwrap_err();
    assert!(matches!(error, SvidError::Path(_)), "{error}");
    // The very same chain with its root sent along.
    let mut with_root = chain(&posing);
    with_root.push(CertificateDer::from(theirs.ca.certificate()));
    assert_eq!(
        verify_x509(&with_root, &both, ours.now())
            .unwrap_err()
            .reason(),
        "SVID_UNTRUSTED"
    );
}

#[test]
fn a_trust_domain_without_a_bundle_is_refused() {
    let (ours, theirs) = (World::of("a.example", 1), World::of("b.example", 2));
    let leaf = theirs.task("/billing", 1);
    let error = verify_x509(&chain(&leaf), &ours.bundles(), ours.now()).unwrap_err();
    assert_eq!(error.reason(), "TRUST_DOMAIN_UNKNOWN");
}

#[test]
fn the_root_sent_along_is_tolerated_and_not_trusted() {
    let world = World::new();
    let mut sent = chain(&world.task("/billing", 1));
    sent.push(CertificateDer::from(world.ca.certificate()));
    assert!(verify_x509(&sent, &world.bundles(), world.now()).is_ok());
    let other = TestCa::new(&world.trust_domain, world.now(), &world.entropy);
    let leaf = other.svid(&world.id("/billing"), world.now(), &world.entropy);
    let mut sent = chain(&leaf);
    sent.push(CertificateDer::from(other.certificate()));
    let error = verify_x509(&sent, &world.bundles(), world.now()).unwrap_err();
    assert_eq!(error.reason(), "SVID_UNTRUSTED");
}

#[test]
fn names_that_are_not_exactly_one_spiffe_id_are_refused() {
    let world = World::new();
    let with = |uris: &[&str]| {
        let mut spec = world.spec("/billing");
        spec.uris = uris.iter().map(|&uri| uri.to_owned()).collect();
        refused(&world, &spec)
    };
    let good = "spiffe://example.org/billing";
    assert_eq!(with(&[]), "SVID_WITHOUT_ID");
    assert_eq!(
        with(&[good, "spiffe://example.org/admin"]),
        "SVID_WITH_SEVERAL_IDS"
    );
    assert_eq!(with(&[good, good]), "SVID_WITH_SEVERAL_IDS");
    assert_eq!(
        with(&[good, "https://example.org"]),
        "SVID_WITH_SEVERAL_IDS"
    );
    assert_eq!(with(&["https://example.org/billing"]), "SVID_ID_INVALID");
    assert_eq!(
        with(&["spiffe://example.org"]),
        "SVID_ID_INVALID",
        "the root id"
    );
    assert_eq!(with(&["spiffe://example.org/a%2fb"]), "SVID_ID_INVALID");
    assert_eq!(with(&["SPIFFE://example.org/billing"]), "SVID_ID_INVALID");
}

#[test]
fn a_certificate_that_could_act_as_an_authority_is_refused() {
    let world = World::new();
    let mut ca = world.spec("/billing");
    ca.constraints = Constraints::Ca;
    assert_eq!(refused(&world, &ca), "SVID_IS_AUTHORITY");
    for usage in [Usage::CertSign, Usage::CrlSign] {
        let mut spec = world.spec("/billing");
        spec.usages.push(usage);
        assert_eq!(refused(&world, &spec), "SVID_IS_AUTHORITY", "{usage:?}");
    }
}

#[test]
fn a_leaf_can_not_vouch_for_another() {
    let world = World::new();
    let below = TestCa::new(&world.trust_domain, world.now(), &world.entropy);
    let leaf = below.svid(&world.id("/admin"), world.now(), &world.entropy);
    // A good leaf over the key of `below`, in the place of an intermediate.
    let mut sent = chain(&leaf);
    sent.extend(chain(&world.task("/billing", 1)));
    let error = verify_x509(&sent, &world.bundles(), world.now()).unwrap_err();
    assert_eq!(error.reason(), "SVID_UNTRUSTED");
}

#[test]
fn a_certificate_counts_from_its_first_second_to_its_last() {
    let world = World::new();
    let leaf = world.task("/billing", 1);
    let at = |offset: i64| {
        let now = world.now().secs().saturating_add_signed(offset);
        let now = taskmint_model::Timestamp::from_secs(now);
        verify_x509(&chain(&leaf), &world.bundles(), now)
            .map(drop)
            .map_err(|e| e.reason())
    };
    assert_eq!(at(-31), Err("SVID_NOT_YET_VALID"));
    assert_eq!((at(-30), at(600)), (Ok(()), Ok(())));
    assert_eq!(at(601), Err("SVID_EXPIRED"));
}

#[test]
fn an_expired_root_vouches_for_nothing() {
    let world = World::new();
    let mut spec = world.spec("/billing");
    spec.not_after = world.now() + Duration::from_secs(100 * 3600);
    let leaf = world.issue(&spec);
    assert!(verify(&world, &leaf).is_ok());
    world.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(
        verify(&world, &leaf).unwrap_err().reason(),
        "SVID_UNTRUSTED"
    );
}

#[test]
fn extension_and_serial_must_name_the_same_place() {
    let world = World::new();
    let mut other = world.task_spec("/billing", 1);
    other.serial = serial(&world.binding(2)).to_vec();
    assert_eq!(refused(&world, &other), "SVID_BINDING_INVALID");
    let mut none = world.task_spec("/billing", 1);
    none.serial = vec![0x22; 20];
    assert_eq!(
        refused(&world, &none),
        "SVID_BINDING_INVALID",
        "a serial that names no place"
    );
    let der = world.binding(1).to_der();
    let torn = world
        .spec("/billing")
        .with_extension(TASK_BINDING_OID, der[..20].to_vec());
    assert_eq!(refused(&world, &torn), "SVID_BINDING_INVALID");
    let twice = world
        .task_spec("/billing", 1)
        .with_extension(TASK_BINDING_OID, der);
    assert_eq!(refused(&world, &twice), "SVID_MALFORMED");
}

#[test]
fn a_usage_that_is_not_both_of_tls_is_refused() {
    let world = World::new();
    let with = |usages: &[&[u64]]| {
        let mut spec = world.spec("/billing");
        spec.extended_usages = usages.iter().map(|usage| usage.to_vec()).collect();
        verify(&world, &world.issue(&spec))
            .map(drop)
            .map_err(|error| error.reason())
    };
    assert_eq!(with(&[]), Ok(()), "none named");
    assert_eq!(
        with(&[LeafSpec::CLIENT_AUTH, LeafSpec::SERVER_AUTH]),
        Ok(())
    );
    assert_eq!(with(&[LeafSpec::CLIENT_AUTH]), Err("SVID_UNTRUSTED"));
    assert_eq!(with(&[LeafSpec::SERVER_AUTH]), Err("SVID_UNTRUSTED"));
    assert_eq!(
        with(&[HEAD_SIGNING_OID]),
        Err("SVID_UNTRUSTED"),
        "a log key's"
    );
}

#[test]
fn empty_long_and_torn_chains_are_refused() {
    let world = World::new();
    let leaf = world.task("/billing", 1);
    let verify = |sent: &[CertificateDer<'_>]| {
        verify_x509(sent, &world.bundles(), world.now())
            .unwrap_err()
            .reason()
    };
    assert_eq!(verify(&[]), "SVID_MISSING");
    assert_eq!(
        verify(&vec![chain(&leaf).remove(0); 9]),
        "SVID_CHAIN_TOO_LONG"
    );
    let mut trailing = leaf.certificate.clone();
    trailing.push(0);
    assert_eq!(verify(&[CertificateDer::from(trailing)]), "SVID_MALFORMED");
    let torn = leaf.certificate[..leaf.certificate.len() - 1].to_vec();
    assert_eq!(verify(&[CertificateDer::from(torn)]), "SVID_MALFORMED");
}

#[test]
fn credentials_without_a_task_are_refused_unless_the_policy_says_otherwise() {
    struct With(Policy);
    impl StatusCheck for With {
        fn check(&self, _: &taskmint_status::TaskBinding) -> Result<(), Refused> {
            Err(Refused::new("TASK_ENDED", "the task has ended"))
        }
        fn policy(&self) -> Policy {
            self.0.clone()
        }
    }
    let (ours, theirs) = (World::of("a.example", 1), World::of("b.example", 2));
    let (id, foreign) = (ours.id("/billing"), theirs.id("/billing"));
    let ask = |policy: Policy, id, binding: Option<_>| {
        judge(&With(policy), id, binding.as_ref()).map_err(|refused| refused.reason)
    };
    let own = || Policy::OwnTrustDomain(ours.trust_domain.clone());
    let binding = Some(ours.binding(1));
    let statuses = Statuses::default();
    let named = |binding: Option<_>| {
        judge(&statuses, &id, binding.as_ref()).map_err(|refused| refused.reason)
    };
    assert_eq!((named(None), named(binding)), (Err("TASK_MISSING"), Ok(())));
    statuses.end(ours.binding(1).place);
    assert_eq!(named(binding), Err("TASK_ENDED"));
    assert_eq!(ask(Policy::Everyone, &foreign, None), Err("TASK_MISSING"));
    assert_eq!(ask(own(), &id, None), Err("TASK_MISSING"));
    assert_eq!(ask(own(), &id, binding), Err("TASK_ENDED"));
    assert_eq!(ask(own(), &foreign, None), Ok(()));
    assert_eq!(
        ask(own(), &foreign, binding),
        Ok(()),
        "it speaks of another log"
    );
    assert_eq!(ask(Policy::Nobody, &id, None), Ok(()));
    assert_eq!(ask(Policy::Nobody, &id, binding), Err("TASK_ENDED"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_certificate_with_one_octet_changed_is_refused(at: usize, to: u8) {
        let world = World::new();
        let mut leaf = world.task("/billing", 1);
        let at = at % leaf.certificate.len();
        prop_assume!(leaf.certificate[at] != to);
        leaf.certificate[at] = to;
        prop_assert!(verify(&world, &leaf).is_err());
    }
}
