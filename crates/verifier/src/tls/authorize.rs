//! Whom to talk to, in the common cases. Every SVID of a trust domain has the same CA, so the
//! kind of peer must be pinned by its name (P9).

use std::sync::Arc;

use taskmint_id::{Kind, SpiffeId, TrustDomain};

use super::Authorize;
use crate::PeerSvid;

/// A server of this trust domain: `/taskmint/server/<id>`.
pub fn server(trust_domain: &TrustDomain) -> Authorize {
    kind(trust_domain, Kind::Server, "a server")
}

/// A node of this trust domain: `/taskmint/node/<attestor>/<id>`.
pub fn node(trust_domain: &TrustDomain) -> Authorize {
    kind(trust_domain, Kind::Node, "a node")
}

/// A workload of this trust domain: neither node nor server.
pub fn workload(trust_domain: &TrustDomain) -> Authorize {
    kind(trust_domain, Kind::Workload, "a workload")
}

/// One of these, and nobody else.
pub fn ids(ids: impl IntoIterator<Item = SpiffeId>) -> Authorize {
    let ids: Vec<SpiffeId> = ids.into_iter().collect();
    Arc::new(move |peer: &PeerSvid| {
        if ids.contains(&peer.spiffe_id) {
            Ok(())
        } else {
            Err("it is not on the list".to_owned())
        }
    })
}

/// Whoever a bundle vouches for. The request has to be judged by other means.
pub fn anyone() -> Authorize {
    Arc::new(|_: &PeerSvid| Ok(()))
}

fn kind(trust_domain: &TrustDomain, kind: Kind, word: &'static str) -> Authorize {
    let trust_domain = trust_domain.clone();
    Arc::new(move |peer: &PeerSvid| {
        if *peer.spiffe_id.trust_domain() == trust_domain && peer.spiffe_id.kind() == kind {
            Ok(())
        } else {
            Err(format!("it is not {word} of `{trust_domain}`"))
        }
    })
}
