//! Node leases (P12): in memory, granted anew at each start.

use std::collections::HashMap;

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::Timestamp;

/// When each node's lease ends, and which nodes have let theirs lapse since they last opened a
/// session.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<SpiffeId, Lease>>);

#[derive(Debug, Clone, Copy)]
struct Lease {
    until: Timestamp,
    lapsed: bool,
    /// Number of the newest session; an older one that still answers is a copy (P11).
    session: u64,
    connected: bool,
}

impl Leases {
    /// Grants a lease without a session: at start, every node gets one.
    pub(crate) fn grant(&self, node: &SpiffeId, until: Timestamp) {
        let new = Lease {
            until,
            lapsed: false,
            session: 0,
            connected: false,
        };
        self.0.lock().entry(node.clone()).or_insert(new).until = until;
    }

    /// Opens a session: returns its number, and whether the lease had lapsed.
    pub(crate) fn open(&self, node: &SpiffeId, until: Timestamp) -> (u64, bool) {
        let mut leases = self.0.lock();
        let new = Lease {
            until,
            lapsed: false,
            session: 0,
            connected: false,
        };
        let lease = leases.entry(node.clone()).or_insert(new);
        let lapsed = std::mem::replace(&mut lease.lapsed, false);
        lease.until = until;
        lease.session += 1;
        lease.connected = true;
        (lease.session, lapsed)
    }

    /// Renews the lease; false if the session is not the newest one.
    pub(crate) fn renew(&self, node: &SpiffeId, session: u64, until: Timestamp) -> bool {
        match self.0.lock().get_mut(node) {
            Some(lease) if lease.session == session && !lease.lapsed => {
                lease.until = until;
                true
            }
            _ => false,
        }
    }

    /// A session ended; the lease runs on until it lapses.
    pub(crate) fn close(&self, node: &SpiffeId, session: u64) {
        if let Some(lease) = self.0.lock().get_mut(node)
            && lease.session == session
        {
            lease.connected = false;
        }
    }

    /// Nodes whose lease has just lapsed.
    pub(crate) fn lapse(&self, now: Timestamp) -> Vec<SpiffeId> {
        let mut leases = self.0.lock();
        let due = leases
            .iter_mut()
            .filter(|(_, lease)| !lease.lapsed && lease.until <= now);
        due.map(|(node, lease)| {
            lease.lapsed = true;
            lease.connected = false;
            node.clone()
        })
        .collect()
    }

    /// Whether the node holds its lease over a session now.
    pub(crate) fn connected(&self, node: &SpiffeId) -> bool {
        self.0.lock().get(node).is_some_and(|lease| lease.connected)
    }

    /// Forgets a node: it was evicted or banned.
    pub(crate) fn forget(&self, node: &SpiffeId) {
        self.0.lock().remove(node);
    }
}
