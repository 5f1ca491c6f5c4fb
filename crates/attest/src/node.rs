//! Attesting a node: a payload, and challenges where the attestor wants some.
//!
//! ```text
//! agent: NodeProver                          server: NodeAttestor
//!   begin ─────────── payload ─────────────────> attest
//!   respond <──────── challenge ────────────────   │ as often as it needs, at most MAX_CHALLENGES
//!           ───────── response ─────────────────>  │
//!                                               Attested
//! ```
//!
//! Both sides hold the same facts of the connection that carries this: what proves the node must
//! be bound to them, or it could be carried over into another.

use std::sync::Arc;

use async_trait::async_trait;
use taskmint_model::{Selector, Timestamp};

use crate::error::AttestError;
use crate::workload::{DuplicateName, MAX_SELECTORS, no_duplicates};

/// The most bytes of a payload, a challenge or a response.
pub const MAX_EXCHANGE: usize = 64 << 10;

/// The most challenges of one attestation.
pub const MAX_CHALLENGES: usize = 8;

/// The longest node suffix, in bytes.
const MAX_SUFFIX: usize = 255;

/// What the agent's side may bind its proof to.
#[derive(Debug, Clone, Copy)]
pub struct AgentContext<'a> {
    /// The trust domain that the node joins, without scheme.
    pub trust_domain: &'a str,
    /// The node's new public key, SPKI DER.
    pub node_spki: &'a [u8],
    /// Exporter of the TLS connection that the attestation runs over.
    pub tls_exporter: [u8; 32],
}

/// What the server's side knows by itself.
#[derive(Debug, Clone, Copy)]
pub struct ServerContext<'a> {
    /// This server's trust domain, without scheme.
    pub trust_domain: &'a str,
    /// The public key that the node asks to have certified, SPKI DER.
    pub node_spki: &'a [u8],
    /// Exporter of the TLS connection that the attestation runs over.
    pub tls_exporter: [u8; 32],
    /// The wall clock.
    pub now: Timestamp,
}

/// A node that was attested, and what must be done with that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Attested {
    /// Who attested it: the segment before the suffix.
    pub attestor: &'static str,
    /// The last segment of the node's id: `spiffe://<td>/taskmint/node/<attestor>/<suffix>`.
    pub node_suffix: String,
    /// What the node was attested to be.
    pub selectors: Vec<Selector>,
    /// SHA-256 of a one-time token, to be consumed in the write that makes the node (P10).
    pub consume: Option<[u8; 32]>,
    /// Whether the same proof may be given again: the agent can come back unaided.
    pub can_reattest: bool,
}

/// Carries one challenge to the agent and its response back.
#[async_trait]
pub trait Exchange: Send {
    /// Sends `challenge` and waits for the response.
    ///
    /// # Errors
    /// [`AttestError::Interrupted`] if the agent went away; a bound that was passed.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError>;
}

/// The server's half of a node attestor.
#[async_trait]
pub trait NodeAttestor: Send + Sync {
    /// Its name in configuration, on the wire and in node ids.
    fn name(&self) -> &'static str;

    /// Decides who the node is. It changes nothing: a token is consumed by who makes the node.
    ///
    /// # Errors
    /// Any error denies the node.
    async fn attest(
        &self,
        context: &ServerContext<'_>,
        payload: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<Attested, AttestError>;
}

/// The agent's half of a node attestor.
#[async_trait]
pub trait NodeProver: Send + Sync {
    /// The name of its server half.
    fn name(&self) -> &'static str;

    /// The payload that opens the attestation. Called only after the server's identity is pinned.
    ///
    /// # Errors
    /// If it has nothing to prove itself with.
    async fn begin(&self, context: &AgentContext<'_>) -> Result<Vec<u8>, AttestError>;

    /// The response to a challenge.
    ///
    /// # Errors
    /// If the challenge is not one of its server half.
    async fn respond(
        &self,
        context: &AgentContext<'_>,
        challenge: &[u8],
    ) -> Result<Vec<u8>, AttestError>;
}

/// All node attestors of a server; holds them to the bounds.
#[derive(Clone)]
pub struct NodeAttestors(Arc<[Arc<dyn NodeAttestor>]>);

impl NodeAttestors {
    /// Takes the configured attestors.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn new(attestors: Vec<Arc<dyn NodeAttestor>>) -> Result<Self, DuplicateName> {
        no_duplicates(attestors.iter().map(|attestor| attestor.name()))?;
        Ok(Self(attestors.into()))
    }

    /// Names, in the order given.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|attestor| attestor.name())
    }

    /// Has the attestor that the agent named decide who the node is.
    ///
    /// # Errors
    /// If there is no such attestor, a bound is passed, or the attestor denies the node.
    pub async fn attest(
        &self,
        name: &str,
        context: &ServerContext<'_>,
        payload: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<Attested, AttestError> {
        let attestor = self
            .0
            .iter()
            .find(|attestor| attestor.name() == name)
            .ok_or_else(|| AttestError::UnknownAttestor {
                name: name.chars().take(64).collect(),
            })?;
        within("attestation payload", payload)?;
        let mut bounded = Bounded {
            exchange,
            challenges: 0,
        };
        let attested = attestor.attest(context, payload, &mut bounded).await?;
        check(attestor.name(), attested)
    }
}

impl std::fmt::Debug for NodeAttestors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// An exchange that ends before it takes more than an attestation may.
struct Bounded<'a> {
    exchange: &'a mut dyn Exchange,
    challenges: usize,
}

#[async_trait]
impl Exchange for Bounded<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        if self.challenges == MAX_CHALLENGES {
            return Err(AttestError::TooManyChallenges {
                limit: MAX_CHALLENGES,
            });
        }
        self.challenges += 1;
        within("attestation challenge", &challenge)?;
        let response = self.exchange.challenge(challenge).await?;
        within("attestation response", &response)?;
        Ok(response)
    }
}

fn within(what: &'static str, bytes: &[u8]) -> Result<(), AttestError> {
    if bytes.len() > MAX_EXCHANGE {
        return Err(AttestError::TooLarge {
            what,
            limit: MAX_EXCHANGE,
        });
    }
    Ok(())
}

/// An attestor names the node below its own name only, with selectors of its own kind.
fn check(attestor: &'static str, attested: Attested) -> Result<Attested, AttestError> {
    let broken = |what| Err(AttestError::Broken { attestor, what });
    if attested.attestor != attestor {
        return broken("attested in another's name");
    }
    if !is_segment(&attested.node_suffix) {
        return broken("gave a node suffix that is no path segment");
    }
    if attested.selectors.len() > MAX_SELECTORS {
        return broken("gave too many selectors");
    }
    Ok(attested)
}

/// One segment of a SPIFFE path (SPIFFE-ID 2.2): letters, digits, `.`, `-`, `_`, and not `.` or `..`.
fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.len() <= MAX_SUFFIX && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attests in a name, after a number of challenges.
    struct Played {
        name: &'static str,
        suffix: &'static str,
        challenges: usize,
        bytes: usize,
    }

    struct Echo;

    #[async_trait]
    impl NodeAttestor for Played {
        fn name(&self) -> &'static str {
            "played"
        }

        async fn attest(
            &self,
            _: &ServerContext<'_>,
            _: &[u8],
            exchange: &mut dyn Exchange,
        ) -> Result<Attested, AttestError> {
            for _ in 0..self.challenges {
                exchange.challenge(vec![1; self.bytes]).await?;
            }
            Ok(Attested {
                attestor: self.name,
                node_suffix: self.suffix.into(),
                selectors: vec![Selector::new(self.name, "x")?],
                consume: None,
                can_reattest: true,
            })
        }
    }

    #[async_trait]
    impl Exchange for Echo {
        async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
            Ok(challenge.repeat(2))
        }
    }

    async fn outcome(name: &str, payload: usize, played: Played) -> Result<(), &'static str> {
        let context = ServerContext {
            trust_domain: "example.org",
            node_spki: &[],
            tls_exporter: [0; 32],
            now: Timestamp::from_secs(1),
        };
        let attestors = NodeAttestors::new(vec![Arc::new(played)]).unwrap();
        let attested = attestors
            .attest(name, &context, &vec![0; payload], &mut Echo)
            .await;
        attested.map(drop).map_err(|error| error.reason())
    }

    #[tokio::test]
    async fn attestors_and_agents_are_held_to_the_bounds() {
        let played = |suffix, challenges, bytes| Played {
            name: "played",
            suffix,
            challenges,
            bytes,
        };
        let half = MAX_EXCHANGE / 2;
        let good = || played("node-1", MAX_CHALLENGES, half);
        assert_eq!(outcome("played", MAX_EXCHANGE, good()).await, Ok(()));
        assert_eq!(outcome("other", 0, good()).await, Err("ATTESTOR_UNKNOWN"));
        let too_large = Err("ATTESTATION_TOO_LARGE");
        assert_eq!(outcome("played", MAX_EXCHANGE + 1, good()).await, too_large);
        assert_eq!(
            outcome("played", 0, played("n", 1, half + 1)).await,
            too_large
        );
        assert_eq!(
            outcome("played", 0, played("n", 1, MAX_EXCHANGE + 1)).await,
            too_large
        );
        let long = played("n", MAX_CHALLENGES + 1, 1);
        assert_eq!(
            outcome("played", 0, long).await,
            Err("ATTESTATION_TOO_LONG")
        );
    }

    #[tokio::test]
    async fn an_attestor_names_nodes_below_itself_only() {
        for suffix in ["", ".", "..", "a/b", "a b", "é"] {
            let played = Played {
                name: "played",
                suffix,
                challenges: 0,
                bytes: 0,
            };
            assert_eq!(
                outcome("played", 0, played).await,
                Err("ATTESTOR_BROKEN"),
                "{suffix}"
            );
        }
        let posing = Played {
            name: "x509pop",
            suffix: "n",
            challenges: 0,
            bytes: 0,
        };
        assert_eq!(outcome("played", 0, posing).await, Err("ATTESTOR_BROKEN"));
    }
}
