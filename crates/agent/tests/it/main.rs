//! The agent in process, with a server that plays its part over plain TCP and processes that
//! connect for themselves.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers fail the test they serve"
)]

mod bad_input;
mod command;
mod envoy;
mod fake;
mod holding;
mod join;
mod log;
mod node;
mod puppet;
mod relay;
mod session;
mod tasks;
mod workload;
