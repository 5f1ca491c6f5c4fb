//! The signer's own loop without its fences, on the memory that the environment names: what the
//! search must find keys in, and what the kernel may write a core of.

#[allow(
    dead_code,
    reason = "it signs, and has none of the signer's other uses"
)]
#[path = "../../../crates/signer/src"]
mod signer {
    pub(crate) mod args;
    pub(crate) mod journal;
    pub(crate) mod key;
    pub(crate) mod refusals;
    pub(crate) mod serve;
}

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signer::args::Args;
use signer::journal::Journal;
use signer::key::SealingKeySource as _;
use signer::refusals::Refusals;
use signer::serve::{Desk, Workers};
use signer::{args, journal, key, refusals};
use taskmint_authority::Core;
use taskmint_model::{Clock, SystemClock, SystemEntropy};
use taskmint_secret::{Protection, settle_for};

/// `ordinary` or `secret`.
const MEMORY: &str = "TASKMINT_RESIDUE_MEMORY";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match std::env::var(MEMORY).as_deref() {
        Ok("ordinary") => settle_for(Protection::Ordinary),
        Ok("secret") => settle_for(Protection::Secret),
        _ => anyhow::bail!("{MEMORY} must be `ordinary` or `secret`"),
    }
    let maximum = getrlimit(Resource::Core).maximum;
    let current = maximum;
    setrlimit(Resource::Core, Rlimit { current, maximum }).context("core dumps")?;

    let journal = Journal::inherited(rustix::stdio::stdout())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sealing = key::source(&args)
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
    let workers = Workers::start(&desk)?;
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    workers.serve(UnixStream::from(socket))?;
    Ok(())
}
