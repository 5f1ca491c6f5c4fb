//! The node attestors that this server knows. Adding one is a function here.

use std::sync::Arc;

use async_trait::async_trait;
use taskmint_attest::NodeAttestor;
use taskmint_model::JoinToken;
use taskmint_node_join_token::{JoinTokenAttestor, LookupError, Tokens};
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
