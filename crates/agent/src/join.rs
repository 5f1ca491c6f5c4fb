//! How this agent becomes a node and stays one: attestation, renewal in two steps (P10, P11).

use std::sync::Arc;
use std::time::Duration;

use taskmint_attest::{AgentContext, AttestError, NodeProver};
use taskmint_id::{Bundle, Kind, SpiffeId, TrustDomain};
use taskmint_model::{Clock, Entropy, Timestamp};
use taskmint_wire::node;
use taskmint_wire::node::nodes_client::NodesClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chance::request_id;
use crate::identity::{NodeIdentity, StateDir, StateError, Svid};
use crate::server::{MAX_MESSAGE, Nodes};
use crate::upstream::{Bootstrap, Upstream, UpstreamError};

/// How long an attestation may take in all.
const ATTEST: Duration = Duration::from_secs(30);

/// How long a renewal may take.
const RENEW: Duration = Duration::from_secs(10);

/// Joins, and keeps what makes a node in the state folder.
pub(crate) struct Joiner {
    state: Arc<StateDir>,
    upstream: Arc<dyn Upstream>,
    trust_domain: Option<TrustDomain>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// The same attestation until it is answered: a lost answer is asked for again (P10).
    attest_id: Vec<u8>,
    /// The same renewal until its SVID is in use (P11).
    renew_id: Vec<u8>,
}

/// Why this agent is no node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("this node can't prove what it is")]
    Proof(#[from] AttestError),
    #[error("the server refuses this node: {}", .0.message())]
    Refused(Box<Status>),
    #[error("no answer from the server in time")]
    TimedOut,
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    #[error("the join string is for trust domain `{theirs}`, the configuration for `{ours}`")]
    OtherTrustDomain {
        /// Of the configuration.
        ours: TrustDomain,
        /// Of the join string.
        theirs: TrustDomain,
    },
}

impl From<Status> for JoinError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Joiner {
    pub(crate) fn new(
        state: StateDir,
        upstream: Arc<dyn Upstream>,
        trust_domain: Option<TrustDomain>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let (attest_id, renew_id) = (request_id(&*entropy), request_id(&*entropy));
        Self {
            state: Arc::new(state),
            upstream,
            trust_domain,
            clock,
            entropy,
            attest_id,
            renew_id,
        }
    }

    /// What this node is, as it was saved.
    pub(crate) async fn saved(&self) -> Result<Option<NodeIdentity>, JoinError> {
        let state = Arc::clone(&self.state);
        let Some(identity) = on_disk(move || state.identity()).await? else {
            return Ok(None);
        };
        self.check_trust_domain(identity.trust_domain())?;
        Ok(Some(identity))
    }

    /// Proves what this node is, and saves what it gets for it.
    pub(crate) async fn attest(&mut self) -> Result<NodeIdentity, JoinError> {
        let state = Arc::clone(&self.state);
        let key = on_disk(move || state.key()).await?;
        let Bootstrap {
            channel,
            exporter,
            trust_domain,
            server,
            prover,
        } = self.upstream.bootstrap().await?;
        self.check_trust_domain(&trust_domain)?;
        let name = trust_domain.to_string();
        let context = AgentContext {
            trust_domain: &name,
            node_spki: &key.spki,
            tls_exporter: exporter,
        };
        let mut nodes = NodesClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let answer = prove(&mut nodes, &*prover, &context, self.attest_id.clone());
        let answer = tokio::time::timeout(ATTEST, answer)
            .await
            .map_err(|_| JoinError::TimedOut)??;
        let svid = read(answer, &trust_domain, &key.spki)?;
        let identity = NodeIdentity::new(key, svid, server, self.clock.now());
        self.save(&identity).await?;
        self.upstream.attested().await;
        self.attest_id = request_id(&*self.entropy);
        tracing::info!(node = %identity.id, expires_at = %identity.expires_at, "node attested");
        Ok(identity)
    }

    /// Gets a new SVID over the same key, and saves it before it is used: from its first use on
    /// the old one is taken for a copy of this node.
    pub(crate) async fn renew(
        &mut self,
        nodes: &mut Nodes,
        old: &NodeIdentity,
    ) -> Result<NodeIdentity, JoinError> {
        let request = node::RenewRequest {
            request_id: self.renew_id.clone(),
        };
        let answer = tokio::time::timeout(RENEW, nodes.renew(request)).await;
        let answer = answer.map_err(|_| JoinError::TimedOut)??.into_inner();
        let key = Arc::clone(old.key());
        let svid = read(answer, old.trust_domain(), &key.spki)?;
        if svid.id != old.id {
            return Err(JoinError::Nonsense(format!(
                "it renews another node, {}",
                svid.id
            )));
        }
        let identity = NodeIdentity::new(key, svid, old.server.clone(), self.clock.now());
        self.save(&identity).await?;
        self.renew_id = request_id(&*self.entropy);
        tracing::info!(node = %identity.id, expires_at = %identity.expires_at, "node renewed");
        Ok(identity)
    }

    /// Saves what this node is.
    pub(crate) async fn save(&self, identity: &NodeIdentity) -> Result<(), JoinError> {
        let (state, identity) = (Arc::clone(&self.state), identity.clone());
        Ok(on_disk(move || state.save(&identity)).await?)
    }

    fn check_trust_domain(&self, theirs: &TrustDomain) -> Result<(), JoinError> {
        match &self.trust_domain {
            Some(ours) if ours != theirs => Err(JoinError::OtherTrustDomain {
                ours: ours.clone(),
                theirs: theirs.clone(),
            }),
            _ => Ok(()),
        }
    }
}

async fn prove(
    nodes: &mut Nodes,
    prover: &dyn NodeProver,
    context: &AgentContext<'_>,
    request_id: Vec<u8>,
) -> Result<node::NodeSvid, JoinError> {
    let (steps, requests) = mpsc::channel(2);
    let hello = node::attest_request::Hello {
        attestor: prover.name().to_owned(),
        payload: prover.begin(context).await?,
        spki: context.node_spki.to_vec(),
        request_id,
    };
    say(&steps, node::attest_request::Step::Hello(hello)).await?;
    let mut answers: Streaming<node::AttestResponse> = nodes
        .attest(ReceiverStream::new(requests))
        .await?
        .into_inner();
    loop {
        let answer = answers.message().await?.and_then(|answer| answer.step);
        match answer.ok_or(AttestError::Interrupted)? {
            node::attest_response::Step::Challenge(challenge) => {
                let response = prover.respond(context, &challenge).await?;
                say(&steps, node::attest_request::Step::Response(response)).await?;
            }
            node::attest_response::Step::Svid(svid) => return Ok(svid),
        }
    }
}

async fn say(
    steps: &mpsc::Sender<node::AttestRequest>,
    step: node::attest_request::Step,
) -> Result<(), AttestError> {
    let request = node::AttestRequest { step: Some(step) };
    steps
        .send(request)
        .await
        .map_err(|_| AttestError::Interrupted)
}

/// Reads a node's SVID: of this trust domain, a node's, and over this key.
fn read(svid: node::NodeSvid, trust_domain: &TrustDomain, spki: &[u8]) -> Result<Svid, JoinError> {
    let nonsense = |why: String| JoinError::Nonsense(why);
    let id = SpiffeId::parse(&svid.node_id).map_err(|e| nonsense(e.to_string()))?;
    if id.kind() != Kind::Node || id.trust_domain() != trust_domain {
        return Err(nonsense(format!("`{id}` is no node of `{trust_domain}`")));
    }
    let (_, leaf) = X509Certificate::from_der(&svid.certificate)
        .map_err(|_| nonsense("the certificate is none".to_owned()))?;
    if leaf.public_key().raw != spki {
        return Err(nonsense("the certificate is over another key".to_owned()));
    }
    let bundle = svid
        .bundle
        .ok_or_else(|| nonsense("there is no bundle".to_owned()))?;
    let bundle = bundle_of(&bundle, trust_domain).map_err(nonsense)?;
    let expires_at = Timestamp::from_millis(svid.expires_at_ms);
    Ok(Svid {
        id,
        certificate: svid.certificate,
        expires_at,
        bundle,
    })
}

/// Reads a bundle of this trust domain.
pub(crate) fn bundle_of(bundle: &node::Bundle, ours: &TrustDomain) -> Result<Bundle, String> {
    if bundle.trust_domain != ours.as_str() {
        return Err(format!(
            "the bundle is of `{}`, not `{ours}`",
            bundle.trust_domain
        ));
    }
    let read = Bundle::read(ours.clone(), &bundle.json).map_err(|e| e.to_string())?;
    Ok(read.bundle)
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
