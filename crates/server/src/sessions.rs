//! A node's session: its lease, and everything it may know, pushed when it changes.

use std::collections::VecDeque;
use std::sync::Arc;

use taskmint_id::Bundle;
use taskmint_issuer::{Cause, Crls, Issuer, Session};
use taskmint_model::{State, Task, TaskId, millis};
use taskmint_wire::{entry_to_agent, node, task_from_wire};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, Streaming};

use crate::refusal::{deny, status};

/// Clients of the Workload API read messages of 4 MiB, and SVIDs must fit beside the lists.
const MAX_CRLS: usize = 3 << 20;

/// Inventories that wait for an answer: more are only sent to a node that falls behind.
const MAX_UNANSWERED: usize = 8;

type Answer = node::session_response::Message;

/// The tasks that the node was told of and has not answered for, oldest first. An answer is to one
/// of them alone: a task that began after it must not end by it.
type Inventories = VecDeque<Vec<TaskId>>;

/// Everything that a running session needs.
pub(crate) struct Run {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) session: Session,
    pub(crate) answers: mpsc::Sender<Result<node::SessionResponse, Status>>,
    pub(crate) watch_address: String,
    /// The lists that the agent has.
    pub(crate) crls: Option<Crls>,
}

impl Run {
    /// Runs until the agent goes away, falls behind, or opens another session.
    pub(crate) async fn run(mut self, requests: Streaming<node::SessionRequest>) {
        let node = self.session.node.id.clone();
        let number = self.session.number;
        tracing::info!(%node, session = number, lapsed = self.session.lapsed, "session opened");
        if let Err(End::Refused(status)) = self.serve(requests).await {
            drop(self.answers.send(Err(*status)).await);
        }
        self.issuer.close_session(&node, number);
        tracing::info!(%node, session = number, "session closed");
    }

    async fn serve(&mut self, mut requests: Streaming<node::SessionRequest>) -> Result<(), End> {
        // Subscribed before anything is read, so that no change falls in between.
        let mut tasks = self.issuer.task_changes();
        let mut entries = self.issuer.entries_revision();
        let mut bundle = self.issuer.bundle();
        let mut bars = self.issuer.lifted_bars();
        let mut crls = self.issuer.crls();
        let id = self.session.node.id.clone();
        let mut inventories = Inventories::new();

        self.send_inventory(&mut inventories).await?;
        let first = bundle_message(&bundle.borrow_and_update());
        self.send(first).await?;
        entries.mark_unchanged();
        // Before the entries that ask for them, so that they are there with the first SVID.
        self.send_crls(&mut crls).await?;
        self.send_entries().await?;
        self.send_bars().await?;

        loop {
            tokio::select! {
                request = requests.message() => match request?.and_then(|r| r.message) {
                    Some(message) => self.on_request(message, &mut inventories).await?,
                    None => return Ok(()),
                },
                changed = tasks.recv() => match changed {
                    Ok(task) if task.holder.node.as_ref() == Some(&id) => {
                        let bars = task.is_ended() || task.state.name() == "suspended";
                        self.send(Answer::Task(node::TaskEvent { task: Some((&*task).into()) })).await?;
                        if bars {
                            self.send_bars().await?;
                        }
                    }
                    // An evicted node hears nothing more, and need not wait for its next lease to
                    // learn why.
                    Ok(task) if task.spiffe_id == id && is_evicted(&task) => {
                        let status = deny(
                            Code::PermissionDenied,
                            "NODE_EVICTED",
                            "the node was evicted; attest it anew",
                        );
                        return Err(End::Refused(Box::new(status)));
                    }
                    Ok(_) => {}
                    // Too much at once: the whole inventory says the same in fewer words.
                    Err(RecvError::Lagged(_)) => {
                        self.send_inventory(&mut inventories).await?;
                    }
                    Err(RecvError::Closed) => return Ok(()),
                },
                changed = entries.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    entries.mark_unchanged();
                    self.send_crls(&mut crls).await?;
                    self.send_entries().await?;
                }
                changed = crls.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.send_crls(&mut crls).await?;
                }
                changed = bars.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    bars.mark_unchanged();
                    self.send_bars().await?;
                }
                changed = bundle.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let message = bundle_message(&bundle.borrow_and_update());
                    self.send(message).await?;
                }
            }
        }
    }

    async fn on_request(
        &mut self,
        message: node::session_request::Message,
        inventories: &mut Inventories,
    ) -> Result<(), End> {
        let id = &self.session.node.id;
        match message {
            node::session_request::Message::Open(open) if open.adopted => {
                // Of what it was not told it can adopt nothing, and nothing of it ends.
                let inventory = inventories.pop_front().unwrap_or_default();
                let adopted = open.adopted_task_ids;
                let ended = self.issuer.adopt(id, &inventory, &adopted).await?;
                tracing::info!(node = %id, adopted = adopted.len(), ended, "tasks adopted");
            }
            node::session_request::Message::Open(_) => {}
            node::session_request::Message::Lease(lease) => {
                self.issuer.renew_lease(id, self.session.number).await?;
                let lease = node::session_response::Lease {
                    counter: lease.counter,
                    lease_ms: millis(self.issuer.settings().lease),
                };
                self.send(Answer::Lease(lease)).await?;
            }
        }
        Ok(())
    }

    async fn send_inventory(&mut self, inventories: &mut Inventories) -> Result<(), End> {
        if inventories.len() >= MAX_UNANSWERED {
            let message = "the node has not said yet which of its tasks it adopts";
            let status = deny(Code::ResourceExhausted, "INVENTORY_UNANSWERED", message);
            return Err(End::Refused(Box::new(status)));
        }
        let settings = self.issuer.settings();
        let tasks = self.issuer.tasks_on(&self.session.node.id).await?;
        inventories.push_back(tasks.iter().map(|task| task.id).collect());
        let message = node::session_response::Inventory {
            tasks: tasks.iter().map(Into::into).collect(),
            lapsed: self.session.lapsed,
            watch_address: self.watch_address.clone(),
            settings: Some(node::Settings {
                lease_ms: millis(settings.lease),
                x509_ttl_ms: millis(settings.x509_ttl),
                jwt_ttl_ms: millis(settings.jwt_ttl),
            }),
        };
        debug_assert!(
            message
                .tasks
                .iter()
                .all(|task| task_from_wire(task).is_ok())
        );
        self.send(Answer::Inventory(message)).await
    }

    async fn send_entries(&self) -> Result<(), End> {
        let node = &self.session.node;
        let entries = self.issuer.entries_on(&node.id, &node.selectors);
        let entries = node::Entries {
            revision: *self.issuer.entries_revision().borrow(),
            entries: entries.iter().map(|entry| entry_to_agent(entry)).collect(),
        };
        self.send(Answer::Entries(entries)).await
    }

    /// All lists, where an entry of the node asks for them and they are others than it has.
    async fn send_crls(&mut self, crls: &mut watch::Receiver<Crls>) -> Result<(), End> {
        let lists = crls.borrow_and_update().clone();
        let node = &self.session.node;
        let entries = self.issuer.entries_on(&node.id, &node.selectors);
        let is_new = self
            .crls
            .as_ref()
            .is_none_or(|sent| !Arc::ptr_eq(sent, &lists));
        if lists.is_empty() || !is_new || !entries.iter().any(|entry| entry.crl) {
            return Ok(());
        }
        let octets: usize = lists.iter().map(|list| list.der.len()).sum();
        if octets > MAX_CRLS {
            let node = &node.id;
            tracing::error!(%node, octets, "revocation lists too long for a Workload API");
            return Ok(());
        }
        self.crls = Some(Arc::clone(&lists));
        let lists = lists.iter().map(|list| list.der.to_vec()).collect();
        self.send(Answer::Crls(node::Crls { lists })).await
    }

    async fn send_bars(&self) -> Result<(), End> {
        let bars = self.issuer.store().bars(&self.session.node.id).await;
        let bars = bars.map_err(taskmint_issuer::Refused::from)?;
        let bars = bars.into_iter().map(|bar| node::bars::Bar {
            entry_id: bar.entry.to_string(),
            process: bar.process.to_string(),
            task_id: bar.task.to_string(),
        });
        self.send(Answer::Bars(node::Bars {
            bars: bars.collect(),
        }))
        .await
    }

    async fn send(&self, message: Answer) -> Result<(), End> {
        let answer = node::SessionResponse {
            message: Some(message),
        };
        self.answers.send(Ok(answer)).await.map_err(|_| End::Gone)
    }
}

/// Why a session ends.
enum End {
    Gone,
    Refused(Box<Status>),
}

impl From<taskmint_issuer::Refused> for End {
    fn from(refused: taskmint_issuer::Refused) -> Self {
        Self::Refused(Box::new(status(refused)))
    }
}

impl From<Status> for End {
    fn from(_: Status) -> Self {
        Self::Gone
    }
}

/// Whether a node's own task ended because the node was evicted or banned.
fn is_evicted(own: &Task) -> bool {
    matches!(&own.state, State::Ended { cause, .. } if *cause == Cause::EVICTED)
}

/// A bundle on the wire.
pub(crate) fn bundle(bundle: &Bundle) -> node::Bundle {
    node::Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        json: bundle.to_json().into_bytes(),
    }
}

fn bundle_message(of: &Bundle) -> Answer {
    Answer::Bundle(bundle(of))
}

#[cfg(test)]
mod tests;
