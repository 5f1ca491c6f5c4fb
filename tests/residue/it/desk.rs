//! A signer whose keys are all known here, and everything that it can be asked to sign.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use taskmint_authority::{Core, SealingKey};
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::{
    Authority as _, CheckpointRequest, Class, Connect, Connection, CrlNumber, CrlRequest, Facts,
    Grant, HeadRequest, JwtRequest, KeyAlgorithm, KeyKind, LogStart, Policy, Prepared, PublicKey,
    Remote, RemoteSettings, Request, Sealed, Signed, StatusListRequest, X509Request,
};
use taskmint_model::{
    AuthorityId, Clock as _, Entropy, SystemClock, SystemEntropy, TaskId, Timestamp,
};
use taskmint_status::{ChainHash, Generation, LogId, Place};
use taskmint_testkit::TestKey;
use tempfile::TempDir;
use tokio::net::UnixStream;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::known::Known;
use crate::numbers::{Signature, add_key, add_nonces};

const LOG: LogId = LogId([7; 8]);
const URL: &str = "https://residue.example.org";
const DAY: u64 = 24 * 3600;
const SECOND: Duration = Duration::from_secs(1);

/// Keys, sealed, and the folder that a signer starts from.
pub(crate) struct Desk {
    pub(crate) folder: TempDir,
    trust_domain: TrustDomain,
    sealing: [u8; 32],
    passphrase: String,
    sealed_file: Vec<u8>,
    /// CA, JWT, log and grant.
    secrets: [[u8; 32]; 4],
    prepared: [Prepared; 4],
    keys: Vec<Sealed>,
}

/// A signer at work.
pub(crate) struct Signer<'a> {
    desk: &'a Desk,
    child: Arc<Mutex<Option<Child>>>,
    remote: Remote,
    facts: Facts,
    grant: Grant,
    spki: Vec<u8>,
    /// Numbers of CRLs.
    count: Mutex<u64>,
}

/// What was signed: by the CA, the JWT key and the log's.
#[derive(Default)]
pub(crate) struct Signatures([Vec<Signature>; 3]);

/// Which kind of request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    X509,
    Jwt,
    Head,
    Checkpoint,
    Crl,
    StatusList,
}

/// Randomness of the kernel that remembers each draw of 32 octets: keys, and nothing else.
#[derive(Default)]
struct Remembering(Mutex<Vec<[u8; 32]>>);

impl Entropy for Remembering {
    fn fill(&self, buffer: &mut [u8]) {
        SystemEntropy.fill(buffer);
        if let Ok(key) = <[u8; 32]>::try_from(&*buffer) {
            self.0.lock().unwrap().push(key);
        }
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        let entropy: &dyn Entropy = &SystemEntropy;
        let name = u64::from_le_bytes(entropy.array());
        let trust_domain = TrustDomain::parse(&format!("residue-{name:016x}.test")).unwrap();
        let sealing: [u8; 32] = entropy.array();
        let passphrase = BASE64_URL_SAFE_NO_PAD.encode(entropy.array::<48>());
        let key = SealingKey::from_bytes(&sealing);
        let sealed_file = key.seal_file(&trust_domain, passphrase.as_bytes(), entropy);
        let remembering = Arc::new(Remembering::default());
        let core = Core::new(
            policy(&trust_domain),
            Some(key),
            Arc::new(SystemClock),
            Arc::clone(&remembering) as Arc<dyn Entropy>,
        );
        core.load(&[], &start()).unwrap();
        let ttl_secs = 30 * DAY;
        let ca = KeyKind::Ca { ttl_secs };
        let log = KeyKind::Log { ttl_secs };
        let made = [ca, KeyKind::Jwt, log, KeyKind::Grant].map(|kind| {
            let now = SystemClock.now();
            let id = AuthorityId::new(now, entropy);
            let prepared = core.prepare(kind, id, now).unwrap();
            core.activate(id).unwrap();
            (kind, prepared)
        });
        let desk = Self {
            folder: TempDir::new().unwrap(),
            trust_domain,
            sealing,
            passphrase,
            sealed_file: sealed_file.unwrap(),
            secrets: remembering.0.lock().unwrap()[..].try_into().unwrap(),
            keys: made.iter().map(|(kind, made)| kept(*kind, made)).collect(),
            prepared: made.map(|(_, prepared)| prepared),
        };
        secret_file(&desk.path("key"), &desk.sealed_file);
        secret_file(&desk.path("passphrase"), desk.passphrase.as_bytes());
        desk
    }

    /// What must not be found.
    pub(crate) fn known(&self) -> Known {
        let mut known = Known::new();
        for (name, key) in ["CA key", "JWT key", "log key"].iter().zip(&self.secrets) {
            add_key(&mut known, name, key);
        }
        add_mac_key(&mut known, "grant key", &self.secrets[3]);
        known.add("sealing key", &self.sealing);
        known.add("passphrase", self.passphrase.as_bytes());
        known.add("stretched passphrase", &self.stretched());
        known
    }

    pub(crate) fn add_nonces(&self, known: &mut Known, signatures: &Signatures) {
        let keys = ["CA nonce", "JWT nonce", "log nonce"].iter();
        for ((name, key), signed) in keys.zip(&self.secrets).zip(&signatures.0) {
            add_nonces(known, name, key, signed);
        }
    }

    /// What must be found: the trust domain, and the CA's public key, which lies beside its private
    /// one.
    pub(crate) fn canaries(&self) -> Known {
        let mut known = Known::new();
        known.add("trust domain", self.trust_domain.as_str().as_bytes());
        let (_, x_and_y) = self.prepared[0].spki.split_last_chunk::<64>().unwrap();
        known.add("public key", &x_and_y[..32]);
        known
    }

    /// The key that the passphrase gives, by the file's own costs.
    fn stretched(&self) -> [u8; 32] {
        let number =
            |at: usize| u32::from_be_bytes(self.sealed_file[at..][..4].try_into().unwrap());
        let params = argon2::Params::new(number(49), number(53), number(57), Some(32)).unwrap();
        let mut blocks = vec![argon2::Block::new(); params.block_count()];
        let argon2 =
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let (salt, mut key) = (&self.sealed_file[61..77], [0; 32]);
        argon2
            .hash_password_into_with_memory(self.passphrase.as_bytes(), salt, &mut key, &mut blocks)
            .unwrap();
        key
    }

    /// Starts `program` in its folder and hands it the keys.
    pub(crate) async fn start(&self, program: &Path, environment: &[(&str, &str)]) -> Signer<'_> {
        let child = Arc::new(Mutex::new(None));
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .envs(environment.iter().copied())
            .args(["--trust-domain", self.trust_domain.as_str()])
            .args(["--public-url", URL, "--workers", "2"])
            .args(["--sealing-key", "key", "--passphrase", "passphrase"]);
        let connect = Start {
            command: Mutex::new(command),
            folder: self.folder.path().to_owned(),
            child: Arc::clone(&child),
        };
        let settings = RemoteSettings {
            policy: policy(&self.trust_domain),
            max_waiting: 10_000,
            verify_one_in: 0,
        };
        let remote = Remote::new(Arc::new(connect), settings, Arc::new(SystemEntropy));
        remote.load(self.keys.clone(), start()).await.unwrap();
        let facts = facts(&self.trust_domain);
        let grant = remote.grant(&facts).await.unwrap();
        Signer {
            desk: self,
            child,
            remote,
            facts,
            grant,
            spki: TestKey::generate(&SystemEntropy).spki(),
            count: Mutex::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Signer<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().unwrap().id()
    }

    /// Ends it by a signal that dumps core, and waits until it is gone.
    pub(crate) fn abort(&self) {
        let mut child = self.child.lock().unwrap().take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
        child.wait().unwrap();
    }

    /// Has so many signed in one batch.
    pub(crate) async fn sign(&self, kind: Kind, number: usize, into: &mut Signatures) {
        let batch: Vec<Request> = (0..number).map(|_| self.request(kind)).collect();
        for signed in self.remote.issue(batch).await {
            let signed = signed.unwrap();
            let at = self
                .desk
                .prepared
                .iter()
                .position(|key| key.id == signed.authority);
            into.0[at.unwrap()].push(signature(kind, &signed));
        }
    }

    /// Has so many signed, if it lives.
    pub(crate) async fn try_sign(&self, kind: Kind, number: usize) -> bool {
        let batch: Vec<Request> = (0..number).map(|_| self.request(kind)).collect();
        self.remote.issue(batch).await.iter().all(Result::is_ok)
    }

    fn request(&self, kind: Kind) -> Request {
        let entropy: &dyn Entropy = &SystemEntropy;
        let now = SystemClock.now();
        let (facts, grant) = (self.facts.clone(), self.grant.clone());
        match kind {
            Kind::X509 => Request::X509(X509Request {
                facts,
                grant,
                key: PublicKey {
                    algorithm: KeyAlgorithm::EcP256,
                    spki: self.spki.clone(),
                },
                dns_names: Vec::new(),
                serial_random: entropy.array(),
                not_before: now - 30 * SECOND,
                not_after: now + 600 * SECOND,
            }),
            Kind::Jwt => Request::Jwt(JwtRequest {
                facts,
                grant,
                audiences: vec!["reports".to_owned()],
                jti: entropy.array(),
                issued_at: now,
                expires_at: now + 120 * SECOND,
                status_uri: None,
            }),
            Kind::Head => Request::Head(HeadRequest {
                log: LOG,
                generation: 1,
                epoch: 1,
                records: Vec::new(),
                floor: 0,
                at: now,
                max_age_ms: 30_000,
                nonce: Some(entropy.array()),
            }),
            Kind::Checkpoint => Request::Checkpoint(CheckpointRequest {
                log: LOG,
                sequence: 0,
                floor: 0,
                digests: Vec::new(),
                at: now,
            }),
            Kind::Crl => Request::Crl(CrlRequest {
                ca: self.desk.prepared[0].id,
                number: self.next_number(),
                this_update: now - 30 * SECOND,
                next_update: now + 600 * SECOND,
                revoked: Vec::new(),
            }),
            Kind::StatusList => Request::StatusList(StatusListRequest {
                log: LOG,
                bucket: self.facts.place.bucket(),
                // One octet, as zlib has it.
                list: vec![0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1],
                at: now,
                expires_at: now + 600 * SECOND,
                ttl_secs: 60,
                certificate: self.desk.prepared[2].certificate.clone(),
            }),
        }
    }

    fn next_number(&self) -> CrlNumber {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        CrlNumber {
            generation: 1,
            epoch: 1,
            count: *count,
        }
    }
}

impl Drop for Signer<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Starts a signer once.
struct Start {
    command: Mutex<Command>,
    folder: PathBuf,
    child: Arc<Mutex<Option<Child>>>,
}

#[async_trait]
impl Connect for Start {
    async fn connect(&self) -> io::Result<Connection> {
        let mut running = self.child.lock().unwrap();
        if running.is_some() {
            return Err(io::Error::other("it was started already"));
        }
        let (ours, its) = std::os::unix::net::UnixStream::pair()?;
        let mut journal = OpenOptions::new();
        let journal = journal.append(true).create(true);
        let log = File::create(self.folder.join("log"))?;
        let mut command = self.command.lock().unwrap();
        command
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(journal.open(self.folder.join("journal"))?)
            .stderr(log);
        *running = Some(command.spawn()?);
        // It holds the other end of the socket.
        command.stdin(Stdio::null());
        ours.set_nonblocking(true)?;
        Ok(Connection {
            stream: UnixStream::from_std(ours)?,
            keep: Box::new(()),
        })
    }
}

/// HMAC's key, the same under both pads, and what SHA-256 makes of those, which is what is kept.
pub(crate) fn add_mac_key(known: &mut Known, name: &str, key: &[u8; 32]) {
    known.add(name, key);
    for pad in [0x36, 0x5c] {
        let mut block = [pad; 64];
        block.iter_mut().zip(key).for_each(|(to, from)| *to ^= from);
        known.add(name, &block[..32]);
        let mut state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19_u32,
        ];
        sha2::block_api::compress256(&mut state, &[block]);
        known.add(name, &state.map(u32::to_le_bytes).concat());
        known.add(name, &state.map(u32::to_be_bytes).concat());
    }
}

fn signature(kind: Kind, signed: &Signed) -> Signature {
    let der = |message: &[u8], signature: &[u8]| {
        let signature = p256::ecdsa::Signature::from_der(signature).unwrap();
        Signature::new(message, &signature.to_bytes())
    };
    match kind {
        Kind::X509 => {
            let (_, leaf) = X509Certificate::from_der(&signed.bytes).unwrap();
            der(leaf.tbs_certificate.as_ref(), &leaf.signature_value.data)
        }
        Kind::Crl => {
            let (_, list) = CertificateRevocationList::from_der(&signed.bytes).unwrap();
            der(list.tbs_cert_list.as_ref(), &list.signature_value.data)
        }
        Kind::Jwt | Kind::StatusList => {
            let text = std::str::from_utf8(&signed.bytes).unwrap();
            let (message, signature) = text.rsplit_once('.').unwrap();
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
            Signature::new(message.as_bytes(), &signature)
        }
        Kind::Head | Kind::Checkpoint => Signature::new(&signed.bytes, &signed.signature),
    }
}

fn facts(trust_domain: &TrustDomain) -> Facts {
    let now = SystemClock.now();
    let limit = now + 7200 * SECOND;
    let task = TaskId::new(now, &SystemEntropy);
    Facts {
        task,
        root: task,
        spiffe_id: SpiffeId::new(trust_domain, "/billing").unwrap(),
        place: Place::new(LOG, limit.hour(), 42).unwrap(),
        limit,
        class: Class::Workload,
    }
}

fn policy(trust_domain: &TrustDomain) -> Policy {
    Policy {
        public_url: Some(URL.to_owned()),
        ..Policy::new(trust_domain.clone())
    }
}

fn start() -> LogStart {
    LogStart {
        log: LOG,
        generation: 1,
        replaces: None,
        epoch: 1,
        sequence: 0,
        hash: ChainHash::genesis(LOG, Generation::FIRST).0,
        floor: 0,
        at: Timestamp::default(),
    }
}

fn kept(kind: KeyKind, prepared: &Prepared) -> Sealed {
    Sealed {
        id: prepared.id,
        kind,
        active: true,
        blob: prepared.sealed.clone(),
        certificate: prepared.certificate.clone(),
        spki: prepared.spki.clone(),
    }
}

pub(crate) fn secret_file(path: &Path, content: &[u8]) {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(content).unwrap();
}

/// A program of this workspace that was built.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("TASKMINT_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let this = std::env::current_exe().unwrap();
            this.ancestors().nth(2).unwrap().to_owned()
        });
    let path = folder.join(name);
    assert!(
        fs::exists(&path).unwrap(),
        "there is no {}: run cargo build --bins",
        path.display()
    );
    path
}
