//! Chains that prove nothing, each for its reason; none of them is asked to sign anything.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use taskmint_attest::{NodeAttestor as _, NodeProver as _, ServerContext};
use taskmint_id::TrustDomain;
use taskmint_testkit::{Constraints, LeafSpec, SeededEntropy, TestCa, TestKey, Usage, pem};

use super::world::{Parrot, World, prover, server};
use crate::{Chain, ProverError, RootsError, X509PopAttestor, X509PopProver};

/// Makes a good leaf bad.
type Spoil = fn(&mut LeafSpec);

/// Shows a payload to the server and expects to be refused before any challenge.
async fn refused(world: &World, server: &X509PopAttestor, payload: &[u8]) -> &'static str {
    let (_, context) = world.contexts();
    let mut parrot = Parrot {
        response: vec![0; 70],
        asked: 0,
    };
    let error = server.attest(&context, payload, &mut parrot).await;
    assert_eq!(parrot.asked, 0, "was challenged");
    error.unwrap_err().reason()
}

fn payload(certificates: &[&[u8]]) -> Vec<u8> {
    let owned = certificates.iter().map(|der| der.to_vec().into());
    Chain::new(owned.collect()).unwrap().encode()
}

#[tokio::test]
async fn a_leaf_that_may_not_prove_a_node_is_refused() {
    let world = World::new();
    let now = world.now;
    let second = Duration::from_secs(1);
    let spoil: &[(&str, Spoil)] = &[
        ("CERTIFICATE_IS_CA", |spec| {
            spec.constraints = Constraints::Ca;
        }),
        ("CERTIFICATE_UNFIT", |spec| {
            spec.usages = vec![Usage::CertSign];
        }),
        ("CERTIFICATE_UNFIT", |spec| {
            spec.extended_usages = vec![LeafSpec::SERVER_AUTH.to_vec()];
        }),
        ("CERTIFICATE_UNFIT", |spec| {
            let extension = (vec![1, 3, 6, 1, 4, 1, 99999, 1], true, vec![5, 0]);
            spec.extensions.push(extension);
        }),
        ("CERTIFICATE_IS_SVID", |spec| {
            spec.uris = vec!["spiffe://example.org/billing".to_owned()];
        }),
        ("CERTIFICATE_IS_SVID", |spec| {
            spec.uris = vec!["SPIFFE://Example.org".to_owned()];
        }),
    ];
    for (reason, spoil) in spoil {
        let mut spec = world.spec();
        spoil(&mut spec);
        let leaf = world.ca.issue(&spec, &world.entropy);
        let shown = payload(&[&leaf.certificate]);
        assert_eq!(refused(&world, &world.server, &shown).await, *reason);
    }
    for (reason, from, to) in [
        ("CERTIFICATE_EXPIRED", now - second * 60, now - second),
        ("CERTIFICATE_NOT_YET_VALID", now + second, now + second * 60),
    ] {
        let mut spec = world.spec();
        (spec.not_before, spec.not_after) = (from, to);
        let leaf = world.ca.issue(&spec, &world.entropy);
        let shown = payload(&[&leaf.certificate]);
        assert_eq!(refused(&world, &world.server, &shown).await, reason);
    }
}

#[tokio::test]
async fn a_leaf_need_not_say_what_it_is_for() {
    let world = World::new();
    let mut spec = world.spec();
    spec.constraints = Constraints::Absent;
    spec.usages.clear();
    spec.extended_usages.clear();
    spec.uris = vec!["spiffe://maker.example/device/1".to_owned()];
    spec.common_name = None;
    spec.serial = vec![0x80];
    let attested = world.attest(&world.prover(&spec)).await.unwrap();
    let selectors: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors.len(), 2);
    assert_eq!(selectors[1], "x509pop:serialnumber:80");
}

#[tokio::test]
async fn a_name_that_cannot_be_written_is_left_out() {
    let world = World::new();
    for name in ["a\nb", &"n".repeat(1100)] {
        let mut spec = world.spec();
        spec.common_name = Some(name.to_owned());
        let attested = world.attest(&world.prover(&spec)).await.unwrap();
        assert_eq!(attested.selectors.len(), 2);
        assert!(
            attested
                .selectors
                .iter()
                .all(|s| !s.value().starts_with("subject"))
        );
    }
}

#[tokio::test]
async fn a_chain_to_another_root_is_refused() {
    let world = World::new();
    // The same name as the trusted CA's, but another key.
    let other = World {
        ca: TestCa::new(world.ca.trust_domain(), world.now, &SeededEntropy::new(2)),
        ..World::new()
    };
    let leaf = other.ca.issue(&world.spec(), &world.entropy);
    let itself = world.ca.certify(&world.spec(), &leaf.key);
    for chain in [
        &[&leaf.certificate[..]][..],
        &[&leaf.certificate, other.ca.certificate()],
        &[
            &leaf.certificate,
            other.ca.certificate(),
            world.ca.certificate(),
        ],
        &[&leaf.certificate, &itself],
    ] {
        let reason = refused(&world, &world.server, &payload(chain)).await;
        assert_eq!(reason, "CERTIFICATE_UNTRUSTED");
    }
    let root = payload(&[world.ca.certificate()]);
    let reason = refused(&world, &world.server, &root).await;
    assert_eq!(reason, "CERTIFICATE_IS_CA");
}

#[tokio::test]
async fn a_leaf_issues_no_leaves() {
    let world = World::new();
    let stolen = world.ca.issue(&world.spec(), &world.entropy);
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "device-1");
    let issuer = rcgen::Issuer::from_params(&params, &stolen.key);
    let key = TestKey::generate(&world.entropy);
    let mut forged = rcgen::CertificateParams::default();
    forged.serial_number = Some(rcgen::SerialNumber::from_slice(&[4]));
    forged.not_after = rcgen::date_time_ymd(2099, 1, 1);
    let forged = forged.signed_by(&key, &issuer).unwrap();
    let shown = payload(&[forged.der(), &stolen.certificate]);
    let reason = refused(&world, &world.server, &shown).await;
    assert_eq!(reason, "CERTIFICATE_UNFIT");
}

#[tokio::test]
async fn intermediates_lead_to_a_root_and_are_named() {
    let world = World::new();
    let intermediate = world.intermediate();
    let key = TestKey::generate(&world.entropy);
    let leaf = intermediate.certify(world.now, &key);
    let shown = payload(&[&leaf]);
    let reason = refused(&world, &world.server, &shown).await;
    assert_eq!(
        reason, "CERTIFICATE_UNTRUSTED",
        "the intermediate is missing"
    );

    // In any order, with ones that lead nowhere.
    let noise = world.ca.issue(&world.spec(), &world.entropy).certificate;
    let chain = [
        &leaf[..],
        &noise,
        world.ca.certificate(),
        &intermediate.certificate,
    ];
    let attested = world.attest(&prover(&chain, &key.pkcs8())).await.unwrap();
    let values: Vec<_> = attested.selectors.iter().map(|s| s.value()).collect();
    assert_eq!(values[0], "subject:cn:device-2");
    assert_eq!(values.len(), 4);
    for (value, authority) in values[1..].iter().zip([chain[3], chain[2]]) {
        use sha2::Digest as _;
        let fingerprint = hex::encode(sha2::Sha256::digest(authority));
        assert_eq!(*value, format!("ca:fingerprint:{fingerprint}"));
    }
}

#[tokio::test]
async fn a_root_vouches_only_while_it_is_valid() {
    let world = World::new();
    let mut spec = world.spec();
    spec.not_after = world.now + Duration::from_secs(72 * 3600);
    let prover = world.prover(&spec);
    let (agent, context) = world.contexts();
    let payload = prover.begin(&agent).await.unwrap();
    let mut parrot = Parrot {
        response: vec![0; 70],
        asked: 0,
    };
    for (hours, reason) in [(23, "PROOF_INVALID"), (25, "CA_EXPIRED")] {
        let later = ServerContext {
            now: world.now + Duration::from_secs(hours * 3600),
            ..context
        };
        let refused = world.server.attest(&later, &payload, &mut parrot).await;
        assert_eq!(refused.unwrap_err().reason(), reason);
    }
    assert_eq!(parrot.asked, 1);
}

#[tokio::test]
async fn one_of_several_roots_is_enough() {
    let world = World::new();
    let other = TestCa::new(&TrustDomain::parse("b").unwrap(), world.now, &world.entropy);
    let server = server(&[other.certificate(), world.ca.certificate()]);
    let both = World { server, ..world };
    assert!(both.attest(&both.prover(&both.spec())).await.is_ok());
}

#[tokio::test]
async fn payloads_that_are_no_chain_are_refused() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy).certificate;
    let good = payload(&[&leaf]);
    let nine = [&[1, 9][..], &good[2..].repeat(9)].concat();
    let mut long = vec![1, 1, 0x40, 0x01];
    long.resize(4 + 0x4001, 0);
    let cases = [
        Vec::new(),
        b"garbage".to_vec(),
        vec![0xff; 64 << 10],
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        nine,
        long,
        payload(&[b"no certificate"]),
        payload(&[&leaf[..leaf.len() - 1]]),
        payload(&[&[&leaf[..], &[0]].concat()]),
    ];
    for shown in cases {
        let reason = refused(&world, &world.server, &shown).await;
        assert_eq!(
            reason,
            "ATTESTATION_MALFORMED",
            "{:?}",
            &shown[..shown.len().min(8)]
        );
    }
}

#[tokio::test]
async fn an_intermediate_that_is_garbage_does_not_help() {
    let world = World::new();
    let other = TestCa::new(&TrustDomain::parse("b").unwrap(), world.now, &world.entropy);
    let leaf = other.issue(&world.spec(), &world.entropy).certificate;
    let shown = payload(&[&leaf, b"garbage", &[0x30; 16 << 10]]);
    let reason = refused(&world, &world.server, &shown).await;
    assert_eq!(reason, "ATTESTATION_MALFORMED");
}

#[test]
fn ca_files_are_checked_at_start() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy).certificate;
    let good = pem("CERTIFICATE", world.ca.certificate());
    let made = |files: &[String]| {
        let files: Vec<_> = files.iter().map(|file| file.clone().into_bytes()).collect();
        X509PopAttestor::from_pem(&files, Arc::new(SeededEntropy::new(1))).err()
    };
    assert_eq!(made(&[good.clone(), good.clone() + &good]), None);
    let garbage = good.clone() + &pem("CERTIFICATE", b"garbage");
    for (files, error) in [
        (vec![], RootsError::NoFile),
        (
            vec![good.clone(), String::new()],
            RootsError::NoCertificate { file: 2 },
        ),
        (
            vec!["-----BEGIN CERTIFICATE-----\n%".to_owned()],
            RootsError::NoCertificate { file: 1 },
        ),
        (vec![garbage], RootsError::Malformed { file: 1, number: 2 }),
        (
            vec![good, pem("CERTIFICATE", &leaf)],
            RootsError::NotCa { file: 2, number: 1 },
        ),
    ] {
        assert_eq!(made(&files), Some(error));
    }
}

#[test]
fn a_provers_files_are_checked_at_start() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy);
    let certificate = pem("CERTIFICATE", &leaf.certificate);
    let key = pem("PRIVATE KEY", &leaf.key.pkcs8());
    let other = pem("PRIVATE KEY", &TestKey::generate(&world.entropy).pkcs8());
    let made =
        |chain: &str, key: &str| X509PopProver::from_pem(chain.as_bytes(), key.as_bytes()).err();
    assert_eq!(made(&certificate, &key), None);
    assert_eq!(made(&certificate, &other), Some(ProverError::Mismatch));
    assert_eq!(made(&certificate, &certificate), Some(ProverError::Key));
    let broken = pem("PRIVATE KEY", b"garbage");
    assert_eq!(made(&certificate, &broken), Some(ProverError::Key));
    let garbage = pem("CERTIFICATE", b"garbage");
    assert_eq!(made(&garbage, &key), Some(ProverError::Certificate));
    let empty = Some(ProverError::Chain(crate::ChainError::Empty));
    assert_eq!(made("", &key), empty);
    let many = Some(ProverError::Chain(crate::ChainError::TooMany));
    assert_eq!(made(&certificate.repeat(9), &key), many);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_chain_with_one_octet_changed_proves_nothing(at: usize, to: u8) {
        let world = World::new();
        let intermediate = world.intermediate();
        let key = TestKey::generate(&world.entropy);
        let leaf = intermediate.certify(world.now, &key);
        let mut shown = payload(&[&leaf, &intermediate.certificate]);
        let at = at % shown.len();
        prop_assume!(shown[at] != to);
        shown[at] = to;
        let (_, context) = world.contexts();
        let mut parrot = Parrot { response: vec![0; 70], asked: 0 };
        let attest = world.server.attest(&context, &shown, &mut parrot);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert!(runtime.block_on(attest).unwrap_err().is_refusal());
        prop_assert_eq!(parrot.asked, 0);
    }
}
