//! The admin service: entries, tokens, nodes, tasks, authorities, denials, audit, backup.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use taskmint_config::{Grant, Verb};
use taskmint_id::SpiffeId;
use taskmint_issuer::{Announced, AuthorityView, Cause, Issuer, Method, Refused};
use taskmint_model::{EntryId, Node, NodeState, Selectors, Task, TaskKind, Timestamp};
use taskmint_store::{AuthorityState, KeyUse, TaskQuery};
use taskmint_wire::admin::admin_server::Admin;
use taskmint_wire::{
    BadField, admin, entry_from_wire, entry_to_wire, field, optional, selectors_from_wire, task,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::admin_access::Access;
use crate::limits::Limits;
use crate::metrics::count;
use crate::receipts::{self, Receipts};
use crate::refusal::{deny, explained, status};
use crate::requests::{self, duration, text};

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

#[tonic::async_trait]
impl Admin for AdminService {
    type WaitTaskStream = Receipts;
    type WatchTasksStream = ReceiverStream<Result<task::TaskResponse, Status>>;

    async fn create_entries(
        &self,
        request: Request<admin::CreateEntriesRequest>,
    ) -> Result<Response<admin::CreateEntriesResponse>, Status> {
        let access = self.access(&request)?;
        let entries = request.into_inner().entries;
        if entries.is_empty() || entries.len() > MAX_ENTRIES {
            let why = format!("must hold 1 to {MAX_ENTRIES} entries");
            return Err(BadField::new("entries", why).into());
        }
        // Side by side, so that one synced write serves many.
        let mut running = Vec::with_capacity(entries.len());
        for entry in entries {
            let (service, access) = (self.clone(), access.clone());
            running.push(tokio::spawn(async move {
                service.create_entry(&access, entry).await
            }));
        }
        let mut results = Vec::with_capacity(running.len());
        for created in running {
            results.push(
                created
                    .await
                    .map_err(|_| deny(Code::Internal, "FAULT", "a fault of ours"))?,
            );
        }
        Ok(Response::new(admin::CreateEntriesResponse { results }))
    }

    async fn update_entry(
        &self,
        request: Request<admin::UpdateEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        let access = self.access(&request)?;
        let wire = request
            .into_inner()
            .entry
            .ok_or_else(|| BadField::new("entry", "is missing"))?;
        let id: EntryId = field("entry.id", &wire.id)?;
        let entry = entry_from_wire(&wire, id)?;
        access.check(Verb::Register, Some(&entry.spiffe_id))?;
        if let Some(old) = self.issuer.entry(id) {
            access.check(Verb::Register, Some(&old.spiffe_id))?;
        }
        let updated = self
            .issuer
            .update_entry(&access.principal, entry)
            .await
            .map_err(status)?;
        Ok(Response::new(entry_to_wire(&updated)))
    }

    async fn delete_entry(
        &self,
        request: Request<admin::DeleteEntryRequest>,
    ) -> Result<Response<admin::DeleteEntryResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let id: EntryId = field("id", &ask.id)?;
        let spiffe_id = self.issuer.entry(id).map(|entry| entry.spiffe_id.clone());
        access.check(Verb::Register, spiffe_id.as_ref())?;
        let tasks_ended = self
            .issuer
            .delete_entry(&access.principal, id, ask.keep_tasks)
            .await
            .map_err(status)?;
        Ok(Response::new(admin::DeleteEntryResponse { tasks_ended }))
    }

    async fn get_entry(
        &self,
        request: Request<admin::GetEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        let access = self.access(&request)?;
        let id: EntryId = field("id", &request.get_ref().id)?;
        let found = self
            .issuer
            .entry(id)
            .filter(|e| access.may(Verb::Read, &e.spiffe_id));
        let entry = found.ok_or_else(|| deny(Code::NotFound, "NO_SUCH_ENTRY", "no such entry"))?;
        Ok(Response::new(entry_to_wire(&entry)))
    }

    async fn list_entries(
        &self,
        request: Request<admin::ListEntriesRequest>,
    ) -> Result<Response<admin::ListEntriesResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let after: Option<EntryId> = optional("page_token", &ask.page_token)?;
        let parent: Option<SpiffeId> = optional("parent_id", &ask.parent_id)?;
        let wanted = selectors_from_wire("selector", &some(&ask.selector))?;
        let size = page_size(ask.page_size);
        let matches = |entry: &taskmint_model::Entry| {
            let on = |id: &SpiffeId| entry.parent == taskmint_model::NodeMatch::Node(id.clone());
            after.is_none_or(|after| entry.id > after)
                && (ask.spiffe_id.is_empty() || entry.spiffe_id.as_str() == ask.spiffe_id)
                && parent.as_ref().is_none_or(on)
                && wanted.is_subset(&entry.selectors)
                && access.may(Verb::Read, &entry.spiffe_id)
        };
        let all = self.issuer.all_entries();
        let mut entries: Vec<_> = all
            .iter()
            .filter(|e| matches(e))
            .take(size + 1)
            .map(|e| entry_to_wire(e))
            .collect();
        let more = entries.len() > size;
        entries.truncate(size);
        let last = entries
            .last()
            .filter(|_| more)
            .map(|entry| entry.id.clone());
        let next_page_token = last.unwrap_or_default();
        Ok(Response::new(admin::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn create_token(
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

    async fn list_tokens(
        &self,
        request: Request<admin::ListTokensRequest>,
    ) -> Result<Response<admin::ListTokensResponse>, Status> {
        self.access(&request)?.check(Verb::Invite, None)?;
        let tokens = self.issuer.store().tokens().await.map_err(store)?;
        let tokens = tokens.into_iter().map(|token| admin::Token {
            id: hex::encode(token.hash.split_at(16).0),
            node: token.node,
            selectors: token.selectors.iter().map(ToString::to_string).collect(),
            expires_at_ms: token.expires_at.millis(),
            consumed: token.consumed_by.is_some(),
            created_by: token.created_by,
        });
        Ok(Response::new(admin::ListTokensResponse {
            tokens: tokens.collect(),
        }))
    }

    async fn delete_token(
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

    async fn list_nodes(
        &self,
        request: Request<admin::ListNodesRequest>,
    ) -> Result<Response<admin::ListNodesResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let nodes = self.issuer.store().nodes().await.map_err(store)?;
        let nodes = nodes.iter().map(|node| self.node_to_wire(node)).collect();
        Ok(Response::new(admin::ListNodesResponse { nodes }))
    }

    async fn get_node(
        &self,
        request: Request<admin::GetNodeRequest>,
    ) -> Result<Response<admin::Node>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let id: SpiffeId = field("id", &request.get_ref().id)?;
        let node = self.issuer.store().node(&id).await.map_err(store)?;
        let node = node.ok_or_else(|| deny(Code::NotFound, "NO_SUCH_NODE", "no such node"))?;
        Ok(Response::new(self.node_to_wire(&node)))
    }

    async fn evict_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        self.remove_node(request, false).await
    }

    async fn ban_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::NodeResponse>, Status> {
        self.remove_node(request, true).await
    }

    async fn unban_node(
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
        let node = Some(self.node_to_wire(&node));
        Ok(Response::new(admin::NodeResponse {
            node,
            tasks_ended: 0,
        }))
    }

    async fn begin_task(
        &self,
        request: Request<admin::BeginTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let entry: EntryId = field("entry_id", &ask.entry_id)?;
        let spiffe_id = self
            .issuer
            .entry(entry)
            .map(|entry| entry.spiffe_id.clone());
        access.check(Verb::Begin, spiffe_id.as_ref())?;
        let of_task = ask.task.clone().unwrap_or_default();
        let request = requests::mark(Method::Begin, &of_task.request_id, &[], || ask.clone())?;
        let mut begin = requests::begin(&of_task, request)?;
        begin.entry = Some(entry);
        begin.node = optional("node_id", &ask.node_id)?;
        begin.parent = optional("parent_id", &ask.parent_id)?;
        if let Some(parent) = begin.parent {
            // A child counts against its parent's limits and carries its root: the parent, too,
            // has to lie below the path.
            let parent = self.issuer.visible_task(&access.principal, parent).await;
            let parent = parent.map_err(status)?;
            access.check(Verb::Begin, Some(&parent.spiffe_id))?;
        }
        if let Some(node) = &begin.node
            && self
                .issuer
                .store()
                .node(node)
                .await
                .map_err(store)?
                .is_none()
        {
            return Err(deny(Code::NotFound, "NO_SUCH_NODE", "no such node"));
        }
        match self.issuer.begin(&access.principal, begin).await {
            Ok(began) => answer(&began.task),
            Err(refused) => Err(self.explained(&access, "task.begin", refused).await),
        }
    }

    async fn get_task(
        &self,
        request: Request<task::GetRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (_, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Read)
            .await?;
        answer(&task)
    }

    async fn list_tasks(
        &self,
        request: Request<admin::ListTasksRequest>,
    ) -> Result<Response<task::ListResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let list = ask.list.unwrap_or_default();
        let kinds = [TaskKind::Explicit, TaskKind::Implicit];
        let query = TaskQuery {
            live_only: list.live_only,
            node: optional("node_id", &ask.node_id)?,
            spiffe_id: optional("spiffe_id", &list.spiffe_id)?,
            root: optional("root_id", &list.root_id)?,
            entry: optional("entry_id", &ask.entry_id)?,
            kinds: if ask.all_kinds {
                Vec::new()
            } else {
                kinds.to_vec()
            },
            owner: (!ask.owner.is_empty()).then_some(ask.owner),
            after: page::read(&list.page_token)?,
            max: page_size(list.page_size),
        };
        let page = self.issuer.store().tasks(&query).await.map_err(store)?;
        let visible = page
            .items
            .iter()
            .filter(|task| access.may(Verb::Read, &task.spiffe_id));
        Ok(Response::new(task::ListResponse {
            tasks: visible.map(Into::into).collect(),
            next_page_token: page.next.map(page::write).unwrap_or_default(),
        }))
    }

    async fn extend_task(
        &self,
        request: Request<task::ExtendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Extend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Extend, &ask.request_id, &[], || ask.clone())?;
        let (who, ttl) = (&access.principal, Duration::from_millis(ask.ttl_ms));
        let extended = self.issuer.extend(who, task.id, ttl, mark.as_ref()).await;
        answer(&extended.map_err(status)?)
    }

    async fn suspend_task(
        &self,
        request: Request<task::SuspendRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Suspend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Suspend, &ask.request_id, &[], || ask.clone())?;
        let (who, reason) = (&access.principal, text("reason", &ask.reason)?);
        let suspended = self.issuer.suspend(who, task.id, &reason, mark.as_ref());
        answer(&suspended.await.map_err(status)?)
    }

    async fn resume_task(
        &self,
        request: Request<task::ResumeRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let (access, task) = self
            .task(&request, &request.get_ref().task_id, Verb::Suspend)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(Method::Resume, &ask.request_id, &[], || ask.clone())?;
        let resumed = self
            .issuer
            .resume(&access.principal, task.id, mark.as_ref());
        answer(&resumed.await.map_err(status)?)
    }

    async fn revoke_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        self.end_task(request, Cause::REVOKED).await
    }

    async fn complete_task(
        &self,
        request: Request<task::EndRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        self.end_task(request, Cause::COMPLETED).await
    }

    async fn wait_task(
        &self,
        request: Request<task::WaitRequest>,
    ) -> Result<Response<Receipts>, Status> {
        let ask = request.get_ref();
        let (_, task) = self.task(&request, &ask.task_id, Verb::Read).await?;
        let receipts = receipts::wait(&self.issuer, task, ask.timeout_ms, self.stop.clone());
        receipts.map(Response::new)
    }

    async fn watch_tasks(
        &self,
        request: Request<admin::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let root: Option<taskmint_model::TaskId> = optional("root_id", &ask.root_id)?;
        let spiffe_id: Option<SpiffeId> = optional("spiffe_id", &ask.spiffe_id)?;
        let (answers, stream) = mpsc::channel(256);
        let (mut changes, stop) = (self.issuer.task_changes(), self.stop.clone());
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = changes.recv() => changed,
                    () = answers.closed() => return,
                    () = stop.cancelled() => return,
                };
                let answer = match changed {
                    Ok(task) => {
                        let wanted = root.is_none_or(|root| task.root == root)
                            && spiffe_id.as_ref().is_none_or(|id| task.spiffe_id == *id)
                            && access.may(Verb::Read, &task.spiffe_id);
                        if !wanted {
                            continue;
                        }
                        Ok(task::TaskResponse {
                            task: Some((&*task).into()),
                        })
                    }
                    Err(RecvError::Lagged(_)) => Err(deny(
                        Code::DataLoss,
                        "TOO_SLOW",
                        "changes were missed; list again",
                    )),
                    Err(RecvError::Closed) => return,
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_bars(
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
            for bar in self.issuer.store().bars(&node).await.map_err(store)? {
                bars.push(admin::Bar {
                    entry_id: bar.entry.to_string(),
                    node_id: bar.node.to_string(),
                    process: bar.process.to_string(),
                    task_id: bar.task.to_string(),
                    at_ms: bar.at.millis(),
                });
            }
        }
        Ok(Response::new(admin::ListBarsResponse { bars }))
    }

    async fn lift_bar(
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

    async fn get_bundle(
        &self,
        request: Request<admin::GetBundleRequest>,
    ) -> Result<Response<admin::Bundle>, Status> {
        // The bundle is public: whoever may talk to this service at all may have it.
        self.access(&request)?;
        let bundle = self.issuer.bundle().borrow().clone();
        let data = match request.get_ref().format.as_str() {
            "" | "spiffe" => bundle.to_json().into_bytes(),
            "pem" => crate::identity::pem(&bundle).into_bytes(),
            other => {
                let why = format!("`{other}` is not known: expected spiffe or pem");
                return Err(BadField::new("format", why).into());
            }
        };
        Ok(Response::new(admin::Bundle {
            trust_domain: bundle.trust_domain().to_string(),
            data,
            sequence: bundle.sequence(),
        }))
    }

    async fn list_authorities(
        &self,
        request: Request<admin::ListAuthoritiesRequest>,
    ) -> Result<Response<admin::ListAuthoritiesResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let authorities = self.issuer.authorities().await.map_err(status)?;
        let authorities = authorities.iter().map(authority_to_wire).collect();
        Ok(Response::new(admin::ListAuthoritiesResponse {
            authorities,
        }))
    }

    async fn prepare_authority(
        &self,
        request: Request<admin::PrepareAuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let usage = match request.get_ref().r#use.as_str() {
            "ca" => KeyUse::Ca,
            "jwt" => KeyUse::Jwt,
            "log" => KeyUse::Log,
            "grant" => KeyUse::Grant,
            other => {
                let why = format!("`{other}` is not known: expected ca, jwt, log or grant");
                return Err(BadField::new("use", why).into());
            }
        };
        let record = self
            .issuer
            .prepare_authority(&access.principal, usage)
            .await;
        let record = record.map_err(status)?;
        Ok(Response::new(authority_to_wire(&AuthorityView {
            record,
            needed_until: None,
        })))
    }

    async fn activate_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let id = field("id", &request.get_ref().id)?;
        let record = self.issuer.activate_authority(&access.principal, id).await;
        let record = record.map_err(status)?;
        Ok(Response::new(authority_to_wire(&AuthorityView {
            record,
            needed_until: None,
        })))
    }

    async fn retire_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let id = field("id", &request.get_ref().id)?;
        let record = self.issuer.retire_authority(&access.principal, id).await;
        let record = record.map_err(status)?;
        Ok(Response::new(authority_to_wire(&AuthorityView {
            record,
            needed_until: None,
        })))
    }

    async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::Denial>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let id = field("denial_id", &request.get_ref().denial_id)?;
        let denial = self.issuer.store().denial(id).await.map_err(store)?;
        let gone = || {
            deny(
                Code::NotFound,
                "NO_SUCH_DENIAL",
                "no such denial, or it is too old",
            )
        };
        Ok(Response::new((&denial.ok_or_else(gone)?).into()))
    }

    async fn list_denials(
        &self,
        request: Request<admin::ListDenialsRequest>,
    ) -> Result<Response<admin::ListDenialsResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let size = page_size(request.get_ref().page_size);
        let denials = self.issuer.store().denials(size).await.map_err(store)?;
        let denials = denials.iter().map(Into::into).collect();
        Ok(Response::new(admin::ListDenialsResponse { denials }))
    }

    async fn list_audit(
        &self,
        request: Request<admin::ListAuditRequest>,
    ) -> Result<Response<admin::ListAuditResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let ask = request.into_inner();
        let lines = self
            .issuer
            .store()
            .audit(ask.from.max(1), page_size(ask.page_size))
            .await;
        let lines = lines
            .map_err(store)?
            .into_iter()
            .map(|line| admin::AuditLine {
                number: line.number,
                hash: line.hash.to_vec(),
                at_ms: line.audit.at.millis(),
                who: line.audit.who,
                owner: line.audit.owner,
                task_id: line
                    .audit
                    .task
                    .map(|task| task.to_string())
                    .unwrap_or_default(),
                action: line.audit.action.into_owned(),
                resource: line.audit.resource,
                decision: match line.audit.decision {
                    taskmint_model::Decision::Allowed => "allowed",
                    taskmint_model::Decision::Denied => "denied",
                }
                .to_owned(),
                reason: line.audit.reason.into_owned(),
            });
        Ok(Response::new(admin::ListAuditResponse {
            lines: lines.collect(),
        }))
    }

    async fn list_watchers(
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

    async fn backup(
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

    async fn get_status(
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
        Ok(Response::new(admin::Status {
            trust_domain: settings.trust_domain.to_string(),
            server_id: settings.server.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_id: identity.log.0.to_vec(),
            generation: identity.generation.into(),
            epoch: identity.epoch,
            sequence: self.issuer.store().position().borrow().sequence,
            live_tasks: count(self.issuer.live_tasks()),
            nodes_connected: count(connected),
            watchers: count(self.issuer.watchers().count()),
            started_at_ms: self.started_at.millis(),
        }))
    }
}

impl AdminService {
    fn access<T>(&self, request: &Request<T>) -> Result<Access, Status> {
        let access = Access::of(request, &self.grants)?;
        self.limits.caller(&access.principal.to_string())?;
        Ok(access)
    }

    /// The task, if `verb` may be done to it.
    async fn task<T>(
        &self,
        request: &Request<T>,
        id: &str,
        verb: Verb,
    ) -> Result<(Access, Task), Status> {
        let access = self.access(request)?;
        let id = field("task_id", id)?;
        let task = self
            .issuer
            .visible_task(&access.principal, id)
            .await
            .map_err(status)?;
        access.check(verb, Some(&task.spiffe_id))?;
        Ok((access, task))
    }

    async fn end_task(
        &self,
        request: Request<task::EndRequest>,
        cause: Cause,
    ) -> Result<Response<task::EndResponse>, Status> {
        let (access, found) = self
            .task(&request, &request.get_ref().task_id, Verb::End)
            .await?;
        let ask = request.get_ref();
        let mark = requests::mark(requests::end_method(cause), &ask.request_id, &[], || {
            ask.clone()
        })?;
        let (who, reason) = (&access.principal, text("reason", &ask.reason)?);
        let announced = ask.wait.then(|| self.issuer.announce_wait());
        let ended = self
            .issuer
            .end_asked(who, found.id, cause, &reason, mark.as_ref())
            .await;
        let (ended, _) = ended.map_err(status)?;
        announced.into_iter().for_each(Announced::linger);
        receipts::end_response(&self.issuer, &ended).map(Response::new)
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
            node: Some(self.node_to_wire(&node)),
            tasks_ended,
        }))
    }

    async fn create_entry(
        &self,
        access: &Access,
        wire: admin::Entry,
    ) -> admin::create_entries_response::Result {
        let refused = |reason: &str, message: String| admin::create_entries_response::Result {
            entry: None,
            reason: reason.to_owned(),
            message,
        };
        let entry = match entry_from_wire(&wire, EntryId::from_octets([0; 16])) {
            Ok(entry) => entry,
            Err(bad) => return refused("BAD_FIELD", bad.to_string()),
        };
        if let Err(status) = access.check(Verb::Register, Some(&entry.spiffe_id)) {
            return refused("NOT_GRANTED", status.message().to_owned());
        }
        match self.issuer.create_entry(&access.principal, entry).await {
            Ok(entry) => admin::create_entries_response::Result {
                entry: Some(entry_to_wire(&entry)),
                ..Default::default()
            },
            Err(error) => refused(error.reason, error.message),
        }
    }

    async fn explained(&self, access: &Access, action: &str, refused: Refused) -> Status {
        explained(&self.issuer, &access.principal, None, action, refused).await
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

    fn node_to_wire(&self, node: &Node) -> admin::Node {
        admin::Node {
            id: node.id.to_string(),
            attestor: node.attestor.clone(),
            selectors: texts(&node.selectors),
            state: match node.state {
                NodeState::Active => "active",
                NodeState::Suspended => "suspended",
                NodeState::Evicted => "evicted",
                NodeState::Banned => "banned",
            }
            .to_owned(),
            task_id: node.current.task.to_string(),
            serial: hex::encode(node.current.serial),
            svid_expires_at_ms: node.current.expires_at.millis(),
            attested_at_ms: node.attested_at.millis(),
            seen_at_ms: node.seen_at.millis(),
            connected: self.issuer.is_connected(&node.id),
            live_tasks: count(self.issuer.held_by(&node.id)),
        }
    }
}

fn answer(task: &Task) -> Result<Response<task::TaskResponse>, Status> {
    Ok(Response::new(task::TaskResponse {
        task: Some(task.into()),
    }))
}

fn authority_to_wire(view: &AuthorityView) -> admin::Authority {
    let record = &view.record;
    let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::millis);
    admin::Authority {
        id: record.id.to_string(),
        r#use: match record.usage {
            KeyUse::Ca => "ca",
            KeyUse::Jwt => "jwt",
            KeyUse::Log => "log",
            KeyUse::Grant => "grant",
        }
        .to_owned(),
        state: match record.state {
            AuthorityState::Prepared => "prepared",
            AuthorityState::Active => "active",
            AuthorityState::Retired => "retired",
        }
        .to_owned(),
        key_id: record.key_id.clone(),
        created_at_ms: record.created_at.millis(),
        activated_at_ms: millis(record.activated_at),
        retired_at_ms: millis(record.retired_at),
        expires_at_ms: record.expires_at.millis(),
        needed_until_ms: millis(view.needed_until),
    }
}

fn texts(selectors: &Selectors) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}

fn some(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    }
}

fn page_size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => 200,
        Ok(size) => size.min(MAX_ENTRIES),
    }
}

fn store(error: taskmint_store::StoreError) -> Status {
    status(Refused::from(error))
}

/// Page tokens: the place after which the next page begins.
mod page {
    use taskmint_status::{LogId, Place};
    use taskmint_wire::BadField;

    pub(super) fn write(place: Place) -> String {
        format!(
            "{}.{}.{}",
            hex::encode(place.log().0),
            place.bucket(),
            place.index()
        )
    }

    pub(super) fn read(token: &str) -> Result<Option<Place>, BadField> {
        if token.is_empty() {
            return Ok(None);
        }
        let parse = || {
            let mut parts = token.splitn(3, '.');
            let log: [u8; 8] = hex::decode(parts.next()?).ok()?.try_into().ok()?;
            let (bucket, index) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Place::new(LogId(log), bucket, index).ok()
        };
        parse()
            .map(Some)
            .ok_or_else(|| BadField::new("page_token", "is not one of ours"))
    }
}
