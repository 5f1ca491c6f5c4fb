//! Nodes: attested, renewed in two steps, leased, evicted, banned (P9 to P12).

use sha2::{Digest, Sha256};
use taskmint_id::SpiffeId;
use taskmint_lifecycle::Ask;
use taskmint_mint::PublicKey;
use taskmint_model::{
    Actor, Binding, Holder, Node, NodeState, NodeSvid, Selectors, State, Task, TaskId, TaskKind,
    Timestamp,
};
use taskmint_store::{Change, Commit, CommitError, Expect, TaskQuery};

use crate::begin::ATTEMPTS;
use crate::leases::Renewal;
use crate::refused::{RefusalKind, Refused};
use crate::{Cause, Issuer, MintedX509, Principal};

/// Tasks that are looked up at once.
pub(crate) const PAGE: usize = 1024;

/// What an attestor vouches for.
#[derive(Debug, Clone)]
pub struct AttestedNode {
    /// Which attestor.
    pub attestor: &'static str,
    /// Last segment of the node's id.
    pub name: String,
    /// What the node was attested to be.
    pub selectors: Selectors,
    /// Hash of the join token that is consumed, if one is.
    pub token: Option<[u8; 32]>,
}

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
    /// Takes in an attested node: creates it or attests it anew, and mints its SVID. Consuming a
    /// token and creating the node are one write bound to the node's key (P10).
    ///
    /// # Errors
    /// `NODE_BANNED`, `TOKEN_USED` when another key has consumed the token.
    pub async fn attest_node(
        &self,
        attested: AttestedNode,
        key: PublicKey,
        request: [u8; 16],
    ) -> Result<(Node, MintedX509), Refused> {
        let id = SpiffeId::node(
            &self.settings.trust_domain,
            attested.attestor,
            &attested.name,
        )
        .map_err(|e| Refused::new(RefusalKind::Invalid, "BAD_NAME", e.to_string()))?;
        let key_hash: [u8; 32] = Sha256::digest(&key.spki).into();
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let known = self.store.node(&id).await?;
            if let Some(node) = &known {
                if node.state == NodeState::Banned {
                    let message = "this node is banned";
                    return Err(Refused::new(RefusalKind::Denied, "NODE_BANNED", message)
                        .fix("ask an operator to lift the ban"));
                }
                if let Some(again) = same_request(node, &key_hash, &request, now) {
                    return Ok((node.clone(), minted(again)));
                }
            }
            let who = Principal::Node(id.clone());
            let made = self
                .node_svid(&id, key.clone(), Some(request), None, now)
                .await?;
            let (task, svid) = (made.task, made.svid);
            let node = Node {
                id: id.clone(),
                version: known.as_ref().map_or(1, |node| node.version + 1),
                attestor: attested.attestor.to_owned(),
                selectors: attested.selectors.clone(),
                key_hash,
                state: NodeState::Active,
                current: svid.clone(),
                pending: None,
                attested_at: now,
                seen_at: now,
            };
            let mut commit = made.commit;
            commit.expect.push(Expect::Node(
                id.clone(),
                known.as_ref().map_or(0, |n| n.version),
            ));
            if let Some(hash) = attested.token {
                commit.expect.push(Expect::Token {
                    hash,
                    key: key_hash,
                });
                commit.changes.push(Change::ConsumeToken {
                    hash,
                    key: key_hash,
                });
            }
            commit.changes.push(Change::PutNode(Box::new(node.clone())));
            let audit = self.audit(&who, "node.attest", id.to_string(), Some(&task), now);
            commit.changes.push(Change::Audit(audit));
            match self.commit_signed(commit).await {
                Ok(_) => {}
                Err(CommitError::Conflict(conflict)) => match conflict.0 {
                    Expect::Token { .. } => {
                        let message = "the token is unknown or was used by another node";
                        return Err(Refused::new(RefusalKind::Denied, "TOKEN_USED", message)
                            .fix("ask an operator for a new token"));
                    }
                    _ => continue,
                },
                Err(error) => return Err(error.into()),
            }
            self.publish(task);
            if let Some(before) = known {
                self.supersede(&before.current, before.pending.as_ref())
                    .await;
                if before.state == NodeState::Suspended {
                    self.resume_tasks_of(&id).await;
                }
            }
            self.leases.grant(&id, now + self.settings.lease);
            return Ok((node, minted(&svid)));
        }
        Err(Refused::busy())
    }

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
    async fn held_after(
        &self,
        node: &SpiffeId,
        after: Option<TaskId>,
    ) -> Result<Option<Vec<TaskId>>, Refused> {
        let page = self.store.held(Some(node), after, PAGE).await?;
        Ok((!page.is_empty()).then_some(page))
    }

    /// P12: a reconnected agent adopts tasks whose holder lives, and the rest end.
    ///
    /// # Errors
    /// When the store can't write.
    pub async fn adopt(
        &self,
        node: &SpiffeId,
        inventory: &[TaskId],
        adopted: &[TaskId],
    ) -> Result<u64, Refused> {
        let who = Principal::Node(node.clone());
        let mut ended = 0;
        for id in inventory.iter().filter(|id| !adopted.contains(id)) {
            self.end(&who, *id, Cause::HOLDER_DIED, "the holder was gone")
                .await?;
            ended += 1;
        }
        Ok(ended)
    }

    /// Ends the tasks of nodes whose lease has lapsed.
    pub async fn lapse_leases(&self) {
        for node in self.leases.lapse(self.clock.now()) {
            tracing::warn!(%node, "the node's lease lapsed: its tasks end");
            if let Err(error) = self.end_lost(&node).await {
                tracing::error!(%node, %error, "a lost node's tasks could not be read");
            }
        }
    }

    async fn end_lost(&self, node: &SpiffeId) -> Result<(), Refused> {
        let mut after = None;
        while let Some(page) = self.held_after(node, after).await? {
            after = page.last().copied();
            for id in page {
                let ended = self
                    .end(&Principal::Issuer, id, Cause::NODE_LOST, "lease lapsed")
                    .await;
                if let Err(error) = ended {
                    tracing::error!(task = %id, %error, "a lost node's task could not be ended");
                }
            }
        }
        Ok(())
    }

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

    async fn suspend_node(&self, node: &Node, why: &str) -> Result<(), Refused> {
        tracing::error!(node = %node.id, why, "node suspended: it must attest anew");
        self.set_node_state(
            &Principal::Issuer,
            &node.id,
            NodeState::Suspended,
            "node.suspend",
        )
        .await?;
        let mut after = None;
        while let Some(page) = self.held_after(&node.id, after).await? {
            after = page.last().copied();
            for id in page {
                match self.suspend(&Principal::Issuer, id, why, None).await {
                    Ok(_) => {}
                    // Meanwhile.
                    Err(refused) if refused.reason == "ALREADY_ENDED" => {}
                    Err(refused) => return Err(refused),
                }
            }
        }
        Ok(())
    }

    /// P11: a node that attested anew is the honest one; what was suspended because its state was
    /// copied goes on. What somebody else suspended stays so.
    async fn resume_tasks_of(&self, node: &SpiffeId) {
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

    /// Ends the tasks of SVIDs that are no longer the node's.
    async fn supersede(&self, one: &NodeSvid, other: Option<&NodeSvid>) {
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

/// The SVID of a node or server, signed but not yet durable.
pub(crate) struct OwnSvid {
    pub(crate) task: Task,
    pub(crate) svid: NodeSvid,
    pub(crate) commit: Commit,
}

fn same_request<'n>(
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

fn minted(svid: &NodeSvid) -> MintedX509 {
    MintedX509 {
        certificate: svid.certificate.clone(),
        serial: svid.serial,
        expires_at: svid.expires_at,
    }
}

fn no_node() -> Refused {
    Refused::new(RefusalKind::NotFound, "NO_SUCH_NODE", "no such node")
}
