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
    /// The newest session has renewed: whoever answers on an older one is somebody else.
    renewed: bool,
}

/// What a renewal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It holds.
    Renewed,
    /// It lapsed, or the session was never opened.
    Lapsed,
    /// The node has a newer session.
    Superseded,
    /// The node has a newer session, and both answer: its state was copied (P11).
    Copied,
}

impl Leases {
    /// Grants a lease without a session: at start, every node gets one.
    pub(crate) fn grant(&self, node: &SpiffeId, until: Timestamp) {
        let new = Lease {
            until,
            lapsed: false,
            session: 0,
            connected: false,
            renewed: false,
        };
        self.0.lock().entry(node.clone()).or_insert(new).until = until;
    }

    /// What hung off a lapsed lease could not be ended: it lapses once more.
    pub(crate) fn lapse_again(&self, node: &SpiffeId, at: Timestamp) {
        if let Some(lease) = self.0.lock().get_mut(node)
            && lease.lapsed
        {
            lease.lapsed = false;
            lease.until = at;
        }
    }

    /// Opens a session: returns its number, and whether the lease had lapsed.
    pub(crate) fn open(&self, node: &SpiffeId, until: Timestamp) -> (u64, bool) {
        let mut leases = self.0.lock();
        let new = Lease {
            until,
            lapsed: false,
            session: 0,
            connected: false,
            renewed: false,
        };
        let lease = leases.entry(node.clone()).or_insert(new);
        let lapsed = std::mem::replace(&mut lease.lapsed, false);
        lease.until = until;
        lease.session += 1;
        lease.connected = true;
        lease.renewed = false;
        (lease.session, lapsed)
    }

    /// Renews the lease of a session.
    pub(crate) fn renew(&self, node: &SpiffeId, session: u64, until: Timestamp) -> Renewal {
        match self.0.lock().get_mut(node) {
            Some(lease) if lease.lapsed => Renewal::Lapsed,
            Some(lease) if lease.session == session => {
                lease.until = until;
                lease.renewed = true;
                Renewal::Renewed
            }
            // A half-open session does not answer; one that answers late is a step behind. Only
            // once the newer one has answered as well are there two.
            Some(lease) if lease.renewed && lease.connected => Renewal::Copied,
            Some(_) => Renewal::Superseded,
            None => Renewal::Lapsed,
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

    /// All leases that have not lapsed begin anew: nobody could renew them.
    pub(crate) fn renew_all(&self, until: Timestamp) {
        for lease in self.0.lock().values_mut().filter(|lease| !lease.lapsed) {
            lease.until = until;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_ended_lapses_again_unless_the_node_is_back() {
        let node: SpiffeId = "spiffe://example.org/taskmint/node/n1".parse().unwrap();
        let at = Timestamp::from_millis;
        let leases = Leases::default();
        leases.grant(&node, at(10));
        assert_eq!(leases.lapse(at(10)), std::slice::from_ref(&node));
        assert!(leases.lapse(at(11)).is_empty(), "once");
        leases.lapse_again(&node, at(20));
        assert!(leases.lapse(at(19)).is_empty());
        assert_eq!(leases.lapse(at(20)), std::slice::from_ref(&node));
        leases.open(&node, at(100));
        leases.lapse_again(&node, at(30));
        assert!(leases.lapse(at(99)).is_empty(), "it has a session");
    }
}
