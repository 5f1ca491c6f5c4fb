//! Nodes that are evicted, banned or suspended, and what becomes of their tasks.

use taskmint_id::SpiffeId;
use taskmint_model::{Actor, Node, NodeState, State};
use taskmint_store::{Change, Commit, CommitError, Expect, TaskQuery};

use crate::begin::ATTEMPTS;
use crate::refused::{RefusalKind, Refused};
use crate::{Cause, Issuer, Principal};

impl Issuer {
    /// Evicts or bans a node: its tasks end, its own with them. Returns how many.
    ///
    /// # Errors
    /// `NO_SUCH_NODE`.
    pub async fn remove_node(
        &self,
        by: &Principal,
        id: &SpiffeId,
        ban: bool,
    ) -> Result<(Node, u64), Refused> {
        let (state, action) = if ban {
            (NodeState::Banned, "node.ban")
        } else {
            (NodeState::Evicted, "node.evict")
        };
        let node = self.set_node_state(by, id, state, action).await?;
        self.leases.forget(id);
        let query = TaskQuery {
            live_only: true,
            node: Some(id.clone()),
            ..Default::default()
        };
        let mut ended = self.end_all(query, Cause::EVICTED, by).await?;
        for svid in [Some(&node.current), node.pending.as_ref()]
            .into_iter()
            .flatten()
        {
            match self.end(by, svid.task, Cause::EVICTED, "").await {
                Ok(_) => ended += 1,
                // Its bucket was swept: there is nothing left to end.
                Err(refused) if refused.reason == "NO_SUCH_TASK" => {}
                Err(refused) => return Err(refused),
            }
        }
        Ok((node, ended))
    }

    /// Lifts a ban: the node may attest anew.
    ///
    /// # Errors
    /// `NO_SUCH_NODE`, `BAD_STATE` when it is not banned.
    pub async fn unban_node(&self, by: &Principal, id: &SpiffeId) -> Result<Node, Refused> {
        let node = self.store.node(id).await?.ok_or_else(no_node)?;
        if node.state != NodeState::Banned {
            return Err(Refused::new(
                RefusalKind::State,
                "BAD_STATE",
                "the node is not banned",
            ));
        }
        self.set_node_state(by, id, NodeState::Evicted, "node.unban")
            .await
    }

    async fn set_node_state(
        &self,
        by: &Principal,
        id: &SpiffeId,
        state: NodeState,
        action: &'static str,
    ) -> Result<Node, Refused> {
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let node = self.store.node(id).await?.ok_or_else(no_node)?;
            let mut changed = node.clone();
            changed.state = state;
            changed.version += 1;
            let audit = self.audit(by, action, id.to_string(), None, now);
            let put = Change::PutNode(Box::new(changed.clone()));
            let commit = Commit {
                expect: vec![Expect::Node(id.clone(), node.version)],
                changes: vec![put, Change::Audit(audit)],
            };
            match self.store.commit(commit).await {
                Ok(_) => return Ok(changed),
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refused::busy())
    }

    pub(super) async fn suspend_node(&self, node: &Node, why: &str) -> Result<(), Refused> {
        tracing::error!(node = %node.id, why, "node suspended: it must attest anew");
        self.set_node_state(
            &Principal::Issuer,
            &node.id,
            NodeState::Suspended,
            "node.suspend",
        )
        .await?;
        let suspend = async |id| match self.suspend(&Principal::Issuer, id, why, None).await {
            // Meanwhile.
            Err(refused) if refused.reason == "ALREADY_ENDED" => Ok(()),
            other => other.map(drop),
        };
        self.each_held(&node.id, suspend).await
    }

    /// P11: a node that attested anew is the honest one; what was suspended because its state was
    /// copied goes on. What somebody else suspended stays so.
    pub(super) async fn resume_tasks_of(&self, node: &SpiffeId) {
        if let Err(error) = self.resume_held(node).await {
            tracing::warn!(%node, %error, "its tasks could not be read: they stay suspended");
        }
    }

    async fn resume_held(&self, node: &SpiffeId) -> Result<(), Refused> {
        let mut after = None;
        while let Some(page) = self.held_after(node, after).await? {
            after = page.last().copied();
            for id in page {
                let task = self.store.task(id).await?;
                let ours = task.is_some_and(|task| match task.state {
                    State::Suspended { own: Some(own), .. } => own.by == Actor::Issuer,
                    _ => false,
                });
                if ours && let Err(error) = self.resume(&Principal::Issuer, id, None).await {
                    tracing::warn!(task = %id, %error, "a task stays suspended");
                }
            }
        }
        Ok(())
    }
}

fn no_node() -> Refused {
    Refused::new(RefusalKind::NotFound, "NO_SUCH_NODE", "no such node")
}
