//! The relay as the fan-out asks for it: who may watch on this node, and where each begins.

use std::sync::Arc;
use std::time::Duration;

use taskmint_fanout::{Admission, Allowance, Checkpoint, Head, Source, Start};
use taskmint_verifier::watch::Evidence;
use taskmint_wire::{BadField, revocation as wire};
use tonic::{Code, Status};

use super::behind::{Instance, Kind, Newcomer, Watcher, Who};
use super::{Known, OWN, Relay};
use crate::agent::Agent;
use crate::caller::{Caller, Connection};
use crate::denial::Denial;
use crate::server::unreachable;

/// The longest name of a watcher, as at the server.
const MAX_NAME: usize = 256;

/// Why a watcher is denied that was shown another history of the log.
const OTHER_HISTORY: &str = "OTHER_HISTORY";

/// How long a verifier waits for the relay to have what it needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log, for verifiers of this node.
pub(super) struct Local {
    agent: Arc<Agent>,
    relay: Arc<Relay>,
}

impl Local {
    pub(super) fn new(agent: Arc<Agent>, relay: Arc<Relay>) -> Self {
        Self { agent, relay }
    }

    /// Whose watch it is, as the server would find by its entries. Many that a process matches are
    /// one watcher all the same: its first, and one that is waited for before others.
    fn kind(&self, caller: &Caller, called: &str) -> Kind {
        if caller.process().pid == std::process::id() && called.starts_with(OWN) {
            return Kind::Own;
        }
        let entries = self.agent.knowledge.entries().unwrap_or_default();
        let matching = entries.matching(caller.selectors(), self.agent.clock.now());
        let waited_for = matching.iter().find(|entry| entry.watch);
        match waited_for.or(matching.first()) {
            Some(entry) => Kind::Workload(Who {
                spiffe_id: entry.spiffe_id.clone(),
                name: called.to_owned(),
                waited_for: entry.watch,
            }),
            None => Kind::Unnamed,
        }
    }

    /// What a watcher shows for a fork, in words.
    fn evidence(&self, open: &wire::Open) -> Vec<String> {
        let Some(identity) = self.agent.identity.load_full() else {
            return Vec::new();
        };
        let known = self.relay.known.borrow().log;
        let generation = known.map_or(0, |log| u32::from(log.generation.get()));
        let log = (identity.trust_domain(), generation);
        Evidence::read(&open.shown, log, &self.agent.trust, self.agent.clock.now()).in_words()
    }

    fn too_many(&self) -> Status {
        self.agent.metrics.denied("TOO_MANY_WATCHERS");
        let message = "too many watches through this agent; share one within a process";
        Denial::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", message).status()
    }
}

impl Source for Local {
    type Peer = Connection;
    type Watcher = Watcher;

    async fn open(
        &self,
        peer: &Connection,
        mut open: wire::Open,
    ) -> Result<Admission<Watcher>, Status> {
        self.agent.within_rate(peer)?;
        // Anyone attested may watch (P19).
        let caller = self.agent.attest(peer, "Watch").await?;
        taskmint_model::bounded("name", &open.name, MAX_NAME)
            .map_err(|e| BadField::new("name", e))?;
        let instance = instance(&open.instance)?;
        let kind = self.kind(&caller, &open.name);
        // Whoever has no identity here is heard by nobody, and raises no alarm either.
        open.forked &= !matches!(kind, Kind::Unnamed);
        // Its own needs none: every end is waited for until that one has applied it.
        let slot = match kind {
            Kind::Own => None,
            _ => {
                let slot = self.agent.watches.take(caller.uid());
                Some(slot.ok_or_else(|| self.too_many())?)
            }
        };
        let (start, log) = match self.relay.start_of(&open).await {
            Ok(begin) => begin,
            // What a verifier knows and the log does not is an alarm: the server hears of it.
            Err(Unfit::Denied(mut why)) => {
                if why.reason == OTHER_HISTORY {
                    why.detail.extend(self.evidence(&open));
                }
                return Err(self.agent.denials.give(&caller, "Watch", why));
            }
            Err(Unfit::Status(status)) => return Err(status),
        };
        let newcomer = Newcomer {
            kind,
            instance,
            log,
            applied: match start {
                Start::After(sequence) => sequence,
                Start::Checkpoint => 0,
            },
            slot,
        };
        Ok(Admission {
            log,
            watcher: self.relay.behind.enter(newcomer),
            start,
            allowance: Allowance::workload(),
        })
    }

    async fn checkpoint(&self, least: u64) -> Result<Arc<Checkpoint>, Status> {
        let relay = Arc::clone(&self.relay);
        let mut has_asked = false;
        relay
            .until(|known| {
                let found = known.checkpoint.clone().filter(|one| one.sequence >= least);
                if found.is_none() && !std::mem::replace(&mut has_asked, true) {
                    relay.ask_for_a_checkpoint();
                }
                found.map(Ok)
            })
            .await
    }

    async fn answer(&self, nonce: [u8; 16]) -> Result<Head, Status> {
        self.relay.nonces.ask(nonce).await
    }

    fn prompts(&self, watcher: &Watcher, sequence: u64) -> bool {
        self.relay.behind.prompts(watcher, sequence)
    }

    fn sent(&self, watcher: &Watcher, sequence: u64) {
        watcher.sent(sequence);
    }

    fn acknowledge(&self, watcher: &Watcher, said: wire::Acknowledge) -> Result<(), Status> {
        if !said.relayed.is_empty() {
            let why = "only an agent speaks for other watchers";
            return Err(BadField::new("acknowledge", why).into());
        }
        let known = self.relay.known.borrow();
        let same = known.same_history(said.sequence, &said.log_hash);
        drop(known);
        // It comes back with the same position, and is denied with its story.
        same.map_err(Denial::status)?;
        watcher.acknowledge(said.sequence)
    }
}

impl Relay {
    /// What is found in what is known of the log, once it is; or why the log is away.
    async fn until<T>(
        &self,
        mut find: impl FnMut(&Known) -> Option<Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut known = self.known.subscribe();
        let found = async {
            loop {
                if let Some(found) = find(&known.borrow_and_update()) {
                    return found;
                }
                if known.changed().await.is_err() {
                    return Err(unreachable());
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| Err(unreachable()))
    }

    /// Where a watcher begins by what it says that it has applied, and in which log: as the server
    /// would judge, of what the relay has.
    async fn start_of(&self, open: &wire::Open) -> Result<(Start, u64), Unfit> {
        let looked = self.until(|known| match (known.tip, &known.trouble) {
            // It may have heard by another way, a moment ago, what is still on its way here.
            (Some(_), None) if known.is_behind(open) => None,
            (Some(_), _) => Some(Ok(known.clone())),
            (None, Some(trouble)) => Some(Err(trouble.clone())),
            (None, None) => None,
        });
        let known = match looked.await {
            Ok(known) => known,
            Err(away) => {
                let known = self.known.borrow();
                if !known.is_behind(open) {
                    return Err(away.into());
                }
                known.clone()
            }
        };
        Ok((known.start_of(open)?, known.number))
    }
}

/// Why a watcher does not begin.
enum Unfit {
    /// The server is told.
    Denied(Denial),
    Status(Status),
}

impl From<Denial> for Unfit {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Status> for Unfit {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<BadField> for Unfit {
    fn from(bad: BadField) -> Self {
        Self::Status(bad.into())
    }
}

impl Known {
    fn newest(&self) -> u64 {
        self.tip.map_or(0, |tip| tip.sequence)
    }

    fn is_followed_by(&self, open: &wire::Open) -> bool {
        self.log.is_some_and(|log| log.id.0[..] == open.log_id[..])
    }

    fn is_behind(&self, open: &wire::Open) -> bool {
        // One that saw a fork is not waited for: it is here to say so.
        !open.forked && self.is_followed_by(open) && open.sequence > self.newest()
    }

    fn start_of(&self, open: &wire::Open) -> Result<Start, Unfit> {
        let generation = self.log.map_or(0, |log| u32::from(log.generation.get()));
        if open.log_id.is_empty() {
            return Ok(Start::Checkpoint);
        }
        if open.log_id.len() != 8 {
            return Err(BadField::new("log_id", "must have 8 octets").into());
        }
        // Of two logs of one generation it may follow the other one.
        if open.forked && open.generation == generation {
            return Err(other_history(open.sequence).into());
        }
        if !self.is_followed_by(open) {
            return match open.generation {
                // A restore has replaced it (P14).
                before if before < generation => Ok(Start::Checkpoint),
                same if same == generation => Err(unknown_log().into()),
                _ => Err(ahead("GENERATION_AHEAD", "generation", open.generation).into()),
            };
        }
        if open.generation != generation {
            return Err(unknown_log().into());
        }
        if open.epoch > self.epoch {
            return Err(ahead("EPOCH_AHEAD", "epoch", open.epoch).into());
        }
        let newest = self.newest();
        if open.sequence > newest {
            let message = format!("the log ends at {newest}, not at {}", open.sequence);
            let denial = Denial::new(Code::FailedPrecondition, "AHEAD_OF_LOG", message);
            return Err(denial.fix("start again from a checkpoint").into());
        }
        self.same_history(open.sequence, &open.log_hash)?;
        Ok(match open.sequence {
            0 => Start::Checkpoint,
            sequence => Start::After(sequence),
        })
    }

    /// Same position, other hash: somebody was shown another log (P15). Nobody here can tell who.
    fn same_history(&self, sequence: u64, hash: &[u8]) -> Result<(), Denial> {
        match self.tip {
            Some(tip) if tip.sequence == sequence && !hash.is_empty() && hash != tip.hash.0 => {
                Err(other_history(sequence))
            }
            _ => Ok(()),
        }
    }
}

fn other_history(sequence: u64) -> Denial {
    let message = "the watcher was shown another history of this log";
    let denial = Denial::new(Code::FailedPrecondition, OTHER_HISTORY, message);
    denial.detail(vec![format!("position {sequence}")])
}

fn instance(octets: &[u8]) -> Result<Option<Instance>, BadField> {
    if octets.is_empty() {
        return Ok(None);
    }
    let instance = octets.try_into().map(Some);
    instance.map_err(|_| BadField::new("instance", "must have 16 octets"))
}

fn unknown_log() -> Denial {
    let message = "the watcher follows another log";
    Denial::new(Code::FailedPrecondition, "UNKNOWN_LOG", message)
}

fn ahead(reason: &'static str, what: &str, of: u32) -> Denial {
    let message = format!("the watcher has seen {what} {of}, which the log does not know of");
    let denial = Denial::new(Code::FailedPrecondition, reason, message);
    denial.fix("find out whether an old copy of the server runs")
}
