//! The admin service: entries, tokens, nodes, tasks, authorities, denials, audit, backup.
//!
//! Here is what all calls share: who asks, and the way to the file of each resource.

mod authorities;
mod bars;
mod convert;
mod entries;
mod journal;
mod nodes;
mod page;
mod tasks;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use taskmint_config::Grant;
use taskmint_issuer::{Issuer, Refused};
use taskmint_model::Timestamp;
use taskmint_wire::admin::admin_server::Admin;
use taskmint_wire::{admin, task};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::admin_access::Access;
use crate::limits::Limits;
use crate::receipts::Receipts;
use crate::refusal::status;

/// The most entries of one call, and of one page.
const MAX_ENTRIES: usize = 1000;

/// The admin service over an issuer.
#[derive(Clone)]
pub(crate) struct AdminService {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) grants: Arc<Vec<Grant>>,
    pub(crate) limits: Arc<Limits>,
    /// What a joining node is told to connect to.
    pub(crate) address: String,
    pub(crate) token_ttl: Duration,
    pub(crate) started_at: Timestamp,
    pub(crate) stop: tokio_util::sync::CancellationToken,
}

/// What becomes of tasks, as a stream.
type Changes = ReceiverStream<Result<task::TaskResponse, Status>>;

/// Each call is a method of its own name beside this one, in the file of its resource.
#[tonic::async_trait]
impl Admin for AdminService {
    type WaitTaskStream = Receipts;
    type WatchTasksStream = Changes;

    async fn create_entries(
        &self,
        request: Request<admin::CreateEntriesRequest>,
    ) -> Result<Response<admin::CreateEntriesResponse>, Status> {
        AdminService::create_entries(self, request).await
    }

    async fn update_entry(
        &self,
        request: Request<admin::UpdateEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        AdminService::update_entry(self, request).await
    }

    async fn delete_entry(
        &self,
        request: Request<admin::DeleteEntryRequest>,
    ) -> Result<Response<admin::DeleteEntryResponse>, Status> {
        AdminService::delete_entry(self, request).await
    }

    async fn get_entry(
        &self,
        request: Request<admin::GetEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        AdminService::get_entry(self, request).await
    }

    async fn list_entries(
        &self,
        request: Request<admin::ListEntriesRequest>,
    ) -> Result<Response<admin::ListEntriesResponse>, Status> {
        AdminService::list_entries(self, request).await
    }

    async fn create_token(
        &self,
        request: Request<admin::CreateTokenRequest>,
    ) -> Result<Response<admin::CreateTokenResponse>, Status> {
        AdminService::create_token(self, request).await
    }

    async fn list_tokens(
        &self,
        request: Request<admin::ListTokensRequest>,
    ) -> Result<Response<admin::ListTokensResponse>, Status> {
        AdminService::list_tokens(self, request).await
    }

    async fn delete_token(
        &self,
        request: Request<admin::DeleteTokenRequest>,
    ) -> Result<Response<admin::DeleteTokenResponse>, Status> {
        AdminService::delete_token(self, request).await
    }

    async fn list_nodes(
        &self,
        request: Request<admin::ListNodesRequest>,
    ) -> Result<Response<admin::ListNodesResponse>, Status> {
        AdminService::list_nodes(self, request).await
    }

    async fn get_node(
        &self,
        request: Request<admin::GetNodeRequest>,
    ) -> Result<Response<admin::Node>, Status> {
        AdminService::get_node(self, request).await
    }

    async fn evict_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        AdminService::evict_node(self, request).await
    }

    async fn ban_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        AdminService::ban_node(self, request).await
    }

    async fn unban_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        AdminService::unban_node(self, request).await
    }

    async fn begin_task(
        &self,
        request: Request<admin::BeginTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        AdminService::begin_task(self, request).await
    }

    async fn get_task(
        &self,
        request: Request<task::GetRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        AdminService::get_task(self, request).await
    }

    async fn list_tasks(
        &self,
        request: Request<admin::ListTasksRequest>,
    ) -> Result<Response<task::ListResponse>, Status> {
        AdminService::list_tasks(self, request).await
    }

    async fn extend_task(
        &self,
        request: Request<task::ExtendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        AdminService::extend_task(self, request).await
    }

    async fn suspend_task(
        &self,
        request: Request<task::SuspendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        AdminService::suspend_task(self, request).await
    }

    async fn resume_task(
        &self,
        request: Request<task::ResumeRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        AdminService::resume_task(self, request).await
    }

    async fn revoke_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        AdminService::revoke_task(self, request).await
    }

    async fn complete_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        AdminService::complete_task(self, request).await
    }

    async fn wait_task(
        &self,
        request: Request<task::WaitRequest>,
    ) -> Result<Response<Receipts>, Status> {
        AdminService::wait_task(self, request).await
    }

    async fn watch_tasks(
        &self,
        request: Request<admin::WatchTasksRequest>,
    ) -> Result<Response<Changes>, Status> {
        AdminService::watch_tasks(self, request).await
    }

    async fn list_bars(
        &self,
        request: Request<admin::ListBarsRequest>,
    ) -> Result<Response<admin::ListBarsResponse>, Status> {
        AdminService::list_bars(self, request).await
    }

    async fn lift_bar(
        &self,
        request: Request<admin::LiftBarRequest>,
    ) -> Result<Response<admin::LiftBarResponse>, Status> {
        AdminService::lift_bar(self, request).await
    }

    async fn get_bundle(
        &self,
        request: Request<admin::GetBundleRequest>,
    ) -> Result<Response<admin::Bundle>, Status> {
        AdminService::get_bundle(self, request).await
    }

    async fn list_authorities(
        &self,
        request: Request<admin::ListAuthoritiesRequest>,
    ) -> Result<Response<admin::ListAuthoritiesResponse>, Status> {
        AdminService::list_authorities(self, request).await
    }

    async fn prepare_authority(
        &self,
        request: Request<admin::PrepareAuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        AdminService::prepare_authority(self, request).await
    }

    async fn activate_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        AdminService::activate_authority(self, request).await
    }

    async fn retire_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        AdminService::retire_authority(self, request).await
    }

    async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::Denial>, Status> {
        AdminService::explain(self, request).await
    }

    async fn list_denials(
        &self,
        request: Request<admin::ListDenialsRequest>,
    ) -> Result<Response<admin::ListDenialsResponse>, Status> {
        AdminService::list_denials(self, request).await
    }

    async fn list_issuances(
        &self,
        request: Request<admin::ListIssuancesRequest>,
    ) -> Result<Response<admin::ListIssuancesResponse>, Status> {
        AdminService::list_issuances(self, request).await
    }

    async fn list_audit(
        &self,
        request: Request<admin::ListAuditRequest>,
    ) -> Result<Response<admin::ListAuditResponse>, Status> {
        AdminService::list_audit(self, request).await
    }

    async fn list_watchers(
        &self,
        request: Request<admin::ListWatchersRequest>,
    ) -> Result<Response<admin::ListWatchersResponse>, Status> {
        AdminService::list_watchers(self, request).await
    }

    async fn backup(
        &self,
        request: Request<admin::BackupRequest>,
    ) -> Result<Response<admin::BackupResponse>, Status> {
        AdminService::backup(self, request).await
    }

    async fn get_status(
        &self,
        request: Request<admin::GetStatusRequest>,
    ) -> Result<Response<admin::Status>, Status> {
        AdminService::get_status(self, request).await
    }
}

impl AdminService {
    fn access<T>(&self, request: &Request<T>) -> Result<Access, Status> {
        let access = Access::of(request, &self.grants)?;
        self.limits.caller(&access.principal.to_string())?;
        Ok(access)
    }
}

fn store(error: taskmint_store::StoreError) -> Status {
    status(Refused::from(error))
}
