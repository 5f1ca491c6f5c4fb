//! The fan-out against real gRPC clients, and against some that are not.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod bad_input;
mod log;
mod slow;
mod tls;
mod watcher;
mod watching;
