//! What is asked of a batch.

use taskmint_id::SpiffeId;
use taskmint_model::TaskId;
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::record::RECORD_LEN;
use taskmint_status::{Place, Record};

use super::{BadMessage, Read, at, generation, id, log, octets};
use crate::protocol::{Wanted, wire};
use crate::request::{
    CheckpointRequest, Class, CrlNumber, CrlReason, CrlRequest, Facts, Grant, HeadRequest,
    JwtRequest, KeyAlgorithm, PublicKey, Request, Revoked, StatusListRequest, X509Request,
};

pub(super) fn class_to_wire(class: Class) -> wire::Class {
    match class {
        Class::Workload => wire::Class::Workload,
        Class::Node => wire::Class::Node,
        Class::Server => wire::Class::Server,
    }
}

pub(super) fn class_from_wire(class: wire::Class) -> Read<Class> {
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

pub(super) fn wanted_to_wire(wanted: Wanted) -> wire::Request {
    use wire::request::What;
    let what = match wanted {
        Wanted::Grant(facts) => What::Grant(facts_to_wire(&facts)),
        Wanted::Sign(Request::X509(request)) => What::X509(wire::X509 {
            facts: Some(facts_to_wire(&request.facts)),
            grant: request.grant.0,
            spki: match request.key.algorithm {
                KeyAlgorithm::EcP256 => request.key.spki,
            },
            dns_names: request.dns_names,
            serial_random: request.serial_random.to_vec(),
            not_before: request.not_before.millis(),
            not_after: request.not_after.millis(),
        }),
        Wanted::Sign(Request::Jwt(request)) => What::Jwt(wire::Jwt {
            facts: Some(facts_to_wire(&request.facts)),
            grant: request.grant.0,
            audiences: request.audiences,
            jti: request.jti.to_vec(),
            issued_at: request.issued_at.millis(),
            expires_at: request.expires_at.millis(),
            status_uri: request.status_uri.unwrap_or_default(),
        }),
        Wanted::Sign(Request::Head(request)) => What::Head(head_to_wire(&request)),
        Wanted::Sign(Request::Checkpoint(request)) => What::Checkpoint(wire::Checkpoint {
            log: request.log.0.to_vec(),
            sequence: request.sequence,
            floor: request.floor,
            digests: request.digests.iter().map(digest_to_wire).collect(),
            at: request.at.millis(),
        }),
        Wanted::Sign(Request::Crl(request)) => What::Crl(crl_to_wire(&request)),
        Wanted::Sign(Request::StatusList(request)) => What::StatusList(wire::StatusList {
            log: request.log.0.to_vec(),
            bucket: request.bucket,
            list: request.list,
            at: request.at.millis(),
            expires_at: request.expires_at.millis(),
            ttl_secs: request.ttl_secs,
            certificate: request.certificate,
        }),
    };
    wire::Request { what: Some(what) }
}

pub(super) fn wanted_from_wire(request: wire::Request) -> Read<Wanted> {
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
