//! Requests of the wire as the issuer understands them.

use std::time::Duration;

use prost::Message;
use taskmint_id::SpiffeId;
use taskmint_issuer::{Begin, Caller, Cause, Method, Principal, RequestMark};
use taskmint_mint::{KeyAlgorithm, PublicKey};
use taskmint_model::{Limits, Node, TaskId};
use taskmint_wire::{
    BadField, authority_from_wire, binding_from_wire, field, node, optional, task,
};

/// SPKI DER of a P-256 key has 91 octets; nothing longer is worth a look.
const MAX_SPKI: usize = 256;

/// The longest free text: purpose, owner, reason.
const MAX_TEXT: usize = 1024;

pub(crate) fn duration(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

pub(crate) fn text(field: &'static str, text: &str) -> Result<String, BadField> {
    taskmint_model::bounded(field, text, MAX_TEXT).map_err(|e| BadField::new(field, e))?;
    Ok(text.to_owned())
}

pub(crate) fn public_key(spki: &[u8]) -> Result<PublicKey, BadField> {
    if spki.is_empty() || spki.len() > MAX_SPKI {
        return Err(BadField::new("spki", "must be the SPKI DER of a P-256 key"));
    }
    Ok(PublicKey {
        algorithm: KeyAlgorithm::EcP256,
        spki: spki.to_vec(),
    })
}

/// Reads a request id: absent, or exactly sixteen octets, not all zero.
pub(crate) fn request_id(octets: &[u8]) -> Result<Option<[u8; 16]>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    let id: [u8; 16] = octets
        .try_into()
        .map_err(|_| BadField::new("request_id", "must have 16 octets"))?;
    if id == [0; 16] {
        return Err(BadField::new("request_id", "must not be all zero"));
    }
    Ok(Some(id))
}

/// The workload that an agent speaks for.
pub(crate) fn caller(
    node: &Node,
    caller: Option<&node::Caller>,
    acting: Option<TaskId>,
) -> Result<Principal, BadField> {
    let caller = caller.ok_or_else(|| BadField::new("caller", "is missing"))?;
    let process = field("caller.process", &caller.process)?;
    Ok(Principal::Workload(Caller {
        node: node.id.clone(),
        node_selectors: node.selectors.clone(),
        process,
        selectors: taskmint_wire::selectors_from_wire("caller.selectors", &caller.selectors)?,
        acting,
    }))
}

/// The mark of a request that has an id (P6). An agent sends the digest of what its caller asked
/// for; where there is none, it is made over `content`.
pub(crate) fn mark<M: Message>(
    method: Method,
    id: &[u8],
    digest: &[u8],
    content: impl FnOnce() -> M,
) -> Result<Option<RequestMark>, BadField> {
    let id = request_id(id)?;
    let digest = match digest {
        [] => None,
        digest => Some(request_digest(digest)?),
    };
    Ok(id.map(|id| match digest {
        Some(digest) => RequestMark { method, id, digest },
        None => RequestMark::new(method, id, &content().encode_to_vec()),
    }))
}

/// The mark of a request that an agent asks about.
pub(crate) fn recall(ask: &node::RecallTaskRequest) -> Result<RequestMark, BadField> {
    let method = Method::from_name(&ask.method)
        .ok_or_else(|| BadField::new("method", "is none that takes a request id"))?;
    let id =
        request_id(&ask.request_id)?.ok_or_else(|| BadField::new("request_id", "is missing"))?;
    let digest = request_digest(&ask.request_digest)?;
    Ok(RequestMark { method, id, digest })
}

fn request_digest(octets: &[u8]) -> Result<[u8; 32], BadField> {
    let wrong = |_| BadField::new("request_digest", "must have 32 octets");
    octets.try_into().map_err(wrong)
}

/// The mark of a begin by way of an agent. It does not cover the key, which a retry makes anew, nor
/// the caller, which it is scoped to.
pub(crate) fn begin_mark(ask: &node::BeginTaskRequest) -> Result<Option<RequestMark>, BadField> {
    let method = if ask.parent_id.is_empty() {
        Method::Begin
    } else {
        Method::Delegate
    };
    let id = ask.task.as_ref().map_or(&[][..], |task| &task.request_id);
    mark(method, id, &ask.request_digest, || node::BeginTaskRequest {
        caller: None,
        spki: Vec::new(),
        ..ask.clone()
    })
}

/// What a task's begin asks for.
pub(crate) fn begin(
    ask: &task::BeginRequest,
    request: Option<RequestMark>,
) -> Result<Begin, BadField> {
    let limits = ask.limits.as_ref().map(|limits| {
        let depth = u8::try_from(limits.max_depth).unwrap_or(u8::MAX);
        Limits {
            children: limits.max_children,
            depth,
        }
    });
    let owner = text("owner", &ask.owner)?;
    Ok(Begin {
        request,
        parent: None,
        implicit: None,
        entry: None,
        spiffe_id: optional::<SpiffeId>("spiffe_id", &ask.spiffe_id)?,
        purpose: text("purpose", &ask.purpose)?,
        owner: (!owner.is_empty()).then_some(owner),
        authority: ask
            .authority
            .as_ref()
            .map(authority_from_wire)
            .transpose()?,
        ttl: duration(ask.ttl_ms),
        limit: duration(ask.limit_ms),
        limits,
        binding: binding_from_wire(ask),
        holder: None,
        node: None,
        key: None,
        continues: None,
    })
}

/// Causes that an agent may give.
pub(crate) fn cause(name: &str) -> Result<Cause, BadField> {
    match Cause::from_name(name) {
        Some(
            cause @ (Cause::COMPLETED
            | Cause::FAILED
            | Cause::CANCELLED
            | Cause::HOLDER_DIED
            | Cause::SUPERSEDED),
        ) => Ok(cause),
        _ => Err(BadField::new(
            "cause",
            "must be completed, failed, cancelled or holder_died",
        )),
    }
}

/// Which call of the task API an end was, by its cause.
pub(crate) fn end_method(cause: Cause) -> Method {
    match cause {
        Cause::COMPLETED => Method::Complete,
        Cause::FAILED => Method::Fail,
        Cause::REVOKED => Method::Revoke,
        _ => Method::Cancel,
    }
}
