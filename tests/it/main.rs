//! Journeys through the whole of Taskmint, in process: the real server over RocksDB or memory,
//! real sockets, real TLS.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod agent;
mod bad_input;
mod banned;
mod bars;
mod calls;
mod checkpoint;
mod checks;
mod crls;
mod deadline;
mod forked;
mod grants;
mod harness;
mod herd;
mod introspection;
mod joined;
mod lease;
mod liveness;
mod node;
mod outage;
mod panics;
mod processes;
mod public;
mod rates;
mod receipts;
mod relay;
mod requests;
mod restore;
mod revocation;
mod rotation;
mod rough;
mod server;
mod signer;
mod skew;
mod status_list;
mod storm;
mod together;
mod watchers;
mod watching;
mod x509pop;
