//! The task behind a watch: connects, feeds the watcher, publishes, acknowledges, connects again.

use std::sync::Arc;
use std::time::Duration;

use taskmint_client::{Backoff, CallError, ConnectError, Endpoint, Revocation, connect, in_words};
use taskmint_id::TrustDomain;
use taskmint_model::Entropy;
use taskmint_status::{BootTime, Config, Fault, Frame, Now, Watcher, Wish};
use taskmint_wire::revocation as wire;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::clocks::wall;
use super::frames::{FrameError, read_frame};
use super::keys::LogKeys;
use super::outbox::{Outbox, open};
use super::state::Shared;
use crate::Trust;

/// How long the other side may take to answer that it streams.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two looks at the clocks; what is applied is acknowledged then. Sooner only where a frame
/// says that somebody waits: ten thousand answers to each end would cost the server more than the
/// end did.
const TICK: Duration = Duration::from_secs(1);

/// The most records that are applied and not acknowledged.
const UNACKNOWLEDGED: u64 = 1_000;

/// A connection over which nothing that counts came for so long is made anew, in milliseconds.
const SILENCE: u64 = 15_000;

/// The largest frame: a checkpoint with the packed maps of some hundred million ends.
const MAX_FRAME: usize = 64 << 20;

/// Once a fork was reported, no connection helps until the log is a new one.
const FORKED: Duration = Duration::from_secs(30);

/// How a watcher is denied that says so.
const OTHER_HISTORY: &str = "OTHER_HISTORY";

pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    pub(super) trust: Trust,
    pub(super) trust_domain: TrustDomain,
    pub(super) name: String,
    /// By which the server knows this watcher when it comes back.
    pub(super) instance: [u8; 16],
    pub(super) entropy: Arc<dyn Entropy>,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the log's stream was not opened in time")]
    NoAnswer,
    #[error("the log's stream ended")]
    Ended,
    #[error("nothing that counts came over the log's stream")]
    Silent,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Over {
    /// Whether the other side has taken note of a fork that was known before this connection.
    fn is_told_of_fork(&self, was_forked: bool) -> bool {
        was_forked
            && match self {
                Self::Call(why) => why.reason.as_deref() == Some(OTHER_HISTORY),
                Self::Fault(fault) => fault.is_final(),
                _ => false,
            }
    }
}

/// A connection's own state.
struct Connection<'a> {
    run: &'a Run,
    watcher: &'a mut Watcher,
    keys: &'a mut LogKeys,
    outbox: Outbox,
    /// Somebody waits for the next acknowledgement.
    prompt: bool,
    acknowledged: u64,
    /// When statuses last counted on this connection, or it was made.
    counted: BootTime,
    has_counted: bool,
}

impl Run {
    pub(super) async fn run(self, config: Config) {
        let mut watcher = Watcher::new(config);
        let mut keys = LogKeys::new(self.trust_domain.clone());
        let mut backoff = backoff();
        loop {
            let was_forked = watcher.forked_at().is_some();
            let (over, counted) = self.connection(&mut watcher, &mut keys).await;
            let trouble = in_words(&over);
            // The same words again and again help nobody.
            if self.shared.disconnected(&trouble) {
                tracing::warn!(endpoint = %self.endpoint, %trouble, "revocation log is cut off");
            }
            if counted {
                backoff.reset();
            }
            // One that was just seen is reported by coming back.
            match watcher.forked_at().is_some() && over.is_told_of_fork(was_forked) {
                true => sleep(FORKED).await,
                false => sleep(backoff.next(&*self.entropy)).await,
            }
        }
    }

    /// One connection to its end; and whether anything counted on it.
    async fn connection(&self, watcher: &mut Watcher, keys: &mut LogKeys) -> (Over, bool) {
        keys.reconnected();
        let mut connection = Connection {
            run: self,
            watcher,
            keys,
            outbox: Outbox::default(),
            prompt: false,
            acknowledged: 0,
            counted: self.now().boot,
            has_counted: false,
        };
        match connection.drive().await {
            Ok(never) => match never {},
            Err(over) => (over, connection.has_counted),
        }
    }

    fn now(&self) -> Now {
        self.shared.clocks.now()
    }

    fn nonce(&self) -> [u8; 16] {
        self.entropy.array()
    }
}

impl Connection<'_> {
    async fn drive(&mut self) -> Result<std::convert::Infallible, Over> {
        let run = self.run;
        let channel = connect(&run.endpoint).await?;
        let mut client = Revocation::new(channel).max_decoding_message_size(MAX_FRAME);
        let nonce = run.nonce();
        // Before the nonce leaves: later, and a delay on the way would count in our favour.
        let now = run.now();
        self.counted = now.boot;
        let hello = self.watcher.connected(nonce, now);
        let requests = self
            .outbox
            .requests(open(&hello, self.keys, &run.name, run.instance));
        let opened = timeout(ANSWER, client.watch(requests)).await;
        let stream = opened
            .map_err(|_| Over::NoAnswer)?
            .map_err(CallError::from)?;
        let mut stream = stream.into_inner();
        run.shared.connected();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => match message.map_err(CallError::from)? {
                    Some(response) => self.on_frame(response)?,
                    None => return Err(Over::Ended),
                },
                _ = ticks.tick() => self.on_tick()?,
            }
        }
    }

    fn on_frame(&mut self, response: wire::WatchResponse) -> Result<(), Over> {
        self.prompt |= response.prompt;
        let now = self.run.now();
        let frame = read_frame(response, self.keys, &self.run.trust, wall(now))?;
        let is_head = matches!(frame, Frame::Head(_));
        let step = self.watcher.on_frame(frame, self.keys, now);
        self.publish(&step.applied, now);
        if let Some(fault) = step.fault {
            return Err(fault.into());
        }
        if self.prompt || self.is_far() {
            self.acknowledge();
        }
        // Records count with the head that covers them; after it nothing is left to wait for.
        self.prompt &= !is_head;
        Ok(())
    }

    fn on_tick(&mut self) -> Result<(), Over> {
        let now = self.run.now();
        if self.watcher.tick(now) == Wish::Nonce {
            let nonce = self.run.nonce();
            self.watcher.ask(nonce, self.run.now());
            self.outbox.nonce(nonce);
        }
        self.publish(&[], now);
        self.acknowledge();
        if now.boot.since(self.counted) > SILENCE {
            return Err(Over::Silent);
        }
        Ok(())
    }

    fn publish(&mut self, applied: &[taskmint_status::Applied], now: Now) {
        let freshness = self.watcher.freshness();
        let position = self.watcher.resume_position();
        self.run.shared.publish(applied, freshness, position);
        if freshness.check(now).is_ok() {
            self.counted = now.boot;
            self.has_counted = true;
        }
    }

    /// Whether so much is applied since the last acknowledgement that it can't wait for the tick.
    fn is_far(&self) -> bool {
        let applied = self.watcher.resume_position();
        applied.is_some_and(|at| at.sequence.saturating_sub(self.acknowledged) >= UNACKNOWLEDGED)
    }

    fn acknowledge(&mut self) {
        if let Some(position) = self.watcher.acknowledge() {
            self.acknowledged = position.sequence;
            self.outbox.acknowledge(position);
        }
    }
}

/// Waits between attempts.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
