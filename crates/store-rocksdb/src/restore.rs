//! Restoring a backup: never the same log again (P14).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::WriteBatch;
use taskmint_model::{Actor, Audit, Cause, Decision, EndTrace, State, Task, Timestamp};
use taskmint_status::{Generation, LogId, Slot};
use taskmint_store::{
    Change, Commit, CommitError, Group, Key, Ledger, LogIdentity, Row, StoreError, View, ledger,
};

use crate::base::Base;
use crate::keys::Table;
use crate::{Options, SCHEMA};

/// Rows per batch: a restore must not need memory for all of them.
const BATCH: usize = 10_000;

/// How far the bundle's sequence number jumps: the store that was lost may have counted on, and
/// whoever saw that would take the restored bundle for an older one.
const BUNDLE_JUMP: u64 = 1 << 32;

/// What a restore made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The new log.
    pub identity: LogIdentity,
    /// Tasks that were live in the backup and are ended now.
    pub ended: u64,
    /// Join tokens that nobody had consumed and that are gone now.
    pub tokens: u64,
}

/// Makes a store in `into`, which must not exist, from the backup in `backup`, which stays as it
/// is. Blocks.
///
/// What happened after the backup is unknown, so nothing that it could contradict survives: the
/// store gets the new log `log` of the next generation, every task is ended (nodes stay attested),
/// and join tokens that look unused are dropped, since they may have been used. `into` appears at
/// the end, whole.
///
/// `above` is the highest generation that verifiers may have seen, where that is higher than the
/// backup's: an earlier restore of this backup, or of an older one, had the next one already.
///
/// # Errors
/// When a folder can't be used, the backup's schema is unknown or it is damaged, `log` is the
/// backup's own log, or there is no further generation.
pub fn restore(
    backup: &Path,
    into: &Path,
    (log, above): (LogId, Option<Generation>),
    now: Timestamp,
) -> Result<Restored, StoreError> {
    if into.exists() {
        return Err(StoreError::Failed(
            format!("`{}` exists already", into.display()).into(),
        ));
    }
    let partial = beside(into)?;
    let restored = copy(backup, &partial)
        .map_err(|error| {
            StoreError::Failed(format!("can't copy `{}`: {error}", backup.display()).into())
        })
        .and_then(|()| rewrite(&partial, (log, above), now));
    if restored.is_err() {
        // Best effort, and harmless if it stays: a later restore begins by removing it.
        fs::remove_dir_all(&partial).ok();
    }
    let restored = restored?;
    publish(&partial, into).map_err(|error| {
        StoreError::Failed(format!("can't move it to `{}`: {error}", into.display()).into())
    })?;
    Ok(restored)
}

fn rewrite(
    folder: &Path,
    (log, above): (LogId, Option<Generation>),
    now: Timestamp,
) -> Result<Restored, StoreError> {
    let base = Base::open(folder, &Options::default())?;
    if base.schema()? != Some(SCHEMA) {
        return Err(StoreError::Damaged("the backup is empty".into()));
    }
    let (old, counters) = (base.identity()?, ledger(&base)?);
    let identity = successor(&old, log, above)?;
    let generation = Generation::new(identity.generation).unwrap_or(Generation::FIRST);
    let ended = end_tasks(&base, now)?;
    let tokens = drop_tokens(&base)?;
    let new = Ledger {
        floor: counters.floor.max(now.hour()),
        audit: counters.audit,
        audit_hash: counters.audit_hash,
        denials: counters.denials,
        issuances: counters.issuances,
        // An earlier restore of the same backup has jumped as well.
        bundle: counters.bundle + BUNDLE_JUMP * u64::from(identity.generation - old.generation),
        ..Ledger::new(log, generation)
    };
    let mut batch = WriteBatch::default();
    // None of the old log's tasks is live, so the index of what is has no rows.
    for table in [
        Table::Log,
        Table::Status,
        Table::Due,
        Table::Held,
        Table::Live,
    ] {
        base.clear(&mut batch, table)?;
    }
    // No place of the new log lies in a bucket before now, so none is refused that should not be.
    base.sweep(&mut batch, new.floor)?;
    base.put_identity(&mut batch, &identity)?;
    let mut group = Group::new(&base, identity, new, Options::default().retention);
    let changes = vec![Change::Audit(record(&old, &identity, ended, now))];
    group
        .apply(Commit {
            expect: Vec::new(),
            changes,
        })
        .map_err(|error| match error {
            CommitError::Store(error) => error,
            other => StoreError::Failed(other.to_string().into()),
        })?;
    if let Some(effects) = group.finish() {
        base.put_effects(&mut batch, &effects)?;
    }
    write(&base, batch)?;
    base.flush()?;
    Ok(Restored {
        identity,
        ended,
        tokens,
    })
}

fn successor(
    old: &LogIdentity,
    log: LogId,
    above: Option<Generation>,
) -> Result<LogIdentity, StoreError> {
    if log == old.log {
        return Err(StoreError::Failed(
            "a restored store needs a log id of its own".into(),
        ));
    }
    let newest = above.map_or(0, Generation::get).max(old.generation);
    let generation = newest.checked_add(1);
    let generation =
        generation.ok_or_else(|| StoreError::Failed("there is no further generation".into()))?;
    Ok(LogIdentity {
        log,
        generation,
        epoch: old.epoch,
        replaces: Some(old.log),
    })
}

/// Ends every task that has not ended, as it is on disk: in its old log, which no longer counts.
fn end_tasks(base: &Base, now: Timestamp) -> Result<u64, StoreError> {
    let last = Slot::new(u32::MAX, taskmint_status::place::MAX_INDEX);
    let (Ok(first), Ok(last)) = (Slot::new(0, 0), last) else {
        return Ok(0);
    };
    let (mut batch, mut ended) = (WriteBatch::default(), 0);
    base.scan(Key::Task(first)..=Key::Task(last), &mut |key, row| {
        if let Row::Task(task) = row
            && !task.is_ended()
        {
            let task = Task {
                version: task.version + 1,
                children: 0,
                state: State::Ended {
                    at: now,
                    cause: Cause::RESTORED,
                    by: Actor::Issuer,
                    trace: EndTrace::default(),
                },
                ..Arc::unwrap_or_clone(task)
            };
            base.put(&mut batch, &key, Some(&Row::Task(task.into())))?;
            ended += 1;
        }
        if batch.len() >= BATCH {
            write(base, std::mem::take(&mut batch))?;
        }
        Ok(true)
    })?;
    write(base, batch)?;
    Ok(ended)
}

fn drop_tokens(base: &Base) -> Result<u64, StoreError> {
    let (mut batch, mut dropped) = (WriteBatch::default(), 0);
    base.scan(
        Key::Token([0; 32])..=Key::Token([u8::MAX; 32]),
        &mut |key, row| {
            if matches!(row, Row::Token(token) if token.consumed_by.is_none()) {
                base.put(&mut batch, &key, None)?;
                dropped += 1;
            }
            Ok(true)
        },
    )?;
    write(base, batch)?;
    Ok(dropped)
}

fn write(base: &Base, batch: WriteBatch) -> Result<(), StoreError> {
    base.write(batch, &Options::default().for_writes())
}

fn record(old: &LogIdentity, new: &LogIdentity, ended: u64, now: Timestamp) -> Audit {
    Audit {
        at: now,
        who: "issuer".to_owned(),
        owner: String::new(),
        task: None,
        action: "store.restore".into(),
        resource: format!("log {} replaces {}, {ended} tasks ended", new.log, old.log),
        decision: Decision::Allowed,
        reason: "".into(),
    }
}

/// Where the store is made before it is whole.
fn beside(into: &Path) -> Result<PathBuf, StoreError> {
    let name = into.file_name().ok_or_else(|| {
        StoreError::Failed(format!("`{}` names no folder", into.display()).into())
    })?;
    let mut partial = OsString::from(name);
    partial.push(".partial");
    Ok(into.with_file_name(partial))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        // Left by a restore that was cut off: never opened, never whole.
        fs::remove_dir_all(to)?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copied = to.join(entry.file_name());
            fs::copy(entry.path(), &copied)?;
            File::open(copied)?.sync_all()?;
        }
    }
    Ok(())
}

fn publish(partial: &Path, into: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    fs::rename(partial, into)?;
    let parent = into
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
