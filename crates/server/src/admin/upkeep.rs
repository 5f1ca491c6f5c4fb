//! Who follows the log, copies of the store, and where the server stands.

use std::path::Path;

use taskmint_config::Verb;
use taskmint_wire::{BadField, admin};
use tonic::{Code, Request, Response, Status};

use super::{AdminService, store};
use crate::metrics::count;
use crate::refusal::deny;

impl AdminService {
    pub(super) async fn list_watchers(
        &self,
        request: Request<admin::ListWatchersRequest>,
    ) -> Result<Response<admin::ListWatchersResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let sequence = self.issuer.store().position().borrow().sequence;
        let watchers = self.issuer.watchers().list().into_iter();
        let watchers = watchers.map(|watcher| admin::Watcher {
            spiffe_id: watcher.spiffe_id.to_string(),
            name: watcher.name,
            acknowledged: watcher.acknowledged,
            acknowledged_at_ms: watcher.acknowledged_at.millis(),
            connected_at_ms: watcher.connected_at.millis(),
            waited_for: watcher.waited_for,
            relay: watcher.relay.map(|id| id.to_string()).unwrap_or_default(),
            lag: sequence.saturating_sub(watcher.acknowledged),
        });
        Ok(Response::new(admin::ListWatchersResponse {
            sequence,
            watchers: watchers.collect(),
        }))
    }

    pub(super) async fn backup(
        &self,
        request: Request<admin::BackupRequest>,
    ) -> Result<Response<admin::BackupResponse>, Status> {
        self.access(&request)?.check(Verb::Backup, None)?;
        let folder = Path::new(&request.get_ref().folder);
        if !folder.is_absolute() {
            return Err(BadField::new("folder", "must be an absolute path on the server").into());
        }
        let sequence = self.issuer.store().position().borrow().sequence;
        self.issuer
            .store()
            .backup(folder)
            .await
            .map_err(|error| deny(Code::FailedPrecondition, "BACKUP_FAILED", error.to_string()))?;
        Ok(Response::new(admin::BackupResponse { sequence }))
    }

    pub(super) async fn get_status(
        &self,
        request: Request<admin::GetStatusRequest>,
    ) -> Result<Response<admin::Status>, Status> {
        self.access(&request)?;
        let identity = self.issuer.store().identity();
        let nodes = self.issuer.store().nodes().await.map_err(store)?;
        let connected = nodes
            .iter()
            .filter(|node| self.issuer.is_connected(&node.id))
            .count();
        let settings = self.issuer.settings();
        // Read once: a second reader behind a waiting writer would wait for ever for itself.
        let position = *self.issuer.store().position().borrow();
        Ok(Response::new(admin::Status {
            trust_domain: settings.trust_domain.to_string(),
            server_id: settings.server.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_id: identity.log.0.to_vec(),
            generation: identity.generation.into(),
            epoch: identity.epoch,
            sequence: position.sequence,
            live_tasks: count(self.issuer.live_tasks()),
            nodes_connected: count(connected),
            watchers: count(self.issuer.watchers().count()),
            started_at_ms: self.started_at.millis(),
            head: self.newest_head(),
            floor: position.floor,
        }))
    }

    fn newest_head(&self) -> Vec<u8> {
        let heads = self.issuer.heads();
        let head = heads.borrow();
        head.as_ref()
            .map(|head| head.body.clone())
            .unwrap_or_default()
    }
}
