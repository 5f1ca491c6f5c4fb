//! The verifier against those who would get past it.

mod jwt;
mod world;
mod x509;

#[cfg(feature = "connections")]
mod connections;
#[cfg(feature = "rustls")]
mod handshake;
#[cfg(feature = "tower")]
mod layer;
#[cfg(feature = "watch")]
mod log;
#[cfg(feature = "watch")]
mod watch;
