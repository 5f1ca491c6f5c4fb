//! Verifying and showing, against a CA that shares no code with ours.

use std::path::Path;

use serde_json::Value;
use taskmint_id::{Bundle, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::extension::TASK_BINDING_OID;
use taskmint_status::{Generation, LogId, Serial, Slot, TaskBinding};
use taskmint_testkit::{LeafSpec, SeededEntropy, TestCa, pem};

use super::*;
use crate::context::Global;
use crate::output::{Captured, Format};

struct World {
    folder: tempfile::TempDir,
    ca: TestCa,
    entropy: SeededEntropy,
}

impl World {
    fn new(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, SystemClock.now(), &entropy);
        Self {
            folder: tempfile::tempdir().unwrap(),
            ca,
            entropy,
        }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn svid(&self, change: impl FnOnce(&mut LeafSpec)) -> PathBuf {
        let mut spec = LeafSpec::svid(&id(), SystemClock.now());
        change(&mut spec);
        self.file(
            "svid.pem",
            pem(
                "CERTIFICATE",
                &self.ca.issue(&spec, &self.entropy).certificate,
            ),
        )
    }

    fn token(&self) -> PathBuf {
        self.file(
            "token",
            self.ca
                .token(&TestCa::claims(&id(), "me", SystemClock.now())),
        )
    }

    fn bundle(&self) -> PathBuf {
        let mut bundle = Bundle::new(self.ca.trust_domain().clone());
        bundle.add_x509_authority(X509Authority::from_der(self.ca.certificate()).unwrap());
        let jwt = self.ca.jwt_key().public();
        bundle
            .add_jwt_authority(&jwt.thumbprint_text(), *jwt)
            .unwrap();
        self.file("bundle.json", bundle.to_json())
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/agent/a").unwrap()
}

fn binding() -> (TaskBinding, Serial) {
    let slot = Slot::new(SystemClock.now().hour() + 1, 7).unwrap();
    let binding = TaskBinding {
        place: slot.in_log(LogId([1; 8])),
        task: [2; 16],
        root: [3; 16],
    };
    (
        binding,
        Serial {
            generation: Generation::FIRST,
            slot,
            random: [4; 9],
        },
    )
}

fn verify(verify: verify::Verify) -> Result<Value, Failure> {
    let captured = Captured::default();
    let mut context = Context {
        global: Global::default(),
        out: captured.output(Format::Json),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(verify.execute(&mut context))?;
    Ok(serde_json::from_str(&captured.text()).unwrap())
}

fn against(file: PathBuf, bundle: &Path) -> verify::Verify {
    verify::Verify {
        file,
        bundle: bundle.to_owned(),
        ..Default::default()
    }
}

fn reason(failure: &Failure) -> String {
    failure.json()["error"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_good_certificate_is_verified_with_its_task() {
    let world = World::new(1);
    let (binding, serial) = binding();
    let file = world.svid(|spec| {
        spec.serial = serial.encode().to_vec();
        *spec = spec
            .clone()
            .with_extension(TASK_BINDING_OID, binding.to_der());
    });
    let verified = verify(against(file.clone(), &world.bundle())).unwrap();
    assert_eq!(verified["verified"], true);
    assert_eq!(verified["spiffe_id"], id().as_str());
    assert_eq!(verified["task_id"], "02020202-0202-0202-0202-020202020202");
    assert_eq!(verified["place"]["index"], 7);
    assert_eq!(verified["status"], "not asked");

    let shown = show::record(&read::read(&file).unwrap()).unwrap().json();
    assert_eq!(shown["task_id"], verified["task_id"]);
    assert_eq!(
        (&shown["log_generation"], &shown["ca"]),
        (&1.into(), &false.into())
    );
    assert_eq!(shown["not_after_ms"], verified["expires_at_ms"]);
}

#[test]
fn a_bundle_may_be_pem() {
    let world = World::new(2);
    let bundle = world.file("bundle.pem", pem("CERTIFICATE", world.ca.certificate()));
    assert!(verify(against(world.svid(|_| ()), &bundle)).is_ok());
    let elsewhere = verify::Verify {
        trust_domain: Some("example.com".to_owned()),
        ..against(world.svid(|_| ()), &bundle)
    };
    assert_eq!(
        reason(&verify(elsewhere).unwrap_err()),
        "TRUST_DOMAIN_UNKNOWN"
    );
}

#[test]
fn a_bad_certificate_is_refused_with_its_reason_and_exit_code() {
    let world = World::new(3);
    let bundle = world.bundle();
    let now = SystemClock.now();
    let second = std::time::Duration::from_secs(1);
    type Change = Box<dyn FnOnce(&mut LeafSpec)>;
    let table: [(Change, &str); 4] = [
        (
            Box::new(move |spec| spec.not_after = now - second),
            "SVID_EXPIRED",
        ),
        (Box::new(|spec| spec.uris.clear()), "SVID_WITHOUT_ID"),
        (
            Box::new(|spec| spec.uris = vec!["spiffe://example.com/a".to_owned()]),
            "TRUST_DOMAIN_UNKNOWN",
        ),
        (
            Box::new(|spec| spec.constraints = taskmint_testkit::Constraints::Ca),
            "SVID_IS_AUTHORITY",
        ),
    ];
    for (change, expected) in table {
        let file = world.svid(change);
        let asked = verify::Verify {
            trust_domain: Some("example.org".to_owned()),
            ..against(file, &bundle)
        };
        let failure = verify(asked).unwrap_err();
        assert_eq!(
            (reason(&failure).as_str(), failure.code()),
            (expected, crate::exit::DENIED)
        );
    }
    let other = World::new(4);
    let failure = verify(against(world.svid(|_| ()), &other.bundle())).unwrap_err();
    assert_eq!(reason(&failure), "SVID_UNTRUSTED");
}

#[test]
fn a_token_is_verified_for_its_audience_only() {
    let world = World::new(5);
    let asked = |audience: &str| verify::Verify {
        audience: audience.to_owned(),
        ..against(world.token(), &world.bundle())
    };
    assert_eq!(verify(asked("me")).unwrap()["spiffe_id"], id().as_str());
    assert_eq!(
        reason(&verify(asked("you")).unwrap_err()),
        "TOKEN_FOR_OTHER_AUDIENCE"
    );
    assert_eq!(verify(asked("")).unwrap_err().code(), crate::exit::USAGE);
    let shown = show::record(&read::read(&world.token()).unwrap())
        .unwrap()
        .json();
    assert_eq!(
        (&shown["type"], &shown["audience"][0]),
        (&"jwt".into(), &"me".into())
    );
    assert_eq!(shown["algorithm"], "ES256");
}

#[test]
fn status_without_a_relay_is_refused() {
    let world = World::new(6);
    let (binding, serial) = binding();
    let file = world.svid(|spec| {
        spec.serial = serial.encode().to_vec();
        *spec = spec
            .clone()
            .with_extension(TASK_BINDING_OID, binding.to_der());
    });
    let captured = Captured::default();
    let nowhere = world.folder.path().join("no.sock").display().to_string();
    let global = Global {
        revocation_socket: Some(nowhere),
        ..Default::default()
    };
    let mut context = Context {
        global,
        out: captured.output(Format::Json),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    let asked = verify::Verify {
        status: true,
        ..against(file, &world.bundle())
    };
    let failure = runtime
        .unwrap()
        .block_on(asked.execute(&mut context))
        .unwrap_err();
    assert_eq!(
        (reason(&failure).as_str(), failure.code()),
        ("STATUS_NOT_SYNCED", crate::exit::DENIED)
    );
}
