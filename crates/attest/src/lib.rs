//! What an attestor implements.
//!
//! A [`WorkloadAttestor`] runs in the agent and says what it knows of a peer, in selectors. A node
//! is attested by a pair: a [`NodeProver`] in the agent and a [`NodeAttestor`] in the server,
//! which exchange bounded bytes that nothing in between understands.
//!
//! An attestor is a crate below `attestors/` and one line where the agent or the server makes its
//! [`WorkloadAttestors`] or [`NodeAttestors`].

mod error;
mod node;
mod workload;

pub use error::AttestError;
pub use node::{
    AgentContext, Attested, Exchange, MAX_CHALLENGES, MAX_EXCHANGE, NodeAttestor, NodeAttestors,
    NodeProver, ServerContext,
};
pub use workload::{
    ATTEST_TIMEOUT, DuplicateName, MAX_SELECTORS, WorkloadAttestor, WorkloadAttestors,
};

pub use async_trait::async_trait;
