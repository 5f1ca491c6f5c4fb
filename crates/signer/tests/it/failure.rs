//! What a server sees of a signer that fails: killed, or with a bit that flips.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use taskmint_mint::protocol::{
    Answer, Call, CheckKey, Given, Numbered, Opened, Wanted, digest, read_frame, write_frame,
};
use taskmint_mint::{
    Authority as _, Connect, Connection, KeyKind, Policy, Prepared, Refusal, Remote,
    RemoteSettings, Request, Sealed, Signed, SignerTail,
};
use taskmint_model::{AuthorityId, SystemEntropy, Timestamp};
use taskmint_testkit::{TestCa, TestKey};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::support::{
    CA_TTL, Keys, MEMORY, PROGRAM, append, check_chains, head, journal, jwt, now, start,
    trust_domain, workload, x509,
};

/// Nobody waits longer than this for a signer that is gone.
const QUICKLY: Duration = Duration::from_secs(5);

/// The octet of the next reply in which a bit flips; none.
const NONE: usize = usize::MAX;

/// Starts a signer for each connection, as the server does; what it says may be changed on its way.
struct Start {
    folder: TempDir,
    pids: parking_lot::Mutex<Vec<u32>>,
    flip: Arc<AtomicUsize>,
}

impl Start {
    fn new() -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, [7; 32]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key, mode).unwrap();
        Arc::new(Self {
            folder,
            pids: parking_lot::Mutex::default(),
            flip: Arc::new(AtomicUsize::new(NONE)),
        })
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn kill(&self) {
        let pid = *self.pids.lock().last().unwrap();
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn spawn(&self) -> io::Result<(StdStream, Child)> {
        let (ours, its) = StdStream::pair()?;
        let child = Command::new(PROGRAM)
            .args(["--trust-domain", "example.org", "--workers", "2"])
            .arg("--sealing-key")
            .arg(self.folder.path().join("key"))
            .args(&MEMORY[1..])
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::from(append(&self.journal())))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        self.pids.lock().push(child.id().unwrap());
        Ok((ours, child))
    }
}

#[async_trait]
impl Connect for Start {
    async fn connect(&self) -> io::Result<Connection> {
        let (signer, child) = self.spawn()?;
        let (ours, its) = StdStream::pair()?;
        between(its, signer, Arc::clone(&self.flip))?;
        ours.set_nonblocking(true)?;
        Ok(Connection {
            stream: UnixStream::from_std(ours)?,
            keep: Box::new(child),
        })
    }
}

/// Passes frames on, and flips a bit of a reply when told to.
fn between(server: StdStream, signer: StdStream, flip: Arc<AtomicUsize>) -> io::Result<()> {
    let (mut from, mut to) = (server.try_clone()?, signer.try_clone()?);
    std::thread::spawn(move || {
        drop(io::copy(&mut from, &mut to));
        drop(to.shutdown(std::net::Shutdown::Both));
    });
    let (mut from, mut to) = (signer, server);
    std::thread::spawn(move || {
        let mut frame = Vec::new();
        while let Ok(true) = read_frame(&mut from, &mut frame) {
            let at = flip.swap(NONE, Ordering::SeqCst);
            if at != NONE {
                let length = frame.len();
                frame[at % length] ^= 1 << (at % 8);
            }
            if write_frame(&mut to, &frame).is_err() {
                break;
            }
        }
        drop(to.shutdown(std::net::Shutdown::Both));
    });
    Ok(())
}

fn settings(verify_one_in: u32) -> RemoteSettings {
    RemoteSettings {
        policy: Policy {
            public_url: Some(crate::support::PUBLIC_URL.to_owned()),
            ..Policy::new(trust_domain())
        },
        max_waiting: 8192,
        verify_one_in,
    }
}

fn remote(connect: Arc<dyn Connect>, verify_one_in: u32) -> Arc<Remote> {
    let entropy = Arc::new(SystemEntropy);
    Arc::new(Remote::new(connect, settings(verify_one_in), entropy))
}

async fn active(remote: &Remote, kind: KeyKind) -> Prepared {
    let id = AuthorityId::new(now(), &SystemEntropy);
    let prepared = remote.prepare(kind, id, now()).await.unwrap();
    remote.activate(id).await.unwrap();
    prepared
}

async fn ready(remote: &Remote) -> Keys {
    remote.load(Vec::new(), start()).await.unwrap();
    Keys {
        ca: active(remote, KeyKind::Ca { ttl_secs: CA_TTL }).await,
        jwt: active(remote, KeyKind::Jwt).await,
        log: active(remote, KeyKind::Log { ttl_secs: CA_TTL }).await,
        grant: active(remote, KeyKind::Grant).await,
    }
}

async fn quickly<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(QUICKLY, future)
        .await
        .expect("it hangs")
}

async fn one(remote: &Remote, request: Request) -> Result<Signed, Refusal> {
    quickly(remote.issue(vec![request])).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_never_leaves_and_the_signer_is_started_again() {
    let start_one = Start::new();
    let remote = remote(start_one.clone(), 0);
    let keys = ready(&remote).await;
    let facts = workload();
    let grant = remote.grant(&facts).await.unwrap();
    let requests: [fn(&taskmint_mint::Facts, &taskmint_mint::Grant) -> Request; 3] = [
        |facts, grant| Request::X509(x509(facts, grant.clone())),
        |facts, grant| Request::Jwt(jwt(facts, grant.clone())),
        |_, _| Request::Head(head(Vec::new())),
    ];
    // The reply's own framing, the credential all along, its signature, its check.
    for at in [0, 1, 5, 40, 100, 133, 150, 177, 1 << 20, (1 << 20) + 301] {
        for request in &requests {
            start_one.flip.store(at, Ordering::SeqCst);
            let refused = one(&remote, request(&facts, &grant)).await;
            assert_eq!(refused.unwrap_err(), Refusal::Away, "octet {at}");
            quickly(remote.lost()).await;
            quickly(remote.load(keys.sealed(), start())).await.unwrap();
            one(&remote, request(&facts, &grant)).await.unwrap();
        }
    }
    check_chains(&journal(&start_one.journal()).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_signer_keeps_nobody_waiting_and_signs_again_once_loaded() {
    let start_one = Start::new();
    let remote = remote(start_one.clone(), 64);
    let keys = ready(&remote).await;
    let facts = workload();
    let grant = remote.grant(&facts).await.unwrap();
    let mut tails = Vec::new();
    for round in 0..5 {
        let before = journal(&start_one.journal()).0.len();
        let asking = (0..64).map(|_| {
            let (remote, facts, grant) = (remote.clone(), facts.clone(), grant.clone());
            tokio::spawn(async move {
                let mut tails: Vec<SignerTail> = Vec::new();
                loop {
                    match one(&remote, Request::X509(x509(&facts, grant.clone()))).await {
                        Ok(signed) => tails.push(signed.tail),
                        Err(refusal) => {
                            assert_eq!(refusal, Refusal::Away);
                            return tails;
                        }
                    }
                }
            })
        });
        let asking: Vec<_> = asking.collect();
        // In the middle of it.
        let path = start_one.journal();
        quickly(async {
            while journal(&path).0.len() < before + 100 * (round + 1) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        start_one.kill();
        for asked in asking {
            tails.extend(quickly(asked).await.unwrap());
        }
        assert_eq!(
            one(&remote, Request::Head(head(Vec::new())))
                .await
                .unwrap_err(),
            Refusal::Away
        );
        quickly(remote.lost()).await;
        assert!(!*remote.signs().borrow());
        quickly(remote.load(keys.sealed(), start())).await.unwrap();
        assert!(*remote.signs().borrow());
        one(&remote, Request::Head(head(Vec::new()))).await.unwrap();
    }
    // Whatever left was counted; what was counted may not have left.
    let (entries, torn) = journal(&start_one.journal());
    assert_eq!(torn, 0);
    check_chains(&entries);
    let counted: std::collections::HashSet<_> =
        entries.iter().map(|entry| entry.link.tail.hash).collect();
    assert!(tails.iter().all(|tail| counted.contains(&tail.hash)));
    assert!(tails.len() >= 500, "{} signatures", tails.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_serves_another_trust_domain_is_never_loaded() {
    let folder = TempDir::new().unwrap();
    struct Other(PathBuf);
    #[async_trait]
    impl Connect for Other {
        async fn connect(&self) -> io::Result<Connection> {
            let (ours, its) = StdStream::pair()?;
            let child = Command::new(PROGRAM)
                .args(["--trust-domain", "example.com", "--memory"])
                .stdin(Stdio::from(OwnedFd::from(its)))
                .stdout(Stdio::from(append(&self.0)))
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            ours.set_nonblocking(true)?;
            Ok(Connection {
                stream: UnixStream::from_std(ours)?,
                keep: Box::new(child),
            })
        }
    }
    let remote = remote(Arc::new(Other(folder.path().join("journal"))), 0);
    let refused = remote.load(Vec::new(), start()).await.unwrap_err();
    // What the signer said, not that its answer had the wrong check.
    assert!(
        refused.to_string().contains("trust domain `example.org`"),
        "{refused}"
    );
}

/// A signer that answers with whatever it likes, under checks that are right.
struct Fake {
    made: Arc<Made>,
}

/// What it signed, and the public key that it has.
struct Made {
    bytes: Vec<u8>,
    signature: Vec<u8>,
    spki: Vec<u8>,
}

#[async_trait]
impl Connect for Fake {
    async fn connect(&self) -> io::Result<Connection> {
        let (ours, its) = StdStream::pair()?;
        let made = Arc::clone(&self.made);
        std::thread::spawn(move || play(its, &made));
        ours.set_nonblocking(true)?;
        Ok(Connection {
            stream: UnixStream::from_std(ours)?,
            keep: Box::new(()),
        })
    }
}

fn play(mut stream: StdStream, made: &Made) {
    let mut check = CheckKey::new([0; 32]);
    let mut frame = Vec::new();
    while let Ok(true) = read_frame(&mut stream, &mut frame) {
        let Numbered { id, what } = Numbered::<Call>::decode(&frame).unwrap();
        let answer = match what {
            Call::Open(open) => {
                check = open.check;
                Answer::Opened(Opened {
                    instance: [1; 16],
                    workers: 1,
                    protection: String::new(),
                    policy: settings(1).policy,
                })
            }
            // A key, and nothing that says whose it is.
            Call::Prepare(_, id, _) => Answer::Prepared(Prepared {
                id,
                sealed: Vec::new(),
                spki: made.spki.clone(),
                certificate: Vec::new(),
                key_id: String::new(),
                expires_at: Timestamp::MAX,
            }),
            Call::Batch(batch) => {
                Answer::Batch(batch.iter().map(|wanted| Ok(sign(wanted, made))).collect())
            }
            _ => Answer::Done,
        };
        let reply = Numbered { id, what: answer }.encode(&check, &digest(&frame));
        if write_frame(&mut stream, &reply).is_err() {
            return;
        }
    }
}

fn sign(wanted: &Wanted, made: &Made) -> Given {
    assert!(matches!(wanted, Wanted::Sign(_)));
    Given::Signed(Box::new(Signed {
        bytes: made.bytes.clone(),
        signature: made.signature.clone(),
        authority: AuthorityId::from_octets([5; 16]),
        tail: SignerTail::default(),
    }))
}

fn made(bytes: Vec<u8>, signature: Vec<u8>, key: &TestKey) -> Made {
    Made {
        bytes,
        signature,
        spki: key.spki(),
    }
}

fn a_head(flip: bool) -> Made {
    let key = TestKey::generate(&SystemEntropy);
    let bytes: [u8; 200] = (&SystemEntropy as &dyn taskmint_model::Entropy).array();
    let mut signature = key.sign(&bytes);
    signature[40] ^= u8::from(flip);
    made(bytes.to_vec(), signature, &key)
}

fn a_token(flip: bool) -> Made {
    let key = TestKey::generate(&SystemEntropy);
    let mut token = key
        .token(&serde_json_header(), &serde_json_header())
        .into_bytes();
    let at = token.len() - 20;
    if flip {
        token[at] = if token[at] == b'A' { b'B' } else { b'A' };
    }
    made(token, Vec::new(), &key)
}

fn serde_json_header() -> serde_json::Value {
    serde_json::json!({ "alg": "ES256" })
}

fn a_certificate(flip: bool) -> Made {
    let ca = TestCa::new(&trust_domain(), now(), &SystemEntropy);
    let id = workload().spiffe_id;
    let mut der = ca.svid(&id, now(), &SystemEntropy).certificate;
    let last = der.len() - 1;
    der[last] ^= u8::from(flip);
    made(der, Vec::new(), ca.key())
}

fn no_certificate(flip: bool) -> Made {
    let mut made = a_certificate(false);
    if flip {
        // Not even DER any more.
        made.bytes[1] ^= 0x40;
    }
    made
}

/// A server whose signer is a fake, and has one key, the log's.
async fn faked(made: Made, verify_one_in: u32) -> Arc<Remote> {
    let log_key = Sealed {
        id: AuthorityId::from_octets([5; 16]),
        kind: KeyKind::Log { ttl_secs: CA_TTL },
        active: true,
        blob: Vec::new(),
        certificate: Vec::new(),
        spki: made.spki.clone(),
    };
    let made = Arc::new(made);
    let remote = remote(Arc::new(Fake { made }), verify_one_in);
    remote.load(vec![log_key], start()).await.unwrap();
    remote
}

async fn what_leaves(answer: fn() -> Made, verify_one_in: u32) -> Result<Signed, Refusal> {
    let remote = faked(answer(), verify_one_in).await;
    one(&remote, Request::Head(head(Vec::new()))).await
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_found_where_all_are_looked_at() {
    type Makes = fn() -> Made;
    let answers: [(Makes, Makes); 4] = [
        (|| a_head(false), || a_head(true)),
        (|| a_token(false), || a_token(true)),
        (|| a_certificate(false), || a_certificate(true)),
        (|| no_certificate(false), || no_certificate(true)),
    ];
    for (right, wrong) in answers {
        what_leaves(right, 1).await.unwrap();
        let refused = what_leaves(wrong, 1).await.unwrap_err();
        assert!(refused.to_string().contains("does not verify"), "{refused}");
        // Its check is right, so nothing else would find it.
        what_leaves(wrong, 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_signer_whose_signature_does_not_verify_is_replaced() {
    let remote = faked(a_head(true), 1).await;
    one(&remote, Request::Head(head(Vec::new())))
        .await
        .unwrap_err();
    // There is another one, which has no keys yet.
    let lost = tokio::time::timeout(Duration::from_secs(5), remote.lost());
    lost.await.expect("the signer was kept");
    let refused = one(&remote, Request::Head(head(Vec::new()))).await;
    assert!(matches!(refused, Err(Refusal::Away)), "{refused:?}");
    remote.load(Vec::new(), start()).await.unwrap();
}

#[tokio::test]
async fn a_signer_that_lies_about_a_key_that_it_made_is_replaced() {
    for kind in [
        KeyKind::Ca { ttl_secs: CA_TTL },
        KeyKind::Log { ttl_secs: CA_TTL },
        KeyKind::Jwt,
        KeyKind::Grant,
    ] {
        let remote = faked(a_head(false), 0).await;
        let id = AuthorityId::new(now(), &SystemEntropy);
        let refused = remote.prepare(kind, id, now()).await.unwrap_err();
        assert!(matches!(refused, Refusal::Failed(_)), "{refused:?}");
        assert!(
            refused.to_string().contains("than was asked for"),
            "{refused}"
        );
        quickly(remote.lost()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_signatures_of_every_kind_pass_where_all_are_looked_at() {
    let remote = remote(Start::new(), 1);
    let keys = ready(&remote).await;
    let facts = workload();
    let grant = remote.grant(&facts).await.unwrap();
    for request in [
        Request::X509(x509(&facts, grant.clone())),
        Request::Jwt(jwt(&facts, grant)),
        Request::Head(head(Vec::new())),
        Request::Crl(crate::support::crl(keys.ca.id, 1)),
        Request::StatusList(crate::support::status_list(&keys.log)),
    ] {
        one(&remote, request).await.unwrap();
    }
}
