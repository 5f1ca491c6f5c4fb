//! The revocation log for whoever watches: the fan-out's source over the issuer.
//!
//! What is asynchronous here runs on the server's own runtime, not on the thread that serves ten
//! thousand watchers: a head is signed under a lock, and who holds it must not wait for its turn
//! among them.

mod history;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use taskmint_config::WatchLimits;
use taskmint_fanout::{
    Admission, Allowance, Checkpoint, Fanout, Feed, Head, Key, ListenError, Settings, Source,
    Start, Tls,
};
use taskmint_id::{Kind, SpiffeId};
use taskmint_issuer::watchers::{self, Acknowledge, Introduced, Listed, NewWatcher, Relayed};
use taskmint_issuer::{
    Issuer, OTHER_HISTORY, Principal, RefusalKind, Refused, SignedCheckpoint, SignedLog,
};
use taskmint_status::head::Head as LogHead;
use taskmint_status::{ChainHash, Record};
use taskmint_verifier::Trust;
use taskmint_verifier::tls::read_verified;
use taskmint_verifier::watch::Evidence;
use taskmint_wire::{BadField, revocation as wire};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use self::history::History;
use crate::identity::bundles;
use crate::refusal::{deny, explained, status};

/// Heads that are signed for nonces at the same time. The next head for all waits for no more than
/// these, even when ten thousand watchers come back at once.
const SIGNING: usize = 4;

/// How long to wait before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// The log in the feed. A server has one: a restore makes another, and takes a restart.
const LOG: u64 = 0;

/// A fan-out over an issuer.
pub(crate) type Watch = Fanout<LogSource>;

/// The log as the fan-out asks for it.
#[derive(Debug)]
pub(crate) struct LogSource {
    log: Arc<Log>,
    most: watchers::Most,
    runtime: Handle,
}

/// What signs and reads.
#[derive(Debug)]
struct Log {
    issuer: Arc<Issuer>,
    feed: Feed,
    /// The newest checkpoint, as the issuer has it and as it goes out.
    checkpoint: Mutex<Option<(Arc<SignedCheckpoint>, Arc<Checkpoint>)>>,
    signing: Semaphore,
    history: parking_lot::Mutex<History>,
}

/// A fan-out over the issuer, and what keeps it fed: that runs until it is dropped.
pub(crate) async fn start(
    issuer: &Arc<Issuer>,
    limits: &WatchLimits,
    most: watchers::Most,
) -> Result<(Watch, impl Future<Output = ()> + Send + use<>), Refused> {
    let position = *issuer.store().position().borrow();
    let feed = fill(issuer, position.sequence, limits.checkpoint_after).await?;
    let history = History::new(position.sequence, ChainHash(position.hash));
    let log = Arc::new(Log {
        issuer: Arc::clone(issuer),
        feed: feed.clone(),
        checkpoint: Mutex::default(),
        signing: Semaphore::new(SIGNING),
        history: parking_lot::Mutex::new(history),
    });
    let source = LogSource {
        log: Arc::clone(&log),
        most,
        runtime: Handle::current(),
    };
    let defaults = Settings::default();
    let settings = Settings {
        behind: limits.checkpoint_after,
        // Some have to be let in to be told that they are too many.
        connections: most.watchers.saturating_add(most.watchers / 8 + 256),
        lanes: limits.threads.map_or(defaults.lanes, |threads| {
            usize::try_from(threads).unwrap_or(defaults.lanes)
        }),
        ..defaults
    };
    Ok((Fanout::new(Arc::new(source), feed, settings), log.follow()))
}

/// Serves watchers that show an SVID, until `stop`.
pub(crate) async fn serve(
    fanout: Watch,
    listener: TcpListener,
    tls: ServerConfig,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let tls = Tls::new(tls, |session| {
        let chain = session.peer_certificates().unwrap_or_default();
        let leaf = chain.first();
        let leaf = leaf.ok_or_else(|| io::Error::other("a watcher needs an svid"))?;
        let peer = read_verified(leaf).map_err(io::Error::other)?;
        Ok(peer.spiffe_id)
    });
    taskmint_fanout::listen(fanout, listener, tls, stop).await
}

/// A feed with the newest records that are kept, up to `newest`: watchers that come back after a
/// restart of the server go on where they were.
async fn fill(issuer: &Issuer, newest: u64, keep: u64) -> Result<Feed, Refused> {
    let after = newest.saturating_sub(keep);
    let first = issuer.store().records(after, 1).await?;
    let after = first.first().map_or(newest, |first| first.sequence - 1);
    let feed = Feed::new(after, keep);
    for delta in issuer.deltas(after, newest).await?.unwrap_or_default() {
        feed.append(&octets(&delta)).map_err(fault)?;
    }
    Ok(feed)
}

impl Source for LogSource {
    type Peer = SpiffeId;
    type Watcher = Listed;

    async fn open(&self, peer: &SpiffeId, open: wire::Open) -> Result<Admission<Listed>, Status> {
        let issuer = &self.log.issuer;
        taskmint_model::bounded("name", &open.name, watchers::MAX_NAME)
            .map_err(|e| BadField::new("name", e))?;
        let start = match self.log.start_of(&open) {
            Ok(start) => start,
            Err(Unfit::Alarm(alarm)) => return Err(self.alarm(peer, open, alarm).await),
            Err(Unfit::Told(status)) => return Err(status),
        };
        let is_node = peer.kind() == Kind::Node;
        let watcher = NewWatcher {
            is_node,
            waited_for: issuer.waits_for(peer),
            spiffe_id: peer.clone(),
            name: open.name,
            instance: instance(&open.instance)?,
        };
        let listed = issuer.watchers().enter(watcher, self.most, issuer.now());
        let listed = listed.map_err(|too_many| {
            let code = Code::ResourceExhausted;
            deny(code, "TOO_MANY_WATCHERS", too_many.to_string())
        })?;
        if let Start::After(sequence) = start {
            // It may say so again before anything is sent.
            listed.sent(sequence);
        }
        let allowance = match is_node {
            true => Allowance::relay(),
            false => Allowance::workload(),
        };
        Ok(Admission {
            log: LOG,
            watcher: listed,
            start,
            allowance,
        })
    }

    async fn checkpoint(&self, least: u64) -> Result<Arc<Checkpoint>, Status> {
        let log = Arc::clone(&self.log);
        self.elsewhere(async move { log.checkpoint(least).await })
            .await
    }

    async fn answer(&self, nonce: [u8; 16]) -> Result<Head, Status> {
        let log = Arc::clone(&self.log);
        self.elsewhere(async move { log.answer(nonce).await }).await
    }

    fn prompts(&self, listed: &Listed, sequence: u64) -> bool {
        let wanted = self.log.issuer.watchers().wanted();
        wanted > listed.acknowledged() && wanted <= sequence
    }

    fn sent(&self, listed: &Listed, sequence: u64) {
        listed.sent(sequence);
    }

    fn acknowledge(&self, listed: &Listed, said: wire::Acknowledge) -> Result<(), Status> {
        let issuer = &self.log.issuer;
        let relayed = said.relayed.into_iter().map(|one| relayed(issuer, one));
        let said = Acknowledge {
            sequence: said.sequence,
            relayed: relayed.collect::<Result<_, _>>()?,
            relayed_sequence: said.relayed_sequence,
        };
        let taken = listed.acknowledge(&said, issuer.now());
        taken.map_err(|why| BadField::new("acknowledge", why).into())
    }
}

impl LogSource {
    /// A watcher follows another history of this log (P14, P15): who showed it, nobody here can tell.
    /// What it shows is looked at only where its story is kept: they may come in thousands.
    async fn alarm(&self, peer: &SpiffeId, open: wire::Open, alarm: Alarm) -> Status {
        let Alarm {
            reason,
            mut message,
        } = alarm;
        if !self.log.issuer.contradicted(peer.as_str()) {
            return deny(Code::FailedPrecondition, reason, message);
        }
        let (log, peer) = (Arc::clone(&self.log), peer.clone());
        let kept = async move {
            let evidence = log.judge(&open.shown);
            if evidence.is_proof() {
                message.push_str(", and has proof of it");
            }
            let (sequence, name) = (open.sequence, &open.name);
            tracing::error!(
                reason,
                sequence,
                name,
                watcher = %peer,
                "a watcher follows another history of this log: does an old copy of the server run, was a \
                 backup put in place by hand, or has somebody else its keys?"
            );
            let mut detail = vec![format!("position {sequence}"), format!("watcher `{name}`")];
            detail.extend(evidence.in_words());
            let refused = Refused::new(RefusalKind::State, reason, message)
                .fix("ask the operators: does an old copy of the server run?")
                .detail(detail);
            let who = Principal::Watcher(peer);
            Ok(explained(&log.issuer, &who, None, "Watch", refused).await)
        };
        self.elsewhere(kept).await.unwrap_or_else(|status| status)
    }

    /// Runs on the server's runtime, whoever waits for it.
    async fn elsewhere<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refused>> + Send + 'static,
    {
        let done = self.runtime.spawn(work).await;
        let stops = |_| deny(Code::Unavailable, "STOPPING", "the server stops");
        done.map_err(stops)?.map_err(status)
    }
}

/// Why a watcher does not begin.
enum Unfit {
    /// What it has applied is none of this log's.
    Alarm(Alarm),
    Told(Status),
}

/// A watcher that this log can't have shown what it has applied.
struct Alarm {
    reason: &'static str,
    message: String,
}

impl Alarm {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }

    fn other_history() -> Self {
        let message = "the watcher was shown another history of this log";
        Self::new(OTHER_HISTORY, message)
    }

    fn unknown_log() -> Self {
        let message = "the watcher follows another log of this generation";
        Self::new("UNKNOWN_LOG", message)
    }

    fn ahead(reason: &'static str, what: &str, of: u32) -> Self {
        let message =
            format!("the watcher has seen {what} {of}, which this server does not know of");
        Self::new(reason, message)
    }
}

impl From<Alarm> for Unfit {
    fn from(alarm: Alarm) -> Self {
        Self::Alarm(alarm)
    }
}

impl From<Status> for Unfit {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

impl Log {
    fn judge(&self, shown: &[wire::Statement]) -> Evidence {
        let trust = Trust::new(bundles(&self.issuer));
        let generation = u32::from(self.issuer.store().identity().generation);
        let log = (&self.issuer.settings().trust_domain, generation);
        Evidence::read(shown, log, &trust, self.issuer.now())
    }

    /// Where a watcher begins by what it says that it has applied.
    fn start_of(&self, open: &wire::Open) -> Result<Start, Unfit> {
        let identity = self.issuer.store().identity();
        let position = *self.issuer.store().position().borrow();
        let generation = u32::from(identity.generation);
        if open.log_id.is_empty() {
            return Ok(Start::Checkpoint);
        }
        let Ok(log) = <[u8; 8]>::try_from(&*open.log_id) else {
            return Err(Status::from(BadField::new("log_id", "must have 8 octets")).into());
        };
        // Of two logs of one generation it may follow the other one.
        if open.forked && open.generation == generation {
            return Err(Alarm::other_history().into());
        }
        if log != identity.log.0 {
            return match open.generation {
                // A restore has replaced it (P14).
                before if before < generation => Ok(Start::Checkpoint),
                same if same == generation => Err(Alarm::unknown_log().into()),
                ahead => Err(Alarm::ahead("GENERATION_AHEAD", "generation", ahead).into()),
            };
        }
        if open.generation != generation {
            return Err(Alarm::unknown_log().into());
        }
        if open.epoch > identity.epoch {
            return Err(Alarm::ahead("EPOCH_AHEAD", "epoch", open.epoch).into());
        }
        // What a watcher has applied was durable first: a log that ends before it was set back.
        if open.sequence > position.sequence {
            let newest = position.sequence;
            let message = format!("the log ends at {newest}, not at {}", open.sequence);
            return Err(Alarm::new("AHEAD_OF_LOG", message).into());
        }
        let says = &*open.log_hash;
        let is_other = match open.sequence == position.sequence {
            true => says != position.hash,
            false => self.history.lock().contradicts(open.sequence, says),
        };
        if is_other && !says.is_empty() {
            return Err(Alarm::other_history().into());
        }
        Ok(match open.sequence {
            0 => Start::Checkpoint,
            sequence => Start::After(sequence),
        })
    }

    /// Passes each head on, with the records that it covers.
    async fn follow(self: Arc<Self>) {
        let mut heads = self.issuer.heads();
        loop {
            let head = heads.borrow_and_update().clone();
            if let Some(head) = head
                && let Err(error) = self.pass_on(&head).await
            {
                tracing::error!(%error, "watchers do not hear of the newest head");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if heads.changed().await.is_err() {
                return;
            }
        }
    }

    async fn pass_on(&self, head: &SignedLog) -> Result<(), Refused> {
        let after = self.feed.position();
        if head.sequence < after {
            // Signed before the feed was filled; the next one is not.
            return Ok(());
        }
        let signed = wire_head(head);
        let mut newest = Vec::new();
        match self.issuer.deltas(after, head.sequence).await? {
            Some(mut deltas) => {
                let mut history = self.history.lock();
                deltas.iter().for_each(|delta| history.append(delta));
                drop(history);
                newest = deltas.pop().map(|last| octets(&last)).unwrap_or_default();
                for delta in deltas {
                    self.feed.append(&octets(&delta)).map_err(fault)?;
                }
            }
            // Trimmed before they were read: everybody begins anew.
            None => {
                let hash = LogHead::decode(&head.body).map_err(fault)?.log_hash;
                *self.history.lock() = History::new(head.sequence, hash);
                self.feed.restart(LOG, head.sequence);
            }
        }
        self.feed.publish(&newest, signed).map_err(fault)
    }

    async fn answer(&self, nonce: [u8; 16]) -> Result<Head, Refused> {
        // Never closed.
        let _turn = self.signing.acquire().await;
        let signed = self.issuer.sign_head(Some(nonce)).await?;
        Ok(wire_head(&signed))
    }

    /// Encoded once for all who get it.
    async fn checkpoint(&self, least: u64) -> Result<Arc<Checkpoint>, Refused> {
        let signed = self.issuer.checkpoint_from(least).await?;
        let mut encoded = self.checkpoint.lock().await;
        if let Some((of, checkpoint)) = &*encoded
            && Arc::ptr_eq(of, &signed)
        {
            return Ok(Arc::clone(checkpoint));
        }
        let checkpoint = Arc::new(encode(&signed));
        *encoded = Some((signed, Arc::clone(&checkpoint)));
        Ok(checkpoint)
    }
}

fn wire_head(signed: &SignedLog) -> Head {
    Head {
        sequence: signed.sequence,
        at: signed.at,
        body: signed.body.clone().into(),
        signature: signed.signature.clone().into(),
        key: Key {
            revision: signed.key.revision,
            certificate: signed.key.certificate.clone(),
        },
    }
}

fn encode(signed: &SignedCheckpoint) -> Checkpoint {
    let maps = signed.maps.iter().map(|(bucket, data)| wire::Map {
        bucket: *bucket,
        data: data.clone(),
    });
    let message = wire::Checkpoint {
        body: signed.body.clone(),
        signature: signed.signature.clone(),
        key_certificate: signed.key.certificate.clone(),
        maps: maps.collect(),
    };
    // Of no known revision: the head after it names the key once more.
    Checkpoint::new(signed.sequence, 0, message)
}

fn octets(delta: &[Record]) -> Vec<u8> {
    delta.iter().flat_map(Record::encode).collect()
}

fn relayed(issuer: &Issuer, one: wire::Relayed) -> Result<Relayed, BadField> {
    let who = match &*one.spiffe_id {
        "" => None,
        text => {
            let id = SpiffeId::parse(text);
            let id = id.map_err(|e| BadField::new("acknowledge.relayed.spiffe_id", e))?;
            Some(Introduced {
                waited_for: one.waited_for || issuer.waits_for(&id),
                spiffe_id: id,
                name: one.name,
            })
        }
    };
    Ok(Relayed {
        number: one.number,
        who,
        sequence: one.sequence,
        left: one.left,
    })
}

fn instance(octets: &[u8]) -> Result<Option<[u8; 16]>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    let instance = octets.try_into().map(Some);
    instance.map_err(|_| BadField::new("instance", "must have 16 octets"))
}

fn fault(error: impl std::fmt::Display) -> Refused {
    tracing::error!(%error, "the log can't be passed on");
    let message = "a fault of ours; it is in the log";
    Refused::new(RefusalKind::Internal, "FAULT", message)
}
