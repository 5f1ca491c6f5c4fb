//! A node without an agent: calls the node service itself.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls_pki_types::CertificateDer;
use taskmint_client::bootstrap::{self, JoinString};
use taskmint_client::{Endpoint, Nodes};
use taskmint_id::{Bundle, BundleSet, TrustDomain};
use taskmint_model::{Entropy, SystemClock, SystemEntropy};
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{self, Identity};
use taskmint_wire::node;
use taskmint_wire::task;

use crate::key::Key;

/// The uid of the workloads that such a node speaks for.
pub(crate) const UID: u32 = 1000;

/// An attested node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) trust: Trust,
    pub(crate) bundle: Bundle,
    pub(crate) client: Nodes,
    identity: Identity,
    trust_domain: TrustDomain,
    address: String,
}

/// A workload of such a node, its task and its SVID.
pub(crate) struct Workload {
    pub(crate) task: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Key,
    caller: node::Caller,
}

impl Node {
    /// Attests with a join string.
    pub(crate) async fn join(join: &str) -> anyhow::Result<Self> {
        let join: JoinString = join.parse()?;
        let key = Key::new()?;
        let svid = attest(&join, &key).await?;
        let wire = svid.bundle.context("an SVID without a bundle")?;
        let trust_domain: TrustDomain = wire.trust_domain.parse()?;
        let bundle = Bundle::parse(trust_domain.clone(), &wire.json)?;
        let trust = Trust::new(std::iter::once(bundle.clone()).collect::<BundleSet>());
        let identity = Identity::new();
        let chain = vec![CertificateDer::from(svid.certificate)];
        identity.set(chain, &key.pkcs8()?)?;
        let client = connect(&identity, &trust, &trust_domain, &join.address).await?;
        Ok(Self {
            trust,
            bundle,
            client,
            identity,
            trust_domain,
            address: join.address,
        })
    }

    /// One more connection, over mTLS.
    pub(crate) async fn connection(&self) -> anyhow::Result<Nodes> {
        connect(
            &self.identity,
            &self.trust,
            &self.trust_domain,
            &self.address,
        )
        .await
    }

    /// Begins a task for a workload that would be this process.
    pub(crate) async fn begin(&mut self, pid: u32) -> anyhow::Result<Workload> {
        let key = Key::new()?;
        let caller = node::Caller {
            process: format!("{pid}.1.{}", "ab".repeat(16)),
            uid: UID,
            selectors: vec![format!("unix:uid:{UID}")],
        };
        let request = node::BeginTaskRequest {
            task: Some(task::BeginRequest {
                purpose: "measure".to_owned(),
                ..Default::default()
            }),
            caller: Some(caller.clone()),
            spki: key.spki()?,
            ..Default::default()
        };
        let began = self.client.begin_task(request).await?.into_inner();
        Ok(Workload {
            task: began.task.context("a begin without a task")?.id,
            certificate: CertificateDer::from(began.certificate),
            key,
            caller,
        })
    }

    /// Completes a workload's task.
    pub(crate) async fn complete(&mut self, workload: &Workload) -> anyhow::Result<()> {
        self.end(workload, false).await
    }

    /// The same; `wait` says that somebody will wait until everybody has heard.
    pub(crate) async fn end(&mut self, workload: &Workload, wait: bool) -> anyhow::Result<()> {
        let request = node::EndTaskRequest {
            task_id: workload.task.clone(),
            cause: "completed".to_owned(),
            wait,
            caller: Some(workload.caller.clone()),
            ..Default::default()
        };
        self.client.end_task(request).await?;
        Ok(())
    }
}

impl Workload {
    /// What it shows in TLS.
    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        let identity = Identity::new();
        identity.set(vec![self.certificate.clone()], &self.key.pkcs8()?)?;
        Ok(identity)
    }
}

async fn attest(join: &JoinString, key: &Key) -> anyhow::Result<node::NodeSvid> {
    let connected = bootstrap::connect(join, Arc::new(SystemClock)).await?;
    let token = join
        .token
        .as_ref()
        .context("a join string without a token")?;
    let entropy: &dyn Entropy = &SystemEntropy;
    let hello = node::attest_request::Hello {
        attestor: "join_token".to_owned(),
        payload: token.expose().as_bytes().to_vec(),
        spki: key.spki()?,
        request_id: entropy.array::<16>().to_vec(),
    };
    let step = Some(node::attest_request::Step::Hello(hello));
    let requests = tokio_stream::iter([node::AttestRequest { step }]);
    let mut client = Nodes::new(connected.channel);
    let mut answers = client.attest(requests).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(node::attest_response::Step::Svid(svid)) => Ok(svid),
        _ => bail!("the node was not attested"),
    }
}

async fn connect(
    identity: &Identity,
    trust: &Trust,
    trust_domain: &TrustDomain,
    address: &str,
) -> anyhow::Result<Nodes> {
    let authorize = tls::authorize::server(trust_domain);
    let clock = Arc::new(SystemClock);
    let config = tls::client_config(Some(identity), trust, clock, authorize, None)?;
    let endpoint = Endpoint::Tls {
        address: address.to_owned(),
        config: Arc::new(config),
    };
    Ok(Nodes::new(taskmint_client::connect(&endpoint).await?))
}
