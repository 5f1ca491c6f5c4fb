//! The attacks of protocol P14 to P17, each played against the watcher, and random scripts.

mod hours;
mod log;
mod scripts;
mod time;
mod world;
