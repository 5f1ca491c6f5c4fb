//! The rules of a task's life. No I/O, no clock, no randomness: each rule takes what was read and
//! `now`, and returns the new state together with what must be done about it.
//!
//! What holds whatever is called, in whichever order:
//! - an end is final, and nothing below an ended task lives;
//! - a child has no more than its parent in any dimension: scopes, audiences, deadline, limit,
//!   number and depth of children;
//! - a task is suspended if it or any task above it is, and only whoever placed a suspension, or
//!   somebody who stands higher, lifts it;
//! - nothing is minted past a deadline, and no deadline lies past a limit fixed at begin.
//!
//! Everything returned carries versions: the writer commits only if what was read is still so.

mod begin;
mod end;
mod extend;
mod lifetime;
mod plan;
mod refusal;
mod successor;
mod suspension;
#[cfg(test)]
mod tests;
mod tree;

pub use begin::{Ask, Begun, Defaults, begin, times};
pub use end::end;
pub use extend::extend;
pub use lifetime::{Lifetime, MAX_BACKDATE, lifetime, may_mint};
pub use refusal::Refusal;
pub use successor::{RENEWAL_GRACE, successor, successor_due};
pub use suspension::{resume, suspend};
pub use tree::{Changes, TaskStatus, Tree};
