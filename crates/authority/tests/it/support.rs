//! An authority that is ready to sign, and good requests to make worse.

use std::sync::Arc;
use std::time::Duration;

use taskmint_authority::{Core, Policy, SealingKey};
use taskmint_id::{P256PublicKey, SpiffeId, TrustDomain};
use taskmint_mint::{
    CheckpointRequest, Class, Facts, Grant, HeadRequest, JwtRequest, KeyAlgorithm, KeyKind,
    LogStart, Prepared, PublicKey, Refusal, Request, Sealed, Signed, X509Request,
};
use taskmint_model::{AuthorityId, Clock as _, Entropy, TaskId, Timestamp};
use taskmint_status::{ChainHash, Change, Generation, LogId, Place, Record, WallTime};
use taskmint_testkit::{ManualClock, SeededEntropy, TestKey};

pub(crate) const LOG: LogId = LogId([7; 8]);
pub(crate) const CA_TTL: u64 = 30 * 24 * 3600;
pub(crate) const PUBLIC_URL: &str = "https://taskmint.example.org";
pub(crate) const SEALING: [u8; 32] = [0x5e; 32];

/// An authority with its four keys active.
pub(crate) struct Desk {
    pub core: Core,
    pub clock: ManualClock,
    pub entropy: Arc<SeededEntropy>,
    pub ca: Prepared,
    pub jwt: Prepared,
    pub log: Prepared,
    pub grant: Prepared,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn policy() -> Policy {
    Policy {
        public_url: Some(PUBLIC_URL.to_owned()),
        ..Policy::new(trust_domain())
    }
}

/// An authority without keys, whose clock is `clock`.
pub(crate) fn empty(policy: Policy, clock: &ManualClock, entropy: &Arc<SeededEntropy>) -> Core {
    let sealing = SealingKey::from_bytes(&SEALING);
    Core::new(
        policy,
        Some(sealing),
        Arc::new(clock.clone()),
        entropy.clone(),
    )
}

/// The first position of the first log.
pub(crate) fn start() -> LogStart {
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
    pub(crate) fn new() -> Self {
        Self::with(policy())
    }

    pub(crate) fn with(policy: Policy) -> Self {
        let (clock, entropy) = (ManualClock::default(), Arc::new(SeededEntropy::new(1)));
        let core = empty(policy, &clock, &entropy);
        core.load(&[], &start()).unwrap();
        let make = |kind| {
            let id = AuthorityId::new(clock.now(), &*entropy);
            let prepared = core.prepare(kind, id, clock.now()).unwrap();
            core.activate(id).unwrap();
            prepared
        };
        let ca = make(KeyKind::Ca { ttl_secs: CA_TTL });
        let jwt = make(KeyKind::Jwt);
        let log = make(KeyKind::Log { ttl_secs: CA_TTL });
        let grant = make(KeyKind::Grant);
        Self {
            core,
            clock,
            entropy,
            ca,
            jwt,
            log,
            grant,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn id(&self) -> AuthorityId {
        AuthorityId::new(self.now(), &*self.entropy)
    }

    /// Facts of a task whose limit is two hours ahead.
    pub(crate) fn facts(&self, path: &str, class: Class) -> Facts {
        let limit = self.now() + Duration::from_secs(2 * 3600);
        let task = TaskId::new(self.now(), &*self.entropy);
        Facts {
            task,
            root: task,
            spiffe_id: SpiffeId::new(&trust_domain(), path).unwrap(),
            place: Place::new(LOG, limit.hour(), 42).unwrap(),
            limit,
            class,
        }
    }

    pub(crate) fn workload(&self) -> Facts {
        self.facts("/billing", Class::Workload)
    }

    pub(crate) fn key(&self) -> PublicKey {
        PublicKey {
            algorithm: KeyAlgorithm::EcP256,
            spki: TestKey::generate(&*self.entropy).spki(),
        }
    }

    /// A good request for these facts.
    pub(crate) fn x509(&self, facts: &Facts) -> X509Request {
        let mut serial_random = [0; 9];
        self.entropy.fill(&mut serial_random);
        X509Request {
            facts: facts.clone(),
            grant: self.core.grant(facts).unwrap(),
            key: self.key(),
            dns_names: Vec::new(),
            serial_random,
            not_before: self.now() - Duration::from_secs(30),
            not_after: self.now() + Duration::from_secs(600),
        }
    }

    /// A good request for these facts.
    pub(crate) fn jwt(&self, facts: &Facts) -> JwtRequest {
        let mut jti = [0; 16];
        self.entropy.fill(&mut jti);
        JwtRequest {
            facts: facts.clone(),
            grant: self.core.grant(facts).unwrap(),
            audiences: vec!["reports".to_owned()],
            jti,
            issued_at: self.now(),
            expires_at: self.now() + Duration::from_secs(120),
            status_uri: None,
        }
    }

    /// A head with nothing new.
    pub(crate) fn heartbeat(&self) -> HeadRequest {
        HeadRequest {
            log: LOG,
            generation: 1,
            epoch: 1,
            records: Vec::new(),
            floor: 0,
            at: self.now(),
            max_age_ms: 30_000,
            nonce: None,
        }
    }

    pub(crate) fn checkpoint(&self, sequence: u64) -> CheckpointRequest {
        CheckpointRequest {
            log: LOG,
            sequence,
            floor: 0,
            digests: Vec::new(),
            at: self.now(),
        }
    }

    pub(crate) fn sign(&self, request: Request) -> Result<Signed, Refusal> {
        let mut answers = self.core.issue(vec![request]);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    pub(crate) fn sign_x509(&self, request: X509Request) -> Result<Signed, Refusal> {
        self.sign(Request::X509(request))
    }

    pub(crate) fn sign_jwt(&self, request: JwtRequest) -> Result<Signed, Refusal> {
        self.sign(Request::Jwt(request))
    }

    pub(crate) fn sign_head(&self, request: HeadRequest) -> Result<Signed, Refusal> {
        self.sign(Request::Head(request))
    }

    /// Whatever was refused at begin or at minting.
    pub(crate) fn mint(&self, facts: &Facts) -> Result<Signed, Refusal> {
        let grant = self.core.grant(facts)?;
        let good = self.x509(&self.workload());
        self.sign_x509(X509Request {
            facts: facts.clone(),
            grant,
            ..good
        })
    }

    /// What a front end that was taken over may try: facts without a grant.
    pub(crate) fn forge(&self, facts: &Facts, grant: Grant) -> Result<Signed, Refusal> {
        let good = self.x509(&self.workload());
        self.sign_x509(X509Request {
            facts: facts.clone(),
            grant,
            ..good
        })
    }
}

/// The record that suspends index 1 of the hour's bucket.
pub(crate) fn record(sequence: u64, epoch: u32, now: Timestamp) -> Record {
    let slot = Place::new(LOG, now.hour(), 1).unwrap().slot();
    let change = Change::Suspend {
        slot,
        task: [sequence as u8; 16],
    };
    Record {
        sequence,
        epoch,
        time: WallTime(now.millis()),
        change,
    }
}

/// How the store hands a key back.
pub(crate) fn kept(prepared: &Prepared, kind: KeyKind, active: bool) -> Sealed {
    Sealed {
        id: prepared.id,
        kind,
        active,
        blob: prepared.sealed.clone(),
        certificate: prepared.certificate.clone(),
        spki: Vec::new(),
    }
}

pub(crate) fn public(prepared: &Prepared) -> P256PublicKey {
    P256PublicKey::from_spki_der(&prepared.spki).unwrap()
}
