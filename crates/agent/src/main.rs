//! `taskmint-agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use taskmint_agent::Settings;
use taskmint_config::{AgentConfig, LogFormat, Overrides};
use taskmint_daemon::{Failure, exit, logging};

/// Keys of workloads and join tokens pass through buffers of libraries that don't wipe them.
#[global_allocator]
static ALLOCATOR: taskmint_secret::Wiping = taskmint_secret::Wiping;

/// Attests this node and its workloads, and serves them the SPIFFE Workload API and tasks.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/taskmint/agent.toml")]
    config: PathBuf,
    /// Sets a key of the configuration, over file and environment: `-s log.level=debug`.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::told(&error),
    };
    taskmint_daemon::run("taskmint-agent", |tasks| async move {
        let overrides = Overrides::from_process(args.set);
        let checked = AgentConfig::load(&args.config, &overrides).map_err(Failure::config)?;
        let format = match checked.config.log.format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        };
        logging::init(format, checked.config.log.level.as_str()).map_err(Failure::config)?;
        for warning in &checked.warnings {
            tracing::warn!("{warning}");
        }
        tasks.set_grace(checked.config.grace);
        taskmint_agent::serve(Settings::from(checked.config), &tasks).await?;
        Ok(())
    })
}
