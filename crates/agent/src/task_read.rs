//! Get, list, watch and fetch, for workloads: what the caller sees, and nothing else.

use std::sync::Arc;

use taskmint_id::{Bundle, SpiffeId};
use taskmint_model::{TaskId, Timestamp};
use taskmint_wire::task;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::agent::Agent;
use crate::caller::{Caller, Connection};
use crate::denial::Denial;
use crate::holding::Held;
use crate::ruling::task_id;
use crate::server::passed_on;
use crate::task_begin::csr_key;
use crate::view::starting;
use crate::workload_api::check_audience;

/// Tasks on a page, unless fewer are asked for.
const PAGE: usize = 100;

/// The most tasks on a page.
const MAX_PAGE: usize = 500;

/// What a list is narrowed to.
struct Filter {
    live_only: bool,
    spiffe_id: Option<SpiffeId>,
    root: Option<TaskId>,
    after: Option<TaskId>,
    size: usize,
}

impl Agent {
    pub(crate) async fn get_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::GetRequest,
    ) -> Result<task::TaskResponse, Status> {
        task_id(&request.task_id)?;
        let caller = self.attest(connection, "Get").await?;
        let ruled = self.ruled(&caller, &request.task_id, "Get")?;
        Ok(task::TaskResponse {
            task: Some((&*ruled.held.task).into()),
        })
    }

    pub(crate) async fn list_tasks(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::ListRequest,
    ) -> Result<task::ListResponse, Status> {
        let filter = Filter::read(&request)?;
        let caller = self.attest(connection, "List").await?;
        let rule = self.rule(&caller);
        let mut found: Vec<Held> = self.holding.all();
        found.retain(|held| filter.fits(held) && rule.task(held.task.id).is_some());
        // By id, which is by begin: a page's end is a place that stays.
        found.sort_by_key(|held| held.task.id);
        let more = found.len() > filter.size;
        found.truncate(filter.size);
        let next = found
            .last()
            .filter(|_| more)
            .map(|held| held.task.id.to_string());
        Ok(task::ListResponse {
            tasks: found.iter().map(|held| (&*held.task).into()).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    /// Opens the receipts of a task that has ended, as the server sends them.
    pub(crate) async fn open_wait(
        self: Arc<Self>,
        connection: &Connection,
        mut request: task::WaitRequest,
    ) -> Result<Streaming<task::Receipt>, Status> {
        let id = task_id(&request.task_id)?;
        let caller = self.attest(connection, "Wait").await?;
        if !self.had(&caller, id) {
            let ruled = self.ruled(&caller, &request.task_id, "Wait")?;
            request.task_id = ruled.held.task.id.to_string();
        }
        let call = self
            .server
            .call(|mut nodes| async move { nodes.wait_task(request).await });
        call.await
    }

    /// Whether the task was the caller's, or of a process above it, until it ended: nobody sees it
    /// any more, and who ended it may still ask who has heard.
    fn had(&self, caller: &Caller, id: TaskId) -> bool {
        let held = self.holding.get(id);
        held.filter(|held| held.task.is_ended())
            .and_then(|held| held.task.holder.process)
            .is_some_and(|holder| caller.ancestry().contains(&holder))
    }

    /// Passes receipts on until the last, or until the caller goes away.
    pub(crate) async fn pass_receipts(
        self: Arc<Self>,
        mut receipts: Streaming<task::Receipt>,
        out: mpsc::Sender<Result<task::Receipt, Status>>,
    ) {
        loop {
            let receipt = tokio::select! {
                receipt = receipts.message() => receipt.map_err(passed_on).transpose(),
                () = out.closed() => return,
                () = self.shutdown.requested() => return,
            };
            let Some(receipt) = receipt else { return };
            let is_last = receipt.is_err();
            if out.send(receipt).await.is_err() || is_last {
                return;
            }
        }
    }

    /// Sends the caller's tasks, then each that changes, until it goes away.
    pub(crate) async fn watch_tasks(
        self: Arc<Self>,
        caller: Caller,
        out: mpsc::Sender<Result<task::TaskResponse, Status>>,
    ) {
        let mut changes = self.holding.changes();
        if !self.send_all(&caller, &out).await {
            return;
        }
        loop {
            let changed = tokio::select! {
                changed = changes.recv() => changed,
                () = out.closed() => return,
                () = self.shutdown.requested() => return,
            };
            let goes_on = match changed {
                Ok(id) => self.send_one(&caller, id, &out).await,
                // Too much at once: the whole says the same.
                Err(RecvError::Lagged(_)) => self.send_all(&caller, &out).await,
                Err(RecvError::Closed) => return,
            };
            if !goes_on {
                return;
            }
        }
    }

    pub(crate) async fn fetch_x509(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::FetchX509svidRequest,
    ) -> Result<task::X509svid, Status> {
        let key = if request.csr.is_empty() {
            None
        } else {
            Some(csr_key(&request.csr)?)
        };
        let caller = self.attest(connection, "FetchX509SVID").await?;
        let held = self.bound_task(&caller, &request.task_id, "FetchX509SVID")?;
        let bundle = self.knowledge.bundle().ok_or_else(starting)?;
        match key {
            Some(spki) => {
                let minted = self.minter.x509(held.task.id, spki).await?;
                let (certificate, expires_at) = (minted.credential, minted.expires_at);
                Ok(svid(&held, certificate, Vec::new(), &bundle, expires_at))
            }
            None => {
                let own = self.svids.get(held.task.id).await?.svid;
                let (certificate, key) = (own.certificate.clone(), own.key.to_vec());
                Ok(svid(&held, certificate, key, &bundle, own.expires_at))
            }
        }
    }

    pub(crate) async fn fetch_jwt(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::FetchJwtsvidRequest,
    ) -> Result<task::Jwtsvid, Status> {
        check_audience(&request.audience)?;
        let caller = self.attest(connection, "FetchJWTSVID").await?;
        let held = self.bound_task(&caller, &request.task_id, "FetchJWTSVID")?;
        let minted = self.minter.jwt(held.task.id, request.audience).await?;
        Ok(task::Jwtsvid {
            spiffe_id: held.task.spiffe_id.to_string(),
            task_id: held.task.id.to_string(),
            token: minted.credential,
            expires_at_ms: minted.expires_at.millis(),
        })
    }

    /// A task that is bound to the caller, by its id, or the first if the id is empty. To act on a
    /// task is not enough: its credentials are for whom it is bound to.
    fn bound_task(&self, caller: &Caller, id: &str, action: &'static str) -> Result<Held, Status> {
        let wanted = if id.is_empty() {
            None
        } else {
            Some(task_id(id)?)
        };
        let fits = |held: &Held| wanted.is_none_or(|wanted| held.task.id == wanted);
        if let Some(held) = self.bound(caller)?.into_iter().find(fits) {
            return Ok(held);
        }
        // Bound and not to be had: that one's own reason.
        let entries = self.entries()?;
        let now = self.clock.now();
        let bound = self.explicit(caller).into_iter().find(fits);
        let denial = bound.and_then(|held| crate::view::judge(caller, &held, &entries, now).err());
        Err(match denial {
            Some(denial) => self.denials.give(caller, action, denial),
            None => self.no_such_task(caller, action),
        })
    }

    async fn send_all(
        &self,
        caller: &Caller,
        out: &mpsc::Sender<Result<task::TaskResponse, Status>>,
    ) -> bool {
        let mut all = self.holding.all();
        all.retain(|held| !held.task.is_ended());
        all.sort_by_key(|held| held.order);
        for held in all {
            if !self.send_one(caller, held.task.id, out).await {
                return false;
            }
        }
        true
    }

    async fn send_one(
        &self,
        caller: &Caller,
        id: TaskId,
        out: &mpsc::Sender<Result<task::TaskResponse, Status>>,
    ) -> bool {
        let Some(ruled) = self.rule(caller).task(id) else {
            return true;
        };
        let message = task::TaskResponse {
            task: Some((&*ruled.held.task).into()),
        };
        out.send(Ok(message)).await.is_ok()
    }
}

impl Filter {
    fn read(request: &task::ListRequest) -> Result<Self, Status> {
        let size = usize::try_from(request.page_size).unwrap_or(MAX_PAGE);
        if size > MAX_PAGE {
            let message = format!("a page has at most {MAX_PAGE} tasks");
            return Err(Denial::invalid("BAD_PAGE", message).status());
        }
        let optional = |text: &str| {
            if text.is_empty() {
                Ok(None)
            } else {
                task_id(text).map(Some)
            }
        };
        let bad_token = |_| Denial::invalid("BAD_PAGE", "this page token is none of ours").status();
        let spiffe_id =
            match request.spiffe_id.as_str() {
                "" => None,
                text => Some(SpiffeId::parse(text).map_err(|error| {
                    Denial::invalid("BAD_SPIFFE_ID", error.to_string()).status()
                })?),
            };
        Ok(Self {
            live_only: request.live_only,
            spiffe_id,
            root: optional(&request.root_id)?,
            after: optional(&request.page_token).map_err(bad_token)?,
            size: if size == 0 { PAGE } else { size },
        })
    }

    fn fits(&self, held: &Held) -> bool {
        let task = &held.task;
        let live = !self.live_only || !(task.is_ended() || held.dying);
        live && self
            .spiffe_id
            .as_ref()
            .is_none_or(|id| *id == task.spiffe_id)
            && self.root.is_none_or(|root| root == task.root)
            && self.after.is_none_or(|after| after < task.id)
    }
}

/// An SVID as the task API gives it.
pub(crate) fn svid(
    held: &Held,
    certificates: Vec<u8>,
    private_key: Vec<u8>,
    bundle: &Bundle,
    expires_at: Timestamp,
) -> task::X509svid {
    task::X509svid {
        spiffe_id: held.task.spiffe_id.to_string(),
        task_id: held.task.id.to_string(),
        certificates,
        private_key,
        bundle: bundle.x509_der(),
        expires_at_ms: expires_at.millis(),
    }
}
