//! The node attestors that this server knows. Adding one is a function here.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use taskmint_attest::NodeAttestor;
use taskmint_model::{Entropy, JoinToken};
use taskmint_node_join_token::{JoinTokenAttestor, LookupError, Tokens};
use taskmint_node_x509pop::X509PopAttestor;
use taskmint_store::Store;

struct Stored(Arc<dyn Store>);

#[async_trait]
impl Tokens for Stored {
    async fn token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, LookupError> {
        self.0.token(hash).await.map_err(LookupError::new)
    }
}

pub(crate) fn join_token(store: Arc<dyn Store>) -> Arc<dyn NodeAttestor> {
    Arc::new(JoinTokenAttestor::new(Arc::new(Stored(store))))
}

pub(crate) fn x509pop(
    ca_files: &[PathBuf],
    entropy: Arc<dyn Entropy>,
) -> anyhow::Result<Arc<dyn NodeAttestor>> {
    let mut pem = Vec::new();
    for file in ca_files {
        let shown = file.display();
        pem.push(std::fs::read(file).with_context(|| format!("cannot read {shown}"))?);
    }
    let attestor = X509PopAttestor::from_pem(&pem, entropy)
        .context("`node_attestors.x509pop.ca_files` can't be used")?;
    Ok(Arc::new(attestor))
}
