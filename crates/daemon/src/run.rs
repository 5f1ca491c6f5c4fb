//! From `main` to exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime;
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::exit::Failure;
use crate::signals::{self, Signal};
use crate::{Shutdown, TaskError, Tasks, exit, notify};

/// The body's own name among the tasks.
const MAIN: &str = "main";

/// Blocking calls (a database being closed) may take this long after everything has ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// Runs a process: `body` sets up and spawns tasks; this returns when it and all of them ended.
///
/// It may open as many files as the hard limit allows: the soft one is for programs that use
/// `select`, and an agent holds a descriptor for each process that has a task.
///
/// The body may return once its tasks are spawned, or stay until it has drained. Its error ends
/// the process with the error's own code; see [`exit`] for all codes.
pub fn run<F, Fut>(name: &'static str, body: F) -> ExitCode
where
    F: FnOnce(Tasks) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    raise_file_limit();
    let runtime = match runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(name)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report(name, exit::FAILED, &format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(async {
        let signals = signals::listen().map_err(Failure::from);
        match signals {
            Ok(signals) => run_with(Tasks::new(Shutdown::new()), signals, body).await,
            Err(failure) => Err(TaskError::Failed {
                name: MAIN,
                failure,
            }),
        }
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    match outcome {
        Ok(()) => ExitCode::from(exit::OK),
        // What `main` returns is written for the operator; no "task failed" before it.
        Err(TaskError::Failed {
            name: MAIN,
            failure,
        }) => report(name, failure.code(), &failure.to_string()),
        Err(error) => report(name, error.code(), &error.to_string()),
    }
}

fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Up to the hard limit nobody is refused; if it were, fewer files would have to do.
    setrlimit(Resource::Nofile, limit).ok();
}

/// The same within a runtime, with signals from a channel and tasks of the caller's making.
///
/// # Errors
///
/// What first went wrong; see [`Tasks::join`].
pub async fn run_with<F, Fut>(
    tasks: Tasks,
    signals: mpsc::Receiver<Signal>,
    body: F,
) -> Result<(), TaskError>
where
    F: FnOnce(Tasks) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (shutdown, reload) = (tasks.shutdown().clone(), tasks.reload().clone());
    tasks.spawn_support("signals", async move {
        signals::obey(signals, shutdown, reload).await;
        // The source of signals may end (a test's channel); the process goes on.
        std::future::pending::<Result<(), Failure>>().await
    });
    let readiness = tasks.readiness().clone();
    tasks.spawn_support("notify", async move {
        notify::report(readiness).await;
        Ok::<(), Failure>(())
    });
    let handle = tasks.clone();
    tasks.spawn_once(MAIN, async move { body(handle).await });
    // Not a task: a stop that takes no time would end before it is told.
    let stopping = notify::stopping(tasks.shutdown().clone());
    let (outcome, ()) = tokio::join!(tasks.join(), stopping);
    if outcome.is_ok() {
        info!("stopped");
    }
    outcome
}

/// Says the last word, also where no log was set up yet, and gives the exit code.
fn report(name: &str, code: u8, text: &str) -> ExitCode {
    if tracing::dispatcher::has_been_set() {
        error!(code, "{name}: {text}");
    } else {
        // If standard error is gone too, the exit code still tells.
        drop(writeln!(io::stderr(), "{name}: {text}"));
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_body_may_return_while_its_tasks_go_on_until_the_signal() {
        let (sender, signals) = mpsc::channel(1);
        let (up, is_up) = tokio::sync::oneshot::channel();
        let running = tokio::spawn(run_with(
            Tasks::new(Shutdown::new()),
            signals,
            |tasks| async move {
                let shutdown = tasks.shutdown().clone();
                tasks.spawn("listener", async move {
                    up.send(()).map_err(|()| Failure::failed("nobody waits"))?;
                    shutdown.requested().await;
                    Ok::<(), Failure>(())
                });
                Ok(())
            },
        ));
        is_up.await.expect("the listener is up");
        sender.send(Signal::Stop).await.expect("heard");
        running.await.expect("no panic").expect("a clean stop");
    }

    #[tokio::test]
    async fn an_error_of_the_body_ends_the_process_with_its_code() {
        let (_sender, signals) = mpsc::channel(1);
        let error = run_with(Tasks::new(Shutdown::new()), signals, |_| async {
            Err(Failure::config("server.toml:1:1: unknown key `x`"))
        })
        .await
        .expect_err("the body failed");
        assert_eq!(error.code(), exit::CONFIG);
    }

    #[tokio::test]
    async fn a_panic_of_the_body_is_caught() {
        let (_sender, signals) = mpsc::channel(1);
        let body = |_tasks: Tasks| -> std::future::Ready<Result<(), Failure>> { panic!("oops") };
        let error = run_with(Tasks::new(Shutdown::new()), signals, body)
            .await
            .expect_err("it panicked");
        assert_eq!(error.code(), exit::PANICKED);
    }
}
