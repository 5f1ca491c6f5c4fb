//! Ends as a verifying service hears them: over the real log, through real handshakes.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName};
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::connections::Connections;
use taskmint_verifier::tls::{self, Clients, Identity, authorize};
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_verifier::{StatusCheck, Trust, tls::refusal_of};
use taskmint_wire::{admin, node, task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::World;
use crate::node::{Key, Node, UID, caller};

const SOON: Duration = Duration::from_secs(10);

/// A workload with a task and its SVID.
struct Workload {
    task: String,
    pid: u32,
    identity: Identity,
}

async fn workload(node: &mut Node, pid: u32) -> Workload {
    let key = Key::new();
    let began = node
        .client
        .begin_task(node.begin(UID, pid, key.spki()))
        .await
        .unwrap();
    let began = began.into_inner();
    let identity = Identity::new();
    identity
        .set(vec![CertificateDer::from(began.certificate)], &key.pkcs8())
        .unwrap();
    Workload {
        task: began.task.unwrap().id,
        pid,
        identity,
    }
}

async fn complete(node: &mut Node, workload: &Workload) -> u64 {
    let end = node::EndTaskRequest {
        task_id: workload.task.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, workload.pid)),
        ..Default::default()
    };
    node.client
        .end_task(end)
        .await
        .unwrap()
        .into_inner()
        .position
}

fn watch(world: &World, service: &Workload, trust: &Trust) -> Watch {
    let address = world.server.watch_address.to_string();
    let source = Source::Server {
        address,
        identity: service.identity.clone(),
    };
    let options = Options::new("example.org".parse().unwrap(), source, "service");
    Watch::start(
        options,
        trust.clone(),
        Arc::new(SystemClocks),
        Arc::new(SystemEntropy),
    )
    .unwrap()
}

/// A service that echoes, and closes connections whose task ended.
async fn serve(service: &Workload, trust: &Trust, watch: &Watch) -> std::net::SocketAddr {
    let status: Arc<dyn StatusCheck> = Arc::new(watch.clone());
    let connections = Connections::new(Arc::new(SystemClock), Some(Arc::clone(&status)));
    tokio::spawn(connections.clone().follow(watch.clone()));
    let config = tls::server_config(
        &service.identity,
        trust,
        Arc::new(SystemClock),
        Clients::Required,
        authorize::workload(&"example.org".parse().unwrap()),
        Some(status),
    );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                let peer = tls::read_verified(&leaf).unwrap();
                let stream = connections.register(&peer).guard(stream);
                let (mut reader, mut writer) = tokio::io::split(stream);
                drop(tokio::io::copy(&mut reader, &mut writer).await);
            });
        }
    });
    address
}

async fn call(
    client: &Workload,
    trust: &Trust,
    address: std::net::SocketAddr,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let authorize = authorize::workload(&"example.org".parse().unwrap());
    let clock = Arc::new(SystemClock);
    let config = tls::client_config(Some(&client.identity), trust, clock, authorize, None).unwrap();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("service").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    ping(&mut stream).await?;
    Ok(stream)
}

async fn ping(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_task_is_refused_by_a_service_that_never_asked() {
    let mut world = World::in_memory().await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, client) = (workload(&mut node, 7).await, workload(&mut node, 8).await);
    let trust = node.trust.clone();
    let watch = watch(&world, &service, &trust);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    let address = serve(&service, &trust, &watch).await;

    let mut open = call(&client, &trust, address).await.unwrap();
    ping(&mut open).await.unwrap();
    let mut events = watch.subscribe();
    complete(&mut node, &client).await;

    // The open connection is closed, by the service and unasked.
    let closed = async {
        let mut buffer = [0; 16];
        matches!(open.read(&mut buffer).await, Ok(0) | Err(_))
    };
    assert!(tokio::time::timeout(SOON, closed).await.unwrap());
    assert!(
        tokio::time::timeout(SOON, events.next())
            .await
            .unwrap()
            .is_some()
    );
    // The very next one does not come about.
    assert!(call(&client, &trust, address).await.is_err());
    // Others are not disturbed.
    let other = workload(&mut node, 9).await;
    call(&other, &trust, address).await.unwrap();

    // The server knows who has heard.
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let listed = async {
        loop {
            looks.tick().await;
            let request = admin::ListWatchersRequest {};
            let list = world
                .admin
                .list_watchers(request)
                .await
                .unwrap()
                .into_inner();
            if list
                .watchers
                .iter()
                .any(|w| w.name == "service" && w.acknowledged == list.sequence)
            {
                return list;
            }
        }
    };
    tokio::time::timeout(SOON, listed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_task_is_refused_until_it_is_resumed() {
    let mut world = World::in_memory().await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, client) = (workload(&mut node, 7).await, workload(&mut node, 8).await);
    let trust = node.trust.clone();
    let watch = watch(&world, &service, &trust);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    let address = serve(&service, &trust, &watch).await;
    call(&client, &trust, address).await.unwrap();

    let mut events = watch.subscribe();
    let task_id = client.task.clone();
    let suspend = task::SuspendRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    world.admin.suspend_task(suspend).await.unwrap();
    tokio::time::timeout(SOON, events.next()).await.unwrap();
    assert!(call(&client, &trust, address).await.is_err());

    // P5: the holder can't undo what an operator did.
    let ask = node::ChangeTaskRequest {
        task_id: task_id.clone(),
        caller: Some(caller(UID, 8)),
        ..Default::default()
    };
    let refused = node.client.resume_task(ask).await.unwrap_err();
    assert_eq!(
        taskmint_wire::denial_of(&refused).unwrap().0,
        "SUSPENDED_BY_HIGHER"
    );

    let resume = task::ResumeRequest {
        task_id,
        ..Default::default()
    };
    world.admin.resume_task(resume).await.unwrap();
    tokio::time::timeout(SOON, events.next()).await.unwrap();
    call(&client, &trust, address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_hears_nothing_says_no_and_says_why() {
    let lines = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
                 revocation.max_age = \"2s\"\nrevocation.heartbeat = \"500ms\"";
    let mut world = World::with(lines).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, client) = (workload(&mut node, 7).await, workload(&mut node, 8).await);
    let trust = node.trust.clone();
    let watch = watch(&world, &service, &trust);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    let leaf = client.identity.chain().unwrap()[0].clone();
    let binding = tls::read_verified(&leaf).unwrap().binding.unwrap();
    watch.check(&binding).unwrap();

    drop(world);
    let refused = async {
        loop {
            match watch.check(&binding) {
                Ok(()) => tokio::task::yield_now().await,
                Err(refused) => return refused,
            }
        }
    };
    let refused = tokio::time::timeout(SOON, refused).await.unwrap();
    assert_eq!(refused.reason, "STATUS_STALE", "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parents_end_is_its_childrens_end() {
    let mut world = World::in_memory().await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let (service, parent) = (workload(&mut node, 7).await, workload(&mut node, 8).await);
    let key = Key::new();
    let mut ask = node.begin(UID, 9, key.spki());
    ask.parent_id = parent.task.clone();
    let began = node.client.begin_task(ask).await.unwrap().into_inner();
    let identity = Identity::new();
    identity
        .set(vec![CertificateDer::from(began.certificate)], &key.pkcs8())
        .unwrap();
    let child = Workload {
        task: began.task.unwrap().id,
        pid: 9,
        identity,
    };

    let trust = node.trust.clone();
    let watch = watch(&world, &service, &trust);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    let address = serve(&service, &trust, &watch).await;
    call(&child, &trust, address).await.unwrap();
    complete(&mut node, &parent).await;
    let refused = async { while call(&child, &trust, address).await.is_ok() {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
    let get = task::GetRequest {
        task_id: child.task,
    };
    let ended = world
        .admin
        .get_task(get)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!(ended.ending.unwrap().cause, "parent_ended");
}

#[test]
fn refusals_can_be_told_from_other_failures() {
    let other = std::io::Error::other("something else");
    assert!(refusal_of(&other).is_none());
}
