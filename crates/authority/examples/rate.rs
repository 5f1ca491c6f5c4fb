//! Signatures per second on one thread: what the rules, the building and the chain cost on top of
//! the bare signature, all measured in one run.
//!
//! ```text
//! cargo run --release -p taskmint-authority --example rate
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that fails has nothing to say"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use taskmint_authority::{Core, Policy};
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::{
    Class, Facts, JwtRequest, KeyAlgorithm, KeyKind, LogStart, PublicKey, Request, X509Request,
};
use taskmint_model::{AuthorityId, Clock as _, SystemClock, SystemEntropy, TaskId, Timestamp};
use taskmint_secret::{SecretBox, batch, on_secret_stack, protection};
use taskmint_status::{ChainHash, Generation, LogId, Place};
use taskmint_testkit::TestKey;

const SPAN: Duration = Duration::from_millis(400);
const ROUNDS: usize = 5;
const BATCH: usize = 64;

fn main() {
    let core = authority();
    let (x509, jwt) = requests(&core);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let random = SystemRandom::new();
    let pair = || {
        let pkcs8 = pkcs8.as_ref().unwrap().as_ref();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
    };
    let ordinary = pair().unwrap();
    let secret = SecretBox::try_make(pair).unwrap();
    let message = [7; 500];
    let sign = |pair: &EcdsaKeyPair| black_box(pair.sign(&random, black_box(&message)).unwrap());
    let sign_secret = || on_secret_stack(|| sign(secret.expose()));
    let many = |sign: &dyn Fn()| (0..BATCH).for_each(|_| sign());
    let issue = |request: &Request| {
        let answers = core.issue(vec![request.clone(); BATCH]);
        assert!(black_box(answers).iter().all(Result::is_ok));
    };
    let mut best = [0.0_f64; 5];
    // Taken in turns, best of each: the machine is shared.
    for _ in 0..ROUNDS {
        let now = [
            rate(|| many(&|| _ = sign(&ordinary))),
            rate(|| many(&|| _ = sign_secret())),
            rate(|| batch(|| many(&|| _ = sign_secret()))),
            rate(|| issue(&x509)),
            rate(|| issue(&jwt)),
        ];
        best = std::array::from_fn(|at| best[at].max(now[at]));
    }
    let names = [
        "ring, P-256, ordinary stack",
        "the same, secret, one by one",
        "the same, secret, in batches",
        "X.509-SVID",
        "JWT-SVID",
    ];
    println!("{}", protection());
    for (name, rate) in names.iter().zip(best) {
        println!("{name:<30}{rate:>9.0}/s {:>4.0} %", 100.0 * rate / best[0]);
    }
}

fn rate(batch: impl Fn()) -> f64 {
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < SPAN {
        batch();
        done += BATCH;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

fn authority() -> Core {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let core = Core::new(
        Policy::new(trust_domain),
        None,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
    );
    let log = LogId([7; 8]);
    let start = LogStart {
        log,
        generation: 1,
        replaces: None,
        epoch: 1,
        sequence: 0,
        hash: ChainHash::genesis(log, Generation::FIRST).0,
        floor: 0,
        at: Timestamp::default(),
    };
    core.load(&[], &start).unwrap();
    for kind in [
        KeyKind::Ca { ttl_secs: 86_400 },
        KeyKind::Jwt,
        KeyKind::Grant,
    ] {
        let now = SystemClock.now();
        let id = AuthorityId::new(now, &SystemEntropy);
        core.prepare(kind, id, now).unwrap();
        core.activate(id).unwrap();
    }
    core
}

fn requests(core: &Core) -> (Request, Request) {
    let now = SystemClock.now();
    let task = TaskId::new(now, &SystemEntropy);
    let limit = now + Duration::from_secs(7200);
    let facts = Facts {
        task,
        root: task,
        spiffe_id: SpiffeId::parse("spiffe://example.org/payments/agent").unwrap(),
        place: Place::new(LogId([7; 8]), limit.hour(), 70_000).unwrap(),
        limit,
        class: Class::Workload,
    };
    let grant = core.grant(&facts).unwrap();
    let spki = TestKey::generate(&SystemEntropy).spki();
    let x509 = X509Request {
        facts: facts.clone(),
        grant: grant.clone(),
        key: PublicKey {
            algorithm: KeyAlgorithm::EcP256,
            spki,
        },
        dns_names: Vec::new(),
        serial_random: [3; 9],
        not_before: now,
        not_after: now + Duration::from_secs(600),
    };
    let jwt = JwtRequest {
        facts,
        grant,
        audiences: vec!["reports".to_owned()],
        jti: [4; 16],
        issued_at: now,
        expires_at: now + Duration::from_secs(120),
        status_uri: None,
    };
    (Request::X509(x509), Request::Jwt(jwt))
}
