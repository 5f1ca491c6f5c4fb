//! Join tokens: shown once, stored as a hash (P10).

use std::time::Duration;

use sha2::{Digest, Sha256};
use taskmint_id::SpiffeId;
use taskmint_model::{JoinToken, Selectors, Timestamp};
use taskmint_store::{Change, Commit};

use crate::refused::{RefusalKind, Refused};
use crate::{Issuer, Principal};

/// A token as it is shown, once.
#[derive(Debug)]
pub struct NewToken {
    /// The secret, hexadecimal.
    pub secret: String,
    /// The node that it lets in.
    pub node: SpiffeId,
    /// When it stops counting.
    pub expires_at: Timestamp,
}

impl Issuer {
    /// Makes a token that lets one node join as `/taskmint/node/join_token/<node>`.
    ///
    /// # Errors
    /// `BAD_TOKEN` for an ill-formed name or a lifetime over 24 h.
    pub async fn create_token(
        &self,
        by: &Principal,
        node: Option<String>,
        ttl: Duration,
        selectors: Selectors,
    ) -> Result<NewToken, Refused> {
        let bad = |message: String| Refused::new(RefusalKind::Invalid, "BAD_TOKEN", message);
        if ttl.is_zero() || ttl > Duration::from_secs(24 * 3600) {
            return Err(bad("a token lives from one second to 24 hours".to_owned()));
        }
        let now = self.clock.now();
        let name = node.unwrap_or_else(|| hex::encode(self.entropy.array::<8>()));
        let id = SpiffeId::node(&self.settings.trust_domain, "join_token", &name)
            .map_err(|e| bad(e.to_string()))?;
        // On the heap, which is overwritten as it is freed; stacks are not.
        let mut octets = vec![0; 32];
        self.entropy.fill(&mut octets);
        let secret = hex::encode(octets);
        let token = JoinToken {
            hash: Sha256::digest(secret.as_bytes()).into(),
            node: name,
            selectors,
            expires_at: now + ttl,
            consumed_by: None,
            created_by: by.to_string(),
            created_at: now,
        };
        let audit = self.audit(by, "token.create", id.to_string(), None, now);
        let changes = vec![Change::PutToken(token.clone()), Change::Audit(audit)];
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        Ok(NewToken {
            secret,
            node: id,
            expires_at: token.expires_at,
        })
    }

    /// Deletes a token, named by its hash or the first octets of it.
    ///
    /// # Errors
    /// `NO_SUCH_TOKEN`.
    pub async fn delete_token(&self, by: &Principal, prefix: &[u8]) -> Result<(), Refused> {
        let now = self.clock.now();
        let tokens = self.store.tokens().await?;
        let mut found = tokens
            .iter()
            .filter(|t| prefix.len() >= 8 && t.hash.starts_with(prefix));
        let (Some(token), None) = (found.next(), found.next()) else {
            let message = "no such token";
            return Err(Refused::new(
                RefusalKind::NotFound,
                "NO_SUCH_TOKEN",
                message,
            ));
        };
        let audit = self.audit(by, "token.delete", token.node.clone(), None, now);
        let changes = vec![Change::DeleteToken(token.hash), Change::Audit(audit)];
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        Ok(())
    }
}
