//! A signer that was started, and one who talks to it in frames.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::journal::{ENTRY_LEN, Entry, link};
use taskmint_mint::protocol::{
    Answer, Call, CheckKey, Given, Numbered, Open, Opened, Unchecked, VERSION, Wanted, digest,
    read_frame, write_frame,
};
use taskmint_mint::{
    Class, CrlNumber, CrlRequest, Facts, Grant, HeadRequest, JwtRequest, KeyAlgorithm, KeyKind,
    LogStart, Prepared, PublicKey, Refusal, Request, Sealed, Signed, SignerTail, StatusListRequest,
    X509Request,
};
use taskmint_model::{
    AuthorityId, Clock as _, Entropy, SystemClock, SystemEntropy, TaskId, Timestamp,
};
use taskmint_status::{ChainHash, Change, Generation, LogId, Place, Record, WallTime};
use taskmint_testkit::TestKey;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_taskmint-signer");
pub(crate) const LOG: LogId = LogId([7; 8]);
pub(crate) const EPOCH: u32 = 2;
pub(crate) const PUBLIC_URL: &str = "https://taskmint.example.org";
pub(crate) const CA_TTL: u64 = 30 * 24 * 3600;
/// Longer than anything here takes, unless it hangs.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Arguments of a signer that keeps nothing.
pub(crate) const MEMORY: &[&str] = &["--memory", "--public-url", PUBLIC_URL];

/// A process; killed when dropped.
pub(crate) struct Signer {
    pub(crate) child: Child,
    pub(crate) journal: PathBuf,
    said: mpsc::Receiver<String>,
    _folder: Option<TempDir>,
}

pub(crate) fn append(journal: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.append(true).create(true).mode(0o600);
    options.open(journal).unwrap()
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--trust-domain", "example.org", "--workers", "2"])
        .args(arguments);
    command
}

impl Signer {
    /// One on a socket pair, with a journal of its own.
    pub(crate) fn start(arguments: &[&str]) -> (Self, Raw) {
        let folder = TempDir::new().unwrap();
        let journal = folder.path().join("journal");
        let (mut signer, raw) = Self::over(&journal, arguments);
        signer._folder = Some(folder);
        (signer, raw)
    }

    /// One on a socket pair, over this journal.
    pub(crate) fn over(journal: &Path, arguments: &[&str]) -> (Self, Raw) {
        let (ours, its) = UnixStream::pair().unwrap();
        let signer = Self::on(its.into(), append(journal), journal, arguments);
        (signer, Raw::new(ours))
    }

    pub(crate) fn on(socket: OwnedFd, out: File, journal: &Path, arguments: &[&str]) -> Self {
        let mut child = command(arguments)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(out))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                tell.send(line).ok();
            }
        });
        Self {
            child,
            journal: journal.to_owned(),
            said,
            _folder: None,
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let (tell, ended) = mpsc::channel();
        let pid = rustix::process::Pid::from_child(&self.child);
        std::thread::spawn(move || {
            if ended_within(&ended).is_err() {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        });
        let status = self.child.wait().unwrap();
        tell.send(()).ok();
        status
    }

    /// What it has said until its end.
    pub(crate) fn said(&mut self) -> String {
        self.ended();
        self.said.iter().collect::<Vec<_>>().join("\n")
    }

    /// Waits for a line with these words, and returns it.
    pub(crate) fn says(&self, words: &str) -> String {
        loop {
            let line = self.said.recv_timeout(SOON).unwrap();
            if line.contains(words) {
                return line;
            }
        }
    }

    pub(crate) fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }
}

fn ended_within(ended: &mpsc::Receiver<()>) -> Result<(), mpsc::RecvTimeoutError> {
    match ended.recv_timeout(SOON) {
        Err(mpsc::RecvTimeoutError::Timeout) => Err(mpsc::RecvTimeoutError::Timeout),
        _ => Ok(()),
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One end of a connection, frame by frame.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    pub(crate) check: CheckKey,
    pub(crate) next: u64,
}

impl Raw {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self {
            stream,
            check: CheckKey::new([9; 32]),
            next: 1,
        }
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        write_frame(&mut self.stream, message).unwrap();
    }

    /// The next reply; none at the end.
    pub(crate) fn reply(&mut self) -> Option<Unchecked> {
        let mut frame = Vec::new();
        match read_frame(&mut self.stream, &mut frame) {
            Ok(true) => Some(Unchecked::decode(Bytes::from(frame)).unwrap()),
            Ok(false) => None,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("reset"), "it hangs: {text}");
                None
            }
        }
    }

    /// Sends octets as a frame, and says why they were refused.
    pub(crate) fn refused(&mut self, message: &[u8]) -> Refusal {
        self.send(message);
        self.reply().unwrap().refusal().unwrap()
    }

    pub(crate) fn encoded(&mut self, call: Call) -> Vec<u8> {
        let id = self.next;
        self.next += 1;
        Numbered { id, what: call }.encode()
    }

    /// Asks, and looks at the check of the answer.
    pub(crate) fn ask(&mut self, call: Call) -> Answer {
        let message = self.encoded(call);
        self.send(&message);
        let reply = self.reply().expect("an answer");
        assert_eq!(reply.id + 1, self.next);
        reply.checked(&self.check, &digest(&message)).unwrap()
    }

    pub(crate) fn done(&mut self, call: Call) -> Result<(), Refusal> {
        match self.ask(call) {
            Answer::Done => Ok(()),
            Answer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn hello(&self) -> Open {
        Open {
            version: VERSION,
            check: self.check.clone(),
            trust_domain: "example.org".to_owned(),
        }
    }

    pub(crate) fn open(&mut self) -> Opened {
        match self.ask(Call::Open(self.hello())) {
            Answer::Opened(opened) => opened,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn prepare(&mut self, kind: KeyKind) -> Result<Prepared, Refusal> {
        self.prepare_as(kind, AuthorityId::new(now(), &SystemEntropy))
    }

    pub(crate) fn prepare_as(
        &mut self,
        kind: KeyKind,
        id: AuthorityId,
    ) -> Result<Prepared, Refusal> {
        match self.ask(Call::Prepare(kind, id, now())) {
            Answer::Prepared(prepared) => Ok(prepared),
            Answer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Opens, loads nothing, and makes all keys.
    pub(crate) fn ready(&mut self) -> Keys {
        self.open();
        self.done(Call::Load(Vec::new(), start())).unwrap();
        Keys {
            ca: self.active(KeyKind::Ca { ttl_secs: CA_TTL }),
            jwt: self.active(KeyKind::Jwt),
            log: self.active(KeyKind::Log { ttl_secs: CA_TTL }),
            grant: self.active(KeyKind::Grant),
        }
    }

    fn active(&mut self, kind: KeyKind) -> Prepared {
        let prepared = self.prepare(kind).unwrap();
        self.done(Call::Activate(prepared.id)).unwrap();
        prepared
    }

    pub(crate) fn batch(&mut self, batch: Vec<Wanted>) -> Vec<Result<Given, Refusal>> {
        match self.ask(Call::Batch(batch)) {
            Answer::Batch(given) => given,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sign(&mut self, request: Request) -> Result<Signed, Refusal> {
        match self.batch(vec![Wanted::Sign(request)]).remove(0)? {
            Given::Signed(signed) => Ok(*signed),
            Given::Grant(_) => panic!("a grant"),
        }
    }

    pub(crate) fn grant(&mut self, facts: &Facts) -> Result<Grant, Refusal> {
        match self.batch(vec![Wanted::Grant(facts.clone())]).remove(0)? {
            Given::Grant(grant) => Ok(grant),
            Given::Signed(_) => panic!("a signature"),
        }
    }

    /// A good request.
    pub(crate) fn x509(&mut self, facts: &Facts) -> X509Request {
        let grant = self.grant(facts).unwrap();
        x509(facts, grant)
    }

    /// A good request.
    pub(crate) fn jwt(&mut self, facts: &Facts) -> JwtRequest {
        let grant = self.grant(facts).unwrap();
        jwt(facts, grant)
    }
}

/// The active keys.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) ca: Prepared,
    pub(crate) jwt: Prepared,
    pub(crate) log: Prepared,
    pub(crate) grant: Prepared,
}

impl Keys {
    /// As a store hands them back.
    pub(crate) fn sealed(&self) -> Vec<Sealed> {
        [
            (&self.ca, KeyKind::Ca { ttl_secs: 0 }),
            (&self.jwt, KeyKind::Jwt),
            (&self.log, KeyKind::Log { ttl_secs: 0 }),
            (&self.grant, KeyKind::Grant),
        ]
        .into_iter()
        .map(|(key, kind)| Sealed {
            id: key.id,
            kind,
            active: true,
            blob: key.sealed.clone(),
            certificate: key.certificate.clone(),
            spki: key.spki.clone(),
        })
        .collect()
    }
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A log with nothing in it.
pub(crate) fn start() -> LogStart {
    LogStart {
        log: LOG,
        generation: 1,
        replaces: None,
        epoch: EPOCH,
        sequence: 0,
        hash: ChainHash::genesis(LOG, Generation::FIRST).0,
        floor: 0,
        at: Timestamp::default(),
    }
}

/// Facts of a task whose limit is two hours ahead.
pub(crate) fn facts(path: &str, class: Class) -> Facts {
    let limit = (now() + secs(2 * 3600)).floor_to_second();
    let task = TaskId::new(now(), &SystemEntropy);
    Facts {
        task,
        root: task,
        spiffe_id: SpiffeId::new(&trust_domain(), path).unwrap(),
        place: Place::new(LOG, limit.hour(), 42).unwrap(),
        limit,
        class,
    }
}

pub(crate) fn workload() -> Facts {
    facts("/billing", Class::Workload)
}

pub(crate) fn public_key() -> PublicKey {
    PublicKey {
        algorithm: KeyAlgorithm::EcP256,
        spki: TestKey::generate(&SystemEntropy).spki(),
    }
}

pub(crate) fn x509(facts: &Facts, grant: Grant) -> X509Request {
    let mut serial_random = [0; 9];
    SystemEntropy.fill(&mut serial_random);
    X509Request {
        facts: facts.clone(),
        grant,
        key: public_key(),
        dns_names: Vec::new(),
        serial_random,
        not_before: now() - secs(30),
        not_after: now() + secs(600),
    }
}

pub(crate) fn jwt(facts: &Facts, grant: Grant) -> JwtRequest {
    let mut jti = [0; 16];
    SystemEntropy.fill(&mut jti);
    JwtRequest {
        facts: facts.clone(),
        grant,
        audiences: vec!["reports".to_owned()],
        jti,
        issued_at: now(),
        expires_at: now() + secs(120),
        status_uri: None,
    }
}

/// A head over these records.
pub(crate) fn head(records: Vec<Record>) -> HeadRequest {
    HeadRequest {
        log: LOG,
        generation: 1,
        epoch: EPOCH,
        records,
        floor: 0,
        at: now(),
        max_age_ms: 30_000,
        nonce: None,
    }
}

/// A record that suspends a task.
pub(crate) fn record(sequence: u64, task: u8) -> Record {
    let slot = Place::new(LOG, now().hour(), 1).unwrap().slot();
    let task = [task; 16];
    Record {
        sequence,
        epoch: EPOCH,
        time: WallTime(now().millis()),
        change: Change::Suspend { slot, task },
    }
}

pub(crate) fn crl(ca: AuthorityId, count: u64) -> CrlRequest {
    CrlRequest {
        ca,
        number: CrlNumber {
            generation: 1,
            epoch: EPOCH,
            count,
        },
        this_update: now(),
        next_update: now() + secs(600),
        revoked: Vec::new(),
    }
}

pub(crate) fn status_list(log: &Prepared) -> StatusListRequest {
    StatusListRequest {
        log: LOG,
        bucket: now().hour(),
        list: vec![1, 2, 3],
        at: now(),
        expires_at: now() + secs(300),
        ttl_secs: 30,
        certificate: log.certificate.clone(),
    }
}

/// What a journal holds: whole entries, and how many octets of a torn one are behind them.
pub(crate) fn journal(path: &Path) -> (Vec<Entry>, usize) {
    let octets = std::fs::read(path).unwrap();
    let mut entries = octets.chunks_exact(ENTRY_LEN);
    let whole = entries
        .by_ref()
        .filter_map(|entry| Entry::decode(entry.try_into().unwrap()).ok());
    (whole.collect(), octets.len() % ENTRY_LEN)
}

/// Recomputes the chain of each instance.
pub(crate) fn check_chains(entries: &[Entry]) {
    let mut tails = std::collections::HashMap::new();
    for entry in entries {
        let tail = entry.link.tail;
        let before = tails.entry(tail.instance).or_insert(SignerTail {
            instance: tail.instance,
            ..Default::default()
        });
        let next = SignerTail {
            counter: before.counter + 1,
            ..*before
        };
        let hash = link(&next, entry.link.what, &entry.link.name);
        *before = SignerTail { hash, ..next };
        assert_eq!(*before, tail);
    }
}

/// The end of a process that never served anybody.
pub(crate) fn fails(command: &mut Command) -> io::Result<(Option<i32>, String)> {
    // Nobody is there: one that starts all the same ends by itself.
    let (_, its) = UnixStream::pair()?;
    let out = File::options().write(true).open("/dev/null")?;
    let output = command
        .stdin(Stdio::from(OwnedFd::from(its)))
        .stdout(Stdio::from(out))
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}
