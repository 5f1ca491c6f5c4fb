//! `fair`: what a greedy node does to another one's calls.
//!
//! With the limits that a server has by default. The quiet node asks for one SVID at a time, with
//! pauses; the greedy one asks for as many as it can, on several connections.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use taskmint_wire::node;
use tokio::task::JoinSet;

use crate::figure::{Bar, Figure};
use crate::key::Key;
use crate::machine;
use crate::node::{Node, UID};
use crate::samples::Samples;
use crate::world::{Kind, World, entry};

/// Connections of the greedy node.
const GREEDY: usize = 8;

/// Credentials of one of its calls.
const BATCH: usize = 256;

/// Between two calls of the quiet one.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let limited = Kind {
        limited: true,
        ..Kind::default()
    };
    let mut world = World::of(limited, "").await?;
    world.create(vec![entry("agent", UID, false)]).await?;
    let mut quiet = Node::join(&world.join_string("quiet").await?).await?;
    let mut greedy = Node::join(&world.join_string("greedy").await?).await?;
    let (own, others) = (
        quiet.begin(1000).await?.task,
        greedy.begin(1001).await?.task,
    );
    let spki = Key::new()?.spki()?;
    ask(&mut quiet, &own, &spki, span / 4).await?;
    let alone = ask(&mut quiet, &own, &spki, span / 2).await?;
    let mut running = JoinSet::new();
    let until = Instant::now() + span / 2 + Duration::from_secs(2);
    for _ in 0..GREEDY {
        let (mut client, request) = (greedy.connection().await?, request(&others, &spki, BATCH));
        running.spawn(async move {
            let (mut minted, mut refused) = (0_u64, 0_u64);
            while Instant::now() < until {
                match client.mint_x509(request.clone()).await {
                    Ok(_) => minted += BATCH as u64,
                    Err(_) => refused += 1,
                }
            }
            (minted, refused)
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let early = machine::memory(std::process::id())?;
    let beside = ask(&mut quiet, &own, &spki, span / 2).await?;
    let late = machine::memory(std::process::id())?;
    let (mut minted, mut refused) = (0, 0);
    while let Some(done) = running.join_next().await {
        let (more, fewer) = done.context("the greedy node panicked")?;
        (minted, refused) = (minted + more, refused + fewer);
    }
    world.stop().await?;
    let seconds = (span / 2 + Duration::from_secs(2)).as_secs_f64();
    Ok(vec![
        Figure::new(
            "fair p99 beside a greedy node",
            beside.percentile(99.0)?,
            "ms",
        )
        .floor("alone", alone.percentile(99.0)?)
        .bar(Bar::RatioAtMost(3.0)),
        Figure::new(
            "fair p50 beside a greedy node",
            beside.percentile(50.0)?,
            "ms",
        )
        .floor("alone", alone.percentile(50.0)?),
        Figure::new(
            "fair: what the greedy one gets",
            minted as f64 / seconds,
            "/s",
        ),
        Figure::new(
            "fair: its calls that are refused",
            refused as f64 / seconds,
            "/s",
        ),
        Figure::new("fair: memory at the end of it", late, "MB")
            .floor("after a second of it", early)
            .bar(Bar::RatioAtMost(1.1)),
    ])
}

fn request(task: &str, spki: &[u8], items: usize) -> node::MintX509Request {
    let item = node::mint_x509_request::Item {
        task_id: task.to_owned(),
        spki: spki.to_vec(),
    };
    node::MintX509Request {
        items: vec![item; items],
    }
}

async fn ask(node: &mut Node, task: &str, spki: &[u8], span: Duration) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let until = Instant::now() + span;
    while Instant::now() < until {
        let asked = Instant::now();
        node.client.mint_x509(request(task, spki, 1)).await?;
        samples.add(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}
