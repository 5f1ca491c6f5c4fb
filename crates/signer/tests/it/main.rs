//! The signer as its server, its operator and its attackers see it: the real program, over real
//! sockets.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod abuse;
mod command;
mod failure;
mod fences;
mod front_end;
mod front_end_keys;
mod keys;
mod protection;
mod support;
