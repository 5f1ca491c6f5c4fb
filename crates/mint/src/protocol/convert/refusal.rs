//! How the signer refuses.

use std::borrow::Cow;

use taskmint_id::SpiffeId;
use taskmint_model::AuthorityId;

use super::request::{class_from_wire, class_to_wire};
use super::{BadMessage, Read, at, log, octets};
use crate::protocol::wire;
use crate::request::Refusal;

pub(super) fn refusal_to_wire(refusal: &Refusal) -> wire::Refused {
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
        R::Failed(_) | R::Away | R::Busy(_) => {
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

pub(super) fn refusal_from_wire(refused: wire::Refused) -> Read<Refusal> {
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
