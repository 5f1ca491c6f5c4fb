//! Bars: processes that get no implicit task any more, and how that is undone.

use taskmint_config::Verb;
use taskmint_id::SpiffeId;
use taskmint_wire::{admin, field, optional};
use tonic::{Request, Response, Status};

use super::{AdminService, convert, store};
use crate::refusal::status;

impl AdminService {
    pub(super) async fn list_bars(
        &self,
        request: Request<admin::ListBarsRequest>,
    ) -> Result<Response<admin::ListBarsResponse>, Status> {
        self.access(&request)?.check(Verb::Lift, None)?;
        let node: Option<SpiffeId> = optional("node_id", &request.get_ref().node_id)?;
        let nodes = match node {
            Some(node) => vec![node],
            None => {
                let nodes = self.issuer.store().nodes().await.map_err(store)?;
                nodes.into_iter().map(|node| node.id).collect()
            }
        };
        let mut bars = Vec::new();
        for node in nodes {
            let found = self.issuer.store().bars(&node).await.map_err(store)?;
            bars.extend(found.iter().map(convert::bar));
        }
        Ok(Response::new(admin::ListBarsResponse { bars }))
    }

    pub(super) async fn lift_bar(
        &self,
        request: Request<admin::LiftBarRequest>,
    ) -> Result<Response<admin::LiftBarResponse>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Lift, None)?;
        let ask = request.into_inner();
        let (entry, node) = (
            field("entry_id", &ask.entry_id)?,
            field("node_id", &ask.node_id)?,
        );
        let process = field("process", &ask.process)?;
        let lifted = self
            .issuer
            .lift_bar(&access.principal, entry, node, process)
            .await;
        lifted.map_err(status)?;
        Ok(Response::new(admin::LiftBarResponse {}))
    }
}
