//! Agents in processes of their own, so that what they use is told from what everybody else uses.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use clap::Args;
use taskmint_agent::{JoinSource, Settings, Sockets};
use taskmint_daemon::{Shutdown, Tasks};
use zeroize::Zeroizing;

use crate::fan;

/// Agents and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Alone {
    /// Each has a folder in here.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    agents: usize,
}

/// Where the join string of an agent is.
const JOIN: &str = "join";

/// Agents of one process. Each watch through an agent takes two descriptors there, its socket and its
/// process, and a process may have 20,000 on many a machine.
const TOGETHER: usize = 50;

fn settings(folder: &Path, number: usize, join: JoinSource) -> Settings {
    let own = folder.join(number.to_string());
    let mut settings = Settings::new(own.join("agent"), &own, join);
    let limits = &mut settings.limits;
    (limits.calls_per_second, limits.burst) = (1_000_000, 1_000_000);
    limits.max_watches_per_uid = limits.max_watches;
    settings
}

impl Alone {
    /// Runs until it is killed; says `ready` when all of them are.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        fan::raise_limit()?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let mut running = Vec::with_capacity(self.agents);
            for number in 0..self.agents {
                let join = self.folder.join(number.to_string()).join(JOIN);
                let join = Zeroizing::new(fs::read_to_string(join)?);
                let settings = settings(&self.folder, number, JoinSource::Text(join));
                let tasks = Tasks::new(Shutdown::new());
                taskmint_agent::serve(settings, &tasks).await?;
                tasks.readiness().ready().await;
                running.push(tasks);
            }
            println!("ready");
            for tasks in running {
                tasks.join().await?;
            }
            Ok(())
        })
    }
}

/// Processes with agents; killed when dropped.
pub(crate) struct Apart {
    children: Vec<Child>,
    folder: PathBuf,
}

impl Apart {
    /// Starts an agent for each join string, and waits until all have joined.
    pub(crate) fn start(folder: &Path, joins: &[String]) -> anyhow::Result<Self> {
        let mut apart = Self {
            children: Vec::new(),
            folder: folder.to_owned(),
        };
        let mut outputs = Vec::new();
        for (group, joins) in joins.chunks(TOGETHER).enumerate() {
            let folder = apart.of_group(group);
            for (number, join) in joins.iter().enumerate() {
                let own = folder.join(number.to_string());
                fs::create_dir_all(&own)?;
                fs::write(own.join(JOIN), join)?;
            }
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("agents-alone").arg("--folder").arg(&folder);
            command.args(["--agents", &joins.len().to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            outputs.push(child.stdout.take().context("no output")?);
            apart.children.push(child);
        }
        for output in outputs {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            ensure!(line.trim() == "ready", "the agents are not ready");
        }
        Ok(apart)
    }

    fn of_group(&self, group: usize) -> PathBuf {
        self.folder.join(format!("agents-{group}"))
    }

    /// The process of the first.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.children.first().map(Child::id)
    }

    /// The sockets of one of them.
    pub(crate) fn sockets(&self, number: usize) -> Sockets {
        let folder = self.of_group(number / TOGETHER);
        settings(&folder, number % TOGETHER, JoinSource::None).sockets
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
