//! gRPC and HTTP over the issuer.
//!
//! Three listeners: nodes and named administrators over mTLS, watchers of the revocation log over
//! mTLS on an address of their own, administrators of this host on a unix socket. A fourth, HTTP on
//! loopback, says whether the server lives and is ready.

mod admin;
mod admin_access;
mod attestors;
mod connection;
mod identity;
mod limits;
mod metrics;
mod nodes;
mod public;
mod receipts;
mod refusal;
mod requests;
mod server;
mod sessions;
mod signer;
mod store;
mod upkeep;
mod watch;

pub use server::{Bound, MakeAuthority, Running, ServeError, Server};
