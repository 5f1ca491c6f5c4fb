//! A server, rough ways to it, and what is known there.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{Entropy, SystemClock};
use taskmint_status::TaskBinding;
use taskmint_store::Store;
use taskmint_testkit::SeededEntropy;
use taskmint_wire::admin;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::crowd::Log;
use super::load::{CHILDREN, Load, binding};
use super::{SharedOracle, below};
use crate::harness::World;
use crate::node::{Node, UID};
use crate::rough::{Harm, Mood, Rough};

/// Heads are believed for two seconds, and a clock that goes wrong for one more.
const LINES: &str = "tasks.lease = \"1h\"\nrevocation.max_age = \"2s\"\n\
                     revocation.heartbeat = \"500ms\"\nrevocation.drift_allowance = \"1s\"\n\
                     watch.max_per_identity = 10000\nwatch.checkpoint_after = 3000\n\
                     rate_limits.per_entry.per_second = 1000000\n\
                     rate_limits.per_entry.burst = 1000000";

/// Ways to the server. The first always let everything pass, the next freeze again and again for
/// longer than anything is believed, and the moods of the others change all the time.
const WAYS: usize = 12;
const STEADY: usize = 4;
const PAUSING: usize = 2;

const FREEZE: Duration = Duration::from_millis(4_500);
const THAW: Duration = Duration::from_secs(2);

/// Of the others: so many that verifiers get on between two harms.
const MOODS: [Mood; 9] = [
    Mood::Pass,
    Mood::Pass,
    Mood::Pass,
    Mood::Pass,
    Mood::Delay,
    Mood::Freeze,
    Mood::Cut,
    Mood::Double,
    Mood::Swap,
];

/// Tasks that nobody ends.
const LIVE: usize = 40;

/// All but the verifiers.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) node: Node,
    pub(super) ways: Vec<Arc<Rough>>,
    pub(super) harm: Arc<Harm>,
    pub(super) load: Load,
    pub(super) ground: Ground,
}

/// What verifiers are held against.
pub(super) struct Ground {
    pub(super) store: Arc<dyn Store>,
    pub(super) log: Log,
    pub(super) oracle: SharedOracle,
    pub(super) live: Vec<TaskBinding>,
    pub(super) dice: Arc<dyn Entropy>,
}

impl Stage {
    pub(super) async fn start(seed: u64) -> Self {
        let mut world = World::durable(LINES, Arc::new(SystemClock)).await;
        let entry = admin::Entry {
            spiffe_id: "spiffe://example.org/ending".to_owned(),
            selectors: vec![UID[0].to_owned()],
            max_children: CHILDREN,
            max_depth: 1,
            ..Default::default()
        };
        let entry = world.create(entry).await.unwrap();
        let node = Node::join(&world.token("n1").await).await;
        let dice: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
        let harm = Arc::<Harm>::default();
        let mut ways = Vec::new();
        for _ in 0..WAYS {
            let to = world.server.watch_address;
            let way = Rough::start(to, Arc::clone(&harm), Arc::clone(&dice)).await;
            ways.push(Arc::new(way));
        }
        let oracle = SharedOracle::default();
        let load = Load {
            issuer: Arc::clone(&world.server.issuer),
            entry: entry.id.parse().unwrap(),
            oracle: Arc::clone(&oracle),
        };
        let live = (0..LIVE).map(|_| load.begin(None));
        let live = futures::future::join_all(live).await;
        let ground = Ground {
            store: Arc::clone(world.server.issuer.store()),
            log: Log::default(),
            oracle,
            live: live.iter().map(binding).collect(),
            dice,
        };
        Self {
            world,
            node,
            ways,
            harm,
            load,
            ground,
        }
    }

    /// What the ways are like from here on, until it is dropped.
    pub(super) fn weather(&self) -> JoinSet<()> {
        let mut weather = JoinSet::new();
        for way in &self.ways[STEADY..STEADY + PAUSING] {
            weather.spawn(pauses(Arc::clone(way)));
        }
        for way in &self.ways[STEADY + PAUSING..] {
            weather.spawn(changes(Arc::clone(way), Arc::clone(&self.ground.dice)));
        }
        weather
    }

    /// Everything passes.
    pub(super) fn calm(&self) {
        self.ways.iter().for_each(|way| way.set(Mood::Pass));
    }

    /// What the oracle has found to be wrong first.
    pub(super) fn objection(&self) -> Option<String> {
        let oracle = self.ground.oracle.lock().unwrap();
        oracle.objection().map(str::to_owned)
    }

    pub(super) async fn stop(self) {
        // Whoever holds on to the issuer keeps the store open.
        let Self {
            world,
            load,
            ground,
            ..
        } = self;
        drop((load, ground));
        world.stop().await;
    }
}

async fn pauses(way: Arc<Rough>) {
    loop {
        sleep(THAW).await;
        way.set(Mood::Freeze);
        sleep(FREEZE).await;
        way.set(Mood::Pass);
    }
}

async fn changes(way: Arc<Rough>, dice: Arc<dyn Entropy>) {
    loop {
        way.set(MOODS[below(&*dice, MOODS.len())]);
        sleep(Duration::from_millis(100 + below(&*dice, 400) as u64)).await;
    }
}
