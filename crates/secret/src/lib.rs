//! Memory for keys that no dump, no swap and no `/proc/PID/mem` holds, and stacks to use them on.
//!
//! A key is safe only if everything that is derived from it is, too: its copies, its nonces, the
//! registers that held them. So there are two halves, and a key needs both:
//!
//! - [`SecretBox`] and [`SecretBuffer`] hold a value between guard pages, in memory that the kernel
//!   maps for this process alone (`memfd_secret`); wiped before it is given back.
//! - [`on_secret_stack`] runs what touches it on a stack of the same memory, with signals blocked,
//!   and clears registers before it returns. [`batch`] pays for signals and wiping once.
//!
//! ```
//! use taskmint_secret::{SecretBox, on_secret_stack};
//!
//! let key = SecretBox::<[u8; 32]>::filled(|key| key.fill(7));
//! // What the closure returns lies on the ordinary stack: it must be public.
//! let public: u32 = on_secret_stack(|| key.expose().iter().map(|octet| u32::from(*octet)).sum());
//! assert_eq!(public, 7 * 32);
//! ```
//!
//! [`Wiping`] is for processes that hold no keys for long, but through which secrets pass.
//!
//! Where the kernel refuses, weaker memory is used and [`protection`] says what is no longer
//! covered. None of it stops a root that injects code into the process.
//!
//! The crate is all system calls and raw memory, so `unsafe` is allowed in its modules, each block
//! with the reason why it holds; its API is safe.

mod arena;
mod boxed;
mod buffer;
mod protection;
mod region;
mod registers;
mod scratch;
mod stack;
#[cfg(test)]
mod tests;
mod wiping;

pub use boxed::SecretBox;
pub use buffer::SecretBuffer;
#[cfg(any(test, feature = "control"))]
pub use protection::settle_for;
pub use protection::{Protection, protection, scratch_protection};
pub use scratch::Scratch;
pub use stack::{batch, on_secret_stack};
pub use wiping::Wiping;
