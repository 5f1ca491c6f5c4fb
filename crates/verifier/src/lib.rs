//! What a service embeds: who is at the other end, for which task, and whether that task still is.
//!
//! The core takes bytes, bundles and an instant and says yes or why not: [`verify_x509`] for
//! certificate chains, [`verify_jwt`] for tokens. It does no I/O and reads no clock. Whether the
//! task behind a credential has ended is asked of a [`StatusCheck`]; the feature `watch` brings
//! one that follows the revocation log and says no when it hears nothing.
//!
//! | feature | brings |
//! |---|---|
//! | `rustls` | `tls`: server and client configurations, hot-swappable identity |
//! | `connections` | a registry that closes open connections when their task ends |
//! | `tower` | `layer`: the peer in request extensions, its status asked on each request |
//! | `watch` | `watch`: bundles and statuses kept fresh (tokio, tonic) |
//!
//! A certificate's task binding and serial are claims of its issuer: they mean something only
//! below that trust domain's own bundle, which is why nothing here hands them out unverified but
//! `tls::read_verified`, whose name says what it relies on.

mod jwt;
mod path;
mod peer;
mod status;
mod trust;

#[cfg(feature = "connections")]
pub mod connections;
#[cfg(feature = "tower")]
pub mod layer;
#[cfg(feature = "rustls")]
pub mod tls;
#[cfg(feature = "watch")]
pub mod watch;

pub use jwt::{TokenError, VerifiedToken, verify_jwt};
pub use path::verify_x509;
pub use peer::{PeerSvid, SvidError};
pub use status::{Policy, Refused, StatusCheck, judge};
pub use trust::Trust;
