//! Builds and signs certificates, tokens and heads. The only home of private authority keys.
//!
//! Every request is typed, and every rule of P23 is checked here again: a caller that was taken
//! over can have short-lived, counted credentials of workloads of this trust domain, and nothing
//! else. Nothing in here opens a file or a socket, or waits: the caller stores the sealed keys and
//! hands them back at start (P25).
//!
//! - [`Core`]: the authority. [`InProcess`] puts it behind the port of `mint`.
//! - [`Policy`]: what it refuses whoever asks.
//! - [`SealingKey`]: what its keys are sealed with at rest; [`SealedFile`] is how it rests itself.
//!
//! Keys, and the stacks that make, open and use them, are in memory that no dump and no other process
//! can read (`taskmint-secret`).

mod chain;
mod core;
mod crl;
mod grant;
mod in_process;
mod keyring;
mod log;
mod policy;
mod rotation;
mod sealed_file;
mod sealing;
mod secret;
mod signer;
mod status_list;

pub use self::core::Core;
pub use in_process::InProcess;
pub use sealed_file::SealedFile;
pub use sealing::{SealingKey, SealingKeyError};
pub use taskmint_mint::{Caps, Policy};
