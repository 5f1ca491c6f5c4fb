//! What bounds the fan-out.

use std::time::Duration;

/// Octets that a stream may have on their way inside of h2, and a connection inside of TLS.
pub(crate) const SEND_BUFFER: usize = 16 << 10;

/// Bounds and patience. The defaults are those of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A watcher further behind than this gets a checkpoint.
    pub behind: u64,
    /// How long a watcher may take to say what it wants.
    pub open: Duration,
    /// How long a watcher may leave unread what it was sent.
    pub unread: Duration,
    /// How long a peer may be silent before it is asked whether it is there.
    pub keepalive: Duration,
    /// How long it may take to answer.
    pub pong: Duration,
    /// How long other heads wait for the one that answers a watcher's nonce.
    pub hold: Duration,
    /// How long the last words of a stop may take to leave.
    pub drain: Duration,
    /// Watches on one connection.
    pub streams: usize,
    /// Lanes of a listener: one for each core.
    pub lanes: usize,
    /// Connections of a listener, at once.
    pub connections: usize,
    /// Handshakes that may keep one lane busy at the same time.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let lanes = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            behind: 65_536,
            open: Duration::from_secs(10),
            unread: Duration::from_secs(60),
            keepalive: Duration::from_secs(20),
            pong: Duration::from_secs(20),
            hold: Duration::from_millis(200),
            drain: Duration::from_secs(2),
            streams: 8,
            lanes,
            connections: 20_000,
            handshakes: 64,
            handshake: Duration::from_secs(10),
        }
    }
}
