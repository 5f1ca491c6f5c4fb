//! Messages to values and back.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message as _;
use taskmint_id::SpiffeId;
use taskmint_model::{AuthorityId, Id, IdKind, TaskId, Timestamp};
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::record::RECORD_LEN;
use taskmint_status::{LogId, Place, Record};

use super::{
    Answer, Call, CheckKey, Given, MAX_BATCH, Numbered, Open, Opened, Wanted, policy_from_wire,
    policy_to_wire, trust_domain, wire,
};
use crate::port::{KeyKind, LogStart, Prepared, Sealed, Signed, SignerTail};
use crate::request::{
    CheckpointRequest, Class, CrlNumber, CrlReason, CrlRequest, Facts, Grant, HeadRequest,
    JwtRequest, KeyAlgorithm, LogKeyRequest, PublicKey, Refusal, Request, Revoked,
    StatusListRequest, X509Request,
};

/// A message that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message's {0} makes no sense")]
pub struct BadMessage(&'static str);

type Read<T> = Result<T, BadMessage>;

impl Numbered<Call> {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let Self { id, what } = self;
        let what = Some(call_to_wire(what));
        wire::Ask { id: *id, what }.encode_to_vec()
    }

    /// What came over the wire.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn decode(message: &[u8]) -> Read<Self> {
        let ask = wire::Ask::decode(message).map_err(|_| BadMessage("encoding"))?;
        let what = call_from_wire(ask.what.ok_or(BadMessage("kind"))?)?;
        Ok(Self { id: ask.id, what })
    }
}

impl Numbered<Answer> {
    /// As it goes over the wire, under the check that binds it to what was asked.
    pub fn encode(&self, check: &CheckKey, asked: &super::Digest) -> Vec<u8> {
        let Self { id, what } = self;
        let what = Some(answer_to_wire(what));
        let answer = Bytes::from(wire::Answer { id: *id, what }.encode_to_vec());
        let check = check.check(asked, &answer).to_vec();
        wire::Reply { answer, check }.encode_to_vec()
    }
}

/// An answer whose check is still to be looked at.
#[derive(Debug)]
pub struct Unchecked {
    /// Which question it says it answers.
    pub id: u64,
    answer: Bytes,
    check: Vec<u8>,
    what: Option<wire::answer::What>,
}

impl Unchecked {
    /// What came over the wire.
    ///
    /// # Errors
    /// When it is no answer.
    pub fn decode(message: Bytes) -> Read<Self> {
        let reply = wire::Reply::decode(message).map_err(|_| BadMessage("encoding"))?;
        let answer =
            wire::Answer::decode(reply.answer.clone()).map_err(|_| BadMessage("encoding"))?;
        Ok(Self {
            id: answer.id,
            answer: reply.answer,
            check: reply.check,
            what: answer.what,
        })
    }

    /// Why the signer won't serve: it says so before the two have agreed on a check.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.what {
            Some(wire::answer::What::Refused(refused)) => refusal_from_wire(refused.clone()).ok(),
            _ => None,
        }
    }

    /// The answer, if it is as the signer made it, to this question.
    ///
    /// # Errors
    /// When its check is another's, or it makes no sense.
    pub fn checked(self, check: &CheckKey, asked: &super::Digest) -> Read<Answer> {
        if !check.is_check(asked, &self.answer, &self.check) {
            return Err(BadMessage("check"));
        }
        answer_from_wire(self.what.ok_or(BadMessage("kind"))?)
    }
}

fn octets<const N: usize>(bytes: &[u8], what: &'static str) -> Read<[u8; N]> {
    bytes.try_into().map_err(|_| BadMessage(what))
}

fn id<K: IdKind>(bytes: &[u8]) -> Read<Id<K>> {
    Ok(Id::from_octets(octets(bytes, "id")?))
}

fn log(bytes: &[u8]) -> Read<LogId> {
    Ok(LogId(octets(bytes, "log id")?))
}

fn generation(number: u32) -> Read<u8> {
    u8::try_from(number).map_err(|_| BadMessage("generation"))
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn call_to_wire(call: &Call) -> wire::ask::What {
    use wire::ask::What;
    match call {
        Call::Open(open) => What::Open(wire::Open {
            version: open.version,
            check_key: open.check.octets().to_vec(),
            trust_domain: open.trust_domain.clone(),
        }),
        Call::Load(keys, start) => What::Load(wire::Load {
            keys: keys.iter().map(sealed_to_wire).collect(),
            start: Some(start_to_wire(start)),
        }),
        Call::Prepare(kind, id, now) => {
            let (kind, ttl_secs) = kind_to_wire(*kind);
            What::Prepare(wire::Prepare {
                kind: kind.into(),
                ttl_secs,
                id: id.octets().to_vec(),
                now: now.millis(),
            })
        }
        Call::Activate(id) => What::Activate(id.octets().to_vec()),
        Call::Retire(id) => What::Retire(id.octets().to_vec()),
        Call::CertifyLogKey(request) => What::CertifyLogKey(wire::CertifyLogKey {
            key: request.key.octets().to_vec(),
            by: request.by.octets().to_vec(),
        }),
        Call::Batch(batch) => What::Batch(wire::Batch {
            requests: batch.iter().map(wanted_to_wire).collect(),
        }),
    }
}

fn call_from_wire(what: wire::ask::What) -> Read<Call> {
    use wire::ask::What;
    Ok(match what {
        What::Open(open) => Call::Open(Open {
            version: open.version,
            check: CheckKey::new(octets(&open.check_key, "check key")?),
            trust_domain: open.trust_domain,
        }),
        What::Load(load) => {
            let keys = load.keys.into_iter().map(sealed_from_wire);
            let start = load.start.ok_or(BadMessage("start"))?;
            Call::Load(keys.collect::<Read<_>>()?, start_from_wire(&start)?)
        }
        What::Prepare(prepare) => Call::Prepare(
            kind_from_wire(prepare.kind(), prepare.ttl_secs)?,
            id(&prepare.id)?,
            at(prepare.now),
        ),
        What::Activate(key) => Call::Activate(id(&key)?),
        What::Retire(key) => Call::Retire(id(&key)?),
        What::CertifyLogKey(request) => Call::CertifyLogKey(LogKeyRequest {
            key: id(&request.key)?,
            by: id(&request.by)?,
        }),
        What::Batch(batch) => {
            if batch.requests.len() > MAX_BATCH {
                return Err(BadMessage("number of requests"));
            }
            let batch = batch.requests.into_iter().map(wanted_from_wire);
            Call::Batch(batch.collect::<Read<_>>()?)
        }
    })
}

fn answer_to_wire(answer: &Answer) -> wire::answer::What {
    use wire::answer::What;
    match answer {
        Answer::Opened(opened) => What::Opened(wire::Opened {
            instance: opened.instance.to_vec(),
            workers: opened.workers,
            protection: opened.protection.clone(),
            trust_domain: opened.policy.trust_domain.to_string(),
            policy: Some(policy_to_wire(&opened.policy)),
        }),
        Answer::Refused(refusal) => What::Refused(refusal_to_wire(refusal)),
        Answer::Done => What::Done(wire::Done {}),
        Answer::Prepared(prepared) => What::Prepared(wire::Prepared {
            id: prepared.id.octets().to_vec(),
            sealed: prepared.sealed.clone(),
            spki: prepared.spki.clone(),
            certificate: prepared.certificate.clone(),
            key_id: prepared.key_id.clone(),
            expires_at: prepared.expires_at.millis(),
        }),
        Answer::Certificate(der) => What::Certificate(der.clone()),
        Answer::Batch(results) => What::Batch(wire::BatchAnswer {
            instance: instance(results).to_vec(),
            results: results.iter().map(result_to_wire).collect(),
        }),
    }
}

/// All signatures of an answer come from one start of the signer.
fn instance(results: &[Result<Given, Refusal>]) -> [u8; 16] {
    let signed = results.iter().find_map(|result| match result {
        Ok(Given::Signed(signed)) => Some(signed.tail.instance),
        _ => None,
    });
    signed.unwrap_or_default()
}

fn answer_from_wire(what: wire::answer::What) -> Read<Answer> {
    use wire::answer::What;
    Ok(match what {
        What::Opened(opened) => Answer::Opened(Opened {
            instance: octets(&opened.instance, "instance")?,
            workers: opened.workers,
            protection: opened.protection,
            policy: policy_from_wire(
                opened.policy.ok_or(BadMessage("policy"))?,
                trust_domain(&opened.trust_domain).map_err(|_| BadMessage("trust domain"))?,
            ),
        }),
        What::Refused(refusal) => Answer::Refused(refusal_from_wire(refusal)?),
        What::Done(wire::Done {}) => Answer::Done,
        What::Prepared(prepared) => Answer::Prepared(Prepared {
            id: id(&prepared.id)?,
            sealed: prepared.sealed,
            spki: prepared.spki,
            certificate: prepared.certificate,
            key_id: prepared.key_id,
            expires_at: at(prepared.expires_at),
        }),
        What::Certificate(der) => Answer::Certificate(der),
        What::Batch(batch) => {
            let instance = octets(&batch.instance, "instance")?;
            let results = batch.results.into_iter();
            let results = results.map(|result| result_from_wire(result, instance));
            Answer::Batch(results.collect::<Read<_>>()?)
        }
    })
}

fn result_to_wire(result: &Result<Given, Refusal>) -> wire::Result {
    use wire::result::What;
    let what = match result {
        Err(refusal) => What::Refused(refusal_to_wire(refusal)),
        Ok(Given::Grant(grant)) => What::Grant(grant.0.clone()),
        Ok(Given::Signed(signed)) => What::Signed(wire::Signed {
            bytes: signed.bytes.clone(),
            signature: signed.signature.clone(),
            authority: signed.authority.octets().to_vec(),
            counter: signed.tail.counter,
            chain: signed.tail.hash.to_vec(),
        }),
    };
    wire::Result { what: Some(what) }
}

fn result_from_wire(result: wire::Result, instance: [u8; 16]) -> Read<Result<Given, Refusal>> {
    use wire::result::What;
    Ok(match result.what.ok_or(BadMessage("result"))? {
        What::Refused(refusal) => Err(refusal_from_wire(refusal)?),
        What::Grant(grant) => Ok(Given::Grant(Grant(grant))),
        What::Signed(signed) => Ok(Given::Signed(Box::new(Signed {
            bytes: signed.bytes,
            signature: signed.signature,
            authority: id(&signed.authority)?,
            tail: SignerTail {
                instance,
                counter: signed.counter,
                hash: octets(&signed.chain, "chain hash")?,
            },
        }))),
    })
}

fn kind_to_wire(kind: KeyKind) -> (wire::KeyKind, u64) {
    match kind {
        KeyKind::Ca { ttl_secs } => (wire::KeyKind::Ca, ttl_secs),
        KeyKind::Jwt => (wire::KeyKind::Jwt, 0),
        KeyKind::Log { ttl_secs } => (wire::KeyKind::Log, ttl_secs),
        KeyKind::Grant => (wire::KeyKind::Grant, 0),
    }
}

fn kind_from_wire(kind: wire::KeyKind, ttl_secs: u64) -> Read<KeyKind> {
    match kind {
        wire::KeyKind::Ca => Ok(KeyKind::Ca { ttl_secs }),
        wire::KeyKind::Jwt => Ok(KeyKind::Jwt),
        wire::KeyKind::Log => Ok(KeyKind::Log { ttl_secs }),
        wire::KeyKind::Grant => Ok(KeyKind::Grant),
        wire::KeyKind::Unspecified => Err(BadMessage("kind of key")),
    }
}

fn sealed_to_wire(sealed: &Sealed) -> wire::Sealed {
    wire::Sealed {
        id: sealed.id.octets().to_vec(),
        kind: kind_to_wire(sealed.kind).0.into(),
        active: sealed.active,
        blob: sealed.blob.clone(),
        certificate: sealed.certificate.clone(),
    }
}

fn sealed_from_wire(sealed: wire::Sealed) -> Read<Sealed> {
    Ok(Sealed {
        id: id(&sealed.id)?,
        kind: kind_from_wire(sealed.kind(), 0)?,
        active: sealed.active,
        blob: sealed.blob,
        certificate: sealed.certificate,
        spki: Vec::new(),
    })
}

fn start_to_wire(start: &LogStart) -> wire::LogStart {
    wire::LogStart {
        log: start.log.0.to_vec(),
        generation: start.generation.into(),
        replaces: start.replaces.map(|log| log.0.to_vec()).unwrap_or_default(),
        epoch: start.epoch,
        sequence: start.sequence,
        hash: start.hash.to_vec(),
        floor: start.floor,
        at: start.at.millis(),
    }
}

fn start_from_wire(start: &wire::LogStart) -> Read<LogStart> {
    Ok(LogStart {
        log: log(&start.log)?,
        generation: generation(start.generation)?,
        replaces: match start.replaces.as_slice() {
            [] => None,
            replaced => Some(log(replaced)?),
        },
        epoch: start.epoch,
        sequence: start.sequence,
        hash: octets(&start.hash, "hash")?,
        floor: start.floor,
        at: at(start.at),
    })
}

fn class_to_wire(class: Class) -> wire::Class {
    match class {
        Class::Workload => wire::Class::Workload,
        Class::Node => wire::Class::Node,
        Class::Server => wire::Class::Server,
    }
}

fn class_from_wire(class: wire::Class) -> Read<Class> {
    match class {
        wire::Class::Workload => Ok(Class::Workload),
        wire::Class::Node => Ok(Class::Node),
        wire::Class::Server => Ok(Class::Server),
        wire::Class::Unspecified => Err(BadMessage("class")),
    }
}

fn facts_to_wire(facts: &Facts) -> wire::Facts {
    wire::Facts {
        task: facts.task.octets().to_vec(),
        root: facts.root.octets().to_vec(),
        spiffe_id: facts.spiffe_id.as_str().to_owned(),
        log: facts.place.log().0.to_vec(),
        bucket: facts.place.bucket(),
        index: facts.place.index(),
        limit: facts.limit.millis(),
        class: class_to_wire(facts.class).into(),
    }
}

fn facts_from_wire(facts: Option<wire::Facts>) -> Read<Facts> {
    let facts = facts.ok_or(BadMessage("facts"))?;
    let task: TaskId = id(&facts.task)?;
    Ok(Facts {
        task,
        root: id(&facts.root)?,
        spiffe_id: SpiffeId::parse(&facts.spiffe_id).map_err(|_| BadMessage("SPIFFE ID"))?,
        place: Place::new(log(&facts.log)?, facts.bucket, facts.index)
            .map_err(|_| BadMessage("place"))?,
        limit: at(facts.limit),
        class: class_from_wire(facts.class())?,
    })
}

fn wanted_to_wire(wanted: &Wanted) -> wire::Request {
    use wire::request::What;
    let what = match wanted {
        Wanted::Grant(facts) => What::Grant(facts_to_wire(facts)),
        Wanted::Sign(Request::X509(request)) => What::X509(wire::X509 {
            facts: Some(facts_to_wire(&request.facts)),
            grant: request.grant.0.clone(),
            spki: match request.key.algorithm {
                KeyAlgorithm::EcP256 => request.key.spki.clone(),
            },
            dns_names: request.dns_names.clone(),
            serial_random: request.serial_random.to_vec(),
            not_before: request.not_before.millis(),
            not_after: request.not_after.millis(),
        }),
        Wanted::Sign(Request::Jwt(request)) => What::Jwt(wire::Jwt {
            facts: Some(facts_to_wire(&request.facts)),
            grant: request.grant.0.clone(),
            audiences: request.audiences.clone(),
            jti: request.jti.to_vec(),
            issued_at: request.issued_at.millis(),
            expires_at: request.expires_at.millis(),
            status_uri: request.status_uri.clone().unwrap_or_default(),
        }),
        Wanted::Sign(Request::Head(request)) => What::Head(head_to_wire(request)),
        Wanted::Sign(Request::Checkpoint(request)) => What::Checkpoint(wire::Checkpoint {
            log: request.log.0.to_vec(),
            sequence: request.sequence,
            floor: request.floor,
            digests: request.digests.iter().map(digest_to_wire).collect(),
            at: request.at.millis(),
        }),
        Wanted::Sign(Request::Crl(request)) => What::Crl(crl_to_wire(request)),
        Wanted::Sign(Request::StatusList(request)) => What::StatusList(wire::StatusList {
            log: request.log.0.to_vec(),
            bucket: request.bucket,
            list: request.list.clone(),
            at: request.at.millis(),
            expires_at: request.expires_at.millis(),
            ttl_secs: request.ttl_secs,
            certificate: request.certificate.clone(),
        }),
    };
    wire::Request { what: Some(what) }
}

fn wanted_from_wire(request: wire::Request) -> Read<Wanted> {
    use wire::request::What;
    let request = match request.what.ok_or(BadMessage("request"))? {
        What::Grant(facts) => return Ok(Wanted::Grant(facts_from_wire(Some(facts))?)),
        What::X509(request) => Request::X509(X509Request {
            facts: facts_from_wire(request.facts)?,
            grant: Grant(request.grant),
            key: PublicKey {
                algorithm: KeyAlgorithm::EcP256,
                spki: request.spki,
            },
            dns_names: request.dns_names,
            serial_random: octets(&request.serial_random, "serial")?,
            not_before: at(request.not_before),
            not_after: at(request.not_after),
        }),
        What::Jwt(request) => Request::Jwt(JwtRequest {
            facts: facts_from_wire(request.facts)?,
            grant: Grant(request.grant),
            audiences: request.audiences,
            jti: octets(&request.jti, "jti")?,
            issued_at: at(request.issued_at),
            expires_at: at(request.expires_at),
            status_uri: Some(request.status_uri).filter(|uri| !uri.is_empty()),
        }),
        What::Head(request) => Request::Head(head_from_wire(&request)?),
        What::Checkpoint(request) => Request::Checkpoint(CheckpointRequest {
            log: log(&request.log)?,
            sequence: request.sequence,
            floor: request.floor,
            digests: request
                .digests
                .iter()
                .map(digest_from_wire)
                .collect::<Read<_>>()?,
            at: at(request.at),
        }),
        What::Crl(request) => Request::Crl(crl_from_wire(&request)?),
        What::StatusList(request) => Request::StatusList(StatusListRequest {
            log: log(&request.log)?,
            bucket: request.bucket,
            list: request.list,
            at: at(request.at),
            expires_at: at(request.expires_at),
            ttl_secs: request.ttl_secs,
            certificate: request.certificate,
        }),
    };
    Ok(Wanted::Sign(request))
}

fn head_to_wire(request: &HeadRequest) -> wire::Head {
    let mut records = Vec::with_capacity(request.records.len() * RECORD_LEN);
    for record in &request.records {
        records.extend_from_slice(&record.encode());
    }
    wire::Head {
        log: request.log.0.to_vec(),
        generation: request.generation.into(),
        epoch: request.epoch,
        records,
        floor: request.floor,
        at: request.at.millis(),
        max_age_ms: request.max_age_ms,
        nonce: request.nonce.map(Vec::from).unwrap_or_default(),
    }
}

fn head_from_wire(request: &wire::Head) -> Read<HeadRequest> {
    let records = request.records.chunks(RECORD_LEN);
    let records = records.map(|record| Record::decode(record).map_err(|_| BadMessage("record")));
    Ok(HeadRequest {
        log: log(&request.log)?,
        generation: generation(request.generation)?,
        epoch: request.epoch,
        records: records.collect::<Read<_>>()?,
        floor: request.floor,
        at: at(request.at),
        max_age_ms: request.max_age_ms,
        nonce: match request.nonce.as_slice() {
            [] => None,
            nonce => Some(octets(nonce, "nonce")?),
        },
    })
}

fn digest_to_wire(digest: &BucketDigest) -> wire::BucketDigest {
    wire::BucketDigest {
        bucket: digest.bucket,
        chunks: digest.chunks,
        digest: digest.digest.to_vec(),
    }
}

fn digest_from_wire(digest: &wire::BucketDigest) -> Read<BucketDigest> {
    Ok(BucketDigest {
        bucket: digest.bucket,
        chunks: digest.chunks,
        digest: octets(&digest.digest, "digest")?,
    })
}

fn crl_to_wire(request: &CrlRequest) -> wire::Crl {
    let revoked = request.revoked.iter().map(|revoked| wire::Revoked {
        serial: revoked.serial.to_vec(),
        at: revoked.at.millis(),
        reason: match revoked.reason {
            CrlReason::CessationOfOperation => wire::CrlReason::CessationOfOperation,
            CrlReason::Superseded => wire::CrlReason::Superseded,
            CrlReason::PrivilegeWithdrawn => wire::CrlReason::PrivilegeWithdrawn,
            CrlReason::CertificateHold => wire::CrlReason::CertificateHold,
        }
        .into(),
    });
    wire::Crl {
        ca: request.ca.octets().to_vec(),
        generation: request.number.generation.into(),
        epoch: request.number.epoch,
        count: request.number.count,
        this_update: request.this_update.millis(),
        next_update: request.next_update.millis(),
        revoked: revoked.collect(),
    }
}

fn crl_from_wire(request: &wire::Crl) -> Read<CrlRequest> {
    let revoked = request.revoked.iter().map(|revoked| {
        Ok(Revoked {
            serial: octets(&revoked.serial, "serial")?,
            at: at(revoked.at),
            reason: match revoked.reason() {
                wire::CrlReason::CessationOfOperation => CrlReason::CessationOfOperation,
                wire::CrlReason::Superseded => CrlReason::Superseded,
                wire::CrlReason::PrivilegeWithdrawn => CrlReason::PrivilegeWithdrawn,
                wire::CrlReason::CertificateHold => CrlReason::CertificateHold,
                wire::CrlReason::Unspecified => return Err(BadMessage("reason")),
            },
        })
    });
    Ok(CrlRequest {
        ca: id(&request.ca)?,
        number: CrlNumber {
            generation: generation(request.generation)?,
            epoch: request.epoch,
            count: request.count,
        },
        this_update: at(request.this_update),
        next_update: at(request.next_update),
        revoked: revoked.collect::<Read<_>>()?,
    })
}

fn refusal_to_wire(refusal: &Refusal) -> wire::Refused {
    use Refusal as R;
    use wire::Refusal as Code;
    let mut refused = wire::Refused::default();
    let code = match refusal {
        R::Grant => Code::Grant,
        R::ForeignTrustDomain(id) => {
            id.as_str().clone_into(&mut refused.text);
            Code::ForeignTrustDomain
        }
        R::Name { id, class } => {
            id.as_str().clone_into(&mut refused.text);
            refused.class = class_to_wire(*class).into();
            Code::Name
        }
        R::Key => Code::Key,
        R::Lifetime {
            asked_secs,
            cap_secs,
        } => {
            (refused.first, refused.second) = (*asked_secs, *cap_secs);
            Code::Lifetime
        }
        R::PastLimit { not_after, limit } => {
            (refused.first, refused.second) = (not_after.millis(), limit.millis());
            Code::PastLimit
        }
        R::Clock(at) => {
            refused.first = at.millis();
            Code::Clock
        }
        R::Audience => Code::Audience,
        R::DnsName(name) => {
            refused.text.clone_from(name);
            Code::DnsName
        }
        R::NoActiveKey(what) => {
            refused.text = what.to_string();
            Code::NoActiveKey
        }
        R::Authority(id) => {
            refused.id = id.octets().to_vec();
            Code::Authority
        }
        R::Log { at, to } => {
            (refused.first, refused.second) = (*at, *to);
            Code::Log
        }
        R::LogValue(what) => {
            refused.text = what.to_string();
            Code::LogValue
        }
        R::OtherLog(log) => {
            refused.id = log.0.to_vec();
            Code::OtherLog
        }
        R::StatusUri(uri) => {
            refused.text.clone_from(uri);
            Code::StatusUri
        }
        R::CrlNumber => Code::CrlNumber,
        R::List(what) => {
            refused.text = what.to_string();
            Code::List
        }
        R::Sealed(what) => {
            refused.text = what.to_string();
            Code::Sealed
        }
        R::Protocol(what) => {
            refused.text = what.to_string();
            Code::Protocol
        }
        R::Taken => Code::Taken,
        // What becomes of a process is said by the one that watches it, never by itself.
        R::Failed(_) | R::Away | R::Busy => {
            refused.text = refusal.to_string();
            Code::Failed
        }
    };
    if let R::Failed(what) = refusal {
        refused.text.clone_from(what);
    }
    refused.code = code.into();
    refused
}

fn refusal_from_wire(refused: wire::Refused) -> Read<Refusal> {
    use Refusal as R;
    use wire::Refusal as Code;
    let spiffe_id = |text: &str| SpiffeId::parse(text).map_err(|_| BadMessage("SPIFFE ID"));
    let (code, class) = (refused.code(), refused.class());
    let (first, second, text) = (refused.first, refused.second, refused.text);
    Ok(match code {
        Code::Unspecified => return Err(BadMessage("refusal")),
        Code::Grant => R::Grant,
        Code::ForeignTrustDomain => R::ForeignTrustDomain(spiffe_id(&text)?),
        Code::Name => R::Name {
            id: spiffe_id(&text)?,
            class: class_from_wire(class)?,
        },
        Code::Key => R::Key,
        Code::Lifetime => R::Lifetime {
            asked_secs: first,
            cap_secs: second,
        },
        Code::PastLimit => R::PastLimit {
            not_after: at(first),
            limit: at(second),
        },
        Code::Clock => R::Clock(at(first)),
        Code::Audience => R::Audience,
        Code::DnsName => R::DnsName(text),
        Code::NoActiveKey => R::NoActiveKey(Cow::Owned(text)),
        Code::Authority => R::Authority(AuthorityId::from_octets(octets(&refused.id, "id")?)),
        Code::Log => R::Log {
            at: first,
            to: second,
        },
        Code::LogValue => R::LogValue(Cow::Owned(text)),
        Code::OtherLog => R::OtherLog(log(&refused.id)?),
        Code::StatusUri => R::StatusUri(text),
        Code::CrlNumber => R::CrlNumber,
        Code::List => R::List(Cow::Owned(text)),
        Code::Sealed => R::Sealed(Cow::Owned(text)),
        Code::Failed => R::Failed(text),
        Code::Protocol => R::Protocol(Cow::Owned(text)),
        Code::Taken => R::Taken,
    })
}
