//! What attestors vouch for, taken in.

use sha2::{Digest, Sha256};
use taskmint_id::SpiffeId;
use taskmint_mint::PublicKey;
use taskmint_model::{Node, NodeState, Selectors};
use taskmint_store::{Change, CommitError, Expect};

use super::svids::{minted, same_request};
use crate::begin::ATTEMPTS;
use crate::refused::{RefusalKind, Refused};
use crate::{Issuer, MintedX509, Principal};

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
}
