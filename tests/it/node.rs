//! A node without an agent: calls the node service by hand, so that it can also misbehave.

use std::sync::Arc;

use p256::elliptic_curve::Generate;
use p256::pkcs8::{EncodePrivateKey, EncodePublicKey};
use rustls_pki_types::CertificateDer;
use taskmint_client::Endpoint;
use taskmint_client::bootstrap::{self, JoinString};
use taskmint_id::{Bundle, BundleSet, TrustDomain};
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{self, Identity};
use taskmint_wire::node::nodes_client::NodesClient;
use taskmint_wire::{node, task};
use tonic::Status;
use tonic::transport::Channel;

/// A key pair.
pub(crate) struct Key(p256::SecretKey);

impl Key {
    pub(crate) fn new() -> Self {
        Self(p256::SecretKey::generate())
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        self.0
            .public_key()
            .to_public_key_der()
            .unwrap()
            .as_bytes()
            .to_vec()
    }

    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        self.0.to_pkcs8_der().unwrap().as_bytes().to_vec()
    }
}

/// An attested node.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) key: Key,
    pub(crate) identity: Identity,
    pub(crate) trust: Trust,
    pub(crate) address: String,
    pub(crate) client: NodesClient<Channel>,
}

/// Sixteen octets that were not used before.
pub(crate) fn request_id() -> Vec<u8> {
    let entropy: &dyn taskmint_model::Entropy = &SystemEntropy;
    entropy.array::<16>().to_vec()
}

/// The stable reason of a refusal; all of it, where there is none.
pub(crate) fn reason(status: &Status) -> String {
    taskmint_wire::denial_of(status)
        .map(|(reason, _)| reason)
        .unwrap_or_else(|| status.to_string())
}

/// Attests with a join string and a key.
pub(crate) async fn attest(
    join: &str,
    key: &Key,
    request: &[u8],
) -> Result<node::NodeSvid, Status> {
    let answer = attest_with(join, key, request).await?;
    Ok(answer.expect("an attestation that ends says why"))
}

/// The same, where the stream may also just end.
pub(crate) async fn attest_with(
    join: &str,
    key: &Key,
    request: &[u8],
) -> Result<Option<node::NodeSvid>, Status> {
    let join: JoinString = join.parse().unwrap();
    let connected = bootstrap::connect(&join, Arc::new(SystemClock))
        .await
        .unwrap();
    let mut client = NodesClient::new(connected.channel);
    let hello = node::attest_request::Hello {
        attestor: "join_token".to_owned(),
        payload: join.token.as_ref().unwrap().expose().as_bytes().to_vec(),
        spki: key.spki(),
        request_id: request.to_vec(),
    };
    let step = Some(node::attest_request::Step::Hello(hello));
    let requests = tokio_stream::iter([node::AttestRequest { step }]);
    let mut answers = client.attest(requests).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(node::attest_response::Step::Svid(svid)) => Ok(Some(svid)),
        None => Ok(None),
        other => panic!("{other:?}"),
    }
}

impl Node {
    /// Joins with a join string.
    pub(crate) async fn join(join: &str) -> Self {
        let key = Key::new();
        let svid = attest(join, &key, &request_id()).await.unwrap();
        let address = join.parse::<JoinString>().unwrap().address;
        Self::with(address, key, svid).await
    }

    /// A node with a key and an SVID that were had before.
    pub(crate) async fn with(address: String, key: Key, svid: node::NodeSvid) -> Self {
        let wire = svid.bundle.unwrap();
        let trust_domain: TrustDomain = wire.trust_domain.parse().unwrap();
        let bundle = Bundle::parse(trust_domain.clone(), &wire.json).unwrap();
        let trust = Trust::new(std::iter::once(bundle).collect::<BundleSet>());
        let identity = Identity::new();
        identity
            .set(vec![CertificateDer::from(svid.certificate)], &key.pkcs8())
            .unwrap();
        let channel = connect(&identity, &trust, &trust_domain, &address).await;
        Self {
            id: svid.node_id,
            key,
            identity,
            trust,
            address,
            client: NodesClient::new(channel),
        }
    }

    /// A connection on which nothing is shown.
    pub(crate) async fn anonymous(&self) -> Channel {
        let trust_domain = "example.org".parse().unwrap();
        dial(None, &self.trust, &trust_domain, &self.address)
            .await
            .unwrap()
    }

    /// A workload's begin, as an agent sends it.
    pub(crate) fn begin(
        &self,
        selectors: &[&str],
        pid: u32,
        spki: Vec<u8>,
    ) -> node::BeginTaskRequest {
        node::BeginTaskRequest {
            task: Some(task::BeginRequest {
                purpose: "test".to_owned(),
                ..Default::default()
            }),
            caller: Some(caller(selectors, pid)),
            spki,
            ..Default::default()
        }
    }
}

/// The selectors of workloads that are played. Their uid is nobody's: whoever runs these tests is a
/// workload, too, where a real agent takes part.
pub(crate) const UID: &[&str] = &["unix:uid:61000"];

pub(crate) fn caller(selectors: &[&str], pid: u32) -> node::Caller {
    node::Caller {
        process: format!("{pid}.1.{}", "ab".repeat(16)),
        uid: 61_000,
        selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
    }
}

pub(crate) async fn connect(
    identity: &Identity,
    trust: &Trust,
    trust_domain: &TrustDomain,
    address: &str,
) -> Channel {
    dial(Some(identity), trust, trust_domain, address)
        .await
        .unwrap()
}

/// Connects to a server, showing this identity or none.
pub(crate) async fn dial(
    identity: Option<&Identity>,
    trust: &Trust,
    trust_domain: &TrustDomain,
    address: &str,
) -> Result<Channel, taskmint_client::ConnectError> {
    let authorize = tls::authorize::server(trust_domain);
    let clock = Arc::new(SystemClock);
    let config = tls::client_config(identity, trust, clock, authorize, None).unwrap();
    let endpoint = Endpoint::Tls {
        address: address.to_owned(),
        config: Arc::new(config),
    };
    taskmint_client::connect(&endpoint).await
}
