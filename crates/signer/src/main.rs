//! `taskmint-signer`: holds the signing keys, and does nothing else (P23 to P27).
//!
//! It reads its sealing key, gives up every right that it does not need, and answers one server
//! over one socket until that server is gone. Then it ends, and its keys with it.

mod args;
mod fence;
mod journal;
mod key;
mod serve;

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use args::Args;
use clap::Parser as _;
use journal::Journal;
use rustix::fs::{FileType, fstat};
use rustix::net::sockopt;
use serve::{Desk, Workers};
use taskmint_authority::Core;
use taskmint_model::{Clock, SystemClock, SystemEntropy};

/// Configuration that trying again does not cure (`EX_CONFIG`).
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    // Keys may be in the hands of the thread that panics: nothing of it may go on.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EX_CONFIG)
        }
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
    let sealing = key::sealing_key(args)?;
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
        protection: taskmint_secret::protection().to_string(),
    });
    tracing::info!(
        trust_domain = %args.trust_domain,
        workers = desk.workers,
        keys = %desk.protection,
        "ready to sign"
    );
    let workers = Workers::start(&desk)?;
    let socket = stdin.try_clone_to_owned().context("standard input")?;
    if !sockopt::socket_acceptconn(stdin).context("standard input")? {
        fence::raise()?;
        return Ok(workers.serve(UnixStream::from(socket))?);
    }
    let listener = UnixListener::from(socket);
    let (first, waiting) = std::sync::mpsc::sync_channel(1);
    // Started before the fences: after them there are no new threads.
    std::thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                drop(first.send(stream));
                serve::turn_away(&listener);
            }
        })?;
    fence::raise()?;
    let stream = waiting.recv().context("the listening socket is gone")?;
    Ok(workers.serve(stream)?)
}
