//! The signer's protocol and its client, without a signer.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod round_trip;
#[cfg(feature = "remote")]
mod silence;
