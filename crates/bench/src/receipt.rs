//! `receipt`: from the first octet of an end until its last receipt, which says that every verifier
//! has applied it. The server is the real one; its watchers are played by another process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_wire::task::WaitRequest;

use crate::agent::PATIENCE;
use crate::fan::{self, Player, write_credentials};
use crate::figure::{Bar, Figure};
use crate::node::{Node, UID, Workload};
use crate::samples::Samples;
use crate::world::{World, entry};

/// Between two ends.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn measure(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    fan::raise_limit()?;
    let watchers = fan::within_limit(watchers);
    let heard = fan::worst(watchers, span.as_secs().clamp(5, 20))?;
    let most = watchers + 64;
    let limits = format!("[watch]\nmax_per_identity = {most}\nmax_waited_for = {most}\n");
    let mut world = World::start_with(&limits).await?;
    let mut service = entry("service", UID, false);
    service.watch = true;
    world.create(vec![service]).await?;
    let mut node = Node::join(&world.join_string("n1").await?).await?;
    let own = node.begin(7).await?;
    let folder = world.folder().to_owned();
    write_credentials(&folder, &own.certificate, &own.key.pkcs8()?, &node.bundle)?;
    let player = Player::start(world.server.watch_address, &folder, (watchers, 0), &[])?;
    let (mut receipts, mut heads) = (Samples::default(), Samples::default());
    let until = Instant::now() + span;
    for pid in 1000.. {
        if Instant::now() >= until {
            break;
        }
        let workload = node.begin(pid).await?;
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        let (durable, last) = tokio::time::timeout(PATIENCE, end(&mut node, &workload, watchers))
            .await
            .context("no last receipt")??;
        heads.add(durable - begun);
        receipts.add(last - begun);
    }
    drop(player);
    world.stop().await?;
    Ok(vec![
        Figure::new(
            format!("receipt of {watchers}, p50"),
            receipts.percentile(50.0)?,
            "ms",
        ),
        Figure::new("receipt, p99", receipts.percentile(99.0)?, "ms")
            .floor("the fan-out's p99", heard)
            .bar(Bar::RatioAtMost(3.0)),
        Figure::new("receipt, the first, p50", heads.percentile(50.0)?, "ms"),
    ])
}

/// When the end was durable, and when everybody had applied it.
async fn end(
    node: &mut Node,
    workload: &Workload,
    watchers: usize,
) -> anyhow::Result<(Instant, Instant)> {
    node.end(workload, true).await?;
    let durable = Instant::now();
    let request = WaitRequest {
        task_id: workload.task.clone(),
        ..WaitRequest::default()
    };
    let mut receipts = node.client.wait_task(request).await?.into_inner();
    while let Some(receipt) = receipts.message().await? {
        if receipt.r#final {
            let at = Instant::now();
            let (applied, not_yet) = (receipt.applied_count as usize, receipt.not_yet_count);
            ensure!(
                applied >= watchers && not_yet == 0,
                "{applied} of {watchers} have applied it, {not_yet} have not"
            );
            return Ok((durable, at));
        }
    }
    anyhow::bail!("the receipts end before the last")
}
