//! What `tests/vectors/svid.json` holds: one authority with fixed keys, and one of each of what it
//! signs. Shared by the writer (`examples/vectors.rs`) and the test that holds them against it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use taskmint_authority::{Core, Policy};
use taskmint_id::{Jwk, P256PublicKey, SpiffeId, TrustDomain};
use taskmint_mint::{
    Class, CrlNumber, CrlReason, CrlRequest, Facts, JwtRequest, KeyAlgorithm, KeyKind, LogStart,
    Prepared, PublicKey, Request, Revoked, X509Request,
};
use taskmint_model::{AuthorityId, Clock as _, Entropy, TaskId, Timestamp};
use taskmint_status::extension::{HEAD_SIGNING_OID_TEXT, TASK_BINDING_OID_TEXT};
use taskmint_status::{ChainHash, Generation, LogId, Place, Serial};
use taskmint_testkit::{ManualClock, SeededEntropy, TestKey};

const PUBLIC_URL: &str = "https://status.example.org";
pub(crate) const LOG: LogId = LogId([0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87]);

/// Keys and requests that never change; the signatures over them differ each time.
pub(crate) struct Fixed {
    pub(crate) ca: Prepared,
    pub(crate) log_key: Prepared,
    pub(crate) leaf: Vec<u8>,
    pub(crate) token: String,
    pub(crate) crl: Vec<u8>,
    jwt: Prepared,
    crl_request: CrlRequest,
    x509_request: X509Request,
    jwt_request: JwtRequest,
}

/// An authority whose keys are always the same.
pub(crate) struct Desk {
    pub(crate) core: Core,
    pub(crate) ca: Prepared,
    pub(crate) log_key: Prepared,
    jwt: Prepared,
    pub(crate) now: Timestamp,
    entropy: Arc<SeededEntropy>,
}

/// Makes it.
pub(crate) fn desk() -> Desk {
    let clock = ManualClock::default();
    let now = clock.now();
    let entropy = Arc::new(SeededEntropy::new(2026));
    let policy = Policy {
        public_url: Some(PUBLIC_URL.to_owned()),
        ..Policy::new(TrustDomain::parse("example.org").unwrap())
    };
    let core = Core::new(policy, None, Arc::new(clock), entropy.clone());
    core.load(&[], &start()).unwrap();
    let prepare = |kind, id: u8| {
        let id = AuthorityId::from_octets([id; 16]);
        let prepared = core.prepare(kind, id, now).unwrap();
        core.activate(id).unwrap();
        prepared
    };
    let month = 30 * 24 * 3600;
    let ca = prepare(KeyKind::Ca { ttl_secs: month }, 0xca);
    let jwt = prepare(KeyKind::Jwt, 0x17);
    let log_key = prepare(KeyKind::Log { ttl_secs: month }, 0x06);
    prepare(KeyKind::Grant, 0x64);
    Desk {
        core,
        ca,
        log_key,
        jwt,
        now,
        entropy,
    }
}

/// Makes them.
pub(crate) fn fixed() -> Fixed {
    let desk = desk();
    let (x509_request, jwt_request) = desk.requests();
    let crl_request = desk.crl(&x509_request);
    let Desk {
        core,
        ca,
        log_key,
        jwt,
        ..
    } = desk;
    let batch = vec![
        Request::X509(x509_request.clone()),
        Request::Jwt(jwt_request.clone()),
        Request::Crl(crl_request.clone()),
    ];
    let mut signed = core
        .issue(batch)
        .into_iter()
        .map(|signed| signed.unwrap().bytes);
    let (leaf, token) = (signed.next().unwrap(), signed.next().unwrap());
    let (token, crl) = (String::from_utf8(token).unwrap(), signed.next().unwrap());
    Fixed {
        ca,
        log_key,
        leaf,
        token,
        crl,
        jwt,
        crl_request,
        x509_request,
        jwt_request,
    }
}

fn start() -> LogStart {
    LogStart {
        log: LOG,
        generation: 1,
        replaces: None,
        epoch: 1,
        sequence: 0,
        hash: ChainHash::genesis(LOG, Generation::FIRST).0,
        floor: 0,
        at: Timestamp::default(),
    }
}

impl Desk {
    /// One SVID of each kind.
    pub(crate) fn requests(&self) -> (X509Request, JwtRequest) {
        requests(&self.core, self.now, &*self.entropy)
    }

    /// The revocation list of that X.509-SVID's CA.
    pub(crate) fn crl(&self, leaf: &X509Request) -> CrlRequest {
        crl(leaf, self.ca.id, self.now)
    }
}

fn requests(core: &Core, now: Timestamp, entropy: &dyn Entropy) -> (X509Request, JwtRequest) {
    let limit = now + Duration::from_secs(2 * 3600);
    let facts = Facts {
        task: TaskId::from_octets([0x7a; 16]),
        root: TaskId::from_octets([0x70; 16]),
        spiffe_id: SpiffeId::parse("spiffe://example.org/payments/agent").unwrap(),
        place: Place::new(LOG, limit.hour(), 78_187_493_530).unwrap(),
        limit,
        class: Class::Workload,
    };
    let grant = core.grant(&facts).unwrap();
    let spki = TestKey::generate(entropy).spki();
    let (log, bucket) = (facts.place.log(), facts.place.bucket());
    let x509 = X509Request {
        facts: facts.clone(),
        grant: grant.clone(),
        key: PublicKey {
            algorithm: KeyAlgorithm::EcP256,
            spki,
        },
        dns_names: vec!["payments.example.org".to_owned()],
        serial_random: [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9],
        not_before: now - Duration::from_secs(30),
        not_after: now + Duration::from_secs(600),
    };
    let jwt = JwtRequest {
        facts,
        grant,
        audiences: vec!["spiffe://example.org/reports".to_owned()],
        jti: [0x1d; 16],
        issued_at: now,
        expires_at: now + Duration::from_secs(120),
        status_uri: Some(format!("{PUBLIC_URL}/status/{log}/{bucket}")),
    };
    (x509, jwt)
}

/// The leaf suspended, and another certificate of its task ended.
fn crl(leaf: &X509Request, ca: AuthorityId, now: Timestamp) -> CrlRequest {
    let serial = |random| Serial {
        generation: Generation::FIRST,
        slot: leaf.facts.place.slot(),
        random,
    };
    let revoked = |random, reason| Revoked {
        serial: serial(random).encode(),
        at: now,
        reason,
    };
    CrlRequest {
        ca,
        number: CrlNumber {
            generation: 1,
            epoch: 1,
            count: 258,
        },
        this_update: now - Duration::from_secs(30),
        next_update: now + Duration::from_secs(600),
        revoked: vec![
            revoked(leaf.serial_random, CrlReason::CertificateHold),
            revoked([0xff; 9], CrlReason::PrivilegeWithdrawn),
        ],
    }
}

impl Fixed {
    /// The vectors' document.
    pub(crate) fn document(&self) -> Value {
        let (x509, jwt) = (&self.x509_request, &self.jwt_request);
        let facts = &x509.facts;
        let slot = facts.place.slot();
        let serial = Serial {
            generation: Generation::FIRST,
            slot,
            random: x509.serial_random,
        };
        let key = P256PublicKey::from_spki_der(&self.jwt.spki).unwrap();
        let jwk = Jwk {
            key,
            key_id: Some(self.jwt.key_id.clone()),
            usage: Some("jwt-svid".into()),
        };
        json!({
            "verify_at": jwt.issued_at.secs(),
            "trust_domain": facts.spiffe_id.trust_domain().as_str(),
            "spiffe_id": facts.spiffe_id.as_str(),
            "task": facts.task.to_string(),
            "root": facts.root.to_string(),
            "log": facts.place.log().to_string(),
            "generation": 1,
            "bucket": slot.bucket(),
            "index": slot.index(),
            "task_binding_oid": TASK_BINDING_OID_TEXT,
            "head_signing_oid": HEAD_SIGNING_OID_TEXT,
            "ca": { "der": base64(&self.ca.certificate), "key_id": self.ca.key_id },
            "leaf": {
                "der": base64(&self.leaf),
                "serial": hex::encode(serial.encode()),
                "spki": base64(&x509.key.spki),
                "dns_names": x509.dns_names,
                "not_before": x509.not_before.secs(),
                "not_after": x509.not_after.secs(),
            },
            "log_key": {
                "der": base64(&self.log_key.certificate),
                "spki": base64(&self.log_key.spki),
            },
            "crl": {
                "der": base64(&self.crl),
                "number": "01000000010000000000000102",
                "this_update": self.crl_request.this_update.secs(),
                "next_update": self.crl_request.next_update.secs(),
                "revoked_at": jwt.issued_at.secs(),
                "held": hex::encode(serial.encode()),
                "withdrawn": hex::encode(self.crl_request.revoked.last().unwrap().serial),
            },
            "jwt": {
                "token": self.token,
                "jwk": jwk.to_value(),
                "aud": jwt.audiences.first(),
                "iat": jwt.issued_at.secs(),
                "exp": jwt.expires_at.secs(),
                "jti": hex::encode(jwt.jti),
                "status_uri": jwt.status_uri,
            },
        })
    }
}

pub(crate) fn base64(der: &[u8]) -> String {
    BASE64_STANDARD.encode(der)
}
