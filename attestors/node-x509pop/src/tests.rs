//! Both sides against each other, and each attack on what is between them.

mod chains;
mod keys;
mod proofs;
mod world;
