//! `receipt`: from the first octet of an end until its last receipt, which says that every verifier
//! has applied it. Server and agents are the real ones; their watchers are played by another process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taskmint_wire::task::WaitRequest;

use crate::agent::PATIENCE;
use crate::apart::Apart;
use crate::fan::{self, AGENTS, Player, write_credentials};
use crate::figure::{Bar, Figure};
use crate::machine;
use crate::node::{Node, UID, Workload};
use crate::samples::Samples;
use crate::world::{World, entry};

/// Between two ends.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn measure(span: Duration, watchers: usize) -> anyhow::Result<Vec<Figure>> {
    fan::raise_limit()?;
    let watchers = fan::within_limit(watchers);
    let heard = fan::worst(watchers, span.as_secs().clamp(5, 20))?;
    let mut figures = Vec::new();
    let mut directly = None;
    for agents in [0, AGENTS.min(watchers)] {
        let Waited {
            receipts,
            heads,
            processor,
            back,
        } = Crowd { watchers, agents }.wait(span).await?;
        let name = match agents {
            0 => format!("receipt of {watchers}"),
            _ => format!("receipt of {watchers} behind {agents} agents"),
        };
        figures.extend([
            Figure::new(format!("{name}, p50"), receipts.percentile(50.0)?, "ms"),
            Figure::new(format!("{name}, p99"), receipts.percentile(99.0)?, "ms")
                .floor("the fan-out's p99", heard)
                .bar(Bar::RatioAtMost(3.0)),
            Figure::new(
                format!("{name}, the first, p50"),
                heads.percentile(50.0)?,
                "ms",
            ),
            Figure::new(
                format!("{name}, lost at once: until all are back"),
                back.as_secs_f64() * 1000.0,
                "ms",
            ),
        ]);
        let name = format!("{name}, the server's processor time of an end");
        let figure = Figure::new(name, processor.as_secs_f64() * 1000.0, "ms");
        figures.push(match directly.replace(processor.as_secs_f64() * 1000.0) {
            Some(directly) => figure.floor("all of them directly", directly),
            None => figure,
        });
    }
    Ok(figures)
}

/// Those who are waited for.
struct Crowd {
    watchers: usize,
    /// Real ones, in a process of their own, that relay to all watchers; 0: they watch the server.
    agents: usize,
}

/// What was measured of them.
struct Waited {
    /// Until the last receipt, and until the first.
    receipts: Samples,
    heads: Samples,
    /// Of the process that is the server and asks it, for one task: begun, ended and heard of by all,
    /// with what watchers say in between.
    processor: Duration,
    /// Until all had the log again, after all were lost and came back at the same time.
    back: Duration,
}

impl Crowd {
    async fn wait(&self, span: Duration) -> anyhow::Result<Waited> {
        // Those who were lost are kept in mind for a while, beside those who came back.
        let most = 2 * self.watchers + self.agents + 64;
        let limits = format!("[watch]\nmax_per_identity = {most}\nmax_waited_for = {most}\n");
        let mut world = World::start_with(&limits).await?;
        let mut service = entry("service", UID, false);
        service.watch = true;
        let mut player = entry("player", machine::uid(), false);
        player.watch = true;
        let mut entries = vec![service];
        if machine::uid() != UID {
            entries.push(player);
        }
        world.create(entries).await?;
        let mut node = Node::join(&world.join_string("n1").await?).await?;
        let folder = world.folder().to_owned();
        let mut flags = Vec::new();
        let mut agents = None;
        if self.agents == 0 {
            let own = node.begin(7).await?;
            write_credentials(&folder, &own.certificate, &own.key.pkcs8()?, &node.bundle)?;
            flags.push(format!("--address={}", world.server.watch_address));
        } else {
            let mut joins = Vec::with_capacity(self.agents);
            for number in 0..self.agents {
                joins.push(world.join_string(&format!("agent-{number}")).await?);
            }
            let apart = Apart::start(&folder, &joins)?;
            for number in 0..self.agents {
                let socket = apart.sockets(number).revocation;
                flags.push(format!("--socket={}", socket.display()));
            }
            agents = Some(apart);
        }
        let player = Player::start(&folder, (self.watchers, 0), &flags)?;
        let (mut receipts, mut heads) = (Samples::default(), Samples::default());
        let until = Instant::now() + span;
        let (used, mut ends) = (machine::own_time(), 0);
        for pid in 1000.. {
            if Instant::now() >= until {
                break;
            }
            let workload = node.begin(pid).await?;
            tokio::time::sleep(PAUSE).await;
            let begun = Instant::now();
            let ended = end(&mut node, &workload, self.watchers);
            let ended = tokio::time::timeout(PATIENCE, ended).await;
            let (durable, last) = ended.context("no last receipt")??;
            heads.add(durable - begun);
            receipts.add(last - begun);
            ends += 1;
        }
        let processor = machine::own_time().saturating_sub(used) / ends.max(1);
        drop(player);
        flags.push(format!("--coming={}", self.watchers));
        let player = Player::start(&folder, (self.watchers, 0), &flags)?;
        let back = player.ready;
        drop((player, agents));
        world.stop().await?;
        Ok(Waited {
            receipts,
            heads,
            processor,
            back,
        })
    }
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
            let (own, relayed) = (receipt.applied_count, receipt.applied_by_relay_count);
            let (applied, not_yet) = ((own + relayed) as usize, receipt.not_yet_count);
            ensure!(
                applied >= watchers && not_yet == 0,
                "{applied} of {watchers} have applied it, {not_yet} have not"
            );
            return Ok((durable, at));
        }
    }
    anyhow::bail!("the receipts end before the last")
}
