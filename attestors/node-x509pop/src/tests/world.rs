//! A maker of devices, one device, and a server that trusts the maker.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};
use taskmint_attest::{
    AgentContext, AttestError, Attested, Exchange, NodeAttestor as _, NodeProver as _,
    ServerContext,
};
use taskmint_id::TrustDomain;
use taskmint_model::{Clock as _, Timestamp};
use taskmint_testkit::{
    Constraints, LeafSpec, ManualClock, SeededEntropy, TestCa, TestKey, Usage, pem,
};

use crate::{X509PopAttestor, X509PopProver};

pub(super) const TRUST_DOMAIN: &str = "example.org";

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) entropy: SeededEntropy,
    pub(super) ca: TestCa,
    pub(super) server: X509PopAttestor,
}

/// A CA below the world's, whose leaves may have any kind of key.
pub(super) struct Intermediate {
    pub(super) certificate: Vec<u8>,
    issuer: Issuer<'static, TestKey>,
}

/// How an attestation ended.
pub(super) type Outcome = Result<Attested, &'static str>;

impl World {
    pub(super) fn new() -> Self {
        let (now, entropy) = (ManualClock::default().now(), SeededEntropy::new(1));
        let ca = TestCa::new(&TrustDomain::parse("maker.example").unwrap(), now, &entropy);
        let server = server(&[ca.certificate()]);
        Self {
            now,
            entropy,
            ca,
            server,
        }
    }

    /// A device's certificate.
    pub(super) fn spec(&self) -> LeafSpec {
        let mut spec = LeafSpec::svid(&self.ca.trust_domain().id(), self.now);
        spec.uris.clear();
        spec.common_name = Some("device-1".to_owned());
        spec.serial = vec![0xab, 0xcd];
        spec
    }

    /// A prover with one certificate by the world's CA.
    pub(super) fn prover(&self, spec: &LeafSpec) -> X509PopProver {
        let leaf = self.ca.issue(spec, &self.entropy);
        prover(&[&leaf.certificate], &leaf.key.pkcs8())
    }

    pub(super) fn intermediate(&self) -> Intermediate {
        let key = TestKey::generate(&self.entropy);
        let mut spec = self.spec();
        spec.common_name = Some("intermediate".to_owned());
        spec.constraints = Constraints::Ca;
        spec.usages = vec![Usage::CertSign];
        let certificate = self.ca.certify(&spec, &key);
        let mut params = CertificateParams::default();
        params.distinguished_name = named("intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params, key);
        Intermediate {
            certificate,
            issuer,
        }
    }

    /// What both sides know of an honest connection.
    pub(super) fn contexts(&self) -> (AgentContext<'static>, ServerContext<'static>) {
        let agent = AgentContext {
            trust_domain: TRUST_DOMAIN,
            node_spki: b"the node's new key",
            tls_exporter: [9; 32],
        };
        let server = ServerContext {
            trust_domain: TRUST_DOMAIN,
            node_spki: b"the node's new key",
            tls_exporter: [9; 32],
            now: self.now,
        };
        (agent, server)
    }

    /// An honest attestation with this prover.
    pub(super) async fn attest(&self, prover: &X509PopProver) -> Outcome {
        let (agent, server) = self.contexts();
        let payload = prover.begin(&agent).await.unwrap();
        let mut honest = Honest { prover, agent };
        let attested = self.server.attest(&server, &payload, &mut honest).await;
        attested.map_err(|error| error.reason())
    }
}

impl Intermediate {
    /// A leaf for this key, DER.
    pub(super) fn certify(&self, now: Timestamp, key: &impl rcgen::PublicKeyData) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let second = |at: Timestamp| {
            let epoch = rcgen::date_time_ymd(1970, 1, 1);
            epoch + std::time::Duration::from_secs(at.secs())
        };
        params.distinguished_name = named("device-2");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[3]));
        params.not_before = second(now);
        params.not_after = second(now + std::time::Duration::from_secs(60));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        certificate.der().to_vec()
    }
}

/// Carries challenge and response unchanged.
pub(super) struct Honest<'a> {
    pub(super) prover: &'a X509PopProver,
    pub(super) agent: AgentContext<'a>,
}

/// Answers with the same octets, whatever it is asked, and counts how often.
pub(super) struct Parrot {
    pub(super) response: Vec<u8>,
    pub(super) asked: usize,
}

#[taskmint_attest::async_trait]
impl Exchange for Honest<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        self.prover.respond(&self.agent, &challenge).await
    }
}

#[taskmint_attest::async_trait]
impl Exchange for Parrot {
    async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        self.asked += 1;
        Ok(self.response.clone())
    }
}

pub(super) fn server(authorities: &[&[u8]]) -> X509PopAttestor {
    let files: Vec<_> = authorities
        .iter()
        .map(|der| pem("CERTIFICATE", der).into_bytes())
        .collect();
    X509PopAttestor::from_pem(&files, Arc::new(SeededEntropy::new(7))).unwrap()
}

pub(super) fn prover(chain: &[&[u8]], pkcs8: &[u8]) -> X509PopProver {
    let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    X509PopProver::from_pem(chain.as_bytes(), pem("PRIVATE KEY", pkcs8).as_bytes()).unwrap()
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut names = rcgen::DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
