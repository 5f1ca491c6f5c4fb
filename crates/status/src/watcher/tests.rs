//! The attacks of protocol P14 to P17, each played against the watcher, and random scripts.

mod attacks;
mod scripts;
mod world;
