//! The authority as its callers and its attackers see it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers fail the test they serve"
)]

mod attacks;
mod certificates;
mod fixed;
mod layout;
mod lint;
mod lists;
mod log;
mod residue;
mod rotation;
mod support;
mod tokens;
mod vectors;
