//! `taskmint-signer`: holds the signing keys, and does nothing else (P23 to P27).
//!
//! It reads its sealing key, gives up every right that it does not need, and answers one server
//! over one socket until that server is gone. Then it ends, and its keys with it.

mod args;
mod fence;
mod journal;
mod key;
mod refusals;
mod serve;

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use args::{Args, Asked};
use journal::Journal;
use key::SealingKeySource as _;
use refusals::Refusals;
use rustix::fs::{FileType, fstat};
use rustix::net::sockopt;
use serve::{Desk, Workers};
use taskmint_authority::Core;
use taskmint_model::{Clock, SystemClock, SystemEntropy};
use taskmint_secret::Protection;

/// A wrong command line, or a variable of the environment that stands for a part of it (`EX_USAGE`).
const EX_USAGE: u8 = 64;

/// Configuration that trying again does not cure (`EX_CONFIG`).
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    fence::close_inherited();
    let asked = match Asked::parse() {
        Ok(asked) => asked,
        Err(error) => return told(&error),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Or a reader of the log that went away would end this, too: it would be told so on the same
        // broken pipe, by panicking.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false)
        .init();
    // Keys may be in the hands of the thread that panics: nothing of it may go on.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    let done = match &asked {
        Asked::Serve(args) => run(args),
        Asked::MakeKey(args) => key::make_key(args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EX_CONFIG)
        }
    }
}

/// Says what is wrong with the command line, or the help that was asked for.
fn told(error: &clap::Error) -> ExitCode {
    // Nobody to tell if it can't be printed; the exit code still does.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(EX_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let stdin = rustix::stdio::stdin();
    let kind = FileType::from_raw_mode(fstat(stdin).context("standard input")?.st_mode);
    ensure!(
        kind == FileType::Socket,
        "standard input must be a socket: this is started by taskmint-server or a service manager"
    );
    let journal = Journal::inherited(rustix::stdio::stdout())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sealing = key::source(args)
        .map(|source| source.sealing_key())
        .transpose()?;
    let policy = args.policy();
    let core = Core::new(
        policy.clone(),
        sealing,
        Arc::clone(&clock),
        Arc::new(SystemEntropy),
    );
    core.keep_links();
    let desk = Arc::new(Desk {
        core,
        journal,
        clock,
        policy,
        workers: args.workers(),
        refusals: Refusals::default(),
    });
    // Before it says how keys are kept: the threads have secret stacks.
    let workers = Workers::start(&desk)?;
    say_how_keys_are_kept();
    tracing::info!(
        trust_domain = %args.trust_domain,
        workers = desk.workers,
        "ready to sign"
    );
    let socket = stdin.try_clone_to_owned().context("standard input")?;
    rustix::io::ioctl_fionbio(&socket, false).context("standard input")?;
    if !sockopt::socket_acceptconn(stdin).context("standard input")? {
        fence::raise()?;
        return Ok(workers.serve(UnixStream::from(socket))?);
    }
    let listener = UnixListener::from(socket);
    let (first, waiting) = std::sync::mpsc::sync_channel(1);
    let (running, runs) = std::sync::mpsc::sync_channel(1);
    // Started before the fences: after them there are no new threads.
    std::thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || {
            // It waits for that.
            running.send(()).ok();
            if let Ok((stream, _)) = listener.accept() {
                drop(first.send(stream));
                serve::turn_away(&listener);
            }
        })?;
    // A thread that is still being born makes calls of its own (`rseq`), and dies without them.
    runs.recv().context("the thread that listens")?;
    fence::raise()?;
    let stream = waiting.recv().context("the listening socket is gone")?;
    Ok(workers.serve(stream)?)
}

/// Whoever runs a kernel that refuses the best protection may not know it.
fn say_how_keys_are_kept() {
    let protection = taskmint_secret::protection();
    if protection == Protection::Secret {
        tracing::info!("{protection}");
    } else {
        tracing::warn!(fix = "boot with `secretmem.enable=1`", "{protection}");
    }
}
