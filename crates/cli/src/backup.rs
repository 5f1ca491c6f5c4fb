//! Backup and restore of the server's store (P14).

use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use taskmint_status::{Generation, LogId};
use taskmint_store_rocksdb::{Restored, restore};
use taskmint_wire::admin;

use crate::context::{Context, random};
use crate::exit::Failure;
use crate::output::{Record, note};

/// `taskmint backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// The folder, on the server's host, written by the server's user.
    folder: PathBuf,
}

/// `taskmint restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup; it stays as it is.
    from: PathBuf,
    /// The store to make, usually `store` in the server's data folder. It must not exist, and the
    /// server must not run.
    into: PathBuf,
    /// The generation of the log that is lost, by `taskmint status` or a verifier's refusal. Only
    /// needed where a restore made it, of this backup or of an older one: verifiers follow the
    /// higher of two generations, and neither of two equal ones.
    #[arg(long, value_name = "GENERATION")]
    above: Option<NonZeroU8>,
}

impl Backup {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let folder = absolute(&self.folder)?;
        let folder = folder
            .to_str()
            .ok_or_else(|| Failure::usage("the folder's name is no UTF-8"))?;
        let request = admin::BackupRequest {
            folder: folder.to_owned(),
        };
        let made = context.admin().await?.backup(request).await?.into_inner();
        context.out.one(
            &Record::new()
                .text("folder", folder)
                .number("sequence", made.sequence),
        )
    }
}

impl Restore {
    pub(crate) fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let log = LogId(random());
        let above = self.above.and_then(|above| Generation::new(above.get()));
        let restored = restore(&self.from, &self.into, (log, above), context.now())
            .with_context(|| format!("cannot restore `{}`", self.from.display()))?;
        note("every task of the backup is ended; verifiers move to the new log by themselves");
        context.out.one(&record(&restored))
    }
}

fn record(restored: &Restored) -> Record {
    Record::new()
        .octets("log_id", restored.identity.log.0)
        .number("generation", restored.identity.generation)
        .number("tasks_ended", restored.ended)
        .number("tokens_dropped", restored.tokens)
}

/// Against this process's folder, not the server's.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path).context("cannot tell the current folder")?)
}
