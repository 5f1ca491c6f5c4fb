//! The authority in the process that asks it.

use std::sync::Arc;

use async_trait::async_trait;
use taskmint_mint::{
    Authority, Facts, Grant, KeyKind, LogKeyRequest, LogStart, Policy, Prepared, Refusal, Request,
    Sealed, Signed,
};
use taskmint_model::{AuthorityId, Clock, Entropy, Timestamp};

use crate::core::Core;

/// Answers at once, on the caller's thread. For tests, and until the signer is a process of its
/// own: keys share the caller's memory here.
pub struct InProcess {
    core: Arc<Core>,
}

impl InProcess {
    /// Around an authority that others may share.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// With keys that live in memory alone.
    pub fn in_memory(policy: Policy, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self::new(Arc::new(Core::new(policy, None, clock, entropy)))
    }
}

#[async_trait]
impl Authority for InProcess {
    async fn load(&self, keys: Vec<Sealed>, start: LogStart) -> Result<(), Refusal> {
        self.core.load(&keys, &start)
    }

    async fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal> {
        self.core.prepare(kind, id, now)
    }

    async fn activate(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.core.activate(id)
    }

    async fn retire(&self, id: AuthorityId) -> Result<(), Refusal> {
        self.core.retire(id)
    }

    async fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal> {
        self.core.certify_log_key(request)
    }

    async fn grant(&self, facts: &Facts) -> Result<Grant, Refusal> {
        self.core.grant(facts)
    }

    async fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>> {
        self.core.issue(batch)
    }
}
