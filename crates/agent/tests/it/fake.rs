//! A server that plays its part: the node service in memory, over plain TCP, with a real CA.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::log::Log;
use parking_lot::Mutex;
use taskmint_agent::{Bootstrap, NodeIdentity, Upstream, UpstreamError};
use taskmint_attest::{AgentContext, AttestError, NodeProver};
use taskmint_id::{Bundle, P256PublicKey, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{Clock, SystemClock, SystemEntropy, TaskId, Timestamp};
use taskmint_testkit::{LeafSpec, TestCa};
use taskmint_wire::node::nodes_server::{Nodes, NodesServer};
use taskmint_wire::revocation::revocation_server::RevocationServer;
use taskmint_wire::{Denied, node, task};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// Tests wait this long for a state, and then fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Session = mpsc::Sender<Result<node::SessionResponse, Status>>;

/// What the server has and what it was asked.
pub(crate) struct State {
    pub(crate) entries: Vec<node::Entry>,
    pub(crate) tasks: BTreeMap<String, task::Task>,
    pub(crate) bars: Vec<node::bars::Bar>,
    pub(crate) begun: Vec<node::BeginTaskRequest>,
    pub(crate) ended: Vec<node::EndTaskRequest>,
    pub(crate) changed: Vec<node::ChangeTaskRequest>,
    pub(crate) denials: Vec<node::ReportDenialRequest>,
    pub(crate) adopted: Vec<Vec<String>>,
    pub(crate) attested: u32,
    pub(crate) renewed: u32,
    pub(crate) sessions_opened: u32,
    pub(crate) leases: u32,
    pub(crate) lapsed: bool,
    pub(crate) lease: Duration,
    pub(crate) x509_ttl: Duration,
    pub(crate) node_ttl: Duration,
    pub(crate) limit: Duration,
    pub(crate) refuse_sessions: Option<&'static str>,
    pub(crate) has_log: bool,
    pub(crate) log: Log,
    requests: BTreeMap<Vec<u8>, String>,
    sessions: Vec<Session>,
    bundle_sequence: u64,
}

/// The server. Clones share it.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    ca: TestCa,
    address: SocketAddr,
    away: AtomicBool,
    wire: Mutex<CancellationToken>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, SystemClock.now(), &SystemEntropy);
        let state = State {
            entries: Vec::new(),
            tasks: BTreeMap::new(),
            bars: Vec::new(),
            begun: Vec::new(),
            ended: Vec::new(),
            changed: Vec::new(),
            denials: Vec::new(),
            adopted: Vec::new(),
            attested: 0,
            renewed: 0,
            sessions_opened: 0,
            leases: 0,
            lapsed: false,
            lease: Duration::from_secs(60),
            x509_ttl: Duration::from_secs(600),
            node_ttl: Duration::from_secs(24 * 3600),
            limit: Duration::from_secs(24 * 3600),
            refuse_sessions: None,
            has_log: false,
            log: Log::default(),
            requests: BTreeMap::new(),
            sessions: Vec::new(),
            bundle_sequence: 1,
        };
        let fake = Self(Arc::new(Inner {
            state: Mutex::new(state),
            version: watch::Sender::new(0),
            ca,
            address: listener.local_addr().unwrap(),
            away: AtomicBool::new(false),
            wire: Mutex::new(CancellationToken::new()),
        }));
        let (incoming, accepted) = mpsc::channel(16);
        let of_accept = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if !of_accept.0.away.load(Ordering::SeqCst) {
                    let cut = of_accept.0.wire.lock().clone().cancelled_owned();
                    let wire = Wire {
                        stream,
                        cut: Box::pin(cut),
                        is_cut: false,
                    };
                    drop(incoming.send(Ok::<_, io::Error>(wire)).await);
                }
            }
        });
        let service = NodesServer::new(fake.clone());
        let log = RevocationServer::new(fake.clone());
        let server = Server::builder().add_service(service).add_service(log);
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(accepted)));
        fake
    }

    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let result = look(&mut self.0.state.lock());
        self.0.version.send_modify(|version| *version += 1);
        result
    }

    /// Waits until `wanted` gives something.
    #[track_caller]
    pub(crate) fn until<T>(
        &self,
        wanted: impl Fn(&mut State) -> Option<T>,
    ) -> impl Future<Output = T> {
        let caller = std::panic::Location::caller();
        let mut version = self.0.version.subscribe();
        async move {
            let wait = async {
                loop {
                    version.mark_unchanged();
                    if let Some(found) = wanted(&mut self.0.state.lock()) {
                        return found;
                    }
                    version.changed().await.unwrap();
                }
            };
            let found = tokio::time::timeout(PATIENCE, wait).await;
            found.unwrap_or_else(|_| panic!("never came about, asked at {caller}"))
        }
    }

    /// Cuts every connection and takes no new one until [`Self::come_back`].
    pub(crate) fn go_away(&self) {
        self.0.away.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.0.wire.lock()).cancel();
        self.state(|state| state.sessions.clear());
    }

    pub(crate) fn come_back(&self) {
        self.0.away.store(false, Ordering::SeqCst);
    }

    pub(crate) fn ca(&self) -> &TestCa {
        &self.0.ca
    }

    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.0.ca.trust_domain().clone()
    }

    /// Puts entries in place of all others and tells the node.
    pub(crate) async fn put_entries(&self, entries: Vec<node::Entry>) {
        let message = node::Entries {
            revision: 1,
            entries: entries.clone(),
        };
        self.state(|state| state.entries = entries);
        self.tell(node::session_response::Message::Entries(message))
            .await;
    }

    /// Publishes a bundle with one more key.
    pub(crate) async fn rotate_bundle(&self) -> Bundle {
        self.state(|state| state.bundle_sequence += 1);
        let bundle = self.bundle();
        self.tell(node::session_response::Message::Bundle(wire_bundle(
            &bundle,
        )))
        .await;
        bundle
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let sequence = self.0.state.lock().bundle_sequence;
        let mut bundle = Bundle::new(self.trust_domain()).with_sequence(sequence);
        bundle.add_x509_authority(X509Authority::from_der(self.ca().certificate()).unwrap());
        let key = *self.ca().jwt_key().public();
        bundle
            .add_jwt_authority(&key.thumbprint_text(), key)
            .unwrap();
        for number in 1..sequence {
            let other = taskmint_testkit::TestKey::generate(&SystemEntropy);
            bundle
                .add_jwt_authority(&format!("other-{number}"), *other.public())
                .unwrap();
        }
        bundle
    }

    /// Ends a task as an operator would.
    pub(crate) async fn revoke(&self, id: &str) {
        self.end(id, "revoked", "admin").await;
    }

    /// Changes a task and tells the node.
    pub(crate) async fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut task::Task),
    ) -> task::Task {
        let task = self.state(|state| {
            let task = state.tasks.get_mut(id).unwrap();
            change(task);
            task.version += 1;
            task.clone()
        });
        let event = node::TaskEvent {
            task: Some(task.clone()),
        };
        self.tell(node::session_response::Message::Task(event))
            .await;
        task
    }

    async fn end(&self, id: &str, cause: &str, by: &str) -> task::Task {
        let at_ms = SystemClock.now().millis();
        let task = self
            .change(id, |task| {
                task.set_state(task::State::Ended);
                let (cause, by) = (cause.to_owned(), by.to_owned());
                task.ending = Some(task::Ending { at_ms, cause, by });
            })
            .await;
        let moot = ["holder_died", "expired", "superseded", "node_lost"].contains(&cause);
        if task.kind() == task::Kind::Implicit && !moot {
            let bars = self.state(|state| {
                state.bars.push(node::bars::Bar {
                    entry_id: task.entry_id.clone(),
                    process: task.process.clone(),
                    task_id: task.id.clone(),
                });
                state.bars.clone()
            });
            self.tell(node::session_response::Message::Bars(node::Bars { bars }))
                .await;
        }
        let below = self.state(|state| {
            let live = |task: &&task::Task| task.state() != task::State::Ended;
            let below = state
                .tasks
                .values()
                .filter(|t| t.parent_id == id)
                .filter(live);
            below.map(|task| task.id.clone()).collect::<Vec<_>>()
        });
        for child in below {
            Box::pin(self.end(&child, "parent_ended", by)).await;
        }
        task
    }

    async fn tell(&self, message: node::session_response::Message) {
        let sessions = self.0.state.lock().sessions.clone();
        for session in sessions {
            let message = node::SessionResponse {
                message: Some(message.clone()),
            };
            drop(session.send(Ok(message)).await);
        }
    }

    fn certificate(&self, id: &SpiffeId, spki: &[u8], until: Timestamp) -> Vec<u8> {
        let mut spec = LeafSpec::svid(id, SystemClock.now());
        spec.not_after = until;
        self.ca()
            .certify_public(&spec, &P256PublicKey::from_spki_der(spki).unwrap())
    }

    fn node_svid(&self, spki: &[u8]) -> node::NodeSvid {
        let id = SpiffeId::node(&self.trust_domain(), "join_token", "n1").unwrap();
        let until = SystemClock.now() + self.0.state.lock().node_ttl;
        node::NodeSvid {
            node_id: id.to_string(),
            certificate: self.certificate(&id, spki, until),
            expires_at_ms: until.millis(),
            bundle: Some(wire_bundle(&self.bundle())),
        }
    }

    fn mint(&self, task: &task::Task, spki: &[u8]) -> (Vec<u8>, u64) {
        let ttl = self.0.state.lock().x509_ttl;
        let until = (SystemClock.now() + ttl).min(Timestamp::from_millis(task.deadline_ms));
        (
            self.certificate(&task.spiffe_id.parse().unwrap(), spki, until),
            until.millis(),
        )
    }

    fn open(&self, ask: &node::BeginTaskRequest) -> Result<task::Task, Status> {
        let of_task = ask.task.clone().unwrap_or_default();
        let caller = ask.caller.clone().unwrap_or_default();
        let entries = self.0.state.lock().entries.clone();
        let fits = |entry: &&node::Entry| {
            let named = ask.implicit_entry_id.is_empty() || entry.id == ask.implicit_entry_id;
            let wanted = of_task.spiffe_id.is_empty() || entry.spiffe_id == of_task.spiffe_id;
            named && wanted && entry.selectors.iter().all(|s| caller.selectors.contains(s))
        };
        let entry = entries.iter().find(fits).ok_or_else(|| {
            let message = "no identity issued: no entry matches this process";
            Status::from(Denied::new(
                Code::PermissionDenied,
                "NO_MATCHING_ENTRY",
                message,
            ))
        })?;
        let now = SystemClock.now();
        let parent = self.0.state.lock().tasks.get(&ask.parent_id).cloned();
        let id = TaskId::new(now, &SystemEntropy).to_string();
        let implicit = !ask.implicit_entry_id.is_empty();
        let limit = self.0.state.lock().limit;
        let ttl = Duration::from_millis(of_task.ttl_ms);
        let deadline = if ttl.is_zero() { limit } else { ttl };
        let holder = if ask.holder.is_empty() {
            caller.process
        } else {
            ask.holder.clone()
        };
        let mut task = task::Task {
            root_id: parent
                .as_ref()
                .map_or(id.clone(), |parent| parent.root_id.clone()),
            id,
            parent_id: ask.parent_id.clone(),
            spiffe_id: entry.spiffe_id.clone(),
            entry_id: entry.id.clone(),
            owner: "somebody".to_owned(),
            purpose: of_task.purpose.clone(),
            scopes: Vec::new(),
            audiences: entry.audiences.clone(),
            opened_at_ms: now.millis(),
            deadline_ms: (now + deadline).millis(),
            limit_ms: (now + limit).millis(),
            state: task::State::Live.into(),
            kind: task::Kind::Explicit.into(),
            binding: of_task.binding,
            depth: parent.as_ref().map_or(0, |parent| parent.depth + 1),
            children: 0,
            max_children: 16,
            max_depth: 4,
            node_id: format!(
                "spiffe://{}/taskmint/node/join_token/n1",
                self.trust_domain()
            ),
            process: holder,
            continues: ask.continues.clone(),
            place: Some(task::Place {
                log_id: vec![1; 8],
                bucket: now.hour() + 24,
                index: 1,
            }),
            suspension: None,
            ending: None,
            version: 1,
        };
        if implicit {
            task.set_kind(task::Kind::Implicit);
        }
        if task.binding() == task::Binding::Unspecified {
            task.set_binding(task::Binding::Process);
        }
        Ok(task)
    }
}

/// An entry that this very process matches, and every child of it.
pub(crate) fn entry(number: u8, path: &str) -> node::Entry {
    node::Entry {
        id: format!("00000000-0000-7000-8000-0000000000{number:02}"),
        revision: 1,
        spiffe_id: format!("spiffe://example.org{path}"),
        selectors: vec![format!("unix:uid:{}", nix::unistd::geteuid())],
        implicit: true,
        audiences: vec!["*".to_owned()],
        created_at_ms: u64::from(number),
        ..Default::default()
    }
}

fn wire_bundle(bundle: &Bundle) -> node::Bundle {
    node::Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        json: bundle.to_json().into_bytes(),
    }
}

fn not_live(task: Option<&task::Task>) -> Option<node::Refusal> {
    let reason = match task.map(task::Task::state) {
        Some(task::State::Live) => return None,
        Some(task::State::Suspended) => "TASK_SUSPENDED",
        Some(_) => "TASK_ENDED",
        None => "NO_SUCH_TASK",
    };
    Some(node::Refusal {
        reason: reason.to_owned(),
        message: "not live".to_owned(),
        ..Default::default()
    })
}

#[tonic::async_trait]
impl Nodes for Fake {
    type AttestStream = ReceiverStream<Result<node::AttestResponse, Status>>;
    type SessionStream = ReceiverStream<Result<node::SessionResponse, Status>>;
    type WaitTaskStream = ReceiverStream<Result<task::Receipt, Status>>;

    async fn attest(
        &self,
        request: Request<Streaming<node::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let mut requests = request.into_inner();
        let step = requests.message().await?.and_then(|request| request.step);
        let Some(node::attest_request::Step::Hello(hello)) = step else {
            return Err(Status::invalid_argument("hello"));
        };
        if hello.payload != b"token" {
            return Err(Denied::new(Code::PermissionDenied, "TOKEN_USED", "used").into());
        }
        self.state(|state| state.attested += 1);
        let (answers, stream) = mpsc::channel(1);
        let step = Some(node::attest_response::Step::Svid(
            self.node_svid(&hello.spki),
        ));
        answers
            .send(Ok(node::AttestResponse { step }))
            .await
            .unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(
        &self,
        _: Request<node::RenewRequest>,
    ) -> Result<Response<node::NodeSvid>, Status> {
        let spki = self
            .0
            .state
            .lock()
            .requests
            .get(b"spki".as_slice())
            .cloned();
        self.state(|state| state.renewed += 1);
        let spki = hex_decode(&spki.unwrap_or_default());
        Ok(Response::new(self.node_svid(&spki)))
    }

    async fn session(
        &self,
        request: Request<Streaming<node::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(reason) = self.0.state.lock().refuse_sessions {
            return Err(Denied::new(Code::PermissionDenied, reason, "no").into());
        }
        let (session, stream) = mpsc::channel(1024);
        let (inventory, entries, bars) = self.state(|state| {
            state.sessions_opened += 1;
            state.sessions.push(session.clone());
            let live = |task: &&task::Task| task.state() != task::State::Ended;
            let inventory = node::session_response::Inventory {
                tasks: state.tasks.values().filter(live).cloned().collect(),
                lapsed: std::mem::take(&mut state.lapsed),
                watch_address: if state.has_log {
                    self.0.address.to_string()
                } else {
                    String::new()
                },
                settings: Some(node::Settings {
                    lease_ms: u64::try_from(state.lease.as_millis()).unwrap(),
                    ..Default::default()
                }),
            };
            let entries = node::Entries {
                revision: 1,
                entries: state.entries.clone(),
            };
            (
                inventory,
                entries,
                node::Bars {
                    bars: state.bars.clone(),
                },
            )
        });
        use node::session_response::Message;
        let bundle = wire_bundle(&self.bundle());
        let first = [
            Message::Inventory(inventory),
            Message::Bundle(bundle),
            Message::Entries(entries),
            Message::Bars(bars),
        ];
        for message in first {
            let message = node::SessionResponse {
                message: Some(message),
            };
            session.send(Ok(message)).await.unwrap();
        }
        let fake = self.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                match request.message {
                    Some(node::session_request::Message::Open(open)) if open.adopted => {
                        let adopted = open.adopted_task_ids;
                        fake.state(|state| state.adopted.push(adopted));
                    }
                    Some(node::session_request::Message::Lease(lease)) => {
                        fake.state(|state| state.leases += 1);
                        let (counter, lease_ms) = (lease.counter, 0);
                        let lease = node::session_response::Lease { counter, lease_ms };
                        let message = Some(Message::Lease(lease));
                        drop(session.send(Ok(node::SessionResponse { message })).await);
                    }
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn begin_task(
        &self,
        request: Request<node::BeginTaskRequest>,
    ) -> Result<Response<node::BeginTaskResponse>, Status> {
        let ask = request.into_inner();
        let request_id = ask.task.clone().unwrap_or_default().request_id;
        let seen = self.0.state.lock().requests.get(&request_id).cloned();
        let task = match seen {
            Some(id) if !request_id.is_empty() => self.0.state.lock().tasks[&id].clone(),
            _ => self.open(&ask)?,
        };
        self.state(|state| {
            state.begun.push(ask.clone());
            state.requests.insert(request_id, task.id.clone());
            state.tasks.insert(task.id.clone(), task.clone());
        });
        let event = node::TaskEvent {
            task: Some(task.clone()),
        };
        self.tell(node::session_response::Message::Task(event))
            .await;
        let (certificate, expires_at_ms) = if ask.spki.is_empty() {
            (Vec::new(), 0)
        } else {
            self.mint(&task, &ask.spki)
        };
        let task = Some(task);
        Ok(Response::new(node::BeginTaskResponse {
            task,
            certificate,
            expires_at_ms,
        }))
    }

    async fn extend_task(
        &self,
        request: Request<node::ExtendTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let ask = request.into_inner();
        let deadline = SystemClock.now() + Duration::from_millis(ask.ttl_ms);
        let changed = self
            .change(&ask.task_id, |task| task.deadline_ms = deadline.millis())
            .await;
        Ok(Response::new(task::TaskResponse {
            task: Some(changed),
        }))
    }

    async fn suspend_task(
        &self,
        request: Request<node::ChangeTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let ask = request.into_inner();
        self.state(|state| state.changed.push(ask.clone()));
        let changed = self.change(&ask.task_id, |task| {
            task.set_state(task::State::Suspended);
            task.suspension = Some(task::Suspension {
                by: "holder".to_owned(),
                ..Default::default()
            });
        });
        Ok(Response::new(task::TaskResponse {
            task: Some(changed.await),
        }))
    }

    async fn resume_task(
        &self,
        request: Request<node::ChangeTaskRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let ask = request.into_inner();
        self.state(|state| state.changed.push(ask.clone()));
        let changed = self.change(&ask.task_id, |task| {
            task.set_state(task::State::Live);
            task.suspension = None;
        });
        Ok(Response::new(task::TaskResponse {
            task: Some(changed.await),
        }))
    }

    async fn end_task(
        &self,
        request: Request<node::EndTaskRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        let ask = request.into_inner();
        if !ask.request_id.is_empty() {
            let (id, task) = (ask.request_id.clone(), ask.task_id.clone());
            self.state(|state| state.requests.insert(id, task));
        }
        self.state(|state| state.ended.push(ask.clone()));
        let known = self.0.state.lock().tasks.get(&ask.task_id).cloned();
        let task = match known {
            None => return Err(Denied::new(Code::NotFound, "NO_SUCH_TASK", "no such task").into()),
            Some(task) if task.state() == task::State::Ended => task,
            Some(_) => self.end(&ask.task_id, &ask.cause, "node").await,
        };
        Ok(Response::new(task::EndResponse {
            task: Some(task),
            position: 7,
            receipt: Some(receipt()),
        }))
    }

    async fn wait_task(
        &self,
        request: Request<task::WaitRequest>,
    ) -> Result<Response<Self::WaitTaskStream>, Status> {
        let known = self
            .0
            .state
            .lock()
            .tasks
            .contains_key(&request.get_ref().task_id);
        if !known {
            return Err(Denied::new(Code::NotFound, "NO_SUCH_TASK", "no such task").into());
        }
        let (out, receipts) = tokio::sync::mpsc::channel(2);
        let last = task::Receipt {
            r#final: true,
            ..receipt()
        };
        for message in [receipt(), last] {
            out.try_send(Ok(message)).expect("room for two");
        }
        Ok(Response::new(ReceiverStream::new(receipts)))
    }

    async fn recall_task(
        &self,
        request: Request<node::RecallTaskRequest>,
    ) -> Result<Response<task::EndResponse>, Status> {
        let ask = request.into_inner();
        let recalled = self.state(|state| {
            let id = state.requests.get(&ask.request_id).cloned()?;
            state.tasks.get(&id).cloned()
        });
        let missing = || Status::from(Denied::new(Code::NotFound, "NO_SUCH_REQUEST", "none"));
        Ok(Response::new(task::EndResponse {
            task: Some(recalled.ok_or_else(missing)?),
            position: 7,
            receipt: None,
        }))
    }

    async fn get_task(
        &self,
        request: Request<task::GetRequest>,
    ) -> Result<Response<task::TaskResponse>, Status> {
        let task = self
            .0
            .state
            .lock()
            .tasks
            .get(&request.get_ref().task_id)
            .cloned();
        Ok(Response::new(task::TaskResponse { task }))
    }

    async fn mint_x509(
        &self,
        request: Request<node::MintX509Request>,
    ) -> Result<Response<node::MintX509Response>, Status> {
        let results = request.into_inner().items.into_iter().map(|item| {
            let task = self.0.state.lock().tasks.get(&item.task_id).cloned();
            let mut result = node::mint_x509_response::Result {
                refusal: not_live(task.as_ref()),
                ..Default::default()
            };
            if let (None, Some(task)) = (&result.refusal, task) {
                (result.certificate, result.expires_at_ms) = self.mint(&task, &item.spki);
            }
            result
        });
        Ok(Response::new(node::MintX509Response {
            results: results.collect(),
        }))
    }

    async fn mint_jwt(
        &self,
        request: Request<node::MintJwtRequest>,
    ) -> Result<Response<node::MintJwtResponse>, Status> {
        let results = request.into_inner().items.into_iter().map(|item| {
            let task = self.0.state.lock().tasks.get(&item.task_id).cloned();
            let refusal = not_live(task.as_ref());
            let token = match (&refusal, task) {
                (None, Some(task)) => {
                    let id = task.spiffe_id.parse().unwrap();
                    let mut claims = TestCa::claims(&id, "", SystemClock.now());
                    claims["aud"] = item.audience.into();
                    self.ca().token(&claims)
                }
                _ => String::new(),
            };
            node::mint_jwt_response::Result {
                token,
                expires_at_ms: 1,
                refusal,
            }
        });
        Ok(Response::new(node::MintJwtResponse {
            results: results.collect(),
        }))
    }

    async fn report_denial(
        &self,
        request: Request<node::ReportDenialRequest>,
    ) -> Result<Response<node::ReportDenialResponse>, Status> {
        self.state(|state| state.denials.push(request.into_inner()));
        Ok(Response::new(node::ReportDenialResponse {}))
    }
}

#[tonic::async_trait]
impl Upstream for Fake {
    async fn bootstrap(&self) -> Result<Bootstrap, UpstreamError> {
        Ok(Bootstrap {
            channel: self.channel().await?,
            exporter: [7; 32],
            trust_domain: self.trust_domain(),
            server: self.0.address.to_string(),
            prover: Arc::new(Token),
        })
    }

    async fn nodes(&self, identity: &NodeIdentity) -> Result<Channel, UpstreamError> {
        let spki = spki_of(&identity.certificate);
        self.state(|state| state.requests.insert(b"spki".to_vec(), spki));
        self.channel().await
    }

    async fn watch(&self, address: &str, _: &NodeIdentity) -> Result<Channel, UpstreamError> {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        endpoint
            .connect()
            .await
            .map_err(|e| unreachable(address, e))
    }
}

impl Fake {
    async fn channel(&self) -> Result<Channel, UpstreamError> {
        let address = self.0.address.to_string();
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        endpoint
            .connect()
            .await
            .map_err(|e| unreachable(&address, e))
    }
}

fn unreachable(address: &str, error: tonic::transport::Error) -> UpstreamError {
    UpstreamError::Unreachable {
        address: address.to_owned(),
        source: error.into(),
    }
}

fn spki_of(certificate: &[u8]) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(certificate).unwrap();
    leaf.public_key()
        .raw
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}

fn hex_decode(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Proves the node with the one token that the server takes.
struct Token;

#[taskmint_attest::async_trait]
impl NodeProver for Token {
    fn name(&self) -> &'static str {
        "join_token"
    }

    async fn begin(&self, context: &AgentContext<'_>) -> Result<Vec<u8>, AttestError> {
        assert_eq!(context.tls_exporter, [7; 32]);
        Ok(b"token".to_vec())
    }

    async fn respond(&self, _: &AgentContext<'_>, _: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::Interrupted)
    }
}

/// A connection that can be cut.
struct Wire {
    stream: TcpStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl Wire {
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(context).is_ready();
        if self.is_cut {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A receipt that one agent has not given yet.
fn receipt() -> task::Receipt {
    task::Receipt {
        position: 7,
        not_yet_count: 1,
        ..task::Receipt::default()
    }
}
