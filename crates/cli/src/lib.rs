//! The `taskmint` command: everything that people and scripts do with a server or an agent.
//!
//! One file for each noun: its arguments, what it calls, and the record that it prints. [`output`]
//! turns records into tables or JSON, [`exit`] failures into words and exit codes, [`context`]
//! sockets into clients. `dev` runs a server and an agent in one process, `run` a command under a
//! task of its own.

mod args;
mod audit;
mod authority;
mod backup;
mod bar;
mod bundle;
mod config;
pub mod context;
mod denial;
mod dev;
mod entry;
pub mod exit;
mod helper;
mod node;
pub mod output;
mod run;
mod status;
mod svid;
mod task;
mod token;
mod watcher;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

pub use args::{Cli, Command};
use context::Context;
use exit::Failure;
use output::{Format, note};

/// Parses the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli {
            command: Command::Dev(dev),
            ..
        }) => dev.main(),
        Ok(cli) => finish(cli.global.output, execute(cli)),
        Err(error) => {
            // Nobody to tell if it can't be printed.
            drop(error.print());
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::from(exit::OK),
                _ => ExitCode::from(exit::USAGE),
            }
        }
    }
}

/// On one thread: `run` traces its child, and only the thread that started it may do that.
fn execute(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let outcome = runtime.block_on(async {
        let mut context = Context::new(cli.global);
        cli.command.execute(&mut context).await
    });
    runtime.shutdown_background();
    outcome
}

fn finish(format: Format, outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::from(exit::OK);
    };
    let text = match format {
        Format::Table => failure.text(),
        Format::Json if failure.text().is_empty() => String::new(),
        Format::Json => failure.json().to_string(),
    };
    if !text.is_empty() {
        note(text);
    }
    ExitCode::from(failure.code())
}
