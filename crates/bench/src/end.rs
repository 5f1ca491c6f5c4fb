//! `end`: from the first octet of the complete until a verifier refuses.
//!
//! The verifier watches the server's log over mTLS, and is asked about the task's own SVID.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use taskmint_model::SystemEntropy;
use taskmint_status::TaskBinding;
use taskmint_verifier::watch::{Events, Options, Source, SystemClocks, Watch};
use taskmint_verifier::{StatusCheck as _, tls};

use crate::agent::PATIENCE;
use crate::figure::{Bar, Figure};
use crate::floor::Disk;
use crate::node::{Node, UID, Workload};
use crate::samples::Samples;
use crate::world::{World, entry};

/// A tenth of what SPIRE takes to withdraw an SVID from a socket, in milliseconds.
const MOST: f64 = 490.0;

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut world = World::start().await?;
    world.create(vec![entry("agent", UID, false)]).await?;
    let mut node = Node::join(&world.join_string("n1").await?).await?;
    let service = node.begin(7).await?;
    let address = world.server.watch_address.to_string();
    let watch = watch(&address, &node, &service)?;
    tokio::time::timeout(PATIENCE, watch.synced())
        .await
        .context("the watch does not come about")?;
    let mut events = watch.subscribe();
    let mut disk = Disk::new(world.folder())?;
    let (mut ends, mut syncs) = (Samples::default(), Samples::default());
    let until = Instant::now() + span;
    for pid in 1000.. {
        if Instant::now() >= until {
            break;
        }
        syncs.add(disk.sync()?);
        let workload = node.begin(pid).await?;
        ends.add(once(&mut node, &watch, &mut events, &workload).await?);
    }
    drop(watch);
    world.stop().await?;
    let sync = syncs.percentile(50.0)?;
    let figure = |percent: f64, name| {
        let figure = Figure::new(name, ends.percentile(percent)?, "ms");
        anyhow::Ok(
            figure
                .floor("fdatasync p50", sync)
                .bar(Bar::AtMost(MOST))
                .spire("4.9 s median"),
        )
    };
    Ok(vec![
        figure(50.0, "end p50")?,
        figure(99.0, "end p99")?,
        figure(100.0, "end worst")?,
    ])
}

/// Completes a live workload: how long it takes until the watch refuses it.
pub(crate) async fn once(
    node: &mut Node,
    watch: &Watch,
    events: &mut Events,
    workload: &Workload,
) -> anyhow::Result<Duration> {
    let svid = tls::read_verified(&workload.certificate)?;
    let binding = svid.binding.context("an SVID without a task")?;
    if let Err(refused) = watch.check(&binding) {
        anyhow::bail!("a live task is refused: {}", refused.reason);
    }
    let begun = Instant::now();
    let heard = async {
        let heard = refused(watch, events, &binding);
        tokio::time::timeout(PATIENCE, heard)
            .await?
            .map(|at| at - begun)
    };
    let (completed, took) = tokio::join!(node.complete(workload), heard);
    completed?;
    took.context("the verifier does not hear of the end")
}

/// A verifier of this service, which follows the log at this address.
pub(crate) fn watch(address: &str, node: &Node, service: &Workload) -> anyhow::Result<Watch> {
    let source = Source::Server {
        address: address.to_owned(),
        identity: service.identity()?,
    };
    let options = Options::new("example.org".parse()?, source, "bench");
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    Ok(Watch::start(options, node.trust.clone(), clocks, entropy)?)
}

/// When the task is refused. Asks at each event, not in a loop: the cores are the server's, too.
pub(crate) async fn refused(
    watch: &Watch,
    events: &mut Events,
    binding: &TaskBinding,
) -> anyhow::Result<Instant> {
    loop {
        events.next().await.context("the watch has stopped")?;
        if watch.check(binding).is_err() {
            return Ok(Instant::now());
        }
    }
}
