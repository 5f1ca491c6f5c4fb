//! `mint-unary`, `mint-batch`, `jwt-batch`: durable credentials per second, against raw signing;
//! `signer-tax` and `durability`: what keys in a process of their own, and the disk, cost of that.
//!
//! Over mTLS, for live tasks, each recorded on disk before it leaves. The floor is what both cores
//! could sign if they did nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_client::Nodes;
use taskmint_wire::node;
use tokio::task::JoinSet;

use crate::figure::{Bar, Figure};
use crate::key::Key;
use crate::load::Generator;
use crate::node::{Node, UID};
use crate::world::{Kind, World, entry};
use crate::{floor, machine};

/// Live tasks that are minted for, and callers of single calls.
const TASKS: usize = 64;

/// Connections that share these callers: a node has one, and there are several nodes.
const CONNECTIONS: usize = 4;

/// Credentials of one batched call.
const BATCH: usize = 256;

/// How often two worlds take turns.
const TURNS: u32 = 3;

/// How long is asked before it counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// One who asks, again and again.
#[derive(Clone)]
struct Caller {
    client: Nodes,
    asks: Asks,
}

#[derive(Clone)]
enum Asks {
    X509(node::MintX509Request),
    Jwt(node::MintJwtRequest),
}

/// What all callers got together, and what it took.
struct Load {
    minted: u64,
    elapsed: Duration,
    /// Processor time of server and signer.
    issuing: Duration,
    /// Processor time of who asked.
    asking: Duration,
}

/// What SPIRE does, and what has to be reached here.
struct Goal {
    name: &'static str,
    least: f64,
    spire: &'static str,
    /// How many times SPIRE's rate has to be reached on each core, where that is asked.
    times: Option<f64>,
    spire_rate: f64,
}

/// A server, a node and its live tasks.
struct Scene {
    world: World,
    node: Node,
    tasks: Vec<String>,
    spki: Vec<u8>,
    load: Generator,
}

pub(crate) async fn unary(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::set().await?;
    let single = |task: &String| Asks::X509(scene.x509(std::slice::from_ref(task)));
    let callers = scene
        .callers(scene.tasks.iter().map(single).collect())
        .await?;
    let goal = Goal {
        name: "mint-unary",
        least: 0.08,
        spire: "1,060 /s and core",
        times: None,
        spire_rate: 1_060.0,
    };
    scene.measure(callers, span, &goal).await
}

pub(crate) async fn batch(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::set().await?;
    let asks = Asks::X509(scene.x509(&scene.batch()));
    let callers = scene.callers(vec![asks; CONNECTIONS]).await?;
    let goal = Goal {
        name: "mint-batch",
        least: 0.25,
        spire: "1,060 /s and core",
        times: Some(15.0),
        spire_rate: 1_060.0,
    };
    scene.measure(callers, span, &goal).await
}

pub(crate) async fn jwt_batch(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::set().await?;
    let item = |task_id| node::mint_jwt_request::Item {
        task_id,
        audience: vec!["reports".to_owned()],
    };
    let items = scene.batch().into_iter().map(item).collect();
    let asks = Asks::Jwt(node::MintJwtRequest { items });
    let callers = scene.callers(vec![asks; CONNECTIONS]).await?;
    let goal = Goal {
        name: "jwt-batch",
        least: 0.30,
        spire: "1,750 /s and core",
        times: Some(12.0),
        spire_rate: 1_750.0,
    };
    scene.measure(callers, span, &goal).await
}

impl Scene {
    async fn set() -> anyhow::Result<Self> {
        Self::of(Kind::default()).await
    }

    async fn of(kind: Kind) -> anyhow::Result<Self> {
        let mut world = World::of(kind, "").await?;
        world.create(vec![entry("agent", UID, false)]).await?;
        let mut node = Node::join(&world.join_string("n1").await?).await?;
        let mut tasks = Vec::with_capacity(TASKS);
        for pid in (1000..).take(TASKS) {
            tasks.push(node.begin(pid).await?.task);
        }
        let spki = Key::new()?.spki()?;
        Ok(Self {
            world,
            node,
            tasks,
            spki,
            load: Generator::new()?,
        })
    }

    /// As many tasks as a batch has items.
    fn batch(&self) -> Vec<String> {
        self.tasks.iter().cycle().take(BATCH).cloned().collect()
    }

    fn x509(&self, tasks: &[String]) -> node::MintX509Request {
        let item = |task: &String| node::mint_x509_request::Item {
            task_id: task.clone(),
            spki: self.spki.clone(),
        };
        node::MintX509Request {
            items: tasks.iter().map(item).collect(),
        }
    }

    async fn callers(&self, asks: Vec<Asks>) -> anyhow::Result<Vec<Caller>> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let node = self.node.clone();
            let connection = async move { node.connection().await };
            connections.push(self.load.run(connection).await?);
        }
        let callers = asks.into_iter().zip(connections.iter().cycle());
        let callers = callers.map(|(asks, client)| Caller {
            client: client.clone(),
            asks,
        });
        Ok(callers.collect())
    }

    async fn measure(
        self,
        callers: Vec<Caller>,
        span: Duration,
        goal: &Goal,
    ) -> anyhow::Result<Vec<Figure>> {
        // Before and after, and the better: the machine may be shared.
        let before = floor::signatures()?;
        drive(&self.load, &callers, WARM_UP).await?;
        let load = drive(&self.load, &callers, span).await?;
        let raw = floor::signatures()?.max(before);
        drop(callers);
        self.world.stop().await?;
        let rate = load.minted as f64 / load.elapsed.as_secs_f64();
        let per_core = load.minted as f64 / load.issuing.as_secs_f64();
        let asking = load.asking.as_secs_f64() / load.minted as f64;
        let mut each_core = Figure::new(format!("{} a core", goal.name), per_core, "/s")
            .floor("SPIRE's", goal.spire_rate)
            .spire(goal.spire);
        if let Some(times) = goal.times {
            each_core = each_core.bar(Bar::RatioAtLeast(times));
        }
        Ok(vec![
            Figure::new(goal.name, rate, "/s")
                .floor("2 x raw P-256", 2.0 * raw)
                .bar(Bar::RatioAtLeast(goal.least)),
            each_core,
            Figure::new(
                format!("{} processor time each", goal.name),
                1e6 / per_core,
                "us",
            )
            .floor("one raw P-256", 1e6 / raw),
            Figure::new(
                format!("{} processor time of who asks", goal.name),
                1e6 * asking,
                "us",
            ),
        ])
    }

    /// Only the rate, of batched X.509-SVIDs.
    async fn rate(self, span: Duration) -> anyhow::Result<f64> {
        let asks = Asks::X509(self.x509(&self.batch()));
        let callers = self.callers(vec![asks; CONNECTIONS]).await?;
        drive(&self.load, &callers, WARM_UP).await?;
        let load = drive(&self.load, &callers, span).await?;
        drop(callers);
        self.world.stop().await?;
        Ok(load.minted as f64 / load.elapsed.as_secs_f64())
    }
}

/// The same load by turns in two worlds, so that what else the machine does hits both.
async fn compare(
    name: &'static str,
    against: (&'static str, Kind),
    least: f64,
    span: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let (mut rates, mut others) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        rates.push(Scene::of(Kind::default()).await?.rate(span / TURNS).await?);
        others.push(Scene::of(against.1).await?.rate(span / TURNS).await?);
    }
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / f64::from(TURNS);
    Ok(vec![
        Figure::new(name, mean(&rates), "/s")
            .floor(against.0, mean(&others))
            .bar(Bar::RatioAtLeast(least)),
    ])
}

pub(crate) async fn signer_tax(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let own = Kind {
        own_keys: true,
        ..Kind::default()
    };
    compare("signer-tax", ("signing in process", own), 0.85, span).await
}

pub(crate) async fn durability(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let no_sync = Kind {
        no_sync: true,
        ..Kind::default()
    };
    compare("durability", ("state in memory", no_sync), 0.90, span).await
}

impl Caller {
    /// Asks once; how many credentials came.
    async fn ask(&mut self) -> anyhow::Result<u64> {
        match &self.asks {
            Asks::X509(request) => {
                let results = self
                    .client
                    .mint_x509(request.clone())
                    .await?
                    .into_inner()
                    .results;
                let good = results
                    .iter()
                    .all(|r| !r.certificate.is_empty() && r.refusal.is_none());
                ensure!(good, "an X.509-SVID was refused");
                Ok(results.len() as u64)
            }
            Asks::Jwt(request) => {
                let results = self
                    .client
                    .mint_jwt(request.clone())
                    .await?
                    .into_inner()
                    .results;
                let good = results
                    .iter()
                    .all(|r| !r.token.is_empty() && r.refusal.is_none());
                ensure!(good, "a JWT-SVID was refused");
                Ok(results.len() as u64)
            }
        }
    }
}

/// Has all of them ask for `span`, each as soon as it has its answer.
async fn drive(load: &Generator, callers: &[Caller], span: Duration) -> anyhow::Result<Load> {
    let (all, asking) = (machine::issuing_time()?, load.processor_time()?);
    let begun = Instant::now();
    let callers = callers.to_vec();
    let asked = load.run(async move {
        let mut running = JoinSet::new();
        for mut caller in callers {
            running.spawn(async move {
                let mut minted = 0;
                while begun.elapsed() < span {
                    minted += caller.ask().await?;
                }
                anyhow::Ok(minted)
            });
        }
        let mut minted = 0;
        while let Some(done) = running.join_next().await {
            minted += done.context("a caller panicked")??;
        }
        Ok(minted)
    });
    let minted = asked.await?;
    let elapsed = begun.elapsed();
    let asking = load.processor_time()?.saturating_sub(asking);
    let all = machine::issuing_time()?.saturating_sub(all);
    Ok(Load {
        minted,
        elapsed,
        issuing: all.saturating_sub(asking),
        asking,
    })
}
