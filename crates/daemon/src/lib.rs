//! The shell of a long-running process: signals, named tasks, drain, readiness and exit codes.
//!
//! A `main` is one call:
//!
//! ```no_run
//! use taskmint_daemon::{Failure, Tasks};
//!
//! fn main() -> std::process::ExitCode {
//!     taskmint_daemon::run("taskmint-example", |tasks: Tasks| async move {
//!         let shutdown = tasks.shutdown().clone();
//!         tasks.spawn("greeter", async move {
//!             shutdown.requested().await;
//!             Ok::<(), Failure>(())
//!         });
//!         Ok(())
//!     })
//! }
//! ```
//!
//! What holds:
//!
//! - A task that fails, ends early or panics stops the rest, and the exit code says so.
//! - SIGTERM or SIGINT asks for a stop: work in hand is finished within a grace period. A second
//!   one, or the end of the grace, forces it.
//! - SIGHUP wakes whoever subscribed to [`Reload`].
//! - The service manager hears READY when every [`Readiness`] condition is met, STOPPING when the
//!   drain begins, and watchdog pings in between.
//!
//! Nothing here is global: `serve` functions take a [`Shutdown`] (or [`Tasks`]), and a test drives
//! the same code by calling [`Shutdown::request`] instead of sending a signal.

pub mod exit;
pub mod health;
pub mod logging;
mod notify;
mod readiness;
mod reload;
mod run;
mod shutdown;
pub mod signals;
mod tasks;

pub use exit::Failure;
pub use readiness::{Condition, Readiness};
pub use reload::{Reload, Reloads};
pub use run::{run, run_with};
pub use shutdown::{DrainGuard, Shutdown};
pub use tasks::{DEFAULT_GRACE, TaskError, Tasks};
