//! Messages to values and back.

mod refusal;
mod request;

use bytes::Bytes;
use prost::Message as _;
use taskmint_id::TrustDomain;
use taskmint_model::{Id, IdKind, Timestamp};
use taskmint_status::LogId;

use super::{
    Answer, Call, CheckKey, Given, MAX_BATCH, Numbered, Open, Opened, policy_from_wire,
    policy_to_wire, wire,
};
use crate::port::{KeyKind, LogStart, Prepared, Sealed, Signed, SignerTail};
use crate::request::{Grant, LogKeyRequest, Refusal};
use refusal::{refusal_from_wire, refusal_to_wire};
use request::{wanted_from_wire, wanted_to_wire};

/// A message that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message's {0} makes no sense")]
pub struct BadMessage(&'static str);

type Read<T> = Result<T, BadMessage>;

impl Numbered<Call> {
    /// As it goes over the wire.
    pub fn encode(self) -> Vec<u8> {
        let Self { id, what } = self;
        let what = Some(call_to_wire(what));
        wire::Ask { id, what }.encode_to_vec()
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
    pub fn encode(self, check: &CheckKey, asked: &super::Digest) -> Vec<u8> {
        let Self { id, what } = self;
        let what = Some(answer_to_wire(what));
        let answer = Bytes::from(wire::Answer { id, what }.encode_to_vec());
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

fn call_to_wire(call: Call) -> wire::ask::What {
    use wire::ask::What;
    match call {
        Call::Open(open) => What::Open(wire::Open {
            version: open.version,
            check_key: open.check.octets().to_vec(),
            trust_domain: open.trust_domain,
        }),
        Call::Load(keys, start) => What::Load(wire::Load {
            keys: keys.into_iter().map(sealed_to_wire).collect(),
            start: Some(start_to_wire(&start)),
        }),
        Call::Prepare(kind, id, now) => {
            let (kind, ttl_secs) = kind_to_wire(kind);
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
            requests: batch.into_iter().map(wanted_to_wire).collect(),
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

fn answer_to_wire(answer: Answer) -> wire::answer::What {
    use wire::answer::What;
    match answer {
        Answer::Opened(opened) => What::Opened(wire::Opened {
            instance: opened.instance.to_vec(),
            workers: opened.workers,
            protection: opened.protection,
            trust_domain: opened.policy.trust_domain.to_string(),
            policy: Some(policy_to_wire(&opened.policy)),
        }),
        Answer::Refused(refusal) => What::Refused(refusal_to_wire(&refusal)),
        Answer::Done => What::Done(wire::Done {}),
        Answer::Prepared(prepared) => What::Prepared(wire::Prepared {
            id: prepared.id.octets().to_vec(),
            sealed: prepared.sealed,
            spki: prepared.spki,
            certificate: prepared.certificate,
            key_id: prepared.key_id,
            expires_at: prepared.expires_at.millis(),
        }),
        Answer::Certificate(der) => What::Certificate(der),
        Answer::Batch(results) => What::Batch(wire::BatchAnswer {
            instance: instance(&results).to_vec(),
            results: results.into_iter().map(result_to_wire).collect(),
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
                TrustDomain::parse(&opened.trust_domain).map_err(|_| BadMessage("trust domain"))?,
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

fn result_to_wire(result: Result<Given, Refusal>) -> wire::Result {
    use wire::result::What;
    let what = match result {
        Err(refusal) => What::Refused(refusal_to_wire(&refusal)),
        Ok(Given::Grant(grant)) => What::Grant(grant.0),
        Ok(Given::Signed(signed)) => What::Signed(wire::Signed {
            authority: signed.authority.octets().to_vec(),
            counter: signed.tail.counter,
            chain: signed.tail.hash.to_vec(),
            bytes: signed.bytes,
            signature: signed.signature,
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

fn sealed_to_wire(sealed: Sealed) -> wire::Sealed {
    wire::Sealed {
        id: sealed.id.octets().to_vec(),
        kind: kind_to_wire(sealed.kind).0.into(),
        active: sealed.active,
        blob: sealed.blob,
        certificate: sealed.certificate,
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
