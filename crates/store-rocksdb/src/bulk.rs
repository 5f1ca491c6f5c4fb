//! Fills a new store fast: for measurements and tests that need millions of tasks.
//!
//! It is a store like the other, and means the same by every commit, since [`Group`] says what that
//! is. But nothing is synced: rows gather in memory, go to sorted table files, and RocksDB takes
//! those in whole. What a crash leaves is thrown away.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use parking_lot::Mutex;
use rocksdb::{SstFileWriter, WriteBatch};
use taskmint_status::{Generation, LogId, Place};
use taskmint_store::{
    Commit, CommitError, Commits, Committed, Effects, Group, Key, Ledger, LogIdentity, LogPosition,
    Row, Rows, StoreError, View,
};
use tokio::sync::watch;

use crate::Options;
use crate::base::{Base, failed};
use crate::keys::{self, Table};
use crate::places::{BLOCK, Places};
use crate::values;

/// Rows that gather before they go to files.
const GATHERED: usize = 1_000_000;

/// A row on its way into a file: its key there, and its value unless it is deleted.
type Octets = (Vec<u8>, Option<Vec<u8>>);

/// A store that is being filled.
pub struct Bulk {
    base: Base,
    folder: PathBuf,
    identity: LogIdentity,
    options: Options,
    places: Places,
    state: Mutex<State>,
    position: watch::Sender<LogPosition>,
}

struct State {
    ledger: Ledger,
    rows: BTreeMap<Key, Option<Row>>,
    files: u64,
}

impl Bulk {
    /// A new store in `folder`, with the first log of a trust domain.
    ///
    /// # Errors
    /// When the folder can't be used, or holds a store.
    pub fn create(folder: &Path, log: LogId, options: Options) -> Result<Self, StoreError> {
        let base = Base::open(folder, &options)?;
        if base.schema()?.is_some() {
            return Err(StoreError::Failed("there is a store already".into()));
        }
        let identity = LogIdentity {
            log,
            generation: 1,
            epoch: 1,
            replaces: None,
        };
        let ledger = Ledger::new(log, Generation::FIRST);
        let mut batch = WriteBatch::default();
        base.put_identity(&mut batch, &identity)?;
        base.put(&mut batch, &Key::Ledger, Some(&Row::Ledger(ledger)))?;
        base.write(batch, &options.for_writes())?;
        let state = State {
            ledger,
            rows: BTreeMap::new(),
            files: 0,
        };
        Ok(Self {
            base,
            folder: folder.to_owned(),
            identity,
            options,
            places: Places::default(),
            state: Mutex::new(state),
            position: watch::Sender::new(ledger.position()),
        })
    }

    /// Brings everything to where a store that has been quiet for long has it. Blocks.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.gather(&mut self.state.lock())?;
        self.base.flush()?;
        self.base.compact()
    }

    /// Runs a group of its own, and keeps its effects where it succeeds.
    fn write<R, E: From<StoreError>>(
        &self,
        run: impl FnOnce(&mut Group<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut state = self.state.lock();
        let (result, effects) = {
            let over = Over {
                rows: &state.rows,
                base: &self.base,
            };
            let retention = self.options.retention;
            let mut group = Group::new(&over, self.identity, state.ledger, retention);
            let result = run(&mut group)?;
            (result, group.finish())
        };
        if let Some(effects) = effects {
            self.keep(&mut state, effects)?;
        }
        Ok(result)
    }

    fn keep(&self, state: &mut State, effects: Effects) -> Result<(), StoreError> {
        let (before, after) = (effects.before, effects.ledger);
        if before.floor != after.floor || before.trimmed != after.trimmed {
            return Err(StoreError::Failed(
                "what is being filled is not swept".into(),
            ));
        }
        state.rows.extend(effects.rows);
        state.ledger = after;
        let position = after.position();
        self.position
            .send_if_modified(|old| std::mem::replace(old, position) != position);
        if state.rows.len() >= GATHERED {
            self.gather(state)?;
        }
        Ok(())
    }

    /// Moves what has gathered into the database.
    fn gather(&self, state: &mut State) -> Result<(), StoreError> {
        let mut tables = BTreeMap::<&str, (Table, Vec<Octets>)>::new();
        for (key, row) in std::mem::take(&mut state.rows) {
            let (table, octets) = keys::encode(&key);
            let value = row.as_ref().map(values::encode);
            let (_, rows) = tables
                .entry(table.name())
                .or_insert_with(|| (table, Vec::new()));
            // Keys sort as their octets do.
            rows.push((octets, value));
        }
        for (name, (table, rows)) in tables {
            state.files += 1;
            let path = self.folder.join(format!("{name}-{}.bulk", state.files));
            self.to_file(&path, rows).map_err(failed)?;
            self.base.ingest(table, &path)?;
        }
        Ok(())
    }

    fn to_file(&self, path: &Path, rows: Vec<Octets>) -> Result<(), rocksdb::Error> {
        let options = self.options.for_files();
        let mut file = SstFileWriter::create(&options);
        file.open(path)?;
        for (key, value) in rows {
            match value {
                Some(value) => file.put(key, value)?,
                None => file.delete(key)?,
            }
        }
        file.finish()
    }
}

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bulk({:?})", self.identity)
    }
}

/// What has gathered, over what lies in the database.
struct Over<'a> {
    rows: &'a BTreeMap<Key, Option<Row>>,
    base: &'a Base,
}

impl View for Over<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.base.get(key),
        }
    }

    /// For ranges of few rows.
    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut found = BTreeMap::new();
        self.base.scan(range.clone(), &mut |key, row| {
            found.insert(key, Some(row));
            Ok(true)
        })?;
        let newer = self.rows.range(range);
        found.extend(newer.map(|(key, row)| (key.clone(), row.clone())));
        for (key, row) in found {
            if let Some(row) = row
                && !each(key, row)?
            {
                break;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Commits for Bulk {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.write(|group| group.apply(commit))
    }

    async fn place(&self, bucket: u32) -> Result<Place, StoreError> {
        loop {
            let taken = self.places.take(bucket);
            let is_low = taken.is_none_or(|(_, is_low)| is_low);
            if is_low && self.places.ask(bucket) {
                let block = self.write(|group| group.reserve(bucket, BLOCK));
                self.places.answer(bucket, block.clone());
                if taken.is_none() {
                    block?;
                }
            }
            if let Some((index, _)) = taken {
                return Place::new(self.identity.log, bucket, index)
                    .map_err(|_| StoreError::BucketFull(bucket));
            }
        }
    }

    async fn backup(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::Failed("it is not whole yet".into()))
    }
}

#[async_trait]
impl Rows for Bulk {
    fn peek<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        let state = self.state.lock();
        read(&Over {
            rows: &state.rows,
            base: &self.base,
        })
    }

    async fn read<R, F>(&self, read: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&dyn View) -> Result<R, StoreError> + Send + 'static,
    {
        self.gather(&mut self.state.lock())?;
        self.base.frozen(read)
    }

    fn log_identity(&self) -> LogIdentity {
        self.identity
    }

    fn log_position(&self) -> watch::Receiver<LogPosition> {
        self.position.subscribe()
    }
}

/// Hands over every row of the store in `folder`, table by table as it lies on disk: its table's
/// name, its key and its value. Changes nothing. Blocks.
///
/// # Errors
/// When the store can't be opened or read.
pub fn each_row(
    folder: &Path,
    options: &Options,
    mut each: impl FnMut(&'static str, &[u8], &[u8]),
) -> Result<(), StoreError> {
    let base = Base::open(folder, options)?;
    for table in Table::ALL {
        base.raw_rows(table, &mut |key, value| each(table.name(), key, value))?;
    }
    Ok(())
}
