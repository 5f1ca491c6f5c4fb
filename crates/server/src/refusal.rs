//! Refusals of the issuer as gRPC statuses, kept for `explain` on the way out.

use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_issuer::{Issuer, Principal, RefusalKind, Refused};
use taskmint_wire::Denied;
use tonic::{Code, Status};

/// The gRPC code of a kind of refusal.
fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Denied => Code::PermissionDenied,
        RefusalKind::State => Code::FailedPrecondition,
        RefusalKind::Exists => Code::AlreadyExists,
        RefusalKind::Exhausted => Code::ResourceExhausted,
        RefusalKind::Unavailable => Code::Unavailable,
        RefusalKind::Internal => Code::Internal,
    }
}

/// A refusal as its caller sees it. What is for the operator alone stays here.
pub(crate) fn status(refused: Refused) -> Status {
    denied(refused).into()
}

fn denied(refused: Refused) -> Denied {
    let mut denied = Denied::new(code(refused.kind), refused.reason, refused.message)
        .fix(refused.fix)
        .facts(refused.facts);
    denied.id = refused.id;
    denied.retry_after = refused.retry_after;
    denied
}

/// A refusal with its story kept: for those that somebody will ask about. What merely has to be
/// tried again leaves no trace, or a busy server would write more denials than decisions.
pub(crate) async fn explained(
    issuer: &Issuer,
    who: &Principal,
    node: Option<&SpiffeId>,
    action: &str,
    refused: Refused,
) -> Status {
    let kept = match refused.kind {
        RefusalKind::Unavailable | RefusalKind::Internal | RefusalKind::Exhausted => refused,
        _ => issuer.keep_denial(who, node, action, refused).await,
    };
    status(kept)
}

/// A refusal inside a batch.
pub(crate) fn refusal(refused: Refused) -> taskmint_wire::node::Refusal {
    taskmint_wire::node::Refusal {
        reason: refused.reason.to_owned(),
        message: refused.message,
        fix: refused.fix,
        denial_id: refused.id.map(|id| id.to_string()).unwrap_or_default(),
        retry_after_ms: refused.retry_after.map_or(0, millis),
    }
}

/// Whole milliseconds, and never none of them.
fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Something about the caller that no use case has to look at.
pub(crate) fn deny(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    Denied::new(code, reason, message).into()
}
