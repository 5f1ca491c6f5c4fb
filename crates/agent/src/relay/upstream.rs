//! The one stream from the server: opened, copied, opened again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use taskmint_client::Backoff;
use taskmint_fanout::Key;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::copy::{Copy, Unfit};
use super::{Relay, name};
use crate::agent::Agent;
use crate::identity::NodeIdentity;
use crate::server::{MAX_MESSAGE, passed_on, unreachable};
use crate::upstream::UpstreamError;

/// Pauses between streams: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the server may take to answer that it streams.
const ANSWER: Duration = Duration::from_secs(10);

/// A stream on which nothing comes for so long is given up, or for as long as a head counts: in that
/// time there are two heartbeats at least.
const SILENCE: Duration = Duration::from_secs(15);

const TICK: Duration = Duration::from_secs(1);

/// How often to look for where the log is, once there is a session.
const LOOK: Duration = Duration::from_millis(200);

/// A newer checkpoint is asked for no more often than this, however many need one.
const REFRESH: Duration = Duration::from_secs(1);

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("the stream was not opened in time")]
    NoAnswer,
    #[error("{}", .0.message())]
    Status(Status),
    #[error("the stream ended")]
    Ended,
    #[error("nothing came over the stream")]
    Silent,
    #[error("a frame can't be passed on: {0}")]
    Unfit(#[from] Unfit),
    #[error("a newer checkpoint is needed")]
    Refresh,
    #[error("the node's svid or the log's address is another")]
    Moved,
}

/// Where the log is, and as whom to ask for it.
struct Target {
    identity: Arc<NodeIdentity>,
    address: Arc<String>,
}

/// Keeps a stream from the server open, forever.
pub(super) async fn run(agent: Arc<Agent>, relay: Arc<Relay>) {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut key = None;
    for stream in 1.. {
        let target = target(&agent).await;
        let (over, has_head) = one(&agent, &relay, &target, (stream, &mut key)).await;
        if has_head {
            backoff.reset();
        }
        relay.is_over(&over);
        match over {
            Over::Refresh | Over::Moved => {}
            over => {
                tracing::warn!(%over, "the revocation log is cut off");
                tokio::time::sleep(backoff.next(agent.entropy.as_ref())).await;
            }
        }
    }
}

/// One stream to its end, and whether a head came over it.
async fn one(
    agent: &Agent,
    relay: &Arc<Relay>,
    target: &Target,
    (stream, key): (u64, &mut Option<Key>),
) -> (Over, bool) {
    // The server's side lives as long as what is said to it.
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    relay.nonces.begin(stream);
    relay.behind.begin(stream);
    let mut copy = Copy::new(relay, key);
    let why = match follow(agent, relay, target, (stream, over), &mut copy).await {
        Ok(never) => match never {},
        Err(why) => why,
    };
    (why, copy.has_head)
}

async fn follow(
    agent: &Agent,
    relay: &Arc<Relay>,
    target: &Target,
    (stream, over): (u64, CancellationToken),
    copy: &mut Copy<'_>,
) -> Result<std::convert::Infallible, Over> {
    let opening = agent.upstream.watch(&target.address, &target.identity);
    let channel = timeout(ANSWER, opening).await;
    let channel = channel.map_err(|_| Over::NoAnswer)??;
    let mut client = RevocationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let open = relay.opening(&target.identity);
    let said = super::outbox::requests(Arc::clone(relay), stream, open);
    let opened = timeout(
        ANSWER,
        client.watch(said.take_until(over.cancelled_owned())),
    )
    .await;
    let opened = opened.map_err(|_| Over::NoAnswer)?.map_err(Over::Status)?;
    let mut frames = opened.into_inner();
    let began = Instant::now();
    let mut heard = began;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = frames.message() => {
                copy.take(frame.map_err(Over::Status)?.ok_or(Over::Ended)?)?;
                heard = Instant::now();
            }
            _ = ticks.tick() => {
                if heard.elapsed() > SILENCE.max(copy.max_age) {
                    return Err(Over::Silent);
                }
                if target.is_old(agent) {
                    return Err(Over::Moved);
                }
            }
            () = refreshed(relay, began), if copy.has_head => return Err(Over::Refresh),
        }
    }
}

/// Returns once somebody needs a newer checkpoint, and this stream is old enough to end for it.
async fn refreshed(relay: &Relay, began: Instant) {
    while !relay.anew.load(Ordering::SeqCst) {
        relay.refresh.notified().await;
    }
    sleep_until(began + REFRESH).await;
}

async fn target(agent: &Agent) -> Target {
    if let Some(target) = Target::of(agent) {
        return target;
    }
    agent.server.wait_up().await;
    loop {
        match Target::of(agent) {
            Some(target) => return target,
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

impl Target {
    fn of(agent: &Agent) -> Option<Self> {
        Some(Self {
            identity: agent.identity.load_full()?,
            address: agent.watch_address.load_full()?,
        })
    }

    /// Whether the node goes by another SVID by now, or the log is elsewhere.
    fn is_old(&self, agent: &Agent) -> bool {
        let identity = agent.identity.load();
        let renewed = identity
            .as_ref()
            .is_some_and(|now| now.certificate != self.identity.certificate);
        let address = agent.watch_address.load();
        renewed || address.as_ref().is_some_and(|now| *now != self.address)
    }
}

impl Relay {
    /// Where the next stream is to begin.
    fn opening(&self, identity: &NodeIdentity) -> wire::Open {
        let mut open = wire::Open {
            name: name(identity),
            instance: self.instance.to_vec().into(),
            ..wire::Open::default()
        };
        let known = self.known.borrow();
        let goes_on = known.tip.is_some() && !self.anew.load(Ordering::SeqCst);
        if let Some(log) = known.log.filter(|_| goes_on) {
            open.log_id = log.id.0.to_vec().into();
            open.generation = u32::from(log.generation.get());
            open.epoch = known.epoch;
            open.sequence = self.feed.position();
            let tip = known.tip.filter(|tip| tip.sequence == open.sequence);
            // So that the server sees whether its log is the one that was copied.
            open.log_hash = tip
                .map(|tip| tip.hash.0.to_vec().into())
                .unwrap_or_default();
        }
        open
    }

    fn is_over(&self, over: &Over) {
        let trouble = match over {
            Over::Status(status) => {
                if status.code() == Code::FailedPrecondition {
                    // What is here is none of this server's log.
                    self.forget();
                }
                passed_on(status.clone())
            }
            Over::Unfit(Unfit::Feed(_)) => unreachable(),
            Over::Unfit(_) => {
                self.forget();
                unreachable()
            }
            Over::Refresh | Over::Moved => return,
            _ => unreachable(),
        };
        self.known
            .send_modify(|known| known.trouble = Some(trouble));
    }
}
