//! A trust domain with a CA, the same for each input.
//!
//! It signs with a library in C: one in Rust would be instrumented with all the rest, and take
//! milliseconds for a signature.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use taskmint_id::{Bundle, BundleSet, TrustDomain, X509Authority};
use taskmint_model::{Clock as _, Timestamp};
use taskmint_status::extension::HEAD_SIGNING_OID;
use taskmint_status::{Generation, LogId, Place, Serial, TaskBinding};
use taskmint_testkit::{LeafSpec, ManualClock, SeededEntropy, TestCa, TestKey};

pub(crate) const LOG: LogId = LogId([7; 8]);

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// The trust domain `example.org`, its CA and its log's key.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) ca: TestCa,
    pub(crate) bundles: BundleSet,
    ca_key: EcdsaKeyPair,
    log_key: EcdsaKeyPair,
    pub(crate) log_certificate: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let (now, entropy) = (ManualClock::default().now(), SeededEntropy::new(1));
        let trust_domain = TrustDomain::parse("example.org").expect("a trust domain");
        let ca = TestCa::new(&trust_domain, now, &entropy);
        let mut bundle = Bundle::new(trust_domain.clone());
        bundle.add_x509_authority(X509Authority::from_der(ca.certificate()).expect("a CA"));
        let log_key = TestKey::generate(&entropy);
        let mut spec = LeafSpec::svid(&trust_domain.id(), now);
        spec.uris.clear();
        spec.common_name = Some("log key".to_owned());
        spec.extended_usages = vec![HEAD_SIGNING_OID.to_vec()];
        spec.not_after = now + Duration::from_secs(24 * 3600);
        Self {
            now,
            log_certificate: ca.certify(&spec, &log_key),
            log_key: key_pair(&ECDSA_P256_SHA256_FIXED_SIGNING, &log_key),
            ca_key: key_pair(&ECDSA_P256_SHA256_ASN1_SIGNING, ca.key()),
            bundles: [bundle].into_iter().collect(),
            ca,
            trust_domain,
        }
    }

    /// A certificate of whatever stands where its contents should.
    pub(crate) fn certify(&self, contents: &[u8]) -> Vec<u8> {
        // ecdsa-with-SHA256, and a bit string whose last octet is full
        let algorithm = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let signature = [vec![0], sign(&self.ca_key, contents)].concat();
        element(
            0x30,
            &[contents, &algorithm, &element(3, &signature)].concat(),
        )
    }

    /// The log's signature.
    pub(crate) fn sign_for_log(&self, body: &[u8]) -> Vec<u8> {
        sign(&self.log_key, body)
    }

    /// The task at an index of the current hour.
    pub(crate) fn binding(&self, index: u64) -> TaskBinding {
        let place = Place::new(LOG, self.now.hour(), index).expect("a place");
        let id = [index as u8; 16];
        TaskBinding {
            place,
            task: id,
            root: id,
        }
    }
}

/// The serial number that goes with a binding.
pub(crate) fn serial(binding: &TaskBinding) -> [u8; 20] {
    Serial {
        generation: Generation::FIRST,
        slot: binding.place.slot(),
        random: [9; 9],
    }
    .encode()
}

fn key_pair(algorithm: &'static EcdsaSigningAlgorithm, key: &TestKey) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(algorithm, &key.pkcs8()).expect("a key")
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = key.sign(&SystemRandom::new(), message);
    signature.expect("a signature").as_ref().to_vec()
}

/// An element of less than 64 KiB in DER.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let [.., high, low] = contents.len().to_be_bytes();
    let length = match (high, low) {
        (0, 0..128) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [vec![tag], length, contents.to_vec()].concat()
}
