//! Node attestation by a one-time join token (P10).
//!
//! Whoever shows the token first, over a connection whose server was pinned before, is the node.
//! The server stores only the token's hash: looking a hash up tells nothing about a token by its
//! timing, so no constant-time comparison is needed.

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use taskmint_attest::{
    AgentContext, AttestError, Attested, Exchange, NodeAttestor, NodeProver, ServerContext,
};
use taskmint_model::{JoinToken, Selector};
use zeroize::Zeroizing;

/// The attestor's name, in node ids and in the configuration.
pub const NAME: &str = "join_token";

/// The longest token, in bytes; ours have 64.
const MAX_TOKEN: usize = 256;

/// Where tokens are looked up: by SHA-256 of the token's text.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// The token with this hash, if it was ever made and not deleted.
    ///
    /// # Errors
    /// When it can't be looked up now.
    async fn token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, LookupError>;
}

/// A token could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("tokens can't be looked up")]
pub struct LookupError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl LookupError {
    /// Wraps whatever went wrong.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// The server's side.
pub struct JoinTokenAttestor(Arc<dyn Tokens>);

impl JoinTokenAttestor {
    /// An attestor over stored tokens.
    pub fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self(tokens)
    }
}

/// The agent's side: shows its token, once per attestation.
pub struct JoinTokenProver(Zeroizing<String>);

impl JoinTokenProver {
    /// A prover with the token of a join string.
    pub fn new(token: Zeroizing<String>) -> Self {
        Self(token)
    }
}

#[async_trait]
impl NodeProver for JoinTokenProver {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(&self, _: &AgentContext<'_>) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.as_bytes().to_vec())
    }

    async fn respond(&self, _: &AgentContext<'_>, _: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::Malformed {
            what: "the challenge: join tokens know none",
        })
    }
}

#[async_trait]
impl NodeAttestor for JoinTokenAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(
        &self,
        context: &ServerContext<'_>,
        payload: &[u8],
        _: &mut dyn Exchange,
    ) -> Result<Attested, AttestError> {
        if payload.is_empty() || payload.len() > MAX_TOKEN {
            return Err(AttestError::Malformed {
                what: "the join token",
            });
        }
        let hash: [u8; 32] = Sha256::digest(payload).into();
        let token = self
            .0
            .token(&hash)
            .await
            .map_err(|error| AttestError::Unavailable {
                reason: "TOKENS_UNAVAILABLE",
                what: "the token store".to_owned(),
                source: Box::new(error),
            })?;
        let refused = |reason, detail: &str| AttestError::Refused {
            reason,
            detail: detail.to_owned(),
        };
        let token = token.ok_or_else(|| refused("TOKEN_UNKNOWN", "this join token is unknown"))?;
        let key: [u8; 32] = Sha256::digest(context.node_spki).into();
        // The key that consumed it may retry, even late: its first answer may have been lost.
        match token.consumed_by {
            Some(by) if by == key => {}
            Some(_) => {
                return Err(refused(
                    "TOKEN_USED",
                    "this join token was used by another node",
                ));
            }
            None if token.expires_at <= context.now => {
                return Err(refused("TOKEN_EXPIRED", "this join token has expired"));
            }
            None => {}
        }
        let mut selectors: Vec<_> = token.selectors.into_iter().collect();
        selectors.retain(|selector| selector.kind() == NAME);
        selectors.push(Selector::new(NAME, &format!("node:{}", token.node))?);
        Ok(Attested {
            attestor: NAME,
            node_suffix: token.node,
            selectors,
            consume: Some(hash),
            can_reattest: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use taskmint_model::Timestamp;

    use super::*;

    struct One(Option<JoinToken>);

    #[async_trait]
    impl Tokens for One {
        async fn token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, LookupError> {
            Ok(self.0.clone().filter(|token| token.hash == *hash))
        }
    }

    struct Silent;

    #[async_trait]
    impl Exchange for Silent {
        async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, AttestError> {
            Err(AttestError::Interrupted)
        }
    }

    fn token(consumed_by: Option<[u8; 32]>) -> JoinToken {
        JoinToken {
            hash: Sha256::digest(b"secret").into(),
            node: "n1".to_owned(),
            selectors: Default::default(),
            expires_at: Timestamp::from_secs(100),
            consumed_by,
            created_by: "uid:0".to_owned(),
            created_at: Timestamp::from_secs(1),
        }
    }

    async fn check(
        stored: Option<JoinToken>,
        shown: &[u8],
        now: u64,
    ) -> Result<Attested, &'static str> {
        let attestor = JoinTokenAttestor::new(Arc::new(One(stored)));
        let context = ServerContext {
            trust_domain: "td",
            node_spki: b"key",
            tls_exporter: [0; 32],
            now: Timestamp::from_secs(now),
        };
        attestor
            .attest(&context, shown, &mut Silent)
            .await
            .map_err(|error| error.reason())
    }

    #[tokio::test]
    async fn a_good_token_names_its_node() {
        let attested = check(Some(token(None)), b"secret", 50).await.unwrap();
        assert_eq!(attested.node_suffix, "n1");
        assert_eq!(attested.selectors[0].to_string(), "join_token:node:n1");
        assert!(attested.consume.is_some());
    }

    #[tokio::test]
    async fn bad_tokens_say_why() {
        let long = [b'a'; MAX_TOKEN + 1];
        let own: [u8; 32] = Sha256::digest(b"key").into();
        for (stored, shown, now, reason) in [
            (Some(token(None)), &b"guess"[..], 50, Err("TOKEN_UNKNOWN")),
            (None, b"secret", 50, Err("TOKEN_UNKNOWN")),
            (Some(token(None)), b"secret", 100, Err("TOKEN_EXPIRED")),
            (Some(token(Some([7; 32]))), b"secret", 50, Err("TOKEN_USED")),
            (Some(token(Some(own))), b"secret", 500, Ok(())),
            (Some(token(None)), b"", 50, Err("ATTESTATION_MALFORMED")),
            (Some(token(None)), &long, 50, Err("ATTESTATION_MALFORMED")),
        ] {
            assert_eq!(check(stored, shown, now).await.map(|_| ()), reason);
        }
    }
}
