//! Nodes that prove what they are by a certificate of their maker (P10): the real agent and the
//! real server, over a real TLS connection.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taskmint_agent::{JoinSource, NodeProof, ServerAddress, Settings};
use taskmint_attest::{AgentContext, NodeProver as _};
use taskmint_client::bootstrap::{self, JoinString};
use taskmint_model::{Clock as _, SystemClock, SystemEntropy};
use taskmint_node_x509pop::{Chain, X509PopProver};
use taskmint_testkit::{LeafSpec, TestCa, TestLeaf, pem};
use taskmint_wire::node::attest_request::{Hello, Step};
use taskmint_wire::node::attest_response::Step as Answer;
use taskmint_wire::node::nodes_client::NodesClient;
use taskmint_wire::{admin, node};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::harness::World;
use crate::joined::{Agent, Joined, SOON};
use crate::node::{Key, reason, request_id};

/// A server that trusts one maker of machines.
struct Fleet {
    world: World,
    maker: TestCa,
    join: JoinString,
}

fn maker() -> TestCa {
    let name = "maker.example".parse().unwrap();
    TestCa::new(&name, SystemClock.now(), &SystemEntropy)
}

/// A machine of this maker.
fn machine(maker: &TestCa, name: &str) -> TestLeaf {
    let mut spec = LeafSpec::svid(&maker.trust_domain().id(), SystemClock.now());
    spec.uris.clear();
    spec.common_name = Some(name.to_owned());
    maker.issue(&spec, &SystemEntropy)
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

impl Fleet {
    async fn start() -> Self {
        let (folder, maker) = (Arc::new(TempDir::new().unwrap()), maker());
        let ca = pem("CERTIFICATE", maker.certificate());
        let ca = write(folder.path().join("maker.pem"), &ca);
        let lines = format!(
            "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
             node_attestors.x509pop.ca_files = [\"{}\"]",
            ca.display()
        );
        let mut world = World::in_folder(folder, &lines).await;
        // What it says of the root is all that a machine of a known maker needs.
        let mut join: JoinString = world.token("unused").await.parse().unwrap();
        join.token = None;
        Self { world, maker, join }
    }

    /// What an agent is told that has this certificate and this key.
    fn settings(&self, name: &str, certificate: &[u8], key: &[u8]) -> Settings {
        let folder = self.world.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let certificate = pem("CERTIFICATE", certificate);
        let proof = NodeProof::X509Pop {
            certificate_file: write(folder.join("node.pem"), &certificate),
            key_file: write(folder.join("node.key"), &pem("PRIVATE KEY", key)),
        };
        let clock = Arc::clone(&self.world.clock);
        let mut settings = Agent::settings_in(&folder, JoinSource::None, clock);
        settings.trust_domain = Some(self.join.trust_domain.clone());
        settings.server = ServerAddress {
            node: Some(self.join.address.clone()),
            watch: None,
            root_sha256: Some(self.join.root_sha256),
        };
        settings.proof = proof;
        settings
    }

    /// Why attestations were refused, once one was.
    async fn refusals(&mut self) -> Vec<String> {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let refused = async {
            loop {
                looks.tick().await;
                let request = admin::ListDenialsRequest::default();
                let list = self.world.admin.list_denials(request).await.unwrap();
                let denials = list.into_inner().denials.into_iter();
                let reasons: Vec<_> = denials.map(|denial| denial.reason).collect();
                if !reasons.is_empty() {
                    return reasons;
                }
            }
        };
        tokio::time::timeout(SOON, refused).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_a_known_maker_becomes_a_node_without_a_token() {
    let fleet = Fleet::start().await;
    let own = machine(&fleet.maker, "machine-1");
    let settings = fleet.settings("n1", &own.certificate, &own.key.pkcs8());
    let agent = Agent::start(settings).await;
    let mut node = Joined {
        world: fleet.world,
        agent,
    };
    let nodes = node.world.nodes().await;
    assert_eq!(nodes.len(), 1);
    let prefix = "spiffe://example.org/taskmint/node/x509pop/";
    assert!(nodes[0].id.starts_with(prefix), "{}", nodes[0].id);
    let subject = "x509pop:subject:cn:machine-1".to_owned();
    assert!(nodes[0].selectors.contains(&subject), "{:?}", nodes[0]);

    // Its workloads have identities; evicted, it attests anew and is the same node.
    node.own_entry(true).await;
    let api = node.agent.workload_api().await;
    api.x509_context().await.unwrap();
    let evict = admin::NodeRequest {
        id: nodes[0].id.clone(),
        ..Default::default()
    };
    node.world.admin.evict_node(evict).await.unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let back = async {
        loop {
            looks.tick().await;
            let now = node.world.nodes().await;
            if now[0].state == "active" && now[0].connected {
                return now;
            }
        }
    };
    let back = tokio::time::timeout(SOON, back).await.unwrap();
    assert_eq!((back.len(), &back[0].id), (1, &nodes[0].id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_another_maker_is_no_node() {
    let mut fleet = Fleet::start().await;
    let foreign = machine(&maker(), "machine-1");
    let settings = fleet.settings("n1", &foreign.certificate, &foreign.key.pkcs8());
    let agent = Agent::launch(settings).await;
    let refusals = fleet.refusals().await;
    assert!(
        refusals.iter().all(|r| r == "CERTIFICATE_UNTRUSTED"),
        "{refusals:?}"
    );
    assert!(!agent.tasks.readiness().is_ready());
    assert!(fleet.world.nodes().await.is_empty());
}

/// An attestation by hand, so that it can also misbehave.
struct Attestation {
    say: mpsc::Sender<node::AttestRequest>,
    answers: tonic::Streaming<node::AttestResponse>,
    exporter: [u8; 32],
    nonce: Vec<u8>,
}

impl Attestation {
    /// Shows a chain, asks for an SVID over `spki`, and waits for the nonce.
    async fn begin(join: &JoinString, chain: &[u8], spki: &[u8]) -> Self {
        let connected = bootstrap::connect(join, Arc::new(SystemClock))
            .await
            .unwrap();
        let (say, said) = mpsc::channel(2);
        let hello = Hello {
            attestor: "x509pop".to_owned(),
            payload: chain.to_vec(),
            spki: spki.to_vec(),
            request_id: request_id(),
        };
        let step = Some(Step::Hello(hello));
        say.send(node::AttestRequest { step }).await.unwrap();
        let mut client = NodesClient::new(connected.channel);
        let answers = client.attest(ReceiverStream::new(said)).await.unwrap();
        let mut answers = answers.into_inner();
        let challenge = answers.message().await.unwrap().unwrap().step;
        let Some(Answer::Challenge(nonce)) = challenge else {
            panic!("{challenge:?}")
        };
        Self {
            say,
            answers,
            exporter: connected.exporter,
            nonce,
        }
    }

    async fn finish(mut self, signature: Vec<u8>) -> Result<node::NodeSvid, Status> {
        let step = Some(Step::Response(signature));
        self.say.send(node::AttestRequest { step }).await.unwrap();
        match self.answers.message().await?.and_then(|answer| answer.step) {
            Some(Answer::Svid(svid)) => Ok(svid),
            other => panic!("{other:?}"),
        }
    }
}

/// A signature for an attestation, as its machine's agent makes it.
async fn sign(own: &TestLeaf, of: &Attestation, spki: &[u8]) -> Vec<u8> {
    let certificate = pem("CERTIFICATE", &own.certificate);
    let key = pem("PRIVATE KEY", &own.key.pkcs8());
    let prover = X509PopProver::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let context = AgentContext {
        trust_domain: "example.org",
        node_spki: spki,
        tls_exporter: of.exporter,
    };
    prover.respond(&context, &of.nonce).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_on_its_own_connection_by_its_own_key_and_once() {
    let mut fleet = Fleet::start().await;
    let own = machine(&fleet.maker, "machine-1");
    let thief = machine(&fleet.maker, "machine-2");
    let chain = Chain::new(vec![own.certificate.clone().into()]).unwrap();
    let (chain, key) = (chain.encode(), Key::new().spki());
    let join = fleet.join.clone();
    let begin = async || Attestation::begin(&join, &chain, &key).await;
    let refused = |outcome: Result<node::NodeSvid, Status>| {
        assert_eq!(reason(&outcome.unwrap_err()), "PROOF_INVALID");
    };

    // Overheard on one connection, shown on another: nonce and TLS session differ.
    let (overheard, replayed) = (begin().await, begin().await);
    let signature = sign(&own, &overheard, &key).await;
    refused(replayed.finish(signature.clone()).await);
    // Relayed: the nonce is the right one, the TLS session is the attacker's own.
    let mut relayed = begin().await;
    relayed.exporter = overheard.exporter;
    let by_relay = sign(&own, &relayed, &key).await;
    refused(relayed.finish(by_relay).await);
    // By the key of another machine of the same maker.
    let foreign = begin().await;
    let by_foreign = sign(&thief, &foreign, &key).await;
    refused(foreign.finish(by_foreign).await);
    // Over another key than the one that is to be certified.
    let swapped = begin().await;
    let over_other = sign(&own, &swapped, &Key::new().spki()).await;
    refused(swapped.finish(over_other).await);
    assert!(fleet.world.nodes().await.is_empty());

    // The very proof that was overheard is good where it belongs.
    let svid = overheard.finish(signature).await.unwrap();
    assert_eq!(fleet.world.nodes().await[0].id, svid.node_id);
}
