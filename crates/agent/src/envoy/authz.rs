//! Envoy's external authorization: whether the peer of a connection may go on. The answer comes from
//! this node's own watch of the revocation log, so it costs no call and knows of an end at once;
//! where the log is not fresh it is no.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_client::in_words;
use taskmint_id::BundleSet;
use taskmint_model::{Process, Timestamp};
use taskmint_verifier::{PeerSvid, Refused, judge, verify_x509};
use taskmint_wire::envoy::auth::authorization_server::Authorization as Service;
use taskmint_wire::envoy::auth::check_response::HttpResponse;
use taskmint_wire::envoy::auth::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use taskmint_wire::envoy::core::header_value_option::HeaderAppendAction;
use taskmint_wire::envoy::core::{HeaderValue, HeaderValueOption};
use taskmint_wire::envoy::rpc;
use taskmint_wire::envoy::status::{HttpStatus, StatusCode};
use tonic::{Code, Request, Response, Status};

use super::pem;
use crate::agent::Agent;
use crate::caller::Connection;

/// How long a proxy that was attested may go on asking: each of its requests brings a question.
const ATTESTED: Duration = Duration::from_secs(10);

/// Proxies that are remembered for that.
const REMEMBERED: usize = 1_024;

/// The service over an agent. Clones share what it remembers.
#[derive(Clone)]
pub(crate) struct Authorization {
    agent: Arc<Agent>,
    attested: Arc<Mutex<HashMap<Process, Timestamp>>>,
}

#[tonic::async_trait]
impl Service for Authorization {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        self.proxy(&Connection::of(&request)?).await?;
        let attributes = request.get_ref().attributes.as_ref();
        let source = attributes.and_then(|attributes| attributes.source.as_ref());
        let certificate = source.map_or("", |peer| peer.certificate.as_str());
        let answer = match self.judge(certificate) {
            Ok(peer) => allowed(&peer),
            Err(refused) => {
                self.agent.metrics.denied(refused.reason);
                denied(&refused)
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
    async fn proxy(&self, connection: &Connection) -> Result<(), Status> {
        let process = connection.peer.process();
        let now = self.agent.clock.now();
        let until = self.attested.lock().get(&process).copied();
        if until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let caller = self.agent.attest(connection, "Check").await?;
        self.agent.entitle(&caller, "Check")?;
        let mut attested = self.attested.lock();
        if attested.len() >= REMEMBERED {
            attested.retain(|_, until| now < *until);
        }
        if attested.len() < REMEMBERED {
            attested.insert(process, now + ATTESTED);
        }
        Ok(())
    }

    fn judge(&self, certificate: &str) -> Result<PeerSvid, Refused> {
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
        let starting = || Refused::new("STATUS_UNKNOWN", "the agent has no bundle yet");
        let bundle = self.agent.knowledge.bundle().ok_or_else(starting)?;
        let bundles = BundleSet::from_iter([(*bundle).clone()]);
        let peer = verify_x509(&presented, &bundles, self.agent.clock.now())
            .map_err(|error| Refused::new(error.reason(), in_words(&error)))?;
        judge(&self.agent.status, &peer.spiffe_id, peer.binding.as_ref())?;
        Ok(peer)
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

fn denied(refused: &Refused) -> CheckResponse {
    let is_unknown = refused.reason.starts_with("STATUS_");
    let (grpc, http) = if is_unknown {
        (Code::Unavailable, StatusCode::ServiceUnavailable)
    } else {
        (Code::PermissionDenied, StatusCode::Forbidden)
    };
    let problem = serde_json::json!({
        "type": "about:blank",
        "status": http as i32,
        "title": refused.reason,
        "detail": refused.message,
    });
    let json = header("content-type", "application/problem+json".to_owned());
    CheckResponse {
        status: Some(rpc::Status {
            code: grpc as i32,
            message: format!("{}: {}", refused.reason, refused.message),
            details: Vec::new(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: http as i32 }),
            headers: vec![json],
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
