//! Who may administer: uids on the socket, SPIFFE IDs with grants over mTLS.

use taskmint_config::{Grant, Verb};
use taskmint_id::{Kind, SpiffeId};
use taskmint_issuer::Principal;
use tonic::{Code, Request, Status};

use crate::connection::Connection;
use crate::refusal::deny;

/// The peer of an accepted admin socket connection; its uid was checked at accept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdminUid(pub(crate) u32);

/// What an administrator may do: everything, or what its grants say.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) principal: Principal,
    grants: Option<Vec<Grant>>,
}

impl Access {
    /// Reads who asks from the connection.
    pub(crate) fn of<T>(request: &Request<T>, grants: &[Grant]) -> Result<Self, Status> {
        if let Some(AdminUid(uid)) = request.extensions().get::<AdminUid>() {
            let principal = Principal::Admin(format!("uid:{uid}"));
            return Ok(Self {
                principal,
                grants: None,
            });
        }
        let peer = request
            .extensions()
            .get::<Connection>()
            .and_then(|c| c.peer.clone());
        let refused = |message: String| deny(Code::PermissionDenied, "NOT_AN_ADMIN", message);
        let peer = peer.ok_or_else(|| refused("no SVID was shown".to_owned()))?;
        // A node's expired SVID gets through the handshake, to renew it and for nothing else.
        if peer.spiffe_id.kind() == Kind::Node {
            return Err(refused("nodes do not administer".to_owned()));
        }
        let own: Vec<_> = grants
            .iter()
            .filter(|g| g.principal == peer.spiffe_id)
            .cloned()
            .collect();
        if own.is_empty() {
            return Err(refused(format!("`{}` has no grant", peer.spiffe_id)));
        }
        Ok(Self {
            principal: Principal::Admin(peer.spiffe_id.to_string()),
            grants: Some(own),
        })
    }

    /// Whether `verb` may be done to what carries `id`; to nothing in particular if there is none.
    pub(crate) fn check(&self, verb: Verb, id: Option<&SpiffeId>) -> Result<(), Status> {
        let Some(grants) = &self.grants else {
            return Ok(());
        };
        let covers = |grant: &Grant| match id {
            // Nodes and servers lie beside all paths: only a grant over everything reaches them.
            Some(id) if id.kind() != Kind::Workload => grant.path_prefix.as_str() == "/",
            Some(id) => id.under(&grant.path_prefix),
            None => grant.path_prefix.as_str() == "/",
        };
        if grants
            .iter()
            .any(|grant| grant.verbs.contains(&verb) && covers(grant))
        {
            return Ok(());
        }
        let of = id.map(|id| format!(" on `{id}`")).unwrap_or_default();
        let message = format!("{} may not {verb:?}{of}", self.principal).to_lowercase();
        Err(deny(Code::PermissionDenied, "NOT_GRANTED", message))
    }

    /// The same as a question, for lists.
    pub(crate) fn may(&self, verb: Verb, id: &SpiffeId) -> bool {
        self.check(verb, Some(id)).is_ok()
    }
}
