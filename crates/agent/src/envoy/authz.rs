//! Envoy's external authorization: whether the peer of a connection may go on. The answer comes from
//! this node's own watch of the revocation log, so it costs no call and knows of an end at once;
//! where the log is not fresh it is no.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_client::in_words;
use taskmint_id::BundleSet;
use taskmint_model::{DenialId, Process, Timestamp};
use taskmint_verifier::{PeerSvid, Refused, judge, verify_x509};
use taskmint_wire::envoy::auth::authorization_server::Authorization as Service;
use taskmint_wire::envoy::auth::check_response::HttpResponse;
use taskmint_wire::envoy::auth::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use taskmint_wire::envoy::core::header_value_option::HeaderAppendAction;
use taskmint_wire::envoy::core::{HeaderValue, HeaderValueOption};
use taskmint_wire::envoy::rpc;
use taskmint_wire::envoy::status::{HttpStatus, StatusCode};
use taskmint_wire::node;
use tonic::{Code, Request, Response, Status};

use super::pem;
use crate::agent::Agent;
use crate::caller::Connection;
use crate::denial::{Asked, Denial};

const ACTION: &str = "Check";

/// How long a proxy that was attested may go on asking: each of its requests brings a question.
const ATTESTED: Duration = Duration::from_secs(10);

/// Seconds after which a client of the proxy may ask again where nothing could be known: by then a
/// watch that was cut has most likely come back.
const RETRY_AFTER: &str = "1";

/// Proxies that are remembered for that.
const REMEMBERED: usize = 1_024;

/// The service over an agent. Clones share what it remembers.
#[derive(Clone)]
pub(crate) struct Authorization {
    agent: Arc<Agent>,
    attested: Arc<Mutex<HashMap<Process, Attested>>>,
}

/// A proxy that was attested: as what, and until when that counts.
#[derive(Clone)]
struct Attested {
    caller: Arc<node::Caller>,
    until: Timestamp,
}

/// A peer that may not go on, and who it is, where its certificate says so.
struct Unwelcome {
    refused: Refused,
    peer: Option<PeerSvid>,
}

#[tonic::async_trait]
impl Service for Authorization {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let connection = Connection::of(&request)?;
        let proxy = self.proxy(&connection).await?;
        let attributes = request.get_ref().attributes.as_ref();
        let source = attributes.and_then(|attributes| attributes.source.as_ref());
        let certificate = source.map_or("", |peer| peer.certificate.as_str());
        let answer = match self.judge(certificate) {
            Ok(peer) => allowed(&peer),
            Err(unwelcome) => {
                let id = self.keep(connection.peer.process(), &proxy, &unwelcome);
                denied(&unwelcome.refused, id)
            }
        };
        Ok(Response::new(answer))
    }
}

impl Authorization {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        let attested = Arc::default();
        Self { agent, attested }
    }

    /// Anyone who matches an entry may ask; looked at again from time to time, not for each request
    /// that passes through it.
    async fn proxy(&self, connection: &Connection) -> Result<Arc<node::Caller>, Status> {
        let process = connection.peer.process();
        let now = self.agent.clock.now();
        let known = self.attested.lock().get(&process).cloned();
        if let Some(known) = known.filter(|known| now < known.until) {
            return Ok(known.caller);
        }
        let caller = self.agent.attest(connection, ACTION).await?;
        self.agent.entitle(&caller, ACTION)?;
        let (caller, until) = (Arc::new(caller.to_wire()), now + ATTESTED);
        let mut attested = self.attested.lock();
        if attested.len() >= REMEMBERED {
            attested.retain(|_, known| now < known.until);
        }
        if attested.len() < REMEMBERED {
            let caller = Arc::clone(&caller);
            attested.insert(process, Attested { caller, until });
        }
        Ok(caller)
    }

    fn judge(&self, certificate: &str) -> Result<PeerSvid, Unwelcome> {
        let unknown = |refused| Unwelcome {
            refused,
            peer: None,
        };
        let peer = self.verify(certificate).map_err(unknown)?;
        match judge(&self.agent.status, &peer.spiffe_id, peer.binding.as_ref()) {
            Ok(()) => Ok(peer),
            Err(refused) => Err(Unwelcome {
                refused,
                peer: Some(peer),
            }),
        }
    }

    /// Reads the certificate that a peer showed, and verifies it against the bundle of this agent.
    fn verify(&self, certificate: &str) -> Result<PeerSvid, Refused> {
        let missing = || {
            let message = "there is no certificate of the peer: the filter needs \
                           `include_peer_certificate: true`, the listener \
                           `require_client_certificate: true`";
            Refused::new("SVID_MISSING", message)
        };
        if certificate.is_empty() {
            return Err(missing());
        }
        let malformed = || Refused::new("SVID_MALFORMED", "the peer's certificate is not PEM");
        let presented = pem::from_percent_encoded(certificate).ok_or_else(malformed)?;
        let starting = || Refused::unavailable("STATUS_UNKNOWN", "the agent has no bundle yet");
        let bundle = self.agent.knowledge.bundle().ok_or_else(starting)?;
        let bundles = BundleSet::from_iter([(*bundle).clone()]);
        verify_x509(&presented, &bundles, self.agent.clock.now())
            .map_err(|error| Refused::new(error.reason(), in_words(&error)))
    }

    /// Has the denial kept, with who asked and about whom. All that show no certificate of ours count
    /// as one: of those anybody can make as many as they like.
    fn keep(
        &self,
        process: Process,
        proxy: &node::Caller,
        unwelcome: &Unwelcome,
    ) -> Option<DenialId> {
        let Unwelcome { refused, peer } = unwelcome;
        let about = peer.as_ref().map(in_full).unwrap_or_default();
        let detail = (!about.is_empty()).then(|| format!("the peer is {about}"));
        let denial = Denial::new(grpc_code(refused), refused.reason, refused.message.clone())
            .detail(detail.into_iter().collect());
        let asked = Asked::new(process, ACTION).about(&about);
        self.agent.denials.keep(&asked, &denial, || proxy.clone())
    }
}

/// Goes on, with who it is: whatever the client claimed under these names is replaced.
fn allowed(peer: &PeerSvid) -> CheckResponse {
    let task = peer
        .task()
        .map_or_else(String::new, |task| task.to_string());
    let headers = vec![
        header("x-taskmint-spiffe-id", peer.spiffe_id.to_string()),
        header("x-taskmint-task", task),
    ];
    CheckResponse {
        status: Some(rpc::Status::default()),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse { headers })),
    }
}

/// What nobody can know now may be asked again; the rest is no.
fn grpc_code(refused: &Refused) -> Code {
    if refused.unavailable {
        Code::Unavailable
    } else {
        Code::PermissionDenied
    }
}

fn in_full(peer: &PeerSvid) -> String {
    match peer.task() {
        Some(task) => format!("{}, task {task}", peer.spiffe_id),
        None => peer.spiffe_id.to_string(),
    }
}

/// A problem (RFC 9457) with the id for `taskmint explain`, where the denial was kept.
fn denied(refused: &Refused, id: Option<DenialId>) -> CheckResponse {
    let http = if refused.unavailable {
        StatusCode::ServiceUnavailable
    } else {
        StatusCode::Forbidden
    };
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "status": http as i32,
        "title": refused.reason,
        "detail": refused.message,
    });
    let mut message = format!("{}: {}", refused.reason, refused.message);
    if let (Some(id), Some(members)) = (id, problem.as_object_mut()) {
        members.insert("denial_id".to_owned(), id.to_string().into());
        message.push_str(&format!(" (denial {id})"));
    }
    let mut headers = vec![header(
        "content-type",
        "application/problem+json".to_owned(),
    )];
    if refused.unavailable {
        headers.push(header("retry-after", RETRY_AFTER.to_owned()));
    }
    CheckResponse {
        status: Some(rpc::Status {
            code: grpc_code(refused) as i32,
            message,
            details: Vec::new(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: http as i32 }),
            headers,
            body: problem.to_string(),
        })),
    }
}

fn header(key: &str, value: String) -> HeaderValueOption {
    let key = key.to_owned();
    HeaderValueOption {
        header: Some(HeaderValue { key, value }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    }
}
