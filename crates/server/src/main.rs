//! `taskmint-server`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use taskmint_config::{LogFormat, Overrides, ServerConfig};
use taskmint_daemon::{Failure, exit, logging};
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_server::Server;

/// Join tokens pass through buffers of libraries that don't wipe them.
#[global_allocator]
static ALLOCATOR: taskmint_secret::Wiping = taskmint_secret::Wiping;

/// Issues SPIFFE identities that live exactly as long as a task.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/taskmint/server.toml")]
    config: PathBuf,
    /// Sets a key of the configuration, over file and environment: `-s credentials.x509_ttl=5m`.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::told(&error),
    };
    taskmint_daemon::run("taskmint-server", |tasks| async move {
        let overrides = Overrides::from_process(args.set);
        let checked = ServerConfig::load(&args.config, &overrides).map_err(Failure::config)?;
        let format = match checked.config.log.format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        };
        logging::init(format, checked.config.log.level.as_str()).map_err(Failure::config)?;
        for warning in &checked.warnings {
            tracing::warn!("{warning}");
        }
        let server = Server::new(
            checked.config,
            Arc::new(SystemClock),
            Arc::new(SystemEntropy),
        );
        server.bind().await?.serve(&tasks).await?;
        Ok(())
    })
}
