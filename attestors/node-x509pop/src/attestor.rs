//! The server's side.

use std::sync::Arc;

use async_trait::async_trait;
use taskmint_attest::{AttestError, Attested, Exchange, NodeAttestor, ServerContext};
use taskmint_model::Entropy;

use crate::NAME;
use crate::chain::Chain;
use crate::facts::Facts;
use crate::proof::{NONCE, Statement};
use crate::roots::{Roots, RootsError};

/// The server's side.
pub struct X509PopAttestor {
    roots: Roots,
    entropy: Arc<dyn Entropy>,
}

impl X509PopAttestor {
    /// An attestor that trusts the CAs in these PEM files, each with one certificate at least.
    ///
    /// # Errors
    /// [`RootsError`]: which file is wrong, and how.
    pub fn from_pem(ca_files: &[Vec<u8>], entropy: Arc<dyn Entropy>) -> Result<Self, RootsError> {
        let roots = Roots::from_pem(ca_files)?;
        Ok(Self { roots, entropy })
    }
}

#[async_trait]
impl NodeAttestor for X509PopAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(
        &self,
        context: &ServerContext<'_>,
        payload: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<Attested, AttestError> {
        let chain = Chain::decode(payload).map_err(|_| AttestError::Malformed {
            what: "the certificate chain",
        })?;
        let facts = Facts::of(&chain, &self.roots, context)?;
        let nonce: [u8; NONCE] = self.entropy.array();
        let signature = exchange.challenge(nonce.to_vec()).await?;
        let statement = Statement {
            nonce: &nonce,
            tls_exporter: &context.tls_exporter,
            trust_domain: context.trust_domain,
            node_spki: context.node_spki,
            leaf: chain.leaf(),
        };
        statement.verify(&signature)?;
        Ok(Attested {
            attestor: NAME,
            node_suffix: facts.fingerprint,
            selectors: facts.selectors,
            consume: None,
            can_reattest: true,
        })
    }
}
