//! `begin`: from the first octet of the begin to the SVID in hand.
//!
//! By way of the agent, as a workload does it: the agent looks at who calls, makes the key and asks
//! the server over mTLS; the server writes task, first SVID and audit, syncs, and answers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_client::{Endpoint, SecurityHeader};
use taskmint_wire::task;
use taskmint_wire::task::tasks_client::TasksClient;

use crate::agent::Agent;
use crate::figure::{Bar, Figure};
use crate::floor::Disk;
use crate::machine;
use crate::node::{Node, UID};
use crate::samples::Samples;
use crate::world::{World, entry};

/// Begins that are not counted.
const WARM_UP: u32 = 20;

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
    let (mut begins, mut syncs) = (Samples::default(), Samples::default());
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
        let end = task::EndRequest {
            task_id: began.task.context("a begin without a task")?.id,
            ..Default::default()
        };
        tasks.complete(end).await?;
        if count >= WARM_UP {
            begins.add(took);
            syncs.add(sync);
        }
        count += 1;
    }
    agent.stop().await?;
    world.stop().await?;
    figures("begin", &begins, &syncs)
}

/// The same without the agent's part: what the server and mTLS take.
async fn by_node(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    world.create(vec![entry("me", UID, false)]).await?;
    let mut node = Node::join(&world.join_string("n1").await?).await?;
    let mut disk = Disk::new(world.folder())?;
    let (mut begins, mut syncs) = (Samples::default(), Samples::default());
    let until = Instant::now() + span;
    let mut count = 0;
    while count < WARM_UP || Instant::now() < until {
        let sync = disk.sync()?;
        let begun = Instant::now();
        let workload = node.begin(1000 + count).await?;
        let took = begun.elapsed();
        node.complete(&workload).await?;
        if count >= WARM_UP {
            begins.add(took);
            syncs.add(sync);
        }
        count += 1;
    }
    world.stop().await?;
    figures("begin at the server", &begins, &syncs)
}

/// Both percentiles against the median sync: a slow sync excuses nobody's slow begin.
fn figures(name: &str, begins: &Samples, syncs: &Samples) -> anyhow::Result<Vec<Figure>> {
    let sync = syncs.percentile(50.0)?;
    let figure = |percent, most| {
        let value = begins.percentile(percent)?;
        let figure = Figure::new(format!("{name} p{percent}"), value, "ms");
        anyhow::Ok(
            figure
                .floor("fdatasync p50", sync)
                .bar(Bar::RatioAtMost(most)),
        )
    };
    Ok(vec![figure(50.0, 2.0)?, figure(99.0, 5.0)?])
}
