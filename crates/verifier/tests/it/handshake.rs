//! Real handshakes: who gets in, who doesn't, and that nobody gets in by resumption.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName};
use taskmint_id::BundleSet;
use taskmint_testkit::TestLeaf;
use taskmint_verifier::StatusCheck;
use taskmint_verifier::tls::{
    Authorize, Clients, Identity, IdentityError, Trust, authorize, client_config, read_verified,
    recheck, refusal_of, server_config,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::{Statuses, World, chain};

type Server = tokio_rustls::server::TlsStream<DuplexStream>;
type Client = tokio_rustls::client::TlsStream<DuplexStream>;

fn identity(leaf: &TestLeaf) -> Identity {
    let identity = Identity::new();
    identity.set(chain(leaf), &leaf.key.pkcs8()).unwrap();
    identity
}

/// A service of the world, and what its clients are.
struct Stage {
    world: World,
    trust: Trust,
    statuses: Arc<Statuses>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let trust = Trust::new(world.bundles());
        Self {
            world,
            trust,
            statuses: Arc::default(),
        }
    }

    fn clock(&self) -> Arc<dyn taskmint_model::Clock> {
        Arc::new(self.world.clock.clone())
    }

    fn status(&self) -> Option<Arc<dyn StatusCheck>> {
        Some(Arc::<Statuses>::clone(&self.statuses))
    }

    fn server(&self, leaf: &TestLeaf, clients: Clients, who: Authorize) -> ServerConfig {
        let (identity, status) = (identity(leaf), self.status());
        server_config(&identity, &self.trust, self.clock(), clients, who, status).unwrap()
    }

    fn client(&self, leaf: Option<&TestLeaf>, who: Authorize) -> ClientConfig {
        let identity = leaf.map(identity);
        let status = self.status();
        client_config(identity.as_ref(), &self.trust, self.clock(), who, status).unwrap()
    }
}

/// Both sides' outcome, after one octet went each way.
async fn meet(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (io::Result<Server>, io::Result<Client>) {
    let (near, far) = duplex(1 << 16);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        stream.write_all(b"s").await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    };
    let connect = async {
        let name = ServerName::try_from("service.example").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(name, near)
            .await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"c").await?;
        Ok(stream)
    };
    tokio::join!(accept, connect)
}

async fn refused_by_server(server: ServerConfig, client: ClientConfig) -> String {
    let (server, client) = meet(&Arc::new(server), &Arc::new(client)).await;
    assert!(client.is_err(), "the client hears of it");
    let error = server.unwrap_err();
    refusal_of(&error).map_or(error.to_string(), |refused| refused.reason().to_owned())
}

async fn refused_by_client(server: ServerConfig, client: ClientConfig) -> String {
    let (_, client) = meet(&Arc::new(server), &Arc::new(client)).await;
    refusal_of(&client.unwrap_err())
        .unwrap()
        .reason()
        .to_owned()
}

#[tokio::test]
async fn two_tasks_of_one_trust_domain_meet_and_know_each_other() {
    let stage = Stage::new();
    let (service, caller) = (
        stage.world.task("/billing", 1),
        stage.world.task("/agent", 2),
    );
    let server = stage.server(&service, Clients::Required, authorize::anyone());
    let client = stage.client(Some(&caller), authorize::ids([stage.world.id("/billing")]));
    let (server, client) = meet(&Arc::new(server), &Arc::new(client)).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    let peer = |certificates: Option<&[CertificateDer<'static>]>| {
        read_verified(&certificates.unwrap()[0]).unwrap()
    };
    let caller = peer(server.get_ref().1.peer_certificates());
    assert_eq!(caller.spiffe_id, stage.world.id("/agent"));
    assert_eq!(caller.place(), Some(stage.world.binding(2).place));
    let service = peer(client.get_ref().1.peer_certificates());
    assert_eq!(service.spiffe_id, stage.world.id("/billing"));
    let version = server.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn an_ended_task_is_refused_on_either_side() {
    let stage = Stage::new();
    let (service, caller) = (
        stage.world.task("/billing", 1),
        stage.world.task("/agent", 2),
    );
    let server = || stage.server(&service, Clients::Required, authorize::anyone());
    let client = || stage.client(Some(&caller), authorize::anyone());
    stage.statuses.end(stage.world.binding(2).place);
    assert_eq!(refused_by_server(server(), client()).await, "TASK_ENDED");
    stage.statuses.end(stage.world.binding(1).place);
    assert_eq!(refused_by_client(server(), client()).await, "TASK_ENDED");
}

#[tokio::test]
async fn a_workload_or_node_posing_as_a_server_is_refused_and_so_is_a_workload_posing_as_a_node() {
    let stage = Stage::new();
    let td = &stage.world.trust_domain;
    let node = stage.world.task("/taskmint/node/join_token/n1", 2);
    for path in [
        "/billing",
        "/taskmint/node/join_token/n2",
        "/taskmint/server/a/b",
    ] {
        let posing = stage.world.task(path, 1);
        let server = stage.server(&posing, Clients::Required, authorize::node(td));
        let client = stage.client(Some(&node), authorize::server(td));
        assert_eq!(
            refused_by_client(server, client).await,
            "PEER_NOT_ALLOWED",
            "{path}"
        );
    }
    let genuine = stage.world.task("/taskmint/server/s1", 1);
    for path in ["/billing", "/taskmint/server/s2", "/taskmint/node/n1"] {
        let posing = stage.world.task(path, 2);
        let server = stage.server(&genuine, Clients::Required, authorize::node(td));
        let client = stage.client(Some(&posing), authorize::server(td));
        assert_eq!(
            refused_by_server(server, client).await,
            "PEER_NOT_ALLOWED",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_server_of_another_trust_domain_is_not_our_server() {
    let stage = Stage::new();
    let theirs = World::of("b.example", 2);
    let both: BundleSet = [stage.world.bundle(), theirs.bundle()]
        .into_iter()
        .collect();
    stage.trust.set(both);
    let foreign = theirs.task("/taskmint/server/s1", 1);
    let server = stage.server(&foreign, Clients::Optional, authorize::anyone());
    let client = stage.client(None, authorize::server(&stage.world.trust_domain));
    assert_eq!(refused_by_client(server, client).await, "PEER_NOT_ALLOWED");
}

#[tokio::test]
async fn a_client_without_an_svid_gets_in_only_where_it_is_optional() {
    let stage = Stage::new();
    let service = stage.world.task("/billing", 1);
    let client = || stage.client(None, authorize::anyone());
    let server = stage.server(&service, Clients::Required, authorize::anyone());
    let (refused, _) = meet(&Arc::new(server), &Arc::new(client())).await;
    assert!(refused.is_err());
    let server = stage.server(&service, Clients::Optional, authorize::anyone());
    let (accepted, _) = meet(&Arc::new(server), &Arc::new(client())).await;
    assert!(accepted.unwrap().get_ref().1.peer_certificates().is_none());
    // What is shown must be good, also where nothing need be shown.
    let expired = stage.world.task("/agent", 2);
    stage
        .world
        .clock
        .advance(std::time::Duration::from_secs(601));
    let service = stage.world.task("/billing", 1);
    let server = stage.server(&service, Clients::Optional, authorize::anyone());
    let client = stage.client(Some(&expired), authorize::anyone());
    assert_eq!(refused_by_server(server, client).await, "SVID_EXPIRED");
}

#[tokio::test]
async fn a_bundle_taken_away_counts_from_the_next_handshake_on() {
    let stage = Stage::new();
    let (service, caller) = (
        stage.world.task("/billing", 1),
        stage.world.task("/agent", 2),
    );
    let server = Arc::new(stage.server(&service, Clients::Required, authorize::anyone()));
    let client = Arc::new(stage.client(Some(&caller), authorize::anyone()));
    assert!(meet(&server, &client).await.0.is_ok());
    stage.trust.set(BundleSet::new());
    let error = meet(&server, &client).await.1.unwrap_err();
    assert_eq!(refusal_of(&error).unwrap().reason(), "TRUST_DOMAIN_UNKNOWN");
}

#[tokio::test]
async fn sessions_are_not_resumed_so_a_second_connection_is_judged_like_the_first() {
    let stage = Stage::new();
    let (service, caller) = (
        stage.world.task("/billing", 1),
        stage.world.task("/agent", 2),
    );
    let server = Arc::new(stage.server(&service, Clients::Required, authorize::anyone()));
    // The client would like to.
    let mut client = stage.client(Some(&caller), authorize::anyone());
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for _ in 0..2 {
        let (accepted, _) = meet(&server, &client).await;
        assert_eq!(
            accepted.unwrap().get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
    stage.statuses.end(stage.world.binding(2).place);
    let error = meet(&server, &client).await.0.unwrap_err();
    assert_eq!(refusal_of(&error).unwrap().reason(), "TASK_ENDED");
}

#[tokio::test]
async fn where_a_service_turns_resumption_on_an_ended_task_slips_through_and_recheck_refuses_it() {
    let stage = Stage::new();
    let (service, caller) = (
        stage.world.task("/billing", 1),
        stage.world.task("/agent", 2),
    );
    let mut server = stage.server(&service, Clients::Required, authorize::anyone());
    server.session_storage = ServerSessionMemoryCache::new(32);
    server.send_tls13_tickets = 2;
    let mut client = stage.client(Some(&caller), authorize::anyone());
    client.resumption = Resumption::in_memory_sessions(8);
    let (server, client) = (Arc::new(server), Arc::new(client));
    assert!(meet(&server, &client).await.0.is_ok());
    stage.statuses.end(stage.world.binding(2).place);

    let resumed = meet(&server, &client).await.0.unwrap();
    let tls = resumed.get_ref().1;
    assert_eq!(
        tls.handshake_kind(),
        Some(HandshakeKind::Resumed),
        "the verifier was not asked"
    );
    let shown = tls.peer_certificates().unwrap();
    let again = |clock: &dyn taskmint_model::Clock| {
        let status: &dyn StatusCheck = stage.statuses.as_ref();
        recheck(shown, &stage.trust, clock, Some(status))
            .unwrap_err()
            .reason()
    };
    assert_eq!(again(&stage.world.clock), "TASK_ENDED");
    stage
        .world
        .clock
        .advance(std::time::Duration::from_secs(601));
    assert_eq!(again(&stage.world.clock), "SVID_EXPIRED");
    stage.trust.set(BundleSet::new());
    assert_eq!(again(&stage.world.clock), "TRUST_DOMAIN_UNKNOWN");
}

/// A service that gives tickets, and sessions to TLS 1.2, and takes early data.
fn generous(leaf: &TestLeaf, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity(leaf)));
    server.session_storage = ServerSessionMemoryCache::new(32);
    server.send_tls13_tickets = 2;
    server.max_early_data_size = 1 << 10;
    server
}

/// How a client and a server met, as the client saw it.
async fn kind(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let (server, client) = meet(server, client).await;
    server.unwrap();
    client.unwrap().get_ref().1.handshake_kind()
}

/// Whether a client would send something before the server is judged.
fn would_send_early(client: &Arc<ClientConfig>) -> bool {
    let name = ServerName::try_from("service.example").unwrap();
    let mut hello = ClientConnection::new(Arc::clone(client), name).unwrap();
    hello.early_data().is_some()
}

#[tokio::test]
async fn our_client_takes_no_ticket_and_no_session_of_a_server_that_gives_them() {
    let stage = Stage::new();
    let service = stage.world.task("/billing", 1);
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let server = Arc::new(generous(&service, versions));
        let client = Arc::new(stage.client(None, authorize::anyone()));
        for _ in 0..3 {
            assert_eq!(kind(&server, &client).await, Some(HandshakeKind::Full));
        }
        // So the end of the server's task is noticed by the next one.
        stage.statuses.end(stage.world.binding(1).place);
        let error = meet(&server, &client).await.1.unwrap_err();
        assert_eq!(refusal_of(&error).unwrap().reason(), "TASK_ENDED");
        stage.statuses.forget();

        // One that wants to does resume there.
        let mut eager = stage.client(None, authorize::anyone());
        eager.resumption = Resumption::in_memory_sessions(8);
        let eager = Arc::new(eager);
        assert_eq!(kind(&server, &eager).await, Some(HandshakeKind::Full));
        assert_eq!(kind(&server, &eager).await, Some(HandshakeKind::Resumed));
    }
}

#[tokio::test]
async fn nothing_is_sent_or_taken_before_the_handshake_is_over() {
    let stage = Stage::new();
    let service = stage.world.task("/billing", 1);
    let ours = || stage.server(&service, Clients::Optional, authorize::anyone());
    let client = || stage.client(None, authorize::anyone());
    assert_eq!(ours().max_early_data_size, 0);
    assert!(!client().enable_early_data);

    // A client that wants to, with a ticket: not at our server, even where its owner gives tickets.
    let eager = || {
        let mut eager = client();
        eager.resumption = Resumption::in_memory_sessions(8);
        eager.enable_early_data = true;
        Arc::new(eager)
    };
    let mut with_tickets = ours();
    with_tickets.session_storage = ServerSessionMemoryCache::new(32);
    with_tickets.send_tls13_tickets = 2;
    let (at_ours, at_theirs) = (eager(), eager());
    kind(&Arc::new(with_tickets), &at_ours).await;
    assert!(!would_send_early(&at_ours));
    // At one that takes it, it would; ours would not.
    let generous = Arc::new(generous(&service, &[&TLS13]));
    kind(&generous, &at_theirs).await;
    assert!(would_send_early(&at_theirs));
    let mut ours = client();
    ours.resumption = Resumption::in_memory_sessions(8);
    let ours = Arc::new(ours);
    kind(&generous, &ours).await;
    assert!(!would_send_early(&ours));
}

#[tokio::test]
async fn an_identity_is_exchanged_for_the_next_handshake_and_gone_once_cleared() {
    let stage = Stage::new();
    let (first, second) = (
        stage.world.task("/billing", 1),
        stage.world.task("/billing", 3),
    );
    let shown = identity(&first);
    let (trust, clock) = (&stage.trust, stage.clock());
    let anyone = authorize::anyone();
    let server = server_config(&shown, trust, clock, Clients::Optional, anyone, None).unwrap();
    let server = Arc::new(server);
    let client = Arc::new(stage.client(None, authorize::anyone()));
    let seen = async || {
        let client = meet(&server, &client).await.1.ok()?;
        let leaf = client.get_ref().1.peer_certificates()?[0].clone();
        read_verified(&leaf).unwrap().place()
    };
    assert_eq!(seen().await, Some(stage.world.binding(1).place));
    shown.set(chain(&second), &second.key.pkcs8()).unwrap();
    assert_eq!(seen().await, Some(stage.world.binding(3).place));
    shown.clear();
    assert_eq!((seen().await, shown.chain()), (None, None));
}

#[test]
fn a_key_of_another_certificate_is_no_identity_and_keeps_the_former() {
    let world = World::new();
    let (mine, other) = (world.task("/billing", 1), world.task("/billing", 2));
    let shown = identity(&mine);
    let set = |certificates, key: &[u8]| shown.set(certificates, key);
    assert!(matches!(
        set(chain(&mine), &other.key.pkcs8()),
        Err(IdentityError::Mismatch)
    ));
    assert!(matches!(
        set(chain(&mine), b"no key"),
        Err(IdentityError::Key)
    ));
    assert!(matches!(
        set(Vec::new(), &mine.key.pkcs8()),
        Err(IdentityError::NoCertificate)
    ));
    assert_eq!(shown.chain(), Some(chain(&mine)));
}
