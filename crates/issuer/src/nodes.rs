//! Nodes: attested, renewed in two steps, leased, evicted, banned (P9 to P12).

mod attestation;
mod sessions;
mod states;
mod svids;

use taskmint_id::SpiffeId;
use taskmint_model::{Node, NodeState, Task, TaskId};
use taskmint_store::{Change, Commit, CommitError, Expect};

pub use attestation::AttestedNode;
pub use sessions::Session;

use crate::begin::ATTEMPTS;
use crate::refused::{RefusalKind, Refused};
use crate::{Issuer, Principal};

/// Tasks that are looked up at once.
pub(crate) const PAGE: usize = 1024;

/// A node as its client certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its id.
    pub id: SpiffeId,
    /// Serial number of the certificate that it showed.
    pub serial: [u8; 20],
    /// SHA-256 of the SPKI DER of its key.
    pub key_hash: [u8; 32],
}

impl Issuer {
    /// Recognises a node by its certificate. A renewed SVID becomes current at its first use; a
    /// superseded one in use means that somebody copied the node's state: the node is suspended
    /// and must attest anew (P11).
    ///
    /// # Errors
    /// `NODE_UNKNOWN`, `NODE_BANNED`, `NODE_SUSPENDED`, `SVID_EXPIRED`.
    pub async fn recognise(
        &self,
        identity: &NodeIdentity,
        renewing: bool,
    ) -> Result<Node, Refused> {
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let unknown = || {
                Refused::new(
                    RefusalKind::Denied,
                    "NODE_UNKNOWN",
                    "this node is not attested",
                )
                .fix("attest it anew")
            };
            let node = self.store.node(&identity.id).await?.ok_or_else(unknown)?;
            let refuse = |reason, message: &str| {
                Err(Refused::new(RefusalKind::Denied, reason, message).fix("attest the node anew"))
            };
            match node.state {
                NodeState::Active => {}
                NodeState::Suspended => {
                    return refuse("NODE_SUSPENDED", "the node's state was copied");
                }
                NodeState::Evicted => return refuse("NODE_EVICTED", "the node was evicted"),
                NodeState::Banned => return refuse("NODE_BANNED", "the node is banned"),
            }
            if node.key_hash != identity.key_hash {
                return refuse("NODE_UNKNOWN", "the node attested over another key");
            }
            let grace = if renewing {
                self.settings.node_grace
            } else {
                std::time::Duration::ZERO
            };
            if node.current.serial == identity.serial {
                if now >= node.current.expires_at + grace {
                    return refuse("SVID_EXPIRED", "the node's SVID has expired");
                }
                return Ok(node);
            }
            match node
                .pending
                .clone()
                .filter(|pending| pending.serial == identity.serial)
            {
                Some(pending) => {
                    let mut promoted = node.clone();
                    let old = std::mem::replace(&mut promoted.current, pending);
                    promoted.pending = None;
                    promoted.version += 1;
                    promoted.seen_at = now;
                    if self.put_node(&node, promoted, "node.promote").await? {
                        self.supersede(&old, None).await;
                    }
                }
                None => {
                    self.suspend_node(&node, "a superseded serial was used")
                        .await?;
                }
            }
        }
        Err(Refused::busy())
    }

    async fn put_node(
        &self,
        before: &Node,
        after: Node,
        action: &'static str,
    ) -> Result<bool, Refused> {
        let who = Principal::Node(before.id.clone());
        let audit = self.audit(&who, action, before.id.to_string(), None, self.clock.now());
        let commit = Commit {
            expect: vec![Expect::Node(before.id.clone(), before.version)],
            changes: vec![Change::PutNode(Box::new(after)), Change::Audit(audit)],
        };
        match self.store.commit(commit).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How many live tasks the node holds.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn held_by(&self, node: &SpiffeId) -> Result<usize, Refused> {
        let (mut count, mut after) = (0, None);
        while let Some(page) = self.held_after(node, after).await? {
            (count, after) = (count + page.len(), page.last().copied());
        }
        Ok(count)
    }

    /// The next live tasks that a node holds, in order of their ids; none when there are no more.
    pub(crate) async fn held_after(
        &self,
        node: &SpiffeId,
        after: Option<TaskId>,
    ) -> Result<Option<Vec<TaskId>>, Refused> {
        let page = self.store.held(Some(node), after, PAGE).await?;
        Ok((!page.is_empty()).then_some(page))
    }

    /// Live tasks that a node holds, its own not among them.
    pub async fn tasks_on(&self, node: &SpiffeId) -> Result<Vec<Task>, Refused> {
        let mut tasks = Vec::new();
        let mut after = None;
        while let Some(page) = self.held_after(node, after).await? {
            after = page.last().copied();
            for id in page {
                let task = self.store.task(id).await?;
                tasks.extend(task.filter(|task| !task.is_ended()));
            }
        }
        tasks.sort_by_key(|task| (task.times.opened, task.id));
        Ok(tasks)
    }
}
