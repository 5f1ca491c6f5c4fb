//! A trust domain with a CA, and credentials of its tasks.

use std::collections::HashSet;

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use taskmint_id::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{Clock as _, Timestamp};
use taskmint_status::extension::TASK_BINDING_OID;
use taskmint_status::{Generation, LogId, Place, Serial, TaskBinding};
use taskmint_testkit::{LeafSpec, ManualClock, SeededEntropy, TestCa, TestLeaf};
use taskmint_verifier::{Refused, StatusCheck};

pub(crate) const LOG: LogId = LogId([7; 8]);

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) entropy: SeededEntropy,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) ca: TestCa,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of("example.org", 1)
    }

    pub(crate) fn of(name: &str, seed: u64) -> Self {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(seed));
        let trust_domain = TrustDomain::parse(name).unwrap();
        let ca = TestCa::new(&trust_domain, clock.now(), &entropy);
        Self {
            clock,
            entropy,
            trust_domain,
            ca,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new(self.trust_domain.clone());
        bundle.add_x509_authority(X509Authority::from_der(self.ca.certificate()).unwrap());
        let key = self.ca.jwt_key().public();
        bundle
            .add_jwt_authority(&key.thumbprint_text(), *key)
            .unwrap();
        bundle
    }

    pub(crate) fn bundles(&self) -> BundleSet {
        [self.bundle()].into_iter().collect()
    }

    /// The task at this index of the current hour.
    pub(crate) fn binding(&self, index: u64) -> TaskBinding {
        let place = Place::new(LOG, self.now().hour(), index).unwrap();
        TaskBinding {
            place,
            task: [index as u8; 16],
            root: [index as u8; 16],
        }
    }

    pub(crate) fn spec(&self, path: &str) -> LeafSpec {
        LeafSpec::svid(&self.id(path), self.now())
    }

    /// What an authority of ours makes.
    pub(crate) fn task_spec(&self, path: &str, index: u64) -> LeafSpec {
        let binding = self.binding(index);
        let mut spec = self
            .spec(path)
            .with_extension(TASK_BINDING_OID, binding.to_der());
        spec.serial = serial(&binding).to_vec();
        spec
    }

    pub(crate) fn issue(&self, spec: &LeafSpec) -> TestLeaf {
        self.ca.issue(spec, &self.entropy)
    }

    pub(crate) fn task(&self, path: &str, index: u64) -> TestLeaf {
        self.issue(&self.task_spec(path, index))
    }
}

pub(crate) fn serial(binding: &TaskBinding) -> [u8; 20] {
    let (generation, slot) = (Generation::FIRST, binding.place.slot());
    Serial {
        generation,
        slot,
        random: [9; 9],
    }
    .encode()
}

pub(crate) fn chain(leaf: &TestLeaf) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from(leaf.certificate.clone())]
}

/// Statuses as a test says.
#[derive(Default)]
pub(crate) struct Statuses(Mutex<HashSet<Place>>);

impl Statuses {
    pub(crate) fn end(&self, place: Place) {
        self.0.lock().insert(place);
    }

    /// As if nothing had ended.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }
}

impl StatusCheck for Statuses {
    fn check(&self, binding: &TaskBinding) -> Result<(), Refused> {
        if self.0.lock().contains(&binding.place) {
            return Err(Refused::new("TASK_ENDED", "the task has ended"));
        }
        Ok(())
    }
}
