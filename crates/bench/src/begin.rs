//! `begin`: from the first octet of the begin to the SVID in hand.
//!
//! By way of the agent, as a workload does it: the agent looks at who calls, makes the key and asks
//! the server over mTLS; the server writes task, first SVID and audit, syncs, and answers.
//!
//! Beside it, what no begin here can be faster than: a question about the task by the same way, to
//! the agent and from a node to the server, that signs and writes nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_client::{Endpoint, SecurityHeader};
use taskmint_wire::task;
use taskmint_wire::task::tasks_client::TasksClient;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::figure::{Bar, Figure};
use crate::floor::Disk;
use crate::machine;
use crate::node::{Node, UID};
use crate::samples::Samples;
use crate::world::{World, entry};

/// Begins that are not counted.
const WARM_UP: u32 = 20;

/// Callers of `begin-64`.
const CALLERS: u32 = 64;

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut figures = by_agent(span).await?;
    figures.extend(by_node(span).await?);
    Ok(figures)
}

async fn by_agent(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    world
        .create(vec![entry("me", machine::uid(), false)])
        .await?;
    let agent = Agent::join(&mut world).await?;
    agent.workload_api().await?;
    let endpoint = Endpoint::Unix(agent.sockets.task.clone());
    let channel = taskmint_client::connect(&endpoint).await?;
    let mut tasks = TasksClient::with_interceptor(channel, SecurityHeader);
    let mut disk = Disk::new(world.folder())?;
    let mut measured = Measured::default();
    let until = Instant::now() + span;
    let mut count = 0;
    while count < WARM_UP || Instant::now() < until {
        let sync = disk.sync()?;
        let begun = Instant::now();
        let request = task::BeginRequest {
            purpose: "measure".to_owned(),
            ..Default::default()
        };
        let began = tasks.begin(request).await?.into_inner();
        let took = begun.elapsed();
        ensure!(began.svid.is_some(), "a begin without an SVID");
        let task_id = began.task.context("a begin without a task")?.id;
        let asked = Instant::now();
        let get = task::GetRequest {
            task_id: task_id.clone(),
        };
        tasks.get(get).await?;
        let answered = asked.elapsed();
        let end = task::EndRequest {
            task_id,
            ..Default::default()
        };
        tasks.complete(end).await?;
        if count >= WARM_UP {
            measured.add(took, answered, sync);
        }
        count += 1;
    }
    agent.stop().await?;
    world.stop().await?;
    measured.figures("begin", "a question to the agent")
}

/// The same without the agent's part: what the server and mTLS take.
async fn by_node(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    world.create(vec![entry("me", UID, false)]).await?;
    let mut node = Node::join(&world.join_string("n1").await?).await?;
    let mut disk = Disk::new(world.folder())?;
    let mut measured = Measured::default();
    let until = Instant::now() + span;
    let mut count = 0;
    while count < WARM_UP || Instant::now() < until {
        let sync = disk.sync()?;
        let begun = Instant::now();
        let workload = node.begin(1000 + count).await?;
        let took = begun.elapsed();
        let asked = Instant::now();
        let get = task::GetRequest {
            task_id: workload.task.clone(),
        };
        node.client.get_task(get).await?;
        let answered = asked.elapsed();
        node.complete(&workload).await?;
        if count >= WARM_UP {
            measured.add(took, answered, sync);
        }
        count += 1;
    }
    world.stop().await?;
    measured.figures("begin at the server", "a question to the server")
}

/// 64 callers at a time, by one node.
pub(crate) async fn crowd(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    world.create(vec![entry("me", UID, false)]).await?;
    let node = Node::join(&world.join_string("n1").await?).await?;
    let mut disk = Disk::new(world.folder())?;
    let mut syncs = Samples::default();
    for _ in 0..200 {
        syncs.add(disk.sync()?);
    }
    let mut running = JoinSet::new();
    let begun = Instant::now();
    for caller in 0..CALLERS {
        let mut node = node.clone();
        running.spawn(async move {
            let mut begins = Samples::default();
            let mut count = 0;
            while begun.elapsed() < span {
                let started = Instant::now();
                let workload = node.begin(1000 + caller + CALLERS * count).await?;
                let took = started.elapsed();
                node.complete(&workload).await?;
                if count >= WARM_UP {
                    begins.add(took);
                }
                count += 1;
            }
            anyhow::Ok(begins)
        });
    }
    let mut begins = Samples::default();
    while let Some(done) = running.join_next().await {
        begins.extend(done.context("a caller panicked")??);
    }
    world.stop().await?;
    let sync = syncs.percentile(50.0)?;
    let rate = begins.count() as f64 / begun.elapsed().as_secs_f64();
    let at = |percent| {
        let name = format!("begin-64 p{percent}");
        anyhow::Ok(
            Figure::new(name, begins.percentile(percent)?, "ms").floor("fdatasync p50", sync),
        )
    };
    Ok(vec![
        at(50.0)?,
        at(99.0)?.bar(Bar::RatioAtMost(10.0)),
        Figure::new("begin-64 begins and ends", rate, "/s"),
    ])
}

/// Begins, and what is measured beside each.
#[derive(Default)]
struct Measured {
    begins: Samples,
    questions: Samples,
    syncs: Samples,
}

impl Measured {
    fn add(&mut self, begin: Duration, question: Duration, sync: Duration) {
        self.begins.add(begin);
        self.questions.add(question);
        self.syncs.add(sync);
    }

    /// Both percentiles against the median sync: a slow sync excuses nobody's slow begin.
    fn figures(&self, begin: &str, question: &str) -> anyhow::Result<Vec<Figure>> {
        let sync = self.syncs.percentile(50.0)?;
        let figure = |percent, most| {
            let value = self.begins.percentile(percent)?;
            let figure = Figure::new(format!("{begin} p{percent}"), value, "ms");
            anyhow::Ok(
                figure
                    .floor("fdatasync p50", sync)
                    .bar(Bar::RatioAtMost(most)),
            )
        };
        let asked = self.questions.percentile(50.0)?;
        Ok(vec![
            figure(50.0, 2.0)?,
            figure(99.0, 5.0)?,
            Figure::new(format!("{question} p50"), asked, "ms").floor("fdatasync p50", sync),
        ])
    }
}
