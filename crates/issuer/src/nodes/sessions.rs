//! Sessions of nodes, and the leases by which their tasks live.

use std::collections::HashSet;
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_model::{Node, TaskId};

use super::{NodeIdentity, PAGE};
use crate::leases::Renewal;
use crate::refused::{RefusalKind, Refused};
use crate::{Cause, Issuer, Principal};

/// How soon the tasks of a lost node are ended again, where the store took nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// An open session of a node.
#[derive(Debug)]
pub struct Session {
    /// The node.
    pub node: Node,
    /// Number of this session: an older one counts no more.
    pub number: u64,
    /// The lease lapsed while the node was away: its tasks are gone.
    pub lapsed: bool,
}

impl Issuer {
    /// Opens a session: grants a lease. What the node then adopts is in [`Self::tasks_on`] (P12).
    ///
    /// # Errors
    /// As [`Self::recognise`].
    pub async fn open_session(&self, identity: &NodeIdentity) -> Result<Session, Refused> {
        let node = self.recognise(identity, false).await?;
        let until = self.clock.now() + self.settings.lease;
        let (number, lapsed) = self.leases.open(&node.id, until);
        Ok(Session {
            node,
            number,
            lapsed,
        })
    }

    /// Renews a node's lease. Where two sessions of one node both answer, its state was copied:
    /// it is suspended, and both must attest anew (P11).
    ///
    /// # Errors
    /// `SESSION_SUPERSEDED`, `LEASE_LAPSED`, `NODE_SUSPENDED`.
    pub async fn renew_lease(&self, node: &SpiffeId, session: u64) -> Result<(), Refused> {
        let until = self.clock.now() + self.settings.lease;
        let (reason, message) = match self.leases.renew(node, session, until) {
            Renewal::Renewed => return Ok(()),
            Renewal::Lapsed => ("LEASE_LAPSED", "the node's lease lapsed"),
            Renewal::Superseded => ("SESSION_SUPERSEDED", "the node has a newer session"),
            Renewal::Copied => {
                if let Some(node) = self.store.node(node).await? {
                    self.suspend_node(&node, "two sessions of one node answer")
                        .await?;
                }
                (
                    "NODE_SUSPENDED",
                    "two sessions of this node answer: its state was copied",
                )
            }
        };
        Err(Refused::new(RefusalKind::State, reason, message).fix("open a new session"))
    }

    /// A session ended; the lease runs on.
    pub fn close_session(&self, node: &SpiffeId, session: u64) {
        self.leases.close(node, session);
    }

    /// Whether the node has a session now.
    pub fn is_connected(&self, node: &SpiffeId) -> bool {
        self.leases.connected(node)
    }

    /// P12: a reconnected agent adopts tasks whose holder lives, and the rest of those that it was
    /// told of end. Returns how many those are.
    ///
    /// # Errors
    /// `BAD_TASK_ID`; `TOO_MANY_ADOPTED`, more than it was told of; when the store can't write.
    pub async fn adopt(
        &self,
        node: &SpiffeId,
        inventory: &[TaskId],
        adopted: &[String],
    ) -> Result<usize, Refused> {
        let adopted = read_adopted(adopted, inventory.len())?;
        let gone = inventory.iter().filter(|id| !adopted.contains(id));
        let gone: Vec<_> = gone.copied().collect();
        let who = Principal::Node(node.clone());
        let end = async |id| {
            let ended = self.end(&who, id, Cause::HOLDER_DIED, "the holder was gone");
            ended.await.map(drop)
        };
        let mut first = Ok(());
        for page in gone.chunks(PAGE) {
            let tasks = self.known(page).await?;
            first = first.and(self.each_of(tasks, &end).await);
        }
        first.map(|()| gone.len())
    }

    /// Ends the tasks of nodes whose lease has lapsed.
    pub async fn lapse_leases(&self) {
        for node in self.leases.lapse(self.clock.now()) {
            tracing::warn!(%node, "the node's lease lapsed: its tasks end");
            if let Err(error) = self.end_lost(&node).await {
                tracing::error!(%node, %error, "a lost node's tasks could not be ended: tried again");
                self.leases.lapse_again(&node, self.clock.now() + AGAIN);
            }
        }
    }

    async fn end_lost(&self, node: &SpiffeId) -> Result<(), Refused> {
        let end = async |id| {
            let ended = self.end(&Principal::Issuer, id, Cause::NODE_LOST, "lease lapsed");
            ended.await.map(drop)
        };
        self.each_held(node, end).await
    }
}

/// No more than `most`, each of them a task id.
fn read_adopted(ids: &[String], most: usize) -> Result<HashSet<TaskId>, Refused> {
    let invalid = |reason, message: String| Refused::new(RefusalKind::Invalid, reason, message);
    if ids.len() > most {
        let message = format!("{} tasks adopted of {most} that were told", ids.len());
        return Err(invalid("TOO_MANY_ADOPTED", message));
    }
    let read = |id: &String| id.parse();
    let read: Result<_, taskmint_model::IdError> = ids.iter().map(read).collect();
    read.map_err(|error| invalid("BAD_TASK_ID", error.to_string()))
}
