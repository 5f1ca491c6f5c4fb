//! The authority itself: what the port asks for, without waiting for anything.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use taskmint_id::jws::MAX_AUDIENCES;
use taskmint_mint::credential::{Sign as _, TokenHeader};
use taskmint_mint::journal::{What, token_name};
use taskmint_mint::{
    CheckpointRequest, CrlNumber, Facts, Grant, HeadRequest, JwtRequest, KeyKind, LogKeyRequest,
    LogStart, Policy, Prepared, Refusal, Request, Sealed, Signed, SignerTail, X509Request,
};
use taskmint_model::{AuthorityId, Clock, Entropy, Timestamp, is_dns_name};
use taskmint_status::{Generation, LogId, Place};

use crate::chain::{Chain, padded};
use crate::grant;
use crate::keyring::{Key, Keyring};
use crate::log::LogState;
use crate::policy::{Check as _, check_cap};
use crate::sealing::SealingKey;

/// The most DNS names in a certificate.
const MAX_DNS_NAMES: usize = 64;

/// The longest audience, in bytes.
const MAX_AUDIENCE: usize = 512;

/// The authority: all keys, and the rules by which they sign.
///
/// Signing takes no lock: it runs on as many threads as call it.
pub struct Core {
    pub(crate) policy: Policy,
    /// `None` keeps keys in memory alone.
    pub(crate) sealing: Option<SealingKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) chain: Chain,
    keys: ArcSwap<Keyring>,
    /// Held while the keyring is replaced, so that no change gets lost.
    changing: Mutex<()>,
    /// Which log places must be in; fixed by the load.
    places: OnceLock<(LogId, Generation)>,
    /// Where it stands; held while a head is signed, so that no position gets two.
    pub(crate) log: Mutex<Option<LogState>>,
    /// The number of each CA's newest CRL.
    pub(crate) crl_numbers: Mutex<HashMap<AuthorityId, CrlNumber>>,
}

impl Core {
    /// An authority without keys. `sealing` is what its keys will be sealed with; without it they
    /// live in memory alone, and end with the process.
    pub fn new(
        policy: Policy,
        sealing: Option<SealingKey>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let chain = Chain::new(&*entropy);
        Self {
            policy,
            sealing,
            clock,
            entropy,
            chain,
            keys: ArcSwap::default(),
            changing: Mutex::new(()),
            places: OnceLock::new(),
            log: Mutex::new(None),
            crl_numbers: Mutex::default(),
        }
    }

    /// Takes over the store's keys and the log's position; once.
    ///
    /// # Errors
    /// When a key can't be opened, or when it was called before.
    pub fn load(&self, keys: &[Sealed], start: &LogStart) -> Result<(), Refusal> {
        let state = LogState::start(start)?;
        let mut log = self.log.lock();
        if log.is_some() {
            return Err(Refusal::Failed(
                "the authority is loaded already".to_owned(),
            ));
        }
        self.change(|old| {
            keys.iter()
                .try_fold(old.clone(), |ring, sealed| self.opened(ring, sealed))
        })?;
        self.places.get_or_init(|| (state.log, state.generation));
        *log = Some(state);
        Ok(())
    }

    fn opened(&self, ring: Keyring, sealed: &Sealed) -> Result<Keyring, Refusal> {
        let ring = ring.with(self.open(sealed)?)?;
        if !sealed.active {
            return Ok(ring);
        }
        if ring.has_active(sealed.kind) {
            return Err(Refusal::Sealed(
                "two keys of one kind are said to be active".into(),
            ));
        }
        ring.activated(sealed.id)
    }

    /// Makes a new key, which signs nothing yet.
    ///
    /// # Errors
    /// When the kind can't be made now, or the id is taken.
    pub fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal> {
        self.policy.check_clock(now, self.clock.now())?;
        let ring = self.keys.load();
        // Before a certificate is signed for it, which would be counted and never seen.
        if ring.get(id).is_ok() {
            return Err(Refusal::Authority(id));
        }
        let (key, prepared) = self.make(kind, id, now, &ring)?;
        self.change(|old| old.with(key))?;
        Ok(prepared)
    }

    /// Makes a key the one that signs.
    ///
    /// # Errors
    /// When it is unknown.
    pub fn activate(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.change(|old| old.activated(id))
    }

    /// Wipes a key.
    ///
    /// # Errors
    /// When it is unknown or active.
    pub fn retire(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.change(|old| old.without(id))
    }

    /// Certifies the log's key by the active CA (P15).
    ///
    /// # Errors
    /// When the key is unknown or of another kind, or the CA is not the active one.
    pub fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal> {
        let ring = self.keys.load();
        let Key::Log(key) = ring.get(request.key)? else {
            return Err(Refusal::Authority(request.key));
        };
        let ca = ring.ca()?;
        if request.by != ca.id {
            return Err(Refusal::Authority(request.by));
        }
        let from = self.backdated(self.clock.now());
        self.certify(key.signer.public(), ca, (from, key.to))
    }

    /// Binds the facts of a new task.
    ///
    /// # Errors
    /// When they break a rule.
    pub fn grant(&self, facts: &Facts) -> Result<Grant, Refusal> {
        self.policy.check_facts(facts)?;
        self.policy.check_limit(facts.limit, self.clock.now())?;
        self.generation_of(facts.place)?;
        Ok(self.keys.load().grant()?.grant(facts))
    }

    /// Signs a batch, one answer for each request, in order.
    pub fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>> {
        let ring = self.keys.load();
        let now = self.clock.now();
        let sign = |request| match request {
            Request::X509(request) => self.x509(&ring, &request, now),
            Request::Jwt(request) => self.jwt(&ring, &request, now),
            Request::Head(request) => self.head(&ring, &request, now),
            Request::Checkpoint(request) => self.checkpoint(&ring, request, now),
            Request::Crl(request) => self.crl(&ring, &request, now),
            Request::StatusList(request) => self.status_list(&ring, &request, now),
        };
        // Requests are read and credentials built on the ordinary stack; signals are blocked, and the
        // secret stack is wiped, once for all of them.
        taskmint_secret::batch(|| batch.into_iter().map(sign).collect())
    }

    fn x509(
        &self,
        ring: &Keyring,
        request: &X509Request,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        let facts = &request.facts;
        let generation = self.check_facts(ring, facts, &request.grant)?;
        let validity = (request.not_before, request.not_after);
        let cap = self.policy.caps.x509(facts.class);
        self.policy.check_lifetime(validity, cap, facts, now)?;
        check_dns_names(&request.dns_names)?;
        let key = request.key.point().ok_or(Refusal::Key)?;
        let ca = ring.ca()?;
        if request.not_after > ca.to {
            return Err(Refusal::PastLimit {
                not_after: request.not_after,
                limit: ca.to,
            });
        }
        let serial = request.serial(generation);
        let tail = self.chain.add(What::Certificate, &serial);
        let bytes = ca.name.leaf(&ca.signer, request, &key, &serial)?;
        Ok(Signed {
            bytes,
            signature: Vec::new(),
            authority: ca.id,
            tail,
        })
    }

    fn jwt(&self, ring: &Keyring, request: &JwtRequest, now: Timestamp) -> Result<Signed, Refusal> {
        let facts = &request.facts;
        self.check_facts(ring, facts, &request.grant)?;
        let validity = (request.issued_at, request.expires_at);
        self.policy
            .check_lifetime(validity, self.policy.caps.jwt, facts, now)?;
        check_audiences(&request.audiences)?;
        if let Some(uri) = &request.status_uri {
            self.policy.check_status_uri(uri, facts.place)?;
        }
        let key = ring.jwt()?;
        let input = key.header.input(request)?;
        let tail = self
            .chain
            .add(What::Token, &token_name(&request.jti, facts.place.bucket()));
        let bytes = TokenHeader::signed(input, &key.signer)?;
        Ok(Signed {
            bytes,
            signature: Vec::new(),
            authority: key.id,
            tail,
        })
    }

    fn head(
        &self,
        ring: &Keyring,
        request: &HeadRequest,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        self.policy.check_clock(request.at, now)?;
        let (asked, cap) = (request.max_age_ms, self.policy.max_head_age);
        if asked == 0 || u128::from(asked) > cap.as_millis() {
            let (asked_secs, cap_secs) = (asked.div_ceil(1000), cap.as_secs());
            return Err(Refusal::Lifetime {
                asked_secs,
                cap_secs,
            });
        }
        let key = ring.log()?;
        let mut log = self.log.lock();
        let state = log.as_ref().ok_or(Refusal::OtherLog(request.log))?;
        let next = state.advanced(request)?;
        let tail = self.chain.add(What::Head, &next.head_name());
        let bytes = next.head(request, self.policy.max_limit, &tail)?;
        let signature = key.signer.sign(&bytes)?;
        *log = Some(next);
        Ok(Signed {
            bytes,
            signature,
            authority: key.id,
            tail,
        })
    }

    fn checkpoint(
        &self,
        ring: &Keyring,
        request: CheckpointRequest,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        self.policy.check_clock(request.at, now)?;
        let key = ring.log()?;
        let state = self.log.lock().ok_or(Refusal::OtherLog(request.log))?;
        state.check_checkpoint(&request)?;
        // Once for its shape: a link without a signature would look like a lost one.
        state.checkpoint(request.clone(), &SignerTail::default())?;
        let tail = self
            .chain
            .add(What::Checkpoint, &padded(&state.sequence().to_be_bytes()));
        let bytes = state.checkpoint(request, &tail)?;
        let signature = key.signer.sign(&bytes)?;
        Ok(Signed {
            bytes,
            signature,
            authority: key.id,
            tail,
        })
    }

    /// Facts as they were granted, and as they may be. Says the generation of their log.
    fn check_facts(
        &self,
        ring: &Keyring,
        facts: &Facts,
        grant: &Grant,
    ) -> Result<Generation, Refusal> {
        let key = grant::key_of(grant).and_then(|id| ring.grant_key(id));
        if !key.is_some_and(|key| key.is_for(grant, facts)) {
            return Err(Refusal::Grant);
        }
        // Again, because the sealed configuration may be stricter than when it was granted.
        self.policy.check_facts(facts)?;
        self.generation_of(facts.place)
    }

    fn generation_of(&self, place: Place) -> Result<Generation, Refusal> {
        match self.places.get() {
            Some((log, generation)) if *log == place.log() => Ok(*generation),
            _ => Err(Refusal::OtherLog(place.log())),
        }
    }

    fn change(
        &self,
        change: impl FnOnce(&Keyring) -> Result<Keyring, Refusal>,
    ) -> Result<(), Refusal> {
        let _one_at_a_time = self.changing.lock();
        let next = change(&self.keys.load())?;
        self.keys.store(Arc::new(next));
        Ok(())
    }

    /// The first second of the authority's own certificates: clocks of verifiers may be behind.
    pub(crate) fn backdated(&self, now: Timestamp) -> Timestamp {
        (now - self.policy.clock_skew).floor_to_second()
    }

    pub(crate) fn check_ttl(&self, validity: (Timestamp, Timestamp)) -> Result<(), Refusal> {
        check_cap(validity, self.policy.caps.authority)
    }
}

fn check_dns_names(names: &[String]) -> Result<(), Refusal> {
    let bad = names.iter().find(|name| !is_dns_name(name));
    match bad.or(names.get(MAX_DNS_NAMES)) {
        Some(name) => Err(Refusal::DnsName(name.chars().take(80).collect())),
        None => Ok(()),
    }
}

/// At least one audience, each a bounded text without control characters.
fn check_audiences(audiences: &[String]) -> Result<(), Refusal> {
    let good = |audience: &String| {
        !audience.is_empty()
            && audience.len() <= MAX_AUDIENCE
            && !audience.chars().any(char::is_control)
    };
    if audiences.is_empty() || audiences.len() > MAX_AUDIENCES || !audiences.iter().all(good) {
        return Err(Refusal::Audience);
    }
    Ok(())
}
