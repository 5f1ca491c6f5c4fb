//! SVIDs of nodes, and the server's own: minted, renewed, superseded.

use taskmint_id::SpiffeId;
use taskmint_lifecycle::Ask;
use taskmint_mint::PublicKey;
use taskmint_model::{
    Binding, Holder, Node, NodeState, NodeSvid, Task, TaskId, TaskKind, Timestamp,
};
use taskmint_store::{Change, Commit, CommitError, Expect};

use super::NodeIdentity;
use crate::begin::ATTEMPTS;
use crate::refused::Refused;
use crate::{Cause, Issuer, MintedX509, Principal};

/// The SVID of a node or server, signed but not yet durable.
pub(crate) struct OwnSvid {
    pub(crate) task: Task,
    pub(crate) svid: NodeSvid,
    pub(crate) commit: Commit,
}

impl Issuer {
    /// Renews a node's SVID over the same key. Until the new one is used, the same request gets
    /// the same certificate (P11).
    ///
    /// # Errors
    /// As [`Self::recognise`].
    pub async fn renew_node(
        &self,
        identity: &NodeIdentity,
        key: PublicKey,
        request: [u8; 16],
    ) -> Result<MintedX509, Refused> {
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let node = self.recognise(identity, true).await?;
            if let Some(again) = same_request(&node, &identity.key_hash, &request, now) {
                return Ok(minted(again));
            }
            let continues = Some(node.current.task);
            let made = self
                .node_svid(&node.id, key.clone(), Some(request), continues, now)
                .await?;
            let mut renewed = node.clone();
            renewed.version += 1;
            renewed.seen_at = now;
            let replaced = renewed.pending.replace(made.svid.clone());
            let mut commit = made.commit;
            commit
                .expect
                .push(Expect::Node(node.id.clone(), node.version));
            commit.changes.push(Change::PutNode(Box::new(renewed)));
            match self.commit_signed(commit).await {
                Ok(_) => {}
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            self.publish(made.task);
            if let Some(replaced) = replaced {
                self.supersede(&replaced, None).await;
            }
            return Ok(minted(&made.svid));
        }
        Err(Refused::busy())
    }

    /// Ends the tasks of SVIDs that are no longer the node's.
    pub(super) async fn supersede(&self, one: &NodeSvid, other: Option<&NodeSvid>) {
        for svid in [Some(one), other].into_iter().flatten() {
            let end = self.end(&Principal::Issuer, svid.task, Cause::SUPERSEDED, "renewed");
            if let Err(error) = end.await {
                tracing::warn!(task = %svid.task, %error, "a superseded task could not be ended");
            }
        }
    }

    /// Opens the task of a node's or the server's own SVID, and signs it. Nothing is durable yet:
    /// the caller commits, and lets the certificate out only then.
    pub(crate) async fn node_svid(
        &self,
        id: &SpiffeId,
        key: PublicKey,
        request: Option<[u8; 16]>,
        continues: Option<TaskId>,
        now: Timestamp,
    ) -> Result<OwnSvid, Refused> {
        let server = id.kind() == taskmint_id::Kind::Server;
        let ttl = if server {
            self.settings.server_ttl
        } else {
            self.settings.node_ttl
        };
        let ask = Ask {
            kind: if server {
                TaskKind::Server
            } else {
                TaskKind::Node
            },
            entry: None,
            spiffe_id: id.clone(),
            owner: id.to_string(),
            purpose: if server { "serve" } else { "attest workloads" }.to_owned(),
            authority: None,
            ttl: Some(ttl),
            limit: Some(ttl),
            limits: None,
            holder: Holder::default(),
            binding: Binding::None,
            continues,
        };
        let mut defaults = self.settings.defaults;
        defaults.node_limit = defaults.node_limit.max(ttl);
        let task = self.open_task(ask, None, None, &defaults, now).await?.task;
        let plan = self.plan_x509(&task, None, key, now)?;
        let record = plan.record(&task);
        let signed = self.sign_x509(plan).await?;
        let svid = NodeSvid {
            task: task.id,
            serial: signed.serial,
            expires_at: signed.expires_at,
            certificate: signed.certificate,
            request,
        };
        let commit = Commit {
            expect: vec![Expect::NoTask(task.id)],
            changes: vec![
                Change::PutTask(Box::new(task.clone())),
                Change::Issue(record),
            ],
        };
        Ok(OwnSvid { task, svid, commit })
    }
}

pub(super) fn same_request<'n>(
    node: &'n Node,
    key_hash: &[u8; 32],
    request: &[u8; 16],
    now: Timestamp,
) -> Option<&'n NodeSvid> {
    let svids = [node.pending.as_ref(), Some(&node.current)];
    let same = |svid: &&NodeSvid| svid.request.as_ref() == Some(request) && svid.expires_at > now;
    svids
        .into_iter()
        .flatten()
        .find(same)
        .filter(|_| node.key_hash == *key_hash && node.state == NodeState::Active)
}

pub(super) fn minted(svid: &NodeSvid) -> MintedX509 {
    MintedX509 {
        certificate: svid.certificate.clone(),
        serial: svid.serial,
        expires_at: svid.expires_at,
    }
}
