//! `entry`: from an entry's creation to its SVID on a stream that is open, and from its deletion
//! until it is gone there. `entries`: how many can be created.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use taskmint_client::{CallError, X509Context};
use taskmint_wire::admin::DeleteEntryRequest;

use crate::agent::{Agent, PATIENCE};
use crate::figure::{Bar, Figure};
use crate::floor::Disk;
use crate::machine;
use crate::samples::Samples;
use crate::world::{World, entry};

/// Entries of one call.
const BATCH: usize = 500;

pub(crate) async fn stream(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    let uid = machine::uid();
    world.create(vec![entry("always", uid, true)]).await?;
    let agent = Agent::join(&mut world).await?;
    let mut contexts = agent.workload_api().await?.x509_contexts().await?;
    until_seen(&mut contexts, "spiffe://example.org/always", true).await?;
    let mut disk = Disk::new(world.folder())?;
    let (mut created, mut deleted) = (Samples::default(), Samples::default());
    let mut syncs = Samples::default();
    let until = Instant::now() + span;
    for number in 0_u32.. {
        if Instant::now() >= until {
            break;
        }
        syncs.add(disk.sync()?);
        let added = entry(&format!("e-{number}"), uid, true);
        let id = added.spiffe_id.clone();
        let begun = Instant::now();
        let mut made = world.create(vec![added]).await?;
        until_seen(&mut contexts, &id, true).await?;
        created.add(begun.elapsed());
        let request = DeleteEntryRequest {
            id: made.pop().context("no entry was made")?,
            keep_tasks: false,
        };
        let begun = Instant::now();
        world.admin.delete_entry(request).await?;
        until_seen(&mut contexts, &id, false).await?;
        deleted.add(begun.elapsed());
    }
    drop(contexts);
    agent.stop().await?;
    world.stop().await?;
    let sync = syncs.percentile(50.0)?;
    let figure = |name, value, most, spire| {
        Figure::new(name, value, "ms")
            .floor("fdatasync p50", sync)
            .bar(Bar::AtMost(most))
            .spire(spire)
    };
    // A tenth of what SPIRE takes.
    Ok(vec![
        figure("entry p50", created.percentile(50.0)?, 470.0, "4.7 s"),
        figure("entry worst", created.percentile(100.0)?, 990.0, "9.9 s"),
        figure("entry gone p50", deleted.percentile(50.0)?, 490.0, "4.9 s"),
    ])
}

/// Reads the stream until an identity is there, or is not.
async fn until_seen(
    contexts: &mut (impl Stream<Item = Result<X509Context, CallError>> + Unpin),
    id: &str,
    there: bool,
) -> anyhow::Result<()> {
    let seen = async {
        loop {
            let context = contexts.next().await.context("the stream has ended")??;
            let mut svids = context.svids.iter();
            if svids.any(|svid| svid.spiffe_id.to_string() == id) == there {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen)
        .await
        .with_context(|| format!("`{id}` does not change on the stream"))?
}

pub(crate) async fn rate(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    let mut disk = Disk::new(world.folder())?;
    let (mut syncs, mut spent) = (Samples::default(), Duration::ZERO);
    let until = Instant::now() + span;
    let mut count = 0_u32;
    while Instant::now() < until {
        syncs.add(disk.sync()?);
        let numbers = (count..).take(BATCH);
        let batch = numbers
            .map(|n| entry(&format!("e-{n}"), n, false))
            .collect();
        let begun = Instant::now();
        count += u32::try_from(world.create(batch).await?.len())?;
        spent += begun.elapsed();
    }
    let rate = f64::from(count) / spent.as_secs_f64();
    world.stop().await?;
    let one_by_one = 1000.0 / syncs.percentile(50.0)?;
    // Ten times what SPIRE does.
    let figure = Figure::new("entries", rate, "/s")
        .floor("fdatasyncs one by one", one_by_one)
        .bar(Bar::AtLeast(820.0))
        .spire("82 /s");
    Ok(vec![figure])
}
