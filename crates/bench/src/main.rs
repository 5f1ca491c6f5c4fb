//! The measurements of Taskmint: each figure with the raw floor measured in the same run.
//!
//! ```text
//! cargo build --release -p taskmint-bench -p taskmint-server -p taskmint-agent --bins
//! target/release/taskmint-bench list
//! target/release/taskmint-bench run begin mint-batch --seconds 10 --json figures.json
//! ```
//!
//! Server, agent and verifier are the real ones, in this process, over RocksDB in a temporary
//! folder and real sockets, so whoever asks shares the cores with who answers. State lies below
//! `TMPDIR`: on a memory file system a sync costs nothing, and every comparison with it is void.

mod agent;
mod apart;
mod begin;
mod child;
mod closing;
mod compact;
mod end;
mod entry;
mod fair;
mod fan;
mod figure;
mod floor;
mod key;
mod kill;
mod load;
mod machine;
mod mint;
mod node;
mod proxy;
mod receipt;
mod rotation;
mod samples;
mod startup;
mod status;
mod world;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::figure::Figure;

/// Measures Taskmint on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the figures.
    List,
    /// Measures figures, and prints them beside their floors and bars.
    Run(Run),
    /// Measures one design of a fan-out: a part of a run, in a process of its own.
    #[command(hide = true)]
    Stage(fan::Stage),
    /// Is many watchers: another part.
    #[command(hide = true)]
    Play(fan::Play),
    /// Is the other ends of connections that get closed: another part.
    #[command(hide = true)]
    Peers(closing::Peers),
    /// Is agents and nothing else: another part.
    #[command(hide = true)]
    AgentsAlone(apart::Alone),
    /// Is an issuer over millions of tasks: another part.
    #[command(hide = true)]
    CompactAlone(compact::Alone),
}

#[derive(Debug, Args)]
struct Run {
    /// Which figures.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Name>,
    /// Writes the figures to a file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long each is measured.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Watchers of the fan-out's figures, connections that are open, and processes that an agent holds.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// Live tasks of `compact`.
    #[arg(long, default_value_t = 10_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    tasks: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    Begin,
    #[value(name = "begin-64")]
    BeginCrowd,
    MintUnary,
    MintBatch,
    JwtBatch,
    SignerTax,
    Durability,
    Fair,
    Rotation,
    End,
    Entry,
    Entries,
    Startup,
    ColdSync,
    Check,
    RevokeCost,
    Fanout,
    FanoutLoad,
    FanoutReach,
    FanoutRelay,
    FanoutClients,
    Keepalive,
    WatcherMemory,
    Receipt,
    Closing,
    Kill,
    Compact,
    All,
}

impl Name {
    const EACH: [Self; 27] = [
        Self::Begin,
        Self::BeginCrowd,
        Self::MintUnary,
        Self::MintBatch,
        Self::JwtBatch,
        Self::SignerTax,
        Self::Durability,
        Self::Fair,
        Self::Rotation,
        Self::End,
        Self::Entry,
        Self::Entries,
        Self::Startup,
        Self::ColdSync,
        Self::Check,
        Self::RevokeCost,
        Self::Fanout,
        Self::FanoutLoad,
        Self::FanoutReach,
        Self::FanoutRelay,
        Self::FanoutClients,
        Self::Keepalive,
        Self::WatcherMemory,
        Self::Receipt,
        Self::Closing,
        Self::Kill,
        Self::Compact,
    ];

    fn about(self) -> &'static str {
        match self {
            Self::Begin => "begin -> SVID in hand, one caller, against one fdatasync",
            Self::BeginCrowd => "begin -> SVID in hand, 64 callers, against one fdatasync",
            Self::MintUnary => {
                "durable X.509-SVIDs per second, one a call, 64 callers, against raw signing"
            }
            Self::MintBatch => "durable X.509-SVIDs per second, batched, against raw signing",
            Self::JwtBatch => "durable JWT-SVIDs per second, batched, against raw signing",
            Self::SignerTax => "mint-batch through the signer, against signing in process",
            Self::Durability => "mint-batch, against the same where a sync costs nothing",
            Self::Fair => "one call of a node, beside another that asks for all it can",
            Self::Rotation => "begins while CA and JWT key are rotated, with 100,000 SVIDs live",
            Self::End => "complete -> refused at one verifier",
            Self::Entry => "entry create -> SVID in hand on an open stream, and delete -> gone",
            Self::Entries => "entries created per second, in batches",
            Self::Startup => "time to ready and memory, empty and with 20,000 entries",
            Self::ColdSync => {
                "a new verifier where 1,000,000 of 10,000,000 ended: octets, and time"
            }
            Self::Check => "one status check, against one P-256 verification",
            Self::RevokeCost => "one end where 1,000,000 have ended, against where 1,000 have",
            Self::Fanout => "one end a second -> the last of 10,000 watchers, against plain tonic",
            Self::FanoutLoad => "100 and 1,000 ends a second to 10,000 watchers",
            Self::FanoutReach => "how many watchers 100 and 1,000 ends a second reach in time",
            Self::FanoutRelay => "one end a second to 200 agents, against all watchers directly",
            Self::FanoutClients => {
                "tonic's clients, and windows of 4 KiB, beside ordinary watchers"
            }
            Self::Keepalive => {
                "10,000 idle watchers: what pings cost, and how soon dead ones are found"
            }
            Self::WatcherMemory => "memory of a watcher: idle, under load, and never reading",
            Self::Receipt => {
                "complete --wait with 10,000 watchers, and with as many behind 200 agents"
            }
            Self::Closing => {
                "an end, or notAfter -> the last connection closed, among 10,000 open ones"
            }
            Self::Kill => {
                "kill -9 of a holder -> refused elsewhere, and an agent that holds 10,000"
            }
            Self::Compact => "10,000,000 live tasks: memory of each, a restart, and a sweep of all",
            Self::All => "all of them",
        }
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    async fn measure(
        self,
        span: Duration,
        watchers: usize,
        tasks: u64,
    ) -> anyhow::Result<Vec<Figure>> {
        match self {
            Self::Begin => begin::measure(span).await,
            Self::BeginCrowd => begin::crowd(span).await,
            Self::MintUnary => mint::unary(span).await,
            Self::MintBatch => mint::batch(span).await,
            Self::JwtBatch => mint::jwt_batch(span).await,
            Self::SignerTax => mint::signer_tax(span).await,
            Self::Durability => mint::durability(span).await,
            Self::Fair => fair::measure(span).await,
            Self::Rotation => rotation::measure(span).await,
            Self::End => end::measure(span).await,
            Self::Entry => entry::stream(span).await,
            Self::Entries => entry::rate(span).await,
            Self::Startup => startup::measure().await,
            Self::ColdSync => status::cold_sync().await,
            Self::Check => status::check(span).await,
            Self::RevokeCost => status::revoke_cost(span).await,
            Self::Fanout => fan::fanout(span, watchers),
            Self::FanoutLoad => fan::load(span, watchers),
            Self::FanoutReach => fan::reach(span, watchers),
            Self::FanoutRelay => fan::relay(span, watchers),
            Self::FanoutClients => fan::clients(span, watchers),
            Self::Keepalive => fan::keepalive(span, watchers),
            Self::WatcherMemory => fan::memory(span, watchers),
            Self::Receipt => receipt::measure(span, watchers).await,
            Self::Closing => closing::measure(watchers).await,
            Self::Kill => kill::measure(span, watchers).await,
            Self::Compact => compact::measure(span, tasks).await,
            Self::All => Ok(Vec::new()),
        }
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List => list(),
        Command::Run(run) => run.run(),
        Command::Stage(stage) => stage.run(),
        Command::Play(play) => play.run(),
        Command::Peers(peers) => peers.run(),
        Command::AgentsAlone(agents) => agents.run(),
        Command::CompactAlone(issuer) => issuer.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taskmint-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for name in Name::EACH {
        writeln!(out, "{:<16}{}", name.name(), name.about())?;
    }
    Ok(())
}

impl Run {
    fn run(self) -> anyhow::Result<()> {
        let span = Duration::from_secs(self.seconds);
        let names = if self.names.contains(&Name::All) {
            Name::EACH.to_vec()
        } else {
            self.names
        };
        let watchers = usize::try_from(self.watchers)?;
        let mut figures = Vec::new();
        for name in names {
            eprintln!("measuring {}", name.name());
            // A runtime for each: nothing of the one before is still running.
            let runtime = tokio::runtime::Runtime::new()?;
            let others = machine::Others::now()?;
            let measured = runtime.block_on(name.measure(span, watchers, self.tasks));
            let measured = measured.with_context(|| name.name())?;
            let share = others.share()?;
            figures.extend(measured.into_iter().map(|figure| figure.others(share)));
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        let machine = machine::describe();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{machine}\n")?;
        let colour = out.is_terminal();
        write!(out, "{}", figure::table(&figures, colour))?;
        if let Some(path) = &self.json {
            let text = figure::json(&machine, self.seconds, &figures).to_string();
            std::fs::write(path, text + "\n")
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn names_are_those_of_the_list() {
        let names: Vec<String> = Name::EACH.map(Name::name).to_vec();
        assert_eq!(
            names.join(" "),
            "begin begin-64 mint-unary mint-batch jwt-batch signer-tax durability fair rotation end entry entries \
             startup cold-sync check revoke-cost fanout fanout-load fanout-reach fanout-relay fanout-clients keepalive \
             watcher-memory receipt closing kill compact"
        );
    }
}
