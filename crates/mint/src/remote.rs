//! The authority port over a signer in another process.
//!
//! Whoever asks writes by itself, as long as the signer has room; what comes while it has none
//! waits, and goes out together in one frame as soon as an answer makes room. So a lone request
//! never waits for others, and under load batches are as large as what is waiting.

mod inspect;
mod line;
mod meters;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskmint_id::TrustDomain;
use taskmint_model::{AuthorityId, Entropy, Timestamp};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::policy::Policy;
use crate::port::{Authority, KeyKind, LogStart, Prepared, Sealed, Signed};
use crate::protocol::{self, Answer, Call, Given, Opened, Unchecked, Wanted};
use crate::request::{Facts, Grant, LogKeyRequest, Refusal, Request};
use inspect::{Asked, Inspector};
use line::Line;
pub use meters::{MeterReadings, Meters};

/// How long a signer may take to say who it is, and to answer anything at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether the signer still answers.
const LOOK: Duration = Duration::from_secs(1);

/// The pause before a signer that failed is started again, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// How a signer is reached, or started.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// A fresh connection to a signer that has no keys yet.
    ///
    /// # Errors
    /// When there is none, and none can be started.
    async fn connect(&self) -> io::Result<Connection>;
}

/// A connection to a signer.
pub struct Connection {
    /// The socket.
    pub stream: UnixStream,
    /// Let go of when the connection is given up: a child process, for example.
    pub keep: Box<dyn Send + Sync>,
}

/// How a [`Remote`] behaves.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// What the signer must insist on, or more.
    pub policy: Policy,
    /// The most requests that may wait for the signer; more are refused at once.
    pub max_waiting: usize,
    /// Of so many signatures one is verified before it leaves (P27); 0 verifies none.
    pub verify_one_in: u32,
}

/// Why the signer that was is not any more.
#[derive(Debug, thiserror::Error)]
pub enum LossReason {
    /// It closed the connection, or the connection broke.
    #[error("it is gone")]
    Gone(#[source] io::Error),
    /// It has the connection, and does not answer.
    #[error("it does not answer")]
    Silent,
    /// It sent what it should not have.
    #[error("it sent nonsense: {0}")]
    Nonsense(String),
    /// What it signs is not what it was asked for, or does not verify (P27).
    #[error("what it signs is not what was asked for, or does not verify")]
    Untrue,
    /// It refuses to serve.
    #[error(transparent)]
    Refused(Refusal),
}

/// The authority in another process. Started again when it ends; then it must be loaded again.
pub struct Remote {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

struct Shared {
    settings: RemoteSettings,
    entropy: Arc<dyn Entropy>,
    line: Line,
    phase: watch::Sender<Phase>,
    signs: watch::Sender<bool>,
    meters: Arc<Meters>,
    inspector: Inspector,
    /// Told when what was signed was not right. Whose connection is over by then is not concerned.
    doubt: Notify,
}

/// Where the signer stands.
#[derive(Debug, Clone)]
enum Phase {
    /// There is none; why, if one was tried.
    Away(Option<String>),
    /// There is one that refuses to serve this server, and will again.
    Refuses(String),
    /// It has no keys yet.
    Empty(Arc<Opened>),
    /// It signs.
    Loaded(Arc<Opened>),
}

impl Remote {
    /// Reaches for a signer, and goes on doing so until dropped. Needs a runtime.
    pub fn new(
        connect: Arc<dyn Connect>,
        settings: RemoteSettings,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let meters = Arc::<Meters>::default();
        let shared = Arc::new(Shared {
            line: Line::new(settings.max_waiting, Arc::clone(&meters)),
            meters,
            inspector: Inspector::new(&settings.policy, settings.verify_one_in),
            settings,
            entropy,
            phase: watch::Sender::new(Phase::Away(None)),
            signs: watch::Sender::new(false),
            doubt: Notify::new(),
        });
        let driver = tokio::spawn(Arc::clone(&shared).drive(connect));
        Self { shared, driver }
    }

    /// What the signer said of itself, if there is one.
    pub fn opened(&self) -> Option<Arc<Opened>> {
        match &*self.shared.phase.borrow() {
            Phase::Away(_) | Phase::Refuses(_) => None,
            Phase::Empty(opened) | Phase::Loaded(opened) => Some(Arc::clone(opened)),
        }
    }

    /// What was asked of it, and how often it was lost.
    pub fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.shared.meters)
    }

    /// Whether it signs; changes when the signer goes away, and when it is loaded again.
    pub fn signs(&self) -> watch::Receiver<bool> {
        self.shared.signs.subscribe()
    }

    fn trust_domain(&self) -> &TrustDomain {
        &self.shared.settings.policy.trust_domain
    }

    /// Waits until there is a signer without keys.
    async fn empty(&self) -> Result<Arc<Opened>, Refusal> {
        let mut phase = self.shared.phase.subscribe();
        let waited = timeout(
            PATIENCE,
            phase.wait_for(|phase| !matches!(phase, Phase::Away(_))),
        )
        .await;
        match waited.as_ref().map(|phase| phase.as_deref()) {
            Ok(Ok(Phase::Empty(opened))) => Ok(Arc::clone(opened)),
            Ok(Ok(Phase::Loaded(_))) => Err(Refusal::Failed(
                "the authority is loaded already".to_owned(),
            )),
            _ => {
                drop(waited);
                let last = match &*self.shared.phase.borrow() {
                    Phase::Away(Some(reason)) | Phase::Refuses(reason) => reason.clone(),
                    _ => "it does not answer".to_owned(),
                };
                Err(Refusal::Failed(format!("there is no signer: {last}")))
            }
        }
    }

    async fn call(&self, call: Call) -> Result<Answer, Refusal> {
        match self.shared.line.call(call)?.await {
            Ok(Answer::Refused(refusal)) => Err(refusal),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Refusal::Away),
        }
    }

    async fn loaded_call(&self, call: Call) -> Result<Answer, Refusal> {
        self.shared.loaded()?;
        self.call(call).await
    }

    async fn batch(&self, batch: Vec<Wanted>) -> Result<Vec<Result<Given, Refusal>>, Refusal> {
        self.shared.loaded()?;
        self.shared
            .line
            .batch(batch)?
            .await
            .map_err(|_| Refusal::Away)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.driver.abort();
        self.shared.line.close();
    }
}

#[async_trait]
impl Authority for Remote {
    async fn load(&self, keys: Vec<Sealed>, start: LogStart) -> Result<(), Refusal> {
        let opened = self.empty().await?;
        self.shared.settings.suits(&opened.policy)?;
        self.shared.inspector.learn(&keys, &start);
        done(self.call(Call::Load(keys, start)).await?)?;
        // Unless it went away meanwhile.
        let loaded = self.shared.phase.send_if_modified(|phase| match phase {
            Phase::Empty(now) if now.instance == opened.instance => {
                *phase = Phase::Loaded(Arc::clone(&opened));
                self.shared.signs.send_replace(true);
                true
            }
            _ => false,
        });
        if !loaded {
            return Err(Refusal::Away);
        }
        tracing::info!(
            trust_domain = %self.trust_domain(),
            protection = %opened.protection,
            verify_one_in = self.shared.settings.verify_one_in,
            "the signer has its keys"
        );
        Ok(())
    }

    async fn lost(&self) {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives as long as this does.
        drop(
            phase
                .wait_for(|phase| matches!(phase, Phase::Empty(_)))
                .await,
        );
    }

    async fn prepare(
        &self,
        kind: KeyKind,
        id: AuthorityId,
        now: Timestamp,
    ) -> Result<Prepared, Refusal> {
        match self.loaded_call(Call::Prepare(kind, id, now)).await? {
            Answer::Prepared(prepared) => {
                let looked = self.shared.inspector.look_at_key(kind, id, now, &prepared);
                looked.inspect_err(|_| self.shared.doubt.notify_waiters())?;
                Ok(prepared)
            }
            _ => Err(unexpected()),
        }
    }

    async fn activate(&self, id: AuthorityId) -> Result<(), Refusal> {
        done(self.loaded_call(Call::Activate(id)).await?)?;
        self.shared.inspector.activated(id);
        Ok(())
    }

    async fn retire(&self, id: AuthorityId) -> Result<(), Refusal> {
        done(self.loaded_call(Call::Retire(id)).await?)
    }

    async fn certify_log_key(&self, request: LogKeyRequest) -> Result<Vec<u8>, Refusal> {
        match self.loaded_call(Call::CertifyLogKey(request)).await? {
            Answer::Certificate(der) => {
                let looked = self.shared.inspector.look_at_log_key(request, &der);
                looked.inspect_err(|_| self.shared.doubt.notify_waiters())?;
                Ok(der)
            }
            _ => Err(unexpected()),
        }
    }

    async fn grant(&self, facts: &Facts) -> Result<Grant, Refusal> {
        let mut answers = self.batch(vec![Wanted::Grant(facts.clone())]).await?;
        match answers.pop() {
            Some(Ok(Given::Grant(grant))) => Ok(grant),
            Some(Err(refusal)) => Err(refusal),
            _ => Err(unexpected()),
        }
    }

    async fn issue(&self, batch: Vec<Request>) -> Vec<Result<Signed, Refusal>> {
        let asked: Vec<_> = batch.iter().map(Asked::from).collect();
        let wanted = batch.into_iter().map(Wanted::Sign).collect();
        let answers = match self.batch(wanted).await {
            Ok(answers) if answers.len() == asked.len() => answers,
            Ok(_) => return asked.iter().map(|_| Err(unexpected())).collect(),
            Err(refusal) => return asked.iter().map(|_| Err(refusal.clone())).collect(),
        };
        let answers = asked.iter().zip(answers);
        let signed = answers.map(|(asked, answer)| match answer? {
            Given::Signed(signed) => {
                let looked = self.shared.inspector.look_at(asked, &signed);
                looked.inspect_err(|_| self.shared.doubt.notify_waiters())?;
                Ok(*signed)
            }
            Given::Grant(_) => Err(unexpected()),
        });
        signed.collect()
    }
}

impl Shared {
    fn loaded(&self) -> Result<(), Refusal> {
        match &*self.phase.borrow() {
            Phase::Loaded(_) => Ok(()),
            Phase::Away(_) | Phase::Refuses(_) | Phase::Empty(_) => Err(Refusal::Away),
        }
    }

    /// Has a signer at all times; runs until dropped.
    async fn drive(self: Arc<Self>, connect: Arc<dyn Connect>) {
        let mut pause = PAUSE.0;
        loop {
            let reason = match connect.connect().await {
                Ok(connection) => match self.open(connection).await {
                    Ok((reader, opened, keep)) => {
                        self.phase.send_replace(Phase::Empty(opened));
                        let reason = self.read(reader).await;
                        drop(keep);
                        // One that signed is needed again at once; one that never came so far
                        // would only be started in vain, again and again.
                        // And one that signs what was not asked for may do so again.
                        let signed = matches!(&*self.phase.borrow(), Phase::Loaded(_));
                        if signed && !matches!(reason, LossReason::Untrue) {
                            pause = PAUSE.0;
                        }
                        reason
                    }
                    Err(reason) => reason,
                },
                Err(error) => LossReason::Gone(error),
            };
            self.line.close();
            self.meters.lost();
            let words = in_words(&reason);
            tracing::error!(reason = %words, "there is no signer: nothing can be issued until it is started again");
            self.phase.send_modify(|phase| {
                *phase = match reason {
                    // Of another release, or trust domain. One that is taken may be free again.
                    LossReason::Refused(Refusal::Protocol(_)) => Phase::Refuses(words),
                    _ => Phase::Away(Some(words)),
                };
                self.signs.send_replace(false);
            });
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Says hello, and lets requests through.
    async fn open(
        &self,
        connection: Connection,
    ) -> Result<(OwnedReadHalf, Arc<Opened>, Box<dyn Send + Sync>), LossReason> {
        let Connection { stream, keep } = connection;
        let (mut reader, writer) = stream.into_split();
        let check = protocol::CheckKey::new(self.entropy.array());
        let open = protocol::Open {
            version: protocol::VERSION,
            check: check.clone(),
            trust_domain: self.settings.policy.trust_domain.to_string(),
        };
        let answer = self
            .line
            .open(writer, check, open)
            .map_err(LossReason::Refused)?;
        // A socket takes nothing before the runtime knows that it would.
        let frame = tokio::select! {
            frame = timeout(PATIENCE, line::read(&mut reader)) => frame,
            reason = self.write() => return Err(reason),
        };
        let frame = match frame {
            Ok(frame) => frame.map_err(LossReason::Gone)?,
            Err(_) => return Err(LossReason::Silent),
        };
        let first =
            Unchecked::decode(frame).map_err(|error| LossReason::Nonsense(error.to_string()))?;
        if let Some(refusal) = first.refusal() {
            return Err(LossReason::Refused(refusal));
        }
        self.hand_on(first)?;
        match answer.await {
            Ok(Answer::Opened(opened)) => {
                self.line.has_workers(opened.workers);
                Ok((reader, Arc::new(opened), keep))
            }
            _ => Err(LossReason::Nonsense(
                "another answer than to hello".to_owned(),
            )),
        }
    }

    /// Hands answers to who asked, until the connection ends.
    async fn read(&self, mut reader: OwnedReadHalf) -> LossReason {
        let reading = async {
            loop {
                match line::read(&mut reader).await {
                    Ok(frame) => match self.answered(frame) {
                        Ok(()) => {}
                        Err(reason) => return reason,
                    },
                    Err(error) => return LossReason::Gone(error),
                }
            }
        };
        // None returns before the connection is over: a frame that is half read stays so.
        tokio::select! {
            reason = reading => reason,
            reason = self.write() => reason,
            reason = self.wait_for_silence() => reason,
            // Its keys may be damaged; the next one gets them from the store, where they are sealed.
            () = self.doubt.notified() => LossReason::Untrue,
        }
    }

    /// A signer that hangs is as good as none: it is given up, and started again.
    async fn wait_for_silence(&self) -> LossReason {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            self.line.expire();
            if self.line.oldest() > PATIENCE {
                return LossReason::Silent;
            }
        }
    }

    /// Writes what the socket does not take at once, until the connection ends.
    async fn write(&self) -> LossReason {
        loop {
            if let Err(error) = self.line.flush().await {
                return LossReason::Gone(error);
            }
        }
    }

    fn answered(&self, frame: bytes::Bytes) -> Result<(), LossReason> {
        let answer = Unchecked::decode(frame);
        self.hand_on(answer.map_err(|error| LossReason::Nonsense(error.to_string()))?)
    }

    fn hand_on(&self, answer: Unchecked) -> Result<(), LossReason> {
        let handed = self.line.answered(answer);
        handed.map_err(|error| LossReason::Nonsense(error.to_string()))
    }
}

impl RemoteSettings {
    /// Whether a signer that insists on `its` can do what this side was configured to ask for.
    fn suits(&self, its: &Policy) -> Result<(), Refusal> {
        let own = &self.policy;
        let less = |what: &str| {
            Err(Refusal::Failed(format!(
                "the signer's {what} is less than the server's: configure both alike"
            )))
        };
        let caps = [
            (
                "cap on workloads' certificates",
                own.caps.workload,
                its.caps.workload,
            ),
            ("cap on nodes' certificates", own.caps.node, its.caps.node),
            (
                "cap on servers' certificates",
                own.caps.server,
                its.caps.server,
            ),
            ("cap on tokens", own.caps.jwt, its.caps.jwt),
            ("cap on authorities", own.caps.authority, its.caps.authority),
            ("largest limit of tasks", own.max_limit, its.max_limit),
            ("largest age of heads", own.max_head_age, its.max_head_age),
            ("largest age of lists", own.max_list_age, its.max_list_age),
        ];
        if let Some((what, ..)) = caps.iter().find(|(_, own, its)| its < own) {
            return less(what);
        }
        if own.trust_domain != its.trust_domain || own.public_url != its.public_url {
            return Err(Refusal::Failed(
                "the signer's trust domain or public address is another: configure both alike"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn done(answer: Answer) -> Result<(), Refusal> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Refusal {
    Refusal::Failed("the signer answered something else".to_owned())
}

fn in_words(reason: &LossReason) -> String {
    match reason {
        LossReason::Gone(error) => format!("{reason}: {error}"),
        other => other.to_string(),
    }
}
