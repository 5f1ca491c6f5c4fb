//! Two hundred verifiers, each behind one of the ways to the server, and what they say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use taskmint_model::{Clock as _, Entropy, SystemClock, SystemEntropy, TaskId, Timestamp};
use taskmint_status::{Change, TaskBinding};
use taskmint_store::Store;
use taskmint_verifier::tls::Identity;
use taskmint_verifier::watch::{Clocks, Event, Events, Options, Source, Watch};
use taskmint_verifier::{StatusCheck as _, Trust};

use super::below;
use super::oracle::{Asked, End, Follower, Oracle};
use super::stage::{Ground, Stage};
use crate::rough::Rough;

/// The newest ends that each verifier is asked of in a look, and others: lately, and ever.
const NEWEST: usize = 2;
const LATELY: usize = 3_000;

/// All that all verifiers are asked of at last, at most.
const ASKED: usize = 25_000;

/// All verifiers and the ways that they go.
pub(super) struct Crowd {
    verifiers: Vec<Verifier>,
    ways: Vec<Arc<Rough>>,
    identity: Identity,
    trust: Trust,
    clocks: Arc<dyn Clocks>,
    started: usize,
}

struct Verifier {
    /// Never used again, and its name.
    number: usize,
    way: Arc<Rough>,
    born: Timestamp,
    watch: Watch,
    events: Events,
    told: Vec<Event>,
    follower: Follower,
}

/// The log as the store has it.
#[derive(Default)]
pub(super) struct Log {
    newest: u64,
    /// Where which task ended.
    ends: HashMap<TaskId, u64>,
}

impl Log {
    /// Reads what is new.
    async fn read(&mut self, store: &dyn Store) {
        let newest = store.position().borrow().sequence;
        while self.newest < newest {
            let records = store.records(self.newest, 4096).await.unwrap();
            for record in records {
                assert_eq!(record.sequence, self.newest + 1, "the log has a gap");
                self.newest = record.sequence;
                if let Change::End { task, .. } = record.change {
                    let task = TaskId::from_octets(task);
                    let before = self.ends.insert(task, record.sequence);
                    assert_eq!(before, None, "{task} has ended twice");
                }
            }
        }
    }

    /// Whether what was acknowledged is all that has ended, each where it was said to be.
    pub(super) fn has_only(&self, ends: &[End]) {
        assert_eq!(self.ends.len(), ends.len(), "something else has ended");
        for end in ends {
            let task = TaskId::from_octets(end.binding.task);
            let position = self.ends[&task];
            assert!(position <= end.position, "{task} has ended at {position}");
        }
    }
}

impl Crowd {
    /// So many, spread over the ways.
    pub(super) fn start(number: usize, stage: &Stage, clocks: Arc<dyn Clocks>) -> Self {
        let mut crowd = Self {
            verifiers: Vec::new(),
            ways: stage.ways.clone(),
            identity: stage.node.identity.clone(),
            trust: stage.node.trust.clone(),
            clocks,
            started: 0,
        };
        for seat in 0..number {
            let verifier = crowd.verifier(seat);
            crowd.verifiers.push(verifier);
        }
        crowd
    }

    /// How many were started so far.
    pub(super) fn started(&self) -> usize {
        self.started
    }

    fn verifier(&mut self, seat: usize) -> Verifier {
        let number = self.started;
        self.started += 1;
        let way = Arc::clone(&self.ways[seat % self.ways.len()]);
        let source = Source::Server {
            address: way.address.to_string(),
            identity: self.identity.clone(),
        };
        let name = number.to_string();
        let options = Options::new("example.org".parse().unwrap(), source, name);
        let (clocks, entropy) = (Arc::clone(&self.clocks), Arc::new(SystemEntropy));
        let born = SystemClock.now();
        let watch = Watch::start(options, self.trust.clone(), clocks, entropy).unwrap();
        Verifier {
            number,
            way,
            born,
            events: watch.subscribe(),
            watch,
            told: Vec::new(),
            follower: Follower::default(),
        }
    }

    /// Kills one; another begins anew where it was.
    pub(super) fn replace_one(&mut self, dice: &dyn Entropy) {
        let seat = below(dice, self.verifiers.len());
        self.verifiers[seat] = self.verifier(seat);
    }

    /// Looks at everybody: what it tells, where it stands, and what it says of some tasks.
    pub(super) async fn look(&mut self, ground: &mut Ground) {
        for verifier in &mut self.verifiers {
            verifier.listen();
        }
        // Whatever was told is in the log by now.
        ground.log.read(&*ground.store).await;
        let (live, dice) = (&ground.live, &*ground.dice);
        for verifier in &mut self.verifiers {
            let mut oracle = ground.oracle.lock().unwrap();
            verifier.hold_against(&ground.log, &mut oracle);
            let known = oracle.ends.len();
            let lately = known.saturating_sub(LATELY);
            let mut ends: Vec<_> = (known.saturating_sub(NEWEST)..known).collect();
            if known > 0 {
                ends.push(lately + below(dice, known - lately));
                ends.push(below(dice, known));
            }
            for index in ends {
                let end = oracle.ends[index];
                verifier.ask(&mut oracle, &end.binding, Some(&end));
            }
            verifier.ask(&mut oracle, &live[below(dice, live.len())], None);
        }
    }

    /// Waits until everybody stands at the newest position and accepts what lives.
    pub(super) async fn converge(&self, ground: &Ground, most: Duration) {
        let dissents = |verifier: &&Verifier| {
            let newest = ground.store.position().borrow().sequence;
            let stands = verifier.watch.state().position.map(|at| at.sequence);
            let mut live = ground.live.iter();
            stands != Some(newest) || live.any(|task| verifier.watch.check(task).is_err())
        };
        let agreed = async {
            while self.verifiers.iter().any(|verifier| dissents(&verifier)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let agreed = tokio::time::timeout(most, agreed).await;
        let dissent = || self.verifiers.iter().find(dissents);
        agreed.unwrap_or_else(|_| panic!("{:?}", dissent().map(|one| one.watch.state())));
    }

    /// Everybody refuses what has ended, and has told of all of it.
    pub(super) fn settle(&self, ground: &Ground) {
        let mut oracle = ground.oracle.lock().unwrap();
        let ends = std::mem::take(&mut oracle.ends);
        let last = ground.log.ends.values().max().copied().unwrap_or_default();
        let step = ends.len() / ASKED + 1;
        for verifier in &self.verifiers {
            for end in ends.iter().skip(verifier.number % step).step_by(step) {
                verifier.ask(&mut oracle, &end.binding, Some(end));
            }
            if !verifier.follower.told_all(last) {
                let follower = &verifier.follower;
                oracle.take(Err(format!("{follower:?} has not told of {last}")));
            }
        }
        oracle.ends = ends;
    }
}

impl Verifier {
    /// Takes what it tells. Each poll has its own budget, or most would look as if nothing came.
    fn listen(&mut self) {
        let mut next = || tokio::task::unconstrained(self.events.next()).now_or_never();
        while let Some(Some(event)) = next() {
            self.told.push(event);
        }
    }

    fn hold_against(&mut self, log: &Log, oracle: &mut Oracle) {
        for event in self.told.drain(..) {
            let told = self.follower.tells(&event, &log.ends);
            oracle.count(if event == Event::Reset {
                "reset"
            } else {
                "told"
            });
            oracle.take(told.map_err(|why| format!("verifier {} {why}", self.number)));
        }
        let Some(position) = self.watch.state().position else {
            return;
        };
        match self.follower.stands(position.sequence) {
            Ok(true) => oracle.count("moved by a head"),
            Ok(false) => {}
            Err(why) => oracle.take(Err(format!("verifier {} {why}", self.number))),
        }
    }

    /// Asks about a task, and has the verdict judged.
    fn ask(&self, oracle: &mut Oracle, task: &TaskBinding, end: Option<&End>) {
        let frozen = self.way.frozen_since();
        let at = SystemClock.now();
        let said = self.watch.check(task).err().map(|refused| refused.reason);
        let asked = Asked {
            verifier: self.number,
            born: self.born,
            applied: self.follower.position(),
            cut_off: frozen.filter(|_| self.way.frozen_since() == frozen),
            at,
        };
        oracle.judge(&asked, end, said);
    }
}
