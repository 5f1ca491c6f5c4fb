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
mod harness;
mod node;
mod revocation;
mod server;
