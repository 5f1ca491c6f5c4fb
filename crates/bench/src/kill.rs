//! `kill`: from the SIGKILL of a holder until a verifier elsewhere refuses its SVID, and what it
//! costs an agent to hold thousands of processes that do nothing.
//!
//! Server and verifier are in this process, the agent in one of its own, each holder is another.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use taskmint_client::{Endpoint, Tasks};
use taskmint_status::TaskBinding;
use taskmint_verifier::StatusCheck as _;
use taskmint_wire::task::{BeginRequest, Binding};

use crate::agent::PATIENCE;
use crate::apart::Apart;
use crate::end::{refused, watch};
use crate::fan;
use crate::figure::{Bar, Figure};
use crate::floor::Disk;
use crate::machine;
use crate::node::{Node, UID};
use crate::samples::Samples;
use crate::world::{World, entry};

/// Rounds that a percentile needs.
const ROUNDS: usize = 200;

/// Begins at the same time.
const AT_ONCE: usize = 16;

/// A process of ours; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process that does nothing, with a task that ends when it does, and the place of its status.
async fn holder(tasks: &mut Tasks) -> anyhow::Result<(Process, TaskBinding)> {
    let mut command = Command::new("sleep");
    command.arg("100000");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let holder = Process(command.spawn()?);
    let request = BeginRequest {
        purpose: "measure".to_owned(),
        binding: Binding::Tree.into(),
        pid: holder.0.id(),
        ..BeginRequest::default()
    };
    let began = tasks.begin(request).await?.into_inner();
    let task = began.task.context("a begin without a task")?;
    // The credential is the child's to fetch; every one of the task carries this.
    let task = taskmint_wire::task_from_wire(&task)?;
    let binding = TaskBinding {
        place: task.place,
        task: task.id.octets(),
        root: task.id.octets(),
    };
    Ok((holder, binding))
}

pub(crate) async fn measure(span: Duration, held: usize) -> anyhow::Result<Vec<Figure>> {
    fan::raise_limit()?;
    let mut world = World::start().await?;
    let uid = machine::uid();
    let mut entries = vec![entry("held", uid, false)];
    if uid != UID {
        entries.push(entry("service", UID, false));
    }
    world.create(entries).await?;
    let mut node = Node::join(&world.join_string("elsewhere").await?).await?;
    let service = node.begin(7).await?;
    let watch = watch(&world.server.watch_address.to_string(), &node, &service)?;
    tokio::time::timeout(PATIENCE, watch.synced())
        .await
        .context("the watch does not come about")?;
    let folder = world.folder().to_owned();
    let agent = Apart::start(&folder, &[world.join_string("n1").await?])?;
    let endpoint = Endpoint::Unix(agent.sockets(0).task);
    let mut tasks = Tasks::new(taskmint_client::connect(&endpoint).await?);
    learnt(&mut tasks).await?;

    let mut events = watch.subscribe();
    let mut disk = Disk::new(world.folder())?;
    let (mut kills, mut syncs) = (Samples::default(), Samples::default());
    let until = Instant::now() + span;
    let mut rounds = 0;
    while rounds < ROUNDS || Instant::now() < until {
        rounds += 1;
        syncs.add(disk.sync()?);
        let (mut holder, binding) = holder(&mut tasks).await?;
        if let Err(refused) = watch.check(&binding) {
            anyhow::bail!("a live task is refused: {}", refused.reason);
        }
        let begun = Instant::now();
        holder.0.kill()?;
        let heard = tokio::time::timeout(PATIENCE, refused(&watch, &mut events, &binding)).await;
        let heard = heard.context("the verifier does not hear of the death")??;
        kills.add(heard - begun);
    }
    drop(events);

    let share = idle(&mut tasks, agent.pid().context("no agent")?, span, held).await?;
    drop((agent, watch));
    world.stop().await?;
    let sync = syncs.percentile(50.0)?;
    let figure = |percent: f64, name: &str| -> anyhow::Result<Figure> {
        let figure = Figure::new(name, kills.percentile(percent)?, "ms");
        Ok(figure.floor("fdatasync p50", sync))
    };
    Ok(vec![
        figure(50.0, "kill p50")?,
        figure(99.0, &format!("kill p99 of {rounds}"))?.bar(Bar::AtMost(50.0)),
        figure(100.0, "kill worst")?,
        Figure::new(
            format!("kill, an idle agent that holds {held}"),
            share * 100.0,
            "% of a core",
        )
        .bar(Bar::AtMost(1.0)),
    ])
}

/// Until the agent has heard of the entry.
async fn learnt(tasks: &mut Tasks) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match holder(tasks).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The share of a core that an agent uses which holds so many processes.
async fn idle(tasks: &mut Tasks, agent: u32, span: Duration, held: usize) -> anyhow::Result<f64> {
    let mut holders = Vec::with_capacity(held);
    while holders.len() < held {
        let count = AT_ONCE.min(held - holders.len());
        let begins = (0..count).map(|_| {
            let mut tasks = tasks.clone();
            async move { holder(&mut tasks).await }
        });
        for begun in futures::future::join_all(begins).await {
            holders.push(begun?.0);
        }
    }
    // What the begins left behind is done by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, begun) = (machine::processor_time_of(agent)?, Instant::now());
    tokio::time::sleep(span.max(Duration::from_secs(5))).await;
    let used = machine::processor_time_of(agent)?.saturating_sub(before);
    Ok(used.as_secs_f64() / begun.elapsed().as_secs_f64())
}
