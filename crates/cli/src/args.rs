//! The command line as a whole; each noun's arguments are in its own file.

use clap::{Parser, Subcommand};

use crate::context::{Context, Global};
use crate::exit::{self, Failure};
use crate::{
    audit, authority, backup, bar, bundle, config, denial, dev, entry, helper, node, run, status,
    svid, task, token, watcher,
};

/// SPIFFE identities that live exactly as long as a task.
#[derive(Debug, Parser)]
#[command(name = "taskmint", version, after_help = exit::HELP, arg_required_else_help = true)]
#[command(infer_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server and an agent here, for development.
    Dev(dev::Dev),
    /// Run a command under a task of its own, which ends with it.
    Run(run::Run),
    /// Keep certificate, key, bundle and CRLs in files, and tell a program of changes.
    Helper(helper::Helper),
    /// Tasks: begin, list, show, end.
    #[command(subcommand)]
    Task(task::Command),
    /// Registration entries: who gets which identity.
    #[command(subcommand)]
    Entry(entry::Command),
    /// Nodes: attested hosts that run an agent.
    #[command(subcommand)]
    Node(node::Command),
    /// Join tokens, with which nodes join.
    #[command(subcommand)]
    Token(token::Command),
    /// Bars, which keep ended implicit tasks from coming back.
    #[command(subcommand)]
    Bar(bar::Command),
    /// The trust bundle, with which others verify.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Authority keys: prepare, activate, retire.
    #[command(subcommand)]
    Authority(authority::Command),
    /// SVIDs: fetch, show, verify.
    #[command(subcommand)]
    Svid(svid::Command),
    /// Tell the whole story of one denial.
    Explain(denial::Explain),
    /// List denials, newest first.
    Denials(denial::Denials),
    /// The audit log: list, verify.
    #[command(subcommand)]
    Audit(audit::Command),
    /// List who follows the revocation log, and how far.
    Watchers(watcher::Watchers),
    /// Show the server's state.
    Status(status::Status),
    /// Configuration files: check, show.
    #[command(subcommand)]
    Config(config::Command),
    /// Have the server write a consistent copy of its store into a folder on its host.
    Backup(backup::Backup),
    /// Make a store from a backup. All its tasks are ended, and the revocation log is a new one.
    Restore(backup::Restore),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// # Errors
    /// Whatever the command failed of.
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Dev(_) => Err(Failure::usage("`dev` has a process of its own")),
            Self::Run(run) => run.execute(context).await,
            Self::Helper(helper) => helper.execute(context).await,
            Self::Task(command) => command.execute(context).await,
            Self::Entry(command) => command.execute(context).await,
            Self::Node(command) => command.execute(context).await,
            Self::Token(command) => command.execute(context).await,
            Self::Bar(command) => command.execute(context).await,
            Self::Bundle(command) => command.execute(context).await,
            Self::Authority(command) => command.execute(context).await,
            Self::Svid(command) => command.execute(context).await,
            Self::Explain(explain) => explain.execute(context).await,
            Self::Denials(denials) => denials.execute(context).await,
            Self::Audit(command) => command.execute(context).await,
            Self::Watchers(watchers) => watchers.execute(context).await,
            Self::Status(status) => status.execute(context).await,
            Self::Config(command) => command.execute(context),
            Self::Backup(backup) => backup.execute(context).await,
            Self::Restore(restore) => restore.execute(context),
            Self::Completions { shell } => completions(shell, context),
        }
    }
}

fn completions(shell: clap_complete::Shell, context: &mut Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "taskmint", &mut script);
    context.out.bytes(&script)
}

#[cfg(test)]
mod tests;
