//! What tests lean on: a test CA that shares no code with the authority, a clock that is moved by
//! hand, and randomness that repeats.
//!
//! It starts no server and stays below them all, so that no crate meets itself in its own tests.
//! Everything in here panics where it fails: the test that uses it has then failed.

mod ca;
mod chance;
mod clock;
mod key;
mod leaf;
mod pem;

pub use ca::TestCa;
pub use chance::SeededEntropy;
pub use clock::ManualClock;
pub use key::{TestKey, token};
pub use leaf::{Constraints, LeafSpec, TestLeaf, Usage};
pub use pem::pem;

/// The value, or the end of the test.
#[expect(
    clippy::panic,
    reason = "a test kit that fails fails the test that uses it"
)]
#[track_caller]
pub(crate) fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("test kit: {error}"),
    }
}
