//! A signer that has the connection, and says nothing more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use taskmint_id::TrustDomain;
use taskmint_mint::protocol::{Answer, Call, CheckKey, Numbered, Opened, digest};
use taskmint_mint::{
    Authority as _, Connect, Connection, CrlNumber, CrlRequest, LogStart, Policy, Refusal, Remote,
    RemoteSettings, Request, StatusListRequest,
};
use taskmint_model::{AuthorityId, SystemEntropy, Timestamp};
use taskmint_status::LogId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

fn policy() -> Policy {
    Policy::new(TrustDomain::parse("example.org").unwrap())
}

/// Says hello and takes keys, and never answers a batch.
#[derive(Default)]
struct Hangs {
    connections: AtomicUsize,
    batches: Arc<AtomicUsize>,
}

#[async_trait]
impl Connect for Hangs {
    async fn connect(&self) -> io::Result<Connection> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let (stream, its) = UnixStream::pair()?;
        let batches = Arc::clone(&self.batches);
        tokio::spawn(async move { drop(play(its, &batches).await) });
        Ok(Connection {
            stream,
            keep: Box::new(()),
        })
    }
}

async fn play(mut stream: UnixStream, batches: &AtomicUsize) -> io::Result<()> {
    let mut check = CheckKey::new([0; 32]);
    loop {
        let mut frame = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut frame).await?;
        let Numbered { id, what } = Numbered::<Call>::decode(&frame).unwrap();
        let answer = match what {
            Call::Open(open) => {
                check = open.check;
                Answer::Opened(Opened {
                    instance: [1; 16],
                    workers: 1,
                    protection: String::new(),
                    policy: policy(),
                })
            }
            Call::Batch(_) => {
                batches.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            _ => Answer::Done,
        };
        let reply = Numbered { id, what: answer }.encode(&check, &digest(&frame));
        stream
            .write_u32(u32::try_from(reply.len()).unwrap())
            .await?;
        stream.write_all(&reply).await?;
    }
}

async fn loaded(signer: &Arc<Hangs>) -> Remote {
    let settings = RemoteSettings {
        policy: policy(),
        max_waiting: 4,
        verify_one_in: 0,
    };
    let remote = Remote::new(signer.clone(), settings, Arc::new(SystemEntropy));
    remote.load(Vec::new(), start()).await.unwrap();
    remote
}

fn start() -> LogStart {
    LogStart {
        log: LogId([1; 8]),
        generation: 1,
        replaces: None,
        epoch: 1,
        sequence: 0,
        hash: [0; 32],
        floor: 0,
        at: Timestamp::default(),
    }
}

fn crl() -> Request {
    Request::Crl(CrlRequest {
        ca: AuthorityId::from_octets([1; 16]),
        number: CrlNumber::default(),
        this_update: Timestamp::default(),
        next_update: Timestamp::default(),
        revoked: Vec::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_hangs_is_given_up_and_another_one_is_reached_for() {
    let signer = Arc::new(Hangs::default());
    let remote = loaded(&signer).await;
    let answers = remote.issue(vec![crl(), crl()]).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().unwrap_err() == &Refusal::Away)
    );
    remote.lost().await;
    assert_eq!(signer.connections.load(Ordering::SeqCst), 2);
    remote.load(Vec::new(), start()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_refused_at_once() {
    let signer = Arc::new(Hangs::default());
    let remote = Arc::new(loaded(&signer).await);
    let ask = || {
        let remote = Arc::clone(&remote);
        tokio::spawn(async move { remote.issue(vec![crl()]).await.remove(0) })
    };
    // Two frames are with the signer's one worker, and four requests wait.
    let asked: Vec<_> = (0..6).map(|_| ask()).collect();
    let (first, more): (Vec<_>, Vec<_>) = (asked, vec![ask(), ask()]);
    for refused in more {
        let refused = refused.await.unwrap().unwrap_err();
        assert!(matches!(refused, Refusal::Busy(_)), "{refused}");
    }
    assert_eq!(
        remote.issue(vec![crl(); 1025]).await.remove(0).unwrap_err(),
        Refusal::Failed("a batch is too large".to_owned())
    );
    let start = tokio::time::Instant::now();
    let mut first = first.into_iter();
    let with_the_signer: Vec<_> = first.by_ref().take(2).collect();
    // Their turn did not come in time: refused, long before the signer is given up.
    for late in first {
        let refused = late.await.unwrap().unwrap_err();
        assert!(matches!(refused, Refusal::Busy(_)), "{refused}");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(8));
    for asked in with_the_signer {
        assert_eq!(asked.await.unwrap().unwrap_err(), Refusal::Away);
    }
    assert_eq!(signer.batches.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fits_no_frame_is_not_to_be_tried_again() {
    let signer = Arc::new(Hangs::default());
    let remote = loaded(&signer).await;
    let request = Request::StatusList(StatusListRequest {
        log: LogId([1; 8]),
        bucket: 1,
        list: vec![0; (64 << 20) + 1],
        at: Timestamp::default(),
        expires_at: Timestamp::default(),
        ttl_secs: 1,
        certificate: Vec::new(),
    });
    let refused = remote.issue(vec![request]).await.remove(0).unwrap_err();
    assert_eq!(
        refused,
        Refusal::Failed("a request is too large".to_owned())
    );
    // And the connection has not noticed.
    assert!(*remote.signs().borrow());
    assert_eq!(signer.connections.load(Ordering::SeqCst), 1);
}
