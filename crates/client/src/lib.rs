//! Typed client of server and agent.
//!
//! [`Endpoint`] says where, [`connect`] makes the channel: a unix socket, or TCP under a
//! `rustls::ClientConfig` that the caller brings (`taskmint_verifier::tls::client_config`, or
//! [`bootstrap`] for a node that trusts nothing yet). The generated clients are thin enough to be
//! used as they are; [`WorkloadApi`] adds the security header and turns messages into values.
//! [`CallError`] reads a denial back out of a failed call, [`in_words`] tells any error with its
//! causes, and [`Backoff`] says when to try again.

mod backoff;
pub mod bootstrap;
mod call_error;
mod connect;
mod endpoint;
mod words;
mod workload;

pub use backoff::Backoff;
pub use call_error::CallError;
pub use connect::{ConnectError, Session, connect, connect_lazy, connect_once};
pub use endpoint::{Endpoint, EndpointError};
pub use words::in_words;
pub use workload::{JwtSvid, SecurityHeader, WorkloadApi, X509Context, X509Svid};

/// Administration, over [`connect`]'s channel.
pub type Admin = taskmint_wire::admin::admin_client::AdminClient<tonic::transport::Channel>;

/// The server's node service.
pub type Nodes = taskmint_wire::node::nodes_client::NodesClient<tonic::transport::Channel>;

/// The revocation log.
pub type Revocation =
    taskmint_wire::revocation::revocation_client::RevocationClient<tonic::transport::Channel>;

/// Tasks, for workloads.
pub type Tasks = taskmint_wire::task::tasks_client::TasksClient<tonic::transport::Channel>;
