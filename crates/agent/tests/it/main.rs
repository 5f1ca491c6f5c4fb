//! The agent in process, with a server that plays its part over plain TCP and processes that
//! connect for themselves.

mod bad_input;
mod fake;
mod holding;
mod node;
mod puppet;
mod session;
mod tasks;
mod workload;
