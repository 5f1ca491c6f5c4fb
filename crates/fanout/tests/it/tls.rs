//! The listener: handshakes, ten at a time or two hundred, and those who never finish theirs.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName};
use taskmint_fanout::{ListenError, Metrics, Settings, Tls, listen};
use taskmint_id::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{Clock, SystemClock, SystemEntropy};
use taskmint_testkit::TestCa;
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{Clients, Identity, client_config, read_verified, server_config};
use taskmint_wire::revocation::revocation_client::RevocationClient;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::log::Log;
use crate::watcher::{SOON, Watcher, becomes, endpoint, open, over, reason};

struct World {
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    address: std::net::SocketAddr,
    connector: TlsConnector,
    stop: CancellationToken,
    served: JoinHandle<Result<(), ListenError>>,
}

fn identity(ca: &TestCa, id: &str) -> Identity {
    let id: SpiffeId = id.parse().unwrap();
    let leaf = ca.svid(&id, SystemClock.now(), &SystemEntropy);
    let identity = Identity::new();
    let chain = vec![CertificateDer::from(leaf.certificate.clone())];
    identity.set(chain, &leaf.key.pkcs8()).unwrap();
    identity
}

impl World {
    async fn new(settings: Settings) -> Self {
        let domain: TrustDomain = "example.org".parse().unwrap();
        let ca = TestCa::new(&domain, SystemClock.now(), &SystemEntropy);
        let mut bundle = Bundle::new(domain);
        assert!(bundle.add_x509_authority(X509Authority::from_der(ca.certificate()).unwrap()));
        let trust = Trust::new(BundleSet::from_iter([bundle]));
        let anybody: taskmint_verifier::tls::Authorize = Arc::new(|_| Ok(()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let server = identity(&ca, "spiffe://example.org/taskmint/server/s1");
        let config = server_config(
            &server,
            &trust,
            Arc::clone(&clock),
            Clients::Required,
            Arc::clone(&anybody),
            None,
        );
        let tls = Tls::new(config.unwrap(), |session| {
            let leaf = session.peer_certificates().and_then(|chain| chain.first());
            let leaf = leaf.ok_or_else(|| std::io::Error::other("no certificate"))?;
            read_verified(leaf).map_err(std::io::Error::other)?;
            Ok("peer")
        });
        let own = identity(&ca, "spiffe://example.org/watcher");
        let mut config = client_config(Some(&own), &trust, clock, anybody, None).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let log = Log::new(0, 100_000);
        log.end(9);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fanout, stop) = (log.fanout(settings), CancellationToken::new());
        let metrics = Arc::clone(fanout.metrics());
        let served = tokio::spawn(listen(fanout, listener, tls, stop.clone()));
        Self {
            log,
            metrics,
            address,
            connector: TlsConnector::from(Arc::new(config)),
            stop,
            served,
        }
    }

    async fn client(&self) -> std::io::Result<RevocationClient<Channel>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("server").unwrap();
        let stream = self.connector.connect(name, stream).await?;
        Ok(over(stream, endpoint()).await)
    }

    async fn stop(self) {
        self.stop.cancel();
        let served = tokio::time::timeout(SOON, self.served).await.unwrap();
        served.unwrap().unwrap();
    }
}

fn settings() -> Settings {
    Settings {
        lanes: 2,
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_come_at_once_are_all_let_in_and_told() {
    let world = World::new(settings()).await;
    let mut watchers = Vec::new();
    let all = (0..100).map(|_| world.client());
    for client in futures::future::join_all(all).await {
        watchers.push(Watcher::open(&mut client.unwrap(), open("w", 9)).await);
    }
    for watcher in &mut watchers {
        watcher.until(9).await;
    }
    let next = world.log.end(2);
    for watcher in &mut watchers {
        watcher.until(next).await;
    }
    let readings = world.metrics.read();
    assert_eq!((readings.connections, readings.watchers), (100, 100));
    assert_eq!((readings.failed, readings.refused), (0, 0));
    world.stop.cancel();
    for watcher in &mut watchers {
        let status = watcher.ending().await;
        assert_eq!(
            (status.code(), reason(&status)),
            (Code::Unavailable, "STOPPING".into())
        );
    }
    let (metrics, log) = (Arc::clone(&world.metrics), Arc::clone(&world.log));
    world.stop().await;
    assert_eq!((metrics.read().connections, log.open()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_finishes_a_handshake_keeps_nobody_out() {
    use tokio::io::AsyncWriteExt;
    let settings = Settings {
        handshakes: 4,
        handshake: Duration::from_secs(3),
        ..settings()
    };
    let world = World::new(settings).await;
    let mut stalled = Vec::new();
    for number in 0..64 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a handshake.
            stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        }
        stalled.push(stream);
    }
    let client = tokio::time::timeout(SOON, world.client()).await.unwrap();
    let mut watcher = Watcher::open(&mut client.unwrap(), open("w", 9)).await;
    watcher.until(9).await;
    becomes(|| world.metrics.read().failed == 64).await;
    let next = world.log.end(1);
    watcher.until(next).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_a_certificate_and_one_too_many_are_refused() {
    let settings = Settings {
        connections: 1,
        ..settings()
    };
    let world = World::new(settings).await;
    let mut first = world.client().await.unwrap();
    let mut watcher = Watcher::open(&mut first, open("w", 9)).await;
    watcher.until(9).await;
    assert!(world.client().await.is_err());
    assert_eq!(world.metrics.read().refused, 1);
    drop((first, watcher));
    becomes(|| world.metrics.read().connections == 0).await;
    let mut next = world.client().await.unwrap();
    Watcher::open(&mut next, open("w", 9)).await.until(9).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_dropped_ends_at_once() {
    let world = World::new(settings()).await;
    let mut client = world.client().await.unwrap();
    let mut watcher = Watcher::open(&mut client, open("w", 9)).await;
    watcher.until(9).await;
    world.served.abort();
    becomes(|| world.log.open() == 0).await;
    assert_ne!(watcher.ending().await.code(), Code::Ok);
}
