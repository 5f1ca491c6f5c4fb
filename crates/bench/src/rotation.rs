//! `rotation`: what a rotation of the CA does to who begins tasks, where many SVIDs live.
//!
//! Nobody has to renew at once: the bundle keeps what signed them, and renewals stay spread over
//! their half-lives. What is left are a key that is made, bundles that are sent, and lists signed.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use taskmint_wire::{admin, node};

use crate::agent::Agent;
use crate::figure::{Bar, Figure};
use crate::key::Key;
use crate::machine;
use crate::node::{Node, UID};
use crate::samples::Samples;
use crate::world::{World, entry};

/// SVIDs that live.
const LIVE: usize = 100_000;

/// Credentials of one call.
const BATCH: usize = 250;

/// Tasks that they are minted under.
const TASKS: u32 = 250;

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    let own = entry("me", machine::uid(), true);
    world.create(vec![entry("agent", UID, false), own]).await?;
    // Hears of the new bundle, and tells its workload.
    let agent = Agent::join(&mut world).await?;
    let api = agent.workload_api().await?;
    let _stream = api.x509_contexts().await?;
    let mut node = Node::join(&world.join_string("n2").await?).await?;
    fill(&mut node).await?;
    begins(&mut node, span / 4, 1).await?;
    let idle = begins(&mut node, span, 2).await?;
    let mut meanwhile = node.clone();
    let beginning = tokio::spawn(async move { begins(&mut meanwhile, span, 3).await });
    tokio::time::sleep(span / 4).await;
    let rotated = Instant::now();
    for usage in ["ca", "jwt"] {
        let prepare = admin::PrepareAuthorityRequest {
            r#use: usage.to_owned(),
        };
        let id = world.admin.prepare_authority(prepare).await?;
        let id = id.into_inner().id;
        let activate = admin::AuthorityRequest { id };
        world.admin.activate_authority(activate).await?;
    }
    let rotated = rotated.elapsed();
    let during = beginning.await.context("the caller panicked")??;
    agent.stop().await?;
    world.stop().await?;
    Ok(vec![
        Figure::new(
            format!("rotation with {LIVE} live, begin p99 meanwhile"),
            during.percentile(99.0)?,
            "ms",
        )
        .floor("begin p99 before", idle.percentile(99.0)?)
        .bar(Bar::RatioAtMost(2.0)),
        Figure::new("rotation, worst begin", during.percentile(100.0)?, "ms")
            .floor("worst begin before", idle.percentile(100.0)?),
        Figure::new(
            "rotation of CA and JWT key",
            rotated.as_secs_f64() * 1000.0,
            "ms",
        ),
    ])
}

/// Mints what is to live.
async fn fill(node: &mut Node) -> anyhow::Result<()> {
    let spki = Key::new()?.spki()?;
    let mut items = Vec::with_capacity(BATCH);
    for pid in 0..TASKS {
        items.push(node::mint_x509_request::Item {
            task_id: node.begin(1000 + pid).await?.task,
            spki: spki.clone(),
        });
    }
    for _ in 0..LIVE / BATCH {
        let items = items.clone();
        node.client
            .mint_x509(node::MintX509Request { items })
            .await?;
    }
    Ok(())
}

/// Begins one task after the other; `phase` tells their processes apart.
async fn begins(node: &mut Node, span: Duration, phase: u32) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let until = Instant::now() + span;
    let mut pid = phase << 24;
    while Instant::now() < until {
        let begun = Instant::now();
        let workload = node.begin(pid).await?;
        samples.add(begun.elapsed());
        node.complete(&workload).await?;
        pid += 1;
    }
    Ok(samples)
}
