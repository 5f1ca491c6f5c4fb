//! Nodes, and the tokens by which they join.

use taskmint_config::Verb;
use taskmint_id::SpiffeId;
use taskmint_model::Node;
use taskmint_wire::{BadField, admin, field, selectors_from_wire};
use tonic::{Code, Request, Response, Status};

use super::{AdminService, convert, store};
use crate::metrics::count;
use crate::refusal::{deny, status};
use crate::requests::duration;

impl AdminService {
    pub(super) async fn create_token(
        &self,
        request: Request<admin::CreateTokenRequest>,
    ) -> Result<Response<admin::CreateTokenResponse>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Invite, None)?;
        let ask = request.into_inner();
        let selectors = selectors_from_wire("selectors", &ask.selectors)?;
        let node = (!ask.node.is_empty()).then_some(ask.node);
        let ttl = duration(ask.ttl_ms).unwrap_or(self.token_ttl);
        let made = self
            .issuer
            .create_token(&access.principal, node, ttl, selectors)
            .await;
        let made = made.map_err(status)?;
        let join_string = self.join_string(&made.secret).await?;
        Ok(Response::new(admin::CreateTokenResponse {
            join_string,
            node_id: made.node.to_string(),
            expires_at_ms: made.expires_at.millis(),
        }))
    }

    pub(super) async fn list_tokens(
        &self,
        request: Request<admin::ListTokensRequest>,
    ) -> Result<Response<admin::ListTokensResponse>, Status> {
        self.access(&request)?.check(Verb::Invite, None)?;
        let tokens = self.issuer.store().tokens().await.map_err(store)?;
        let tokens = tokens.into_iter().map(convert::token);
        Ok(Response::new(admin::ListTokensResponse {
            tokens: tokens.collect(),
        }))
    }

    pub(super) async fn delete_token(
        &self,
        request: Request<admin::DeleteTokenRequest>,
    ) -> Result<Response<admin::DeleteTokenResponse>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Invite, None)?;
        let prefix = hex::decode(&request.get_ref().id).map_err(|e| BadField::new("id", e))?;
        self.issuer
            .delete_token(&access.principal, &prefix)
            .await
            .map_err(status)?;
        Ok(Response::new(admin::DeleteTokenResponse {}))
    }

    pub(super) async fn list_nodes(
        &self,
        request: Request<admin::ListNodesRequest>,
    ) -> Result<Response<admin::ListNodesResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let nodes = self.issuer.store().nodes().await.map_err(store)?;
        let mut listed = Vec::with_capacity(nodes.len());
        for node in &nodes {
            listed.push(self.node_to_wire(node).await?);
        }
        Ok(Response::new(admin::ListNodesResponse { nodes: listed }))
    }

    pub(super) async fn get_node(
        &self,
        request: Request<admin::GetNodeRequest>,
    ) -> Result<Response<admin::Node>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let id: SpiffeId = field("id", &request.get_ref().id)?;
        let node = self.issuer.store().node(&id).await.map_err(store)?;
        let node = node.ok_or_else(|| deny(Code::NotFound, "NO_SUCH_NODE", "no such node"))?;
        Ok(Response::new(self.node_to_wire(&node).await?))
    }

    pub(super) async fn evict_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        self.remove_node(request, false).await
    }

    pub(super) async fn ban_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        self.remove_node(request, true).await
    }

    pub(super) async fn unban_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Evict, None)?;
        let id = field("id", &request.get_ref().id)?;
        let node = self
            .issuer
            .unban_node(&access.principal, &id)
            .await
            .map_err(status)?;
        let node = Some(self.node_to_wire(&node).await?);
        Ok(Response::new(admin::NodeResponse {
            node,
            tasks_ended: 0,
        }))
    }

    async fn remove_node(
        &self,
        request: Request<admin::NodeRequest>,
        ban: bool,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Evict, None)?;
        let id: SpiffeId = field("id", &request.get_ref().id)?;
        let removed = self.issuer.remove_node(&access.principal, &id, ban).await;
        let (node, tasks_ended) = removed.map_err(status)?;
        Ok(Response::new(admin::NodeResponse {
            node: Some(self.node_to_wire(&node).await?),
            tasks_ended,
        }))
    }

    /// Everything that a node needs to join, in one line (P10).
    async fn join_string(&self, secret: &str) -> Result<String, Status> {
        let anchor = self.issuer.ca_certificate().await.map_err(status)?;
        crate::identity::join_string(
            &self.issuer.settings().trust_domain,
            &self.address,
            &anchor,
            secret,
        )
        .map_err(|error| deny(Code::Internal, "FAULT", error.to_string()))
    }

    async fn node_to_wire(&self, node: &Node) -> Result<admin::Node, Status> {
        let connected = self.issuer.is_connected(&node.id);
        let held = self.issuer.held_by(&node.id).await.map_err(status)?;
        Ok(convert::node(node, connected, count(held)))
    }
}
