//! A watch over a real socket: it hears of ends, and says no when it hears nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taskmint_id::BundleSet;
use taskmint_model::SystemEntropy;
use taskmint_status::{Cause, Refusal};
use taskmint_testkit::TestKey;
use taskmint_verifier::connections::Connections;
use taskmint_verifier::tls::{Clients, Identity, Trust, authorize, server_config};
use taskmint_verifier::watch::{Bundles, Event, Options, Source, State, Watch};
use taskmint_verifier::{StatusCheck as _, verify_x509};
use taskmint_wire::revocation::watch_request::Message;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::log::{FakeLog, HandClocks, MAX_AGE, Plain, log_key_spec};
use crate::world::{World, chain};

/// A server, a relay's socket and a watch on it.
struct Stage {
    world: World,
    clocks: Arc<HandClocks>,
    log: FakeLog,
    trust: Trust,
    watch: Watch,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let clocks = HandClocks::of(&world);
        let log = FakeLog::new(&world, &clocks);
        Self::with(world, clocks, log, |options| options)
    }

    async fn synced() -> Self {
        let stage = Self::new();
        stage.watch.synced().await;
        stage
    }

    fn with(
        world: World,
        clocks: Arc<HandClocks>,
        log: FakeLog,
        change: impl Fn(Options) -> Options,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Relay(log.serve_in(folder.path()));
        let options = change(Options::new(world.trust_domain.clone(), source, "test"));
        let trust = match options.bundles {
            Bundles::Held => Trust::new(world.bundles()),
            _ => Trust::default(),
        };
        let watch = start(options, &trust, &clocks);
        Self {
            world,
            clocks,
            log,
            trust,
            watch,
            folder,
        }
    }

    fn ask(&self, index: u64) -> Result<(), &'static str> {
        self.watch
            .check(&self.world.binding(index))
            .map_err(|refused| {
                let of_task = refused.reason.starts_with("TASK_");
                assert_eq!(refused.unavailable, !of_task, "{}", refused.reason);
                refused.reason
            })
    }

    /// Waits until the watch is in a state, however long that takes.
    async fn until(&self, wanted: impl Fn(&State) -> bool) -> State {
        until(&self.watch, wanted).await
    }
}

async fn until(watch: &Watch, wanted: impl Fn(&State) -> bool) -> State {
    loop {
        let state = watch.state();
        if wanted(&state) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn start(options: Options, trust: &Trust, clocks: &Arc<HandClocks>) -> Watch {
    let clocks = Arc::<HandClocks>::clone(clocks);
    Watch::start(options, trust.clone(), clocks, Arc::new(SystemEntropy)).unwrap()
}

#[tokio::test]
async fn nothing_is_believed_before_the_first_signed_head() {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let log = FakeLog::new(&world, &clocks);
    log.mute(true);
    let stage = Stage::with(world, clocks, log, |options| options);
    stage
        .log
        .heard(|message| matches!(message, Message::Open(_)).then_some(()))
        .await;
    assert_eq!(stage.ask(1), Err("STATUS_NOT_SYNCED"));
}

#[tokio::test]
async fn an_end_is_refused_at_once_and_acknowledged_where_someone_waits() {
    let stage = Stage::synced().await;
    assert_eq!(stage.ask(1), Ok(()));
    let mut events = stage.watch.subscribe();
    stage.log.end(&stage.world, 1);
    let (place, cause) = (stage.world.binding(1).place, Some(Cause::REVOKED));
    let task = taskmint_model::TaskId::from_octets([1; 16]);
    assert_eq!(
        events.next().await,
        Some(Event::Ended { place, task, cause })
    );
    assert_eq!(
        stage.ask(1),
        Err("TASK_ENDED"),
        "whoever heard of it finds it refused"
    );
    assert_eq!(stage.ask(2), Ok(()));
    let acknowledged = stage.log.heard(|message| match message {
        Message::Acknowledge(acknowledge) => Some(acknowledge.sequence).filter(|at| *at == 1),
        _ => None,
    });
    assert_eq!(acknowledged.await, 1);
}

#[tokio::test]
async fn a_suspended_task_is_refused_until_it_is_resumed() {
    let stage = Stage::synced().await;
    let mut events = stage.watch.subscribe();
    stage.log.suspend(&stage.world, 1);
    assert!(matches!(events.next().await, Some(Event::Suspended { .. })));
    assert_eq!(stage.ask(1), Err("TASK_SUSPENDED"));
    stage.log.resume(&stage.world, 1);
    assert!(matches!(events.next().await, Some(Event::Resumed { .. })));
    assert_eq!(stage.ask(1), Ok(()));
}

#[tokio::test]
async fn an_open_connection_is_closed_when_its_task_ends() {
    let stage = Stage::synced().await;
    let clock = Arc::new(stage.world.clock.clone());
    let connections = Connections::new(clock, Some(Arc::new(stage.watch.clone())));
    let follow = tokio::spawn(connections.clone().follow(stage.watch.clone()));
    let register = |index| {
        let leaf = stage.world.task("/agent", index);
        let peer = verify_x509(&chain(&leaf), &stage.world.bundles(), stage.world.now());
        connections.register(&peer.unwrap())
    };
    let (ended, other) = (register(1), register(2));
    stage.log.end(&stage.world, 1);
    assert_eq!(ended.closed().await.reason, "TASK_ENDED");
    assert_eq!(other.check(), None);
    // Cut off, the service keeps nobody.
    stage.log.mute(true);
    stage.clocks.pass(MAX_AGE + Duration::from_secs(1));
    assert_eq!(other.closed().await.reason, "STATUS_STALE");
    follow.abort();
}

#[tokio::test]
async fn a_connection_with_a_callback_is_closed_when_its_certificate_ends() {
    let stage = Stage::synced().await;
    let clock = Arc::new(stage.world.clock.clone());
    let connections = Connections::new(clock, None);
    let follow = tokio::spawn(connections.clone().follow(stage.watch.clone()));
    let leaf = stage.world.task("/agent", 1);
    let peer = verify_x509(&chain(&leaf), &stage.world.bundles(), stage.world.now()).unwrap();
    let (say, said) = tokio::sync::oneshot::channel();
    let _guard = connections.register_with(&peer, move |why| say.send(why.reason).unwrap());
    let end = peer.not_after + Duration::from_secs(1);
    stage.world.clock.advance(end.since(stage.world.now()));
    assert_eq!(said.await.unwrap(), "SVID_EXPIRED");
    follow.abort();
}

#[tokio::test]
async fn a_stale_watch_refuses_and_says_why() {
    let stage = Stage::synced().await;
    assert_eq!(stage.ask(1), Ok(()));
    stage.log.mute(true);
    stage.clocks.pass(MAX_AGE);
    assert_eq!(stage.ask(1), Ok(()), "the bound itself is allowed");
    stage.clocks.pass(Duration::from_secs(1));
    assert_eq!(stage.ask(1), Err("STATUS_STALE"));
    // The watch has noticed the silence, and tells of it.
    let state = stage.until(|state| state.trouble.is_some()).await;
    assert_eq!(state.closed, Some(Refusal::Stale));
    let refused = stage.watch.check(&stage.world.binding(1)).unwrap_err();
    assert!(
        refused
            .message
            .starts_with("nothing fresh has been heard from the server for 31 s: ")
    );
    assert!(
        refused
            .message
            .ends_with("nothing that counts came over the log's stream")
    );
    // An end that was heard before stays one.
    stage.log.mute(false);
    stage.watch.synced().await;
    assert_eq!((stage.ask(1), stage.watch.state().trouble), (Ok(()), None));
}

#[tokio::test]
async fn heartbeats_keep_a_watch_fresh() {
    let stage = Stage::synced().await;
    for _ in 0..4 {
        stage.clocks.pass(Duration::from_secs(12));
        stage.log.heartbeat();
        stage
            .until(|state| state.age.is_some_and(|age| age < Duration::from_secs(12)))
            .await;
    }
    assert_eq!(stage.ask(1), Ok(()), "48 s later");
}

#[tokio::test]
async fn a_wall_clock_that_jumps_closes_until_a_new_nonce_is_answered() {
    let stage = Stage::synced().await;
    stage.log.forget_heard();
    stage.clocks.jump(Duration::from_secs(10));
    assert_eq!(stage.ask(1), Err("CLOCK_JUMPED"));
    stage
        .log
        .heard(|message| matches!(message, Message::Nonce(_)).then_some(()))
        .await;
    stage.watch.synced().await;
    assert_eq!(stage.ask(1), Ok(()));
}

#[tokio::test]
async fn a_used_up_drift_allowance_closes_until_a_new_nonce_is_answered() {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let log = FakeLog::new(&world, &clocks);
    // At half a thousandth it lasts 20 s: less than a head may be old.
    let stage = Stage::with(world, clocks, log, |options| Options {
        drift_allowance: Some(Duration::from_millis(10)),
        ..options
    });
    stage.watch.synced().await;
    stage.log.forget_heard();
    stage.log.mute(true);
    stage.clocks.pass(Duration::from_secs(20));
    assert_eq!(stage.ask(1), Ok(()), "the allowance itself");
    stage.clocks.pass(Duration::from_millis(1));
    assert_eq!(stage.ask(1), Err("CLOCK_DRIFT_USED"));
    // A head that answers no nonce does not help.
    stage.log.mute(false);
    stage.log.heartbeat();
    let asked = stage.log.heard(|message| match message {
        Message::Nonce(nonce) => Some(nonce.nonce.len()),
        Message::Open(open) => Some(open.nonce.len()),
        Message::Acknowledge(_) => None,
    });
    assert_eq!(asked.await, 16);
    stage.watch.synced().await;
    assert_eq!(stage.ask(1), Ok(()));
}

#[tokio::test]
async fn a_reconnect_resumes_where_it_was_and_hears_what_it_missed() {
    let stage = Stage::synced().await;
    let mut events = stage.watch.subscribe();
    stage.log.end(&stage.world, 1);
    events.next().await.unwrap();
    stage.log.forget_heard();
    stage.log.hang_up();
    stage.log.end(&stage.world, 2);
    let resumed = stage.log.heard(|message| match message {
        Message::Open(open) => Some((open.sequence, open.log_id.len(), open.log_hash.len())),
        _ => None,
    });
    assert_eq!(resumed.await, (1, 8, 32));
    assert!(matches!(events.next().await, Some(Event::Ended { .. })));
    assert_eq!((stage.ask(2), stage.ask(3)), (Err("TASK_ENDED"), Ok(())));
}

#[tokio::test]
async fn a_watch_that_comes_late_is_told_by_a_checkpoint() {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let log = FakeLog::new(&world, &clocks);
    log.end(&world, 1);
    let stage = Stage::with(world, clocks, log, |options| options);
    stage.watch.synced().await;
    assert_eq!((stage.ask(1), stage.ask(2)), (Err("TASK_ENDED"), Ok(())));
    assert_eq!(stage.watch.state().position.unwrap().sequence, 1);
}

/// What a log is refused for whose key is certified like this.
async fn refused_key(certify: impl FnOnce(&World, &TestKey) -> Vec<u8>) -> String {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let key = TestKey::generate(&world.entropy);
    let certificate = certify(&world, &key);
    let log = FakeLog::with_key(&world, &clocks, key, certificate);
    let stage = Stage::with(world, clocks, log, |options| options);
    let trouble = stage
        .until(|state| state.trouble.is_some())
        .await
        .trouble
        .unwrap();
    assert_eq!(stage.ask(1), Err("STATUS_NOT_SYNCED"));
    trouble
}

#[tokio::test]
async fn heads_signed_by_whoever_is_not_certified_for_it_are_refused() {
    // Any workload could sign heads otherwise.
    let svid = refused_key(|world, key| {
        let mut spec = log_key_spec(world);
        spec.uris = vec!["spiffe://example.org/billing".to_owned()];
        world.ca.certify(&spec, key)
    });
    assert!(svid.await.contains("the certificate is an svid's"));
    let usage = refused_key(|world, key| {
        let mut spec = log_key_spec(world);
        spec.extended_usages.clear();
        world.ca.certify(&spec, key)
    });
    assert!(usage.await.contains("not vouched for"));
    let other = refused_key(|world, key| {
        let other = World::of("example.org", 9);
        other.ca.certify(&log_key_spec(world), key)
    });
    assert!(other.await.contains("not vouched for"));
    let expired = refused_key(|world, key| {
        let mut spec = log_key_spec(world);
        spec.not_after = world.now() - Duration::from_secs(1);
        world.ca.certify(&spec, key)
    });
    assert!(expired.await.contains("expired"));
    let nobody = refused_key(|world, key| {
        let _ = key;
        // A genuine certificate of another key.
        world
            .ca
            .certify(&log_key_spec(world), &TestKey::generate(&world.entropy))
    });
    assert!(nobody.await.contains("signed by no known"));
}

#[tokio::test]
async fn a_log_key_whose_ca_left_the_bundle_signs_nothing_any_more() {
    let stage = Stage::synced().await;
    stage.trust.set(World::of("example.org", 9).bundles());
    stage.log.end(&stage.world, 1);
    let state = stage.until(|state| state.trouble.is_some()).await;
    let trouble = state.trouble.unwrap();
    assert!(
        trouble.contains("signed by no known") || trouble.contains("not vouched"),
        "{trouble}"
    );
    assert_eq!(
        stage.ask(1),
        Ok(()),
        "what was heard before counts, and ages"
    );
    stage.clocks.pass(MAX_AGE + Duration::from_secs(1));
    assert_eq!(stage.ask(1), Err("STATUS_STALE"));
}

#[tokio::test]
async fn bundles_come_from_a_file_and_change_with_it() {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let log = FakeLog::new(&world, &clocks);
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("bundle.json");
    let write = |path: &Path, text: String| std::fs::write(path, text).unwrap();
    write(&path, world.bundle().to_json());
    let of_file = path.clone();
    let stage = Stage::with(world, clocks, log, move |options| Options {
        bundles: Bundles::File(of_file.clone()),
        ..options
    });
    stage.watch.synced().await;
    assert_eq!(stage.ask(1), Ok(()));
    // A torn file changes nothing; the next whole one counts.
    write(&path, "{".to_owned());
    let other: BundleSet = [World::of("other.example", 9).bundle()]
        .into_iter()
        .collect();
    write(&path, other.to_json());
    let foreign = taskmint_id::TrustDomain::parse("other.example").unwrap();
    while stage.trust.get().get(&foreign).is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        stage.trust.get().get(&stage.world.trust_domain),
        Some(&stage.world.bundle())
    );
}

#[tokio::test]
async fn a_log_at_a_server_is_watched_over_mtls_and_a_workload_posing_as_that_server_is_refused() {
    for (path, refused) in [
        ("/taskmint/server/s1", None),
        ("/billing", Some("is not a server")),
    ] {
        let world = World::new();
        let clocks = HandClocks::of(&world);
        let (log, trust) = (FakeLog::new(&world, &clocks), Trust::new(world.bundles()));
        let identity = |path, index| {
            let leaf = world.task(path, index);
            let identity = Identity::new();
            identity.set(chain(&leaf), &leaf.key.pkcs8()).unwrap();
            identity
        };
        let (anyone, clock) = (authorize::anyone(), Arc::new(world.clock.clone()));
        let shown = identity(path, 1);
        let config = server_config(&shown, &trust, clock, Clients::Required, anyone, None);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let incoming =
            futures::stream::unfold((listener, acceptor), |(listener, acceptor)| async {
                let (stream, _) = listener.accept().await.unwrap();
                let accepted = acceptor.accept(stream).await.map(Plain);
                Some((accepted, (listener, acceptor)))
            });
        let server = tonic::transport::Server::builder().add_service(log.service());
        let server = tokio::spawn(server.serve_with_incoming(Box::pin(incoming)));
        let source = Source::Server {
            address,
            identity: identity("/agent", 2),
        };
        let watch = start(
            Options::new(world.trust_domain.clone(), source, "w"),
            &trust,
            &clocks,
        );
        match refused {
            None => {
                watch.synced().await;
                log.end(&world, 3);
                let ended = world.binding(3);
                until(&watch, |_| watch.check(&ended).is_err()).await;
            }
            Some(words) => {
                let trouble = until(&watch, |state| state.trouble.is_some()).await.trouble;
                assert!(trouble.as_deref().unwrap().contains(words), "{trouble:?}");
            }
        }
        server.abort();
    }
}

#[tokio::test]
async fn a_dropped_watch_hangs_up() {
    let stage = Stage::synced().await;
    let mut events = stage.watch.subscribe();
    let Stage { watch, folder, .. } = stage;
    drop(watch);
    assert_eq!(events.next().await, None);
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_takes_no_lock_and_no_time_while_ends_pour_in() {
    let stage = Stage::synced().await;
    let live = stage.world.binding(1_000_000);
    let watch = stage.watch.clone();
    let reader = std::thread::spawn(move || {
        let (rounds, began) = (200_000_u32, Instant::now());
        for _ in 0..rounds {
            assert!(watch.check(&live).is_ok());
        }
        began.elapsed() / rounds
    });
    let mut index = 0;
    while !reader.is_finished() {
        index += 1;
        stage.log.end(&stage.world, index);
        tokio::task::yield_now().await;
    }
    let each = reader.join().unwrap();
    assert!(
        each < Duration::from_micros(20),
        "{each:?} for one status, beside {index} ends"
    );
    until(&stage.watch, |state| {
        state.position.is_some_and(|at| at.sequence == index)
    })
    .await;
    assert_eq!(stage.ask(index), Err("TASK_ENDED"));
}
