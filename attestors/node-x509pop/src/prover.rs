//! The agent's side.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use taskmint_attest::{AgentContext, AttestError, NodeProver};
use webpki::EndEntityCert;
use zeroize::Zeroize as _;

use crate::chain::{Chain, ChainError};
use crate::proof::{SCHEMES, Statement};

/// The agent's side: shows a certificate, and signs with its key.
pub struct X509PopProver {
    chain: Chain,
    key: Arc<dyn SigningKey>,
}

/// Files that prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProverError {
    /// The chain can't be read or sent.
    #[error("the certificate chain can't be used")]
    Chain(#[from] ChainError),
    /// The first certificate can't be read.
    #[error("the first certificate is malformed")]
    Certificate,
    /// No private key, or none that is read here.
    #[error("no private key of kind P-256, P-384, P-521, Ed25519 or RSA, as unencrypted PEM")]
    Key,
    /// The key is not the certificate's.
    #[error("the private key is not that of the first certificate")]
    Mismatch,
}

impl X509PopProver {
    /// A prover with a certificate chain, the leaf first, and the leaf's private key (PKCS#8, SEC1
    /// or PKCS#1), both as PEM.
    ///
    /// # Errors
    /// [`ProverError`]: what is wrong with them.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, ProverError> {
        let chain = Chain::from_pem(chain_pem)?;
        let mut der = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| ProverError::Key)?;
        let key = any_supported_type(&der);
        der.zeroize();
        let key = key.map_err(|_| ProverError::Key)?;
        let spki = key.public_key().ok_or(ProverError::Key)?;
        let leaf = EndEntityCert::try_from(chain.leaf()).map_err(|_| ProverError::Certificate)?;
        if leaf.subject_public_key_info() != spki {
            return Err(ProverError::Mismatch);
        }
        if key.choose_scheme(SCHEMES).is_none() {
            return Err(ProverError::Key);
        }
        Ok(Self { chain, key })
    }
}

#[async_trait]
impl NodeProver for X509PopProver {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    async fn begin(&self, _: &AgentContext<'_>) -> Result<Vec<u8>, AttestError> {
        Ok(self.chain.encode())
    }

    async fn respond(
        &self,
        context: &AgentContext<'_>,
        challenge: &[u8],
    ) -> Result<Vec<u8>, AttestError> {
        let malformed = |_| AttestError::Malformed {
            what: "the challenge",
        };
        let statement = Statement {
            nonce: challenge.try_into().map_err(malformed)?,
            tls_exporter: &context.tls_exporter,
            trust_domain: context.trust_domain,
            node_spki: context.node_spki,
            leaf: self.chain.leaf(),
        };
        let unusable = |source: rustls::Error| AttestError::Unavailable {
            reason: "KEY_UNUSABLE",
            what: "the certificate's key".to_owned(),
            source: Box::new(source),
        };
        self.key
            .choose_scheme(SCHEMES)
            .ok_or_else(|| unusable(rustls::Error::General("no signature scheme".to_owned())))?
            .sign(&statement.message())
            .map_err(unusable)
    }
}
