//! The node service: what agents ask, over mTLS.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use taskmint_attest::{AttestError, Exchange, NodeAttestors, ServerContext};
use taskmint_id::Kind;
use taskmint_issuer::{
    Announced, AttestedNode, Issuer, Method, NodeIdentity, Principal, RefusalKind, Refused,
    RequestMark,
};
use taskmint_model::{Denial, Node};
use taskmint_wire::node::nodes_server::Nodes;
use taskmint_wire::{BadField, field, node, optional, task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::connection::Connection;
use crate::limits::Limits;
use crate::receipts::{self, Receipts};
use crate::refusal::{deny, explained, refusal, status};
use crate::requests::{self, public_key, request_id, text};
use crate::sessions;

/// How long an attestation may take in all.
const ATTEST: Duration = Duration::from_secs(30);

/// The most items of one minting call.
const MAX_BATCH: usize = 1024;

/// The node service over an issuer.
#[derive(Clone)]
pub(crate) struct NodeService {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) attestors: NodeAttestors,
    pub(crate) limits: Arc<Limits>,
    pub(crate) watch_address: String,
    pub(crate) stop: tokio_util::sync::CancellationToken,
}

#[tonic::async_trait]
impl Nodes for NodeService {
    type AttestStream = ReceiverStream<Result<node::AttestResponse, Status>>;
    type SessionStream = ReceiverStream<Result<node::SessionResponse, Status>>;
    type WaitTaskStream = Receipts;

    async fn attest(
        &self,
        request: Request<Streaming<node::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let connection = connection(&request)?;
        self.limits.attestation()?;
        let (answers, stream) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            let mut steps = Steps {
                requests: request.into_inner(),
                answers: answers.clone(),
            };
            let attested = service.attest_node(&mut steps, &connection);
            let answer = match tokio::time::timeout(ATTEST, attested).await {
                Ok(Ok(svid)) => Ok(node::AttestResponse {
                    step: Some(node::attest_response::Step::Svid(svid)),
                }),
                Ok(Err(status)) => Err(status),
                Err(_) => Err(deny(
                    Code::DeadlineExceeded,
                    "TOO_LATE",
                    "attestation took too long",
                )),
            };
            drop(answers.send(answer).await);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(
        &self,
        request: Request<node::RenewRequest>,
    ) -> Result<Response<node::NodeSvid>, Status> {
        let (identity, key) = self.identity(&request)?;
        let id = request_id(&request.get_ref().request_id)?
            .ok_or_else(|| BadField::new("request_id", "is missing"))?;
        let who = Principal::Node(identity.id.clone());
        match self.issuer.renew_node(&identity, key, id).await {
            Ok(minted) => Ok(Response::new(self.node_svid(identity.id.as_ref(), minted))),
            Err(refused) => Err(explained(
                &self.issuer,
                &who,
                Some(&identity.id),
                "node.renew",
                refused,
            )
            .await),
        }
    }

    async fn session(
        &self,
        request: Request<Streaming<node::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (identity, _) = self.identity(&request)?;
        let who = Principal::Node(identity.id.clone());
        let session = match self.issuer.open_session(&identity).await {
            Ok(session) => session,
            Err(refused) => {
                let node = Some(&identity.id);
                return Err(explained(&self.issuer, &who, node, "node.session", refused).await);
            }
        };
        let (answers, stream) = mpsc::channel(256);
        let run = sessions::Run {
            issuer: Arc::clone(&self.issuer),
            session,
            answers,
            watch_address: self.watch_address.clone(),
            crls: None,
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = run.run(request.into_inner()) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn begin_task(
        &self,
        request: Request<node::BeginTaskRequest>,
    ) -> Result<Response<node::BeginTaskResponse>, Status> {
        let node = self.node(&request).await?;
        let _in_hand = self.limits.items(&node.id, 1)?;
        let ask = request.into_inner();
        let who = requests::caller(&node, ask.caller.as_ref(), None)?;
        let request = requests::begin_mark(&ask)?;
        let of_task = ask.task.clone().unwrap_or_default();
        let mut begin = requests::begin(&of_task, request)?;
        begin.implicit = optional("implicit_entry_id", &ask.implicit_entry_id)?;
        begin.parent = optional("parent_id", &ask.parent_id)?;
        begin.continues = optional("continues", &ask.continues)?;
        begin.holder = optional("holder", &ask.holder)?;
        if begin.holder.is_none()
            && let Principal::Workload(caller) = &who
        {
            begin.holder = Some(caller.process);
        }
        if !ask.spki.is_empty() {
            begin.key = Some(public_key(&ask.spki)?);
        }
        match self.issuer.begin(&who, begin).await {
            Ok(began) => Ok(Response::new(node::BeginTaskResponse {
                task: Some((&began.task).into()),
                expires_at_ms: began
                    .svid
                    .as_ref()
                    .map_or(0, |svid| svid.expires_at.millis()),
                certificate: began.svid.map(|svid| svid.certificate).unwrap_or_default(),
            })),
            Err(refused) => {
                Err(explained(&self.issuer, &who, Some(&node.id), "task.begin", refused).await)
            }
        }
    }

    async fn extend_task(
        &self,
        request: Request<node::ExtendTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let node = self.node(&request).await?;
        let ask = request.into_inner();
        let id = field("task_id", &ask.task_id)?;
        let who = requests::caller(&node, ask.caller.as_ref(), Some(id))?;
        let (request_id, digest) = (&ask.request_id, &ask.request_digest);
        let content = || node::ExtendTaskRequest {
            caller: None,
            ..ask.clone()
        };
        let mark = requests::mark(Method::Extend, request_id, digest, content)?;
        let ttl = Duration::from_millis(ask.ttl_ms);
        let extended = self.issuer.extend(&who, id, ttl, mark.as_ref()).await;
        self.task_answer(&node, &who, "task.extend", extended).await
    }

    async fn suspend_task(
        &self,
        request: Request<node::ChangeTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let node = self.node(&request).await?;
        let (who, id, ask) = change(&node, request.into_inner())?;
        let mark = change_mark(Method::Suspend, &ask)?;
        let reason = text("reason", &ask.reason)?;
        let suspended = self.issuer.suspend(&who, id, &reason, mark.as_ref()).await;
        self.task_answer(&node, &who, "task.suspend", suspended)
            .await
    }

    async fn resume_task(
        &self,
        request: Request<node::ChangeTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let node = self.node(&request).await?;
        let (who, id, ask) = change(&node, request.into_inner())?;
        let mark = change_mark(Method::Resume, &ask)?;
        let resumed = self.issuer.resume(&who, id, mark.as_ref()).await;
        self.task_answer(&node, &who, "task.resume", resumed).await
    }

    async fn end_task(
        &self,
        request: Request<node::EndTaskRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        let node = self.node(&request).await?;
        let ask = request.into_inner();
        let id = field("task_id", &ask.task_id)?;
        let cause = requests::cause(&ask.cause)?;
        let reason = text("reason", &ask.reason)?;
        // An agent that saw a holder die speaks for itself; otherwise it speaks for a workload.
        let who = match &ask.caller {
            Some(_) => {
                let acting = optional("acting_task_id", &ask.acting_task_id)?.or(Some(id));
                requests::caller(&node, ask.caller.as_ref(), acting)?
            }
            None => Principal::Node(node.id.clone()),
        };
        let content = || node::EndTaskRequest {
            caller: None,
            acting_task_id: String::new(),
            ..ask.clone()
        };
        let (method, digest) = (requests::end_method(cause), &ask.request_digest);
        let mark = requests::mark(method, &ask.request_id, digest, content)?;
        let announced = ask.wait.then(|| self.issuer.announce_wait());
        let ended = self
            .issuer
            .end_asked(&who, id, cause, &reason, mark.as_ref());
        match ended.await {
            Ok((task, _)) => {
                announced.into_iter().for_each(Announced::linger);
                receipts::end_response(&self.issuer, &task).map(Response::new)
            }
            Err(refused) => {
                Err(explained(&self.issuer, &who, Some(&node.id), "task.end", refused).await)
            }
        }
    }

    async fn wait_task(
        &self,
        request: Request<task::WaitRequest>,
    ) -> Result<Response<Receipts>, Status> {
        let node = self.node(&request).await?;
        let ask = request.into_inner();
        let id = field("task_id", &ask.task_id)?;
        let who = Principal::Node(node.id.clone());
        let task = self.issuer.visible_task(&who, id).await.map_err(status)?;
        let (of, stop) = (Some(&node.id), self.stop.clone());
        let receipts = receipts::wait(&self.issuer, of, task, ask.timeout_ms, stop);
        receipts.map(Response::new)
    }

    async fn recall_task(
        &self,
        request: Request<node::RecallTaskRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        let node = self.node(&request).await?;
        let ask = request.into_inner();
        let who = requests::caller(&node, ask.caller.as_ref(), None)?;
        let mark = requests::recall(&ask)?;
        match self.issuer.recall(&who, &mark).await {
            Ok(Some(task)) if task.is_ended() => {
                receipts::end_response(&self.issuer, &task).map(Response::new)
            }
            Ok(Some(task)) => Ok(Response::new(task::EndResponse {
                task: Some((&task).into()),
                ..task::EndResponse::default()
            })),
            Ok(None) => Err(deny(
                Code::NotFound,
                "NO_SUCH_REQUEST",
                "no such request was answered",
            )),
            Err(refused) => {
                Err(explained(&self.issuer, &who, Some(&node.id), "task.recall", refused).await)
            }
        }
    }

    async fn get_task(
        &self,
        request: Request<task::GetRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let node = self.node(&request).await?;
        let id = field("task_id", &request.get_ref().task_id)?;
        let found = self
            .issuer
            .visible_task(&Principal::Node(node.id), id)
            .await;
        let task = found.map_err(status)?;
        Ok(Response::new(task::TaskResponse {
            task: Some((&task).into()),
        }))
    }

    async fn mint_x509(
        &self,
        request: Request<node::MintX509Request>,
    ) -> Result<Response<node::MintX509Response>, Status> {
        let node = self.node(&request).await?;
        let asked = request.into_inner().items;
        bounded_batch(asked.len())?;
        let _in_hand = self.limits.items(&node.id, asked.len())?;
        let mut items = Vec::with_capacity(asked.len());
        for item in &asked {
            items.push((field("task_id", &item.task_id)?, public_key(&item.spki)?));
        }
        let minted = self.issuer.mint_x509_batch(Some(&node.id), items).await;
        let results = minted.into_iter().map(|result| match result {
            Ok(svid) => node::mint_x509_response::Result {
                certificate: svid.certificate,
                expires_at_ms: svid.expires_at.millis(),
                refusal: None,
            },
            Err(refused) => node::mint_x509_response::Result {
                refusal: Some(refusal(refused)),
                ..Default::default()
            },
        });
        Ok(Response::new(node::MintX509Response {
            results: results.collect(),
        }))
    }

    async fn mint_jwt(
        &self,
        request: Request<node::MintJwtRequest>,
    ) -> Result<Response<node::MintJwtResponse>, Status> {
        let node = self.node(&request).await?;
        let asked = request.into_inner().items;
        bounded_batch(asked.len())?;
        let _in_hand = self.limits.items(&node.id, asked.len())?;
        let mut items = Vec::with_capacity(asked.len());
        for item in asked {
            items.push((field("task_id", &item.task_id)?, item.audience));
        }
        let minted = self.issuer.mint_jwt_batch(Some(&node.id), items).await;
        let results = minted.into_iter().map(|result| match result {
            Ok(minted) => node::mint_jwt_response::Result {
                token: minted.token,
                expires_at_ms: minted.expires_at.millis(),
                refusal: None,
            },
            Err(refused) => node::mint_jwt_response::Result {
                refusal: Some(refusal(refused)),
                ..Default::default()
            },
        });
        let results = results.collect();
        Ok(Response::new(node::MintJwtResponse { results }))
    }

    async fn report_denial(
        &self,
        request: Request<node::ReportDenialRequest>,
    ) -> Result<Response<node::ReportDenialResponse>, Status> {
        let node = self.node(&request).await?;
        let told = request.into_inner();
        let caller = told.caller.unwrap_or_default();
        let denial = Denial {
            id: field("denial_id", &told.denial_id)?,
            at: self.issuer.now(),
            who: format!(
                "process {} (uid {}) on {}",
                text("process", &caller.process)?,
                caller.uid,
                node.id
            ),
            action: text("action", &told.action)?,
            reason: text("reason", &told.reason)?,
            message: text("message", &told.message)?,
            fix: text("fix", &told.fix)?,
            selectors: taskmint_wire::selectors_from_wire("selectors", &caller.selectors)?,
            detail: told
                .detail
                .iter()
                .take(32)
                .map(|d| text("detail", d))
                .collect::<Result<_, _>>()?,
            node: Some(node.id),
        };
        self.issuer.take_denial(denial).await.map_err(status)?;
        Ok(Response::new(node::ReportDenialResponse {}))
    }
}

impl NodeService {
    async fn attest_node(
        &self,
        steps: &mut Steps,
        connection: &Connection,
    ) -> Result<node::NodeSvid, Status> {
        let missing = || {
            deny(
                Code::InvalidArgument,
                "BAD_FIELD",
                "the first step must be a hello",
            )
        };
        let first = steps.requests.message().await?.ok_or_else(missing)?;
        let Some(node::attest_request::Step::Hello(hello)) = first.step else {
            return Err(missing());
        };
        let key = public_key(&hello.spki)?;
        let id = request_id(&hello.request_id)?
            .ok_or_else(|| BadField::new("request_id", "is missing"))?;
        let trust_domain = self.issuer.settings().trust_domain.to_string();
        let context = ServerContext {
            trust_domain: &trust_domain,
            node_spki: &hello.spki,
            tls_exporter: connection.exporter,
            now: self.issuer.now(),
        };
        let who = Principal::Admin("a node that attests".to_owned());
        let attested = self
            .attestors
            .attest(&hello.attestor, &context, &hello.payload, steps)
            .await;
        let attested = match attested {
            Ok(attested) => attested,
            Err(error) => {
                let refused = attest_refused(&error);
                return Err(explained(&self.issuer, &who, None, "node.attest", refused).await);
            }
        };
        let attested = AttestedNode {
            attestor: attested.attestor,
            name: attested.node_suffix,
            selectors: attested.selectors.into_iter().collect(),
            token: attested.consume,
        };
        match self.issuer.attest_node(attested, key, id).await {
            Ok((node, minted)) => Ok(self.node_svid(node.id.as_ref(), minted)),
            Err(refused) => Err(explained(&self.issuer, &who, None, "node.attest", refused).await),
        }
    }

    fn node_svid(&self, id: &str, minted: taskmint_issuer::MintedX509) -> node::NodeSvid {
        node::NodeSvid {
            node_id: id.to_owned(),
            certificate: minted.certificate,
            expires_at_ms: minted.expires_at.millis(),
            bundle: Some(sessions::bundle(&self.issuer.bundle().borrow())),
        }
    }

    /// The node that this request came from, attested, in good standing and within its rate.
    async fn node<T>(&self, request: &Request<T>) -> Result<Node, Status> {
        let (identity, _) = self.identity(request)?;
        self.limits.node(&identity.id)?;
        match self.issuer.recognise(&identity, false).await {
            Ok(node) => Ok(node),
            Err(refused) => {
                let who = Principal::Node(identity.id.clone());
                let node = Some(&identity.id);
                Err(explained(&self.issuer, &who, node, "node.recognise", refused).await)
            }
        }
    }

    fn identity<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(NodeIdentity, taskmint_mint::PublicKey), Status> {
        let denied = |why| {
            deny(
                Code::Unauthenticated,
                "NO_NODE_SVID",
                format!("a node's SVID is needed: {why}"),
            )
        };
        let peer = connection(request)?
            .peer
            .ok_or_else(|| denied("none was shown"))?;
        if peer.spiffe_id.kind() != Kind::Node {
            return Err(denied("this one is not a node's"));
        }
        let key_hash = Sha256::digest(&peer.spki).into();
        let serial = peer.serial;
        let identity = NodeIdentity {
            id: peer.spiffe_id.clone(),
            serial,
            key_hash,
        };
        Ok((identity, public_key(&peer.spki)?))
    }

    async fn task_answer(
        &self,
        node: &Node,
        who: &Principal,
        action: &'static str,
        outcome: Result<taskmint_model::Task, Refused>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        match outcome {
            Ok(task) => Ok(Response::new(task::TaskResponse {
                task: Some((&task).into()),
            })),
            Err(refused) => {
                Err(explained(&self.issuer, who, Some(&node.id), action, refused).await)
            }
        }
    }
}

fn change(
    node: &Node,
    ask: node::ChangeTaskRequest,
) -> Result<(Principal, taskmint_model::TaskId, node::ChangeTaskRequest), Status> {
    let id = field("task_id", &ask.task_id)?;
    let acting = optional("acting_task_id", &ask.acting_task_id)?.or(Some(id));
    Ok((
        requests::caller(node, ask.caller.as_ref(), acting)?,
        id,
        ask,
    ))
}

fn change_mark(
    method: Method,
    ask: &node::ChangeTaskRequest,
) -> Result<Option<RequestMark>, BadField> {
    let content = || node::ChangeTaskRequest {
        caller: None,
        acting_task_id: String::new(),
        ..ask.clone()
    };
    requests::mark(method, &ask.request_id, &ask.request_digest, content)
}

fn bounded_batch(len: usize) -> Result<(), Status> {
    if len == 0 || len > MAX_BATCH {
        let why = format!("must hold 1 to {MAX_BATCH} items");
        return Err(BadField::new("items", why).into());
    }
    Ok(())
}

fn connection<T>(request: &Request<T>) -> Result<Connection, Status> {
    request
        .extensions()
        .get::<Connection>()
        .cloned()
        .ok_or_else(|| deny(Code::Internal, "FAULT", "the connection is unknown"))
}

fn attest_refused(error: &AttestError) -> Refused {
    let kind = if error.is_refusal() {
        RefusalKind::Denied
    } else {
        RefusalKind::Unavailable
    };
    Refused::new(kind, error.reason(), error.to_string())
}

/// The steps of an attestation over its stream.
struct Steps {
    requests: Streaming<node::AttestRequest>,
    answers: mpsc::Sender<Result<node::AttestResponse, Status>>,
}

#[taskmint_attest::async_trait]
impl Exchange for Steps {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        let step = Some(node::attest_response::Step::Challenge(challenge));
        let gone = || AttestError::Interrupted;
        self.answers
            .send(Ok(node::AttestResponse { step }))
            .await
            .map_err(|_| gone())?;
        match self.requests.message().await {
            Ok(Some(node::AttestRequest {
                step: Some(node::attest_request::Step::Response(response)),
            })) => Ok(response),
            Ok(_) => Err(AttestError::Malformed {
                what: "the response",
            }),
            Err(_) => Err(gone()),
        }
    }
}
