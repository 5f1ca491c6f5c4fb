//! What others find in the memory of our processes: keys that are known here, looked for in images
//! that were taken from outside, as root with a debugger would (contract line 8).
//!
//! Each search also looks for something public that must be there. One that does not find it has
//! proved nothing.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod desk;
mod image;
mod known;
mod numbers;
mod processes;
mod signer;
mod world;

/// Says why a part did not run, in the way that `tests/run` counts.
pub(crate) fn skip(why: &str) {
    println!("\nskipped: {why}");
}
