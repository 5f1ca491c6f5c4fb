//! A command under a task of its own.
//!
//! The command is started and held at its first instruction, so that what the agent attests is the
//! command itself and not this program. The task is bound to it and its descendants, and only then
//! is it let go. This process holds nothing; it waits, passes signals on, and says how the task
//! ended before the command's process is reaped, since with the process the task would fail.

mod child;
mod signals;

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use nix::sys::prctl;
use taskmint_client::Tasks;
use taskmint_wire::task;
use tonic::Code;

use crate::context::{Context, request_id};
use crate::exit::{self, Failure};
use crate::output::{Field, note};
use crate::task::{TaskArgs, record};

use child::{Ended, Held, StartError};
use signals::Signals;

/// How long saying that the task ended may keep the caller waiting.
const LAST_WORD: Duration = Duration::from_secs(5);

/// `taskmint run`.
#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    task: TaskArgs,
    /// Say on standard error which task it is.
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    /// The command and its arguments.
    #[cfg(test)]
    pub(crate) fn command(&self) -> &[OsString] {
        &self.command
    }

    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let bad = |error: nix::Error| Failure::Other(error.into()).coded(exit::NOT_BEGUN);
        let signals = Signals::catch().map_err(bad)?;
        // Orphans of the command become children of this process and not of init, which could be
        // anywhere: what they see is decided by an ancestor that outlives the command.
        prctl::set_child_subreaper(true).map_err(bad)?;
        let mut tasks = context
            .tasks()
            .await
            .map_err(|failure| failure.coded(exit::NOT_BEGUN))?;
        let held = Held::start(&self.command, signals.before()).map_err(not_started)?;
        let begun = tokio::select! {
            begun = begin(&mut tasks, self.task, held.pid()) => begun,
            signal = signals.to_die() => {
                held.kill();
                return Err(Failure::Silent(by_signal(signal)));
            }
        };
        let begun = begun.map_err(|failure| failure.coded(exit::NOT_BEGUN))?;
        if self.verbose {
            say(&begun);
        }
        let child = held.release().map_err(bad)?;
        let ended = signals.until_ended(&child).await.map_err(bad)?;
        finish(&mut tasks, begun.id, ended).await;
        child.reap();
        match ended {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(code) => Err(Failure::Silent(code)),
            Ended::Signaled(signal) => Err(Failure::Silent(by_signal(signal))),
        }
    }
}

/// As every shell has it.
fn by_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Begins a task for a child; within a task, one below the nearest.
async fn begin(tasks: &mut Tasks, args: TaskArgs, pid: u32) -> Result<task::Task, Failure> {
    let mut request = args.request();
    request.pid = pid;
    request.binding = task::Binding::Tree.into();
    let seen = task::ListRequest {
        live_only: true,
        ..Default::default()
    };
    let seen = tasks.list(seen).await?.into_inner().tasks;
    let within = seen.iter().any(|task| task.kind() == task::Kind::Explicit);
    let begun = if within {
        let request = task::DelegateRequest {
            task: Some(request),
            ..Default::default()
        };
        tasks.delegate(request).await?
    } else {
        tasks.begin(request).await?
    };
    Ok(begun.into_inner().task.unwrap_or_default())
}

/// Says how the task ended. Whatever comes of it, the command's exit status stands: without a word
/// the agent ends the task itself, as failed.
async fn finish(tasks: &mut Tasks, task_id: String, ended: Ended) {
    let reason = ended.words();
    let request = task::EndRequest {
        request_id: request_id(),
        task_id,
        reason,
        wait: false,
    };
    let said = async {
        match ended {
            Ended::Exited(0) => tasks.complete(request).await,
            _ => tasks.fail(request).await,
        }
    };
    match tokio::time::timeout(LAST_WORD, said).await {
        Ok(Ok(_)) => {}
        // Revoked, expired or ended by the command itself.
        Ok(Err(status)) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {}
        Ok(Err(status)) => note(format_args!(
            "taskmint: the task fails with its process, for its end could not be said\n{}",
            Failure::from(status).text()
        )),
        Err(_) => note("taskmint: the agent does not answer; the task fails with its process"),
    }
}

fn say(task: &task::Task) {
    let record = record(task);
    let deadline = record.get("deadline").map(Field::show).unwrap_or_default();
    note(format_args!(
        "taskmint: task {} as {} until {deadline}",
        task.id, task.spiffe_id
    ));
}

fn not_started(error: StartError) -> Failure {
    let code = match error {
        StartError::NoCommand(_) => exit::NO_COMMAND,
        StartError::NotExecutable(..) => exit::NOT_EXECUTABLE,
        StartError::Held(_) => exit::NOT_BEGUN,
    };
    Failure::Other(error.into()).coded(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_started_has_the_codes_of_env() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _within = runtime.enter();
        let start = |program: &str| {
            let signals = Signals::catch().unwrap();
            Held::start(&[program.into()], signals.before())
                .map(Held::kill)
                .map_err(not_started)
        };
        assert_eq!(start("no-such-command-anywhere").unwrap_err().code(), 127);
        assert_eq!(start("/").unwrap_err().code(), 126);
        assert!(start("true").is_ok());
    }

    #[test]
    fn without_an_agent_the_command_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("ran");
        let global = crate::context::Global {
            task_socket: Some(folder.path().join("no.sock").display().to_string()),
            ..Default::default()
        };
        let mut context = Context::new(global);
        let run = Run {
            task: TaskArgs::default(),
            verbose: false,
            command: vec!["touch".into(), witness.clone().into()],
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let failure = runtime.block_on(run.execute(&mut context)).unwrap_err();
        assert_eq!(failure.code(), exit::NOT_BEGUN);
        assert!(!witness.exists());
    }
}
