//! `taskmint helper`: keeps certificate, key, bundle and revocation lists in files, fresh, for a
//! program that knows nothing of the Workload API, and tells it when they have changed.

mod files;
mod tell;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use sd_notify::NotifyState;
use taskmint_client::{Backoff, CallError, X509Context, X509Svid};
use taskmint_model::SystemEntropy;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Record, note};
use files::{Access, Files};
use tell::{Tell, Teller};

/// Pauses before the agent is called again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The reason of a denial that ends when an operator lifts it. Were it an end of this process, its
/// task would end with it, and could not be resumed.
const SUSPENDED: &str = "TASK_SUSPENDED";

/// Keep certificate, key, bundle and CRLs in files, and tell a program when they have changed.
///
/// The files are `svid.pem`, `key.pem`, `bundle.pem` and, where the entry has `crl`, `crl.pem`. They
/// are links below one that is switched in a single rename, and the program is told after that. Who
/// reads at any other time resolves one link and reads beside it what belongs to it.
///
/// It ends with exit code 2 when its task does, and leaves the files, unless it shall remove them. A
/// task that is suspended is waited for. What could not be told is told again, at pauses up to a minute.
#[derive(Args, Clone, Debug)]
pub struct Helper {
    /// Where the files go; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// Which identity, if there are several; the first otherwise.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Mode of the key, in octal; the others can be read by all.
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = files::mode)]
    key_mode: u32,
    /// Owner of the files: `user`, `user:group` or `:group`, by name or number.
    #[arg(long, value_name = "OWNER", value_parser = files::owner)]
    owner: Option<files::Owner>,
    /// File with the id of the process to signal after a change.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Which signal.
    #[arg(long, value_name = "SIGNAL", default_value = "HUP", requires = "pid_file", value_parser = tell::signal)]
    signal: nix::sys::signal::Signal,
    /// Write once, and end.
    #[arg(long)]
    once: bool,
    /// Remove the files when the task has ended.
    #[arg(long)]
    remove: bool,
    /// Command to run after a change, for example `-- nginx -s reload`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Helper {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let access = Access {
            key_mode: self.key_mode,
            owner: self.owner.clone(),
        };
        let files = Files::open(&self.dir, access)
            .with_context(|| format!("cannot use `{}`", self.dir.display()))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
        let keep = self.keep(context, &files);
        let kept = tokio::select! {
            kept = keep => kept,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        if self.remove && kept.is_err() {
            let removed = files.remove();
            removed.with_context(|| format!("cannot empty `{}`", self.dir.display()))?;
        }
        kept
    }

    /// Until the task has ended, or once.
    async fn keep(&self, context: &mut Context, files: &Files) -> Result<(), Failure> {
        let mut teller = Teller::new(Tell {
            command: self.command.clone(),
            process: self.pid_file.clone().map(|file| (file, self.signal)),
        });
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let over = self.follow(context, files, &mut teller, &mut backoff).await;
            let told = match over {
                Ok(()) if self.once => return Ok(()),
                Ok(()) => {
                    note("the agent ended the stream");
                    None
                }
                Err(failure) if self.once || is_final(&failure) => return Err(failure),
                // What is written stays good until it expires.
                Err(failure) => {
                    note(failure.text());
                    failure.retry_after()
                }
            };
            tokio::time::sleep(backoff.next_after(told, &SystemEntropy)).await;
        }
    }

    /// Writes whatever one stream brings.
    async fn follow(
        &self,
        context: &mut Context,
        files: &Files,
        teller: &mut Teller,
        backoff: &mut Backoff,
    ) -> Result<(), Failure> {
        let mut contexts = context.workload().await?.x509_contexts().await?;
        loop {
            let fetched = tokio::select! {
                fetched = contexts.next() => fetched,
                () = teller.overdue() => {
                    teller.tell().await;
                    continue;
                }
            };
            let Some(fetched) = fetched.transpose()? else {
                return Ok(());
            };
            let svid = self.chosen(&fetched)?;
            backoff.reset();
            let changed = files
                .write(svid, &fetched)
                .with_context(|| format!("cannot write to `{}`", self.dir.display()))?;
            // Who wrote files as they are may have died before it told anybody.
            if !changed && teller.has_told() {
                continue;
            }
            // Without a service manager that does nothing.
            if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
                note(format_args!(
                    "the service manager does not hear us: {error}"
                ));
            }
            let told = teller.tell().await;
            let record = written(svid, fetched.crls.len(), &told);
            context.out.next(
                &[
                    ("SPIFFE ID", "spiffe_id"),
                    ("CRLS", "crls"),
                    ("TOLD", "told"),
                ],
                &record,
            )?;
            if self.once {
                return Ok(());
            }
        }
    }

    fn chosen<'a>(&self, fetched: &'a X509Context) -> Result<&'a X509Svid, Failure> {
        let wanted = |svid: &&X509Svid| {
            let id = self.spiffe_id.as_deref();
            id.is_none_or(|id| svid.spiffe_id.as_str() == id)
        };
        fetched.svids.iter().find(wanted).ok_or_else(|| {
            let id = self.spiffe_id.as_deref().unwrap_or_default();
            Failure::NotFound(format!("this process has no identity `{id}`"))
        })
    }
}

fn written(svid: &X509Svid, crls: usize, told: &str) -> Record {
    Record::new()
        .text("spiffe_id", svid.spiffe_id.as_str())
        .number("crls", crls as u64)
        .text("told", told)
}

/// Asking again would not change it.
fn is_final(failure: &Failure) -> bool {
    let denied = |error: &CallError| {
        let may_change = error.reason.as_deref() == Some(SUSPENDED);
        matches!(error.code, Code::PermissionDenied | Code::InvalidArgument) && !may_change
    };
    match failure {
        Failure::Call(error) => denied(error),
        Failure::NotFound(_) | Failure::Usage(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_final_and_a_suspension_is_waited_for() {
        let denied = |reason: &str| {
            Failure::Call(Box::new(CallError {
                code: Code::PermissionDenied,
                reason: Some(reason.to_owned()),
                message: String::new(),
                fix: None,
                denial: None,
                facts: None,
                retry_after: None,
            }))
        };
        assert!(is_final(&denied("TASK_ENDED")));
        assert!(is_final(&denied("ENTRY_GONE")));
        assert!(!is_final(&denied(SUSPENDED)));
        assert!(!is_final(&Failure::Other(anyhow::anyhow!("disk full"))));
    }
}
