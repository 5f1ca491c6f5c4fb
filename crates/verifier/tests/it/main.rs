//! The verifier against those who would get past it.

#[cfg(test)]
mod jwt;
#[cfg(test)]
mod world;
#[cfg(test)]
mod x509;

#[cfg(feature = "watch")]
#[cfg(test)]
mod bundles;
#[cfg(all(feature = "connections", feature = "rustls", feature = "tower"))]
#[cfg(test)]
mod closing;
#[cfg(feature = "connections")]
#[cfg(test)]
mod connections;
#[cfg(feature = "rustls")]
#[cfg(test)]
mod handshake;
#[cfg(feature = "watch")]
#[cfg(test)]
mod hostile;
#[cfg(feature = "tower")]
#[cfg(test)]
mod layer;
#[cfg(feature = "watch")]
#[cfg(test)]
mod log;
#[cfg(feature = "watch")]
#[cfg(test)]
mod watch;
