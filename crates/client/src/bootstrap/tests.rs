//! Who may not pose as the server of a join string, and who is.

use std::error::Error;
use std::io;

use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use taskmint_id::TrustDomain;
use taskmint_model::Clock as _;
use taskmint_testkit::{
    Constraints, LeafSpec, ManualClock, SeededEntropy, TestCa, TestKey, TestLeaf, Usage,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct World {
    clock: ManualClock,
    entropy: SeededEntropy,
    trust_domain: TrustDomain,
    ca: TestCa,
}

impl World {
    fn new() -> Self {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(1));
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, clock.now(), &entropy);
        Self {
            clock,
            entropy,
            trust_domain,
            ca,
        }
    }

    fn leaf(&self, id: &str) -> TestLeaf {
        self.ca.svid(
            &SpiffeId::parse(id).unwrap(),
            self.clock.now(),
            &self.entropy,
        )
    }

    fn server(&self) -> TestLeaf {
        self.leaf("spiffe://example.org/taskmint/server/s1")
    }

    /// Lets a server show this chain and joins it, with `pin` as the root's hash.
    async fn join_with(
        &self,
        pin: [u8; 32],
        leaf: &TestLeaf,
        others: &[&[u8]],
    ) -> Result<(Bootstrapped, [u8; 32]), BootstrapError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let chain = std::iter::once(leaf.certificate.as_slice()).chain(others.iter().copied());
        let config = serve(
            chain
                .map(|der| CertificateDer::from(der.to_vec()))
                .collect(),
            &leaf.key,
        );
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            let exported = stream
                .get_ref()
                .1
                .export_keying_material([0; 32], EXPORTER_LABEL, None);
            Ok::<_, io::Error>((stream, exported.unwrap()))
        });
        let join = JoinString::new(self.trust_domain.clone(), address, pin, None).unwrap();
        let joined = connect(&join, Arc::new(self.clock.clone())).await?;
        let (_stream, exported) = server.await.unwrap().unwrap();
        Ok((joined, exported))
    }

    async fn refused(&self, leaf: &TestLeaf, others: &[&[u8]]) -> String {
        why(self
            .join_with(self.ca.public().spki_sha256(), leaf, others)
            .await
            .unwrap_err())
    }
}

fn serve(chain: Vec<CertificateDer<'static>>, key: &TestKey) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The innermost words, as people get to see them.
fn why(error: BootstrapError) -> String {
    let BootstrapError::Connect(error) = error else {
        panic!("{error}")
    };
    let mut inner: &dyn Error = error.source.get_ref().unwrap();
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[tokio::test]
async fn the_pinned_server_is_let_in_and_its_root_is_handed_out() {
    let world = World::new();
    let pin = world.ca.public().spki_sha256();
    let joined = world
        .join_with(pin, &world.server(), &[world.ca.certificate()])
        .await;
    let (joined, exported) = joined.unwrap();
    assert_eq!(&*joined.root, world.ca.certificate());
    assert_eq!(
        joined.server.as_str(),
        "spiffe://example.org/taskmint/server/s1"
    );
    assert_eq!(
        joined.exporter, exported,
        "both sides sign over the same connection"
    );
}

#[tokio::test]
async fn a_workload_or_a_node_posing_as_a_server_is_refused() {
    let world = World::new();
    for id in [
        "spiffe://example.org/billing",
        "spiffe://example.org/taskmint/node/join_token/n1",
        "spiffe://example.org/taskmint/server",
        "spiffe://example.org/taskmint/server/s1/x",
    ] {
        let refused = world
            .refused(&world.leaf(id), &[world.ca.certificate()])
            .await;
        assert_eq!(refused, format!("`{id}` is not a server of `example.org`"));
    }
}

#[tokio::test]
async fn a_server_of_another_trust_domain_is_refused_even_below_the_pinned_root() {
    let world = World::new();
    let id = "spiffe://example.net/taskmint/server/s1";
    let refused = world
        .refused(&world.leaf(id), &[world.ca.certificate()])
        .await;
    assert_eq!(refused, format!("`{id}` is not a server of `example.org`"));
}

#[tokio::test]
async fn a_server_below_another_root_is_refused() {
    let world = World::new();
    let other = TestCa::new(&world.trust_domain, world.clock.now(), &world.entropy);
    let id = SpiffeId::server(&world.trust_domain, "s1").unwrap();
    let leaf = other.svid(&id, world.clock.now(), &world.entropy);
    let refused = world.refused(&leaf, &[other.certificate()]).await;
    assert!(refused.contains("no root with the pinned key"), "{refused}");
    // The genuine root beside it proves nothing.
    let refused = world
        .refused(&leaf, &[other.certificate(), world.ca.certificate()])
        .await;
    assert_eq!(refused, "UnknownIssuer");
}

#[tokio::test]
async fn a_server_that_keeps_its_root_to_itself_is_refused() {
    let world = World::new();
    let refused = world.refused(&world.server(), &[]).await;
    assert!(refused.contains("no root with the pinned key"), "{refused}");
}

#[tokio::test]
async fn the_pinned_key_in_a_certificate_of_somebody_else_is_no_root() {
    let world = World::new();
    let key = TestKey::generate(&world.entropy);
    let mut spec = LeafSpec::svid(&world.trust_domain.id(), world.clock.now());
    spec.constraints = Constraints::Ca;
    spec.usages = vec![Usage::CertSign, Usage::CrlSign];
    let wrapped = world.ca.certify(&spec, &key);
    let pin = key.public().spki_sha256();
    let refused = world
        .join_with(pin, &world.server(), &[&wrapped])
        .await
        .unwrap_err();
    assert_eq!(
        why(refused),
        "the pinned root is not usable: it is not signed by itself"
    );
}

#[tokio::test]
async fn a_leaf_of_the_pinned_key_is_no_root() {
    let world = World::new();
    let leaf = world.server();
    let pin = leaf.key.public().spki_sha256();
    let refused = world
        .join_with(pin, &leaf, &[&leaf.certificate])
        .await
        .unwrap_err();
    assert_eq!(
        why(refused),
        "the pinned root is not usable: it is not a ca"
    );
}

#[tokio::test]
async fn an_expired_server_and_an_expired_root_are_refused() {
    let world = World::new();
    let leaf = world.server();
    world.clock.advance(std::time::Duration::from_secs(3600));
    let refused = world.refused(&leaf, &[world.ca.certificate()]).await;
    assert!(refused.contains("CertExpired"), "{refused}");
    world
        .clock
        .advance(std::time::Duration::from_secs(48 * 3600));
    let refused = world
        .refused(&world.server(), &[world.ca.certificate()])
        .await;
    assert_eq!(
        refused,
        "the pinned root is not usable: it is outside of its dates"
    );
}

#[tokio::test]
async fn a_server_with_two_ids_is_refused() {
    let world = World::new();
    let id = SpiffeId::server(&world.trust_domain, "s1").unwrap();
    let mut spec = LeafSpec::svid(&id, world.clock.now());
    spec.uris.push("spiffe://example.org/billing".to_owned());
    let leaf = world.ca.issue(&spec, &world.entropy);
    let refused = world.refused(&leaf, &[world.ca.certificate()]).await;
    assert_eq!(
        refused,
        "the server's certificate does not name one spiffe id"
    );
}
