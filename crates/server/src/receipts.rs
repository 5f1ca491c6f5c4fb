//! Receipts of ends on the wire (P18), for the node and the admin service alike.

use std::sync::Arc;
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_issuer::watchers::Hearer;
use taskmint_issuer::{Issuer, Receipt};
use taskmint_model::Task;
use taskmint_wire::task;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::refusal::{deny, status};

/// The most octets of names in one receipt, so that any client takes the message.
const NAMES: usize = 2 << 20;

/// Receipts of one wait.
pub(crate) type Receipts = ReceiverStream<Result<task::Receipt, Status>>;

/// The answer to an end, with its receipt as of now.
pub(crate) fn end_response(issuer: &Issuer, task: &Task) -> Result<task::EndResponse, Status> {
    let receipt = issuer.receipt(task).map_err(status)?;
    Ok(task::EndResponse {
        task: Some(task.into()),
        position: receipt.position,
        receipt: Some(to_wire(receipt)),
    })
}

/// Receipts of a task that has ended, for an operator or an agent, until all have heard or the time is up.
pub(crate) fn wait(
    issuer: &Arc<Issuer>,
    node: Option<&SpiffeId>,
    task: Task,
    timeout_ms: u64,
    stop: CancellationToken,
) -> Result<Receipts, Status> {
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    let mut waiting = issuer.wait(node, task, timeout).map_err(status)?;
    let (out, receipts) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let receipt = tokio::select! {
                receipt = waiting.next() => receipt.map(|receipt| Ok(to_wire(receipt))),
                () = out.closed() => return,
                () = stop.cancelled() => {
                    Some(Err(deny(Code::Unavailable, "STOPPING", "the server stops")))
                }
            };
            let Some(receipt) = receipt else { return };
            if out.send(receipt).await.is_err() || stop.is_cancelled() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(receipts))
}

fn to_wire(receipt: Receipt) -> task::Receipt {
    let heard = receipt.heard;
    let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
    let mut room = NAMES;
    // Those who have not heard first: they are what the caller must look after.
    let not_yet = hearers(heard.not_yet, &mut room);
    task::Receipt {
        position: receipt.position,
        ended_at_ms: receipt.ended_at.millis(),
        not_yet,
        applied: hearers(heard.applied, &mut room),
        applied_by_relay: hearers(heard.applied_by_relay, &mut room),
        dead_everywhere_by_ms: receipt.dead_everywhere_by.millis(),
        applied_count: count(heard.applied_count),
        applied_by_relay_count: count(heard.applied_by_relay_count),
        not_yet_count: count(heard.not_yet_count),
        r#final: receipt.is_final,
    }
}

fn hearers(of: Vec<Hearer>, room: &mut usize) -> Vec<task::Hearer> {
    let mut named = Vec::with_capacity(of.len());
    for one in of {
        let relay = one.relay.map(|id| id.to_string()).unwrap_or_default();
        let hearer = task::Hearer {
            spiffe_id: one.spiffe_id.to_string(),
            name: one.name,
            sequence: one.sequence,
            relay,
            left_at_ms: one.left_at.map_or(0, |at| at.millis()),
        };
        let octets = hearer.spiffe_id.len() + hearer.name.len() + hearer.relay.len() + 32;
        match room.checked_sub(octets) {
            Some(left) => *room = left,
            None => break,
        }
        named.push(hearer);
    }
    named
}
