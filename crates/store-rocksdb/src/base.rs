//! The database itself: opening it, reading rows, turning effects into one batch.

use std::io::Write as _;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, DB, ErrorKind, FlushOptions, ReadOptions, Snapshot, WriteBatch};
use taskmint_store::{Effects, Key, LogIdentity, Row, StoreError, View};

use crate::keys::{self, Table};
use crate::{Options, values};

/// The layout that this build reads and writes.
pub const SCHEMA: u32 = 2;

/// The layout before it, which lacks the index of what is live. It is built on opening.
const UNINDEXED: u32 = 1;

const SCHEMA_KEY: &[u8] = b"schema";
const IDENTITY_KEY: &[u8] = b"identity";

/// The file by which is tried whether the folder can be written to, and its length in bytes: what
/// it takes to open a database is not much more.
const PROBE: &str = "taskmint.probe";
const PROBE_LEN: usize = 1 << 20;

/// How long reopening waits for reads that are at work.
const READS: Duration = Duration::from_secs(1);

/// The open database.
pub(crate) struct Base {
    /// None after a reopening that failed, until one succeeds. Reading takes the lock recursively: a
    /// reader that reads within a scan must not wait for a writer that waits for the scan.
    db: RwLock<Option<DB>>,
    folder: PathBuf,
    options: Options,
    /// What compaction drops rows below; kept at the floor by the writer.
    floor: Arc<AtomicU32>,
}

impl Base {
    /// Opens the database in `folder`, which is made if need be, for its owner alone.
    pub(crate) fn open(folder: &Path, options: &Options) -> Result<Self, StoreError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| {
                StoreError::Failed(format!("can't make `{}`: {error}", folder.display()).into())
            })?;
        refuse_foreign_tables(folder)?;
        let floor = Arc::new(AtomicU32::new(0));
        let base = Self {
            db: RwLock::new(Some(open(folder, options, &floor)?)),
            folder: folder.to_owned(),
            options: options.clone(),
            floor,
        };
        match base.schema()? {
            None | Some(SCHEMA) => Ok(base),
            Some(UNINDEXED) => {
                crate::index::build(&base, options)?;
                Ok(base)
            }
            Some(found) => Err(StoreError::Schema {
                found,
                known: SCHEMA,
            }),
        }
    }

    /// Closes the database and opens it again: the only way out of a fault after which RocksDB
    /// takes no more writes. Waits for reads at work, and reads wait for it.
    ///
    /// The folder is tried first. While nothing can be written there, closing would only take away
    /// the reads that still go on.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.probe().map_err(|error| {
            let folder = self.folder.display();
            StoreError::Failed(format!("can't write in `{folder}`: {error}").into())
        })?;
        let Some(mut db) = self.db.try_write_for(READS) else {
            return Err(StoreError::Failed("reads are at work".into()));
        };
        // Its lock on the folder goes with it.
        *db = None;
        *db = Some(open(&self.folder, &self.options, &self.floor)?);
        Ok(())
    }

    fn probe(&self) -> std::io::Result<()> {
        let path = self.folder.join(PROBE);
        let written = std::fs::File::create(&path).and_then(|mut file| {
            file.write_all(&[0; PROBE_LEN])?;
            file.sync_all()
        });
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }

    fn db(&self) -> Result<MappedRwLockReadGuard<'_, DB>, StoreError> {
        RwLockReadGuard::try_map(self.db.read_recursive(), Option::as_ref).map_err(|_| {
            StoreError::Failed("the database could not be opened again after a fault".into())
        })
    }

    /// The layout on disk; none if nothing was ever written.
    pub(crate) fn schema(&self) -> Result<Option<u32>, StoreError> {
        let db = self.db()?;
        let found = db.get_cf(table(&db, Table::Meta)?, SCHEMA_KEY);
        let found = found.map_err(failed)?;
        match found {
            Some(octets) => schema(&octets).map(Some),
            None if self.is_empty()? => Ok(None),
            None => Err(StoreError::Damaged(
                "there are rows but no schema version".into(),
            )),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let db = self.db()?;
        for name in Table::ALL {
            let mut rows = db.raw_iterator_cf(table(&db, name)?);
            rows.seek_to_first();
            if rows.valid() {
                return Ok(false);
            }
            rows.status().map_err(failed)?;
        }
        Ok(true)
    }

    /// Which log this is.
    pub(crate) fn identity(&self) -> Result<LogIdentity, StoreError> {
        let db = self.db()?;
        let found = db.get_cf(table(&db, Table::Meta)?, IDENTITY_KEY);
        let found = found.map_err(failed)?;
        let octets = found.ok_or_else(|| StoreError::Damaged("there is no identity".into()))?;
        values::decode_identity(&octets)
    }

    /// The largest number that a table numbered from 1 has.
    pub(crate) fn last(&self, name: Table) -> Result<Option<u64>, StoreError> {
        let db = self.db()?;
        let mut rows = db.raw_iterator_cf(table(&db, name)?);
        rows.seek_to_last();
        let last = rows.key().map(|key| keys::decode(name, key)).transpose()?;
        rows.status().map_err(failed)?;
        Ok(match last {
            Some(Key::Log(number) | Key::Audit(number)) => Some(number),
            _ => None,
        })
    }

    /// Adds what says which layout and which log this is.
    pub(crate) fn put_identity(
        &self,
        batch: &mut WriteBatch,
        identity: &LogIdentity,
    ) -> Result<(), StoreError> {
        self.put_schema(batch)?;
        let db = self.db()?;
        let meta = table(&db, Table::Meta)?;
        batch.put_cf(meta, IDENTITY_KEY, values::encode_identity(identity));
        Ok(())
    }

    /// Adds what says which layout this is.
    pub(crate) fn put_schema(&self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let mut schema = vec![1];
        schema.extend_from_slice(&SCHEMA.to_be_bytes());
        let db = self.db()?;
        batch.put_cf(table(&db, Table::Meta)?, SCHEMA_KEY, schema);
        Ok(())
    }

    /// Adds one row, or its deletion.
    pub(crate) fn put(
        &self,
        batch: &mut WriteBatch,
        key: &Key,
        row: Option<&Row>,
    ) -> Result<(), StoreError> {
        let (name, octets) = keys::encode(key);
        let db = self.db()?;
        let table = table(&db, name)?;
        match row {
            Some(row) => batch.put_cf(table, octets, values::encode(row)),
            None => batch.delete_cf(table, octets),
        }
        Ok(())
    }

    /// Adds all that a group changes. What its new floor sweeps comes last, so that the group's own
    /// rows below it go too.
    pub(crate) fn put_effects(
        &self,
        batch: &mut WriteBatch,
        effects: &Effects,
    ) -> Result<(), StoreError> {
        for (key, row) in &effects.rows {
            self.put(batch, key, row.as_ref())?;
        }
        let (before, after) = (&effects.before, &effects.ledger);
        if after.floor > before.floor {
            self.sweep(batch, after.floor)?;
        }
        if after.trimmed > before.trimmed {
            let db = self.db()?;
            let log = table(&db, Table::Log)?;
            let (from, to) = (
                before.trimmed.to_be_bytes(),
                (after.trimmed + 1).to_be_bytes(),
            );
            batch.delete_range_cf(log, from, to);
        }
        Ok(())
    }

    /// Adds the range deletes of every bucket below `floor`.
    pub(crate) fn sweep(&self, batch: &mut WriteBatch, floor: u32) -> Result<(), StoreError> {
        let db = self.db()?;
        for name in Table::ALL.into_iter().filter(|table| table.is_swept()) {
            batch.delete_range_cf(table(&db, name)?, [0; 4], floor.to_be_bytes());
        }
        Ok(())
    }

    /// Adds the deletion of every row of a table whose keys have at most 24 octets, or are texts.
    pub(crate) fn clear(&self, batch: &mut WriteBatch, name: Table) -> Result<(), StoreError> {
        let db = self.db()?;
        batch.delete_range_cf(table(&db, name)?, vec![0; 1], vec![u8::MAX; 25]);
        Ok(())
    }

    /// Writes a batch.
    pub(crate) fn write(
        &self,
        batch: WriteBatch,
        options: &rocksdb::WriteOptions,
    ) -> Result<(), StoreError> {
        self.db()?.write_opt(batch, options).map_err(failed)
    }

    /// RocksDB's own number of the newest write.
    pub(crate) fn sequence(&self) -> Result<u64, StoreError> {
        Ok(self.db()?.latest_sequence_number())
    }

    /// Lets compaction drop what lies below the floor.
    pub(crate) fn set_floor(&self, floor: u32) {
        self.floor.store(floor, Ordering::Release);
    }

    /// Moves everything from the write-ahead log into table files.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for name in Table::ALL {
            tables.push(table(&db, name)?);
        }
        db.flush_cfs_opt(&tables, &FlushOptions::default())
            .map_err(failed)
    }

    /// Takes in a file of sorted rows, and the file with it.
    #[cfg(feature = "bulk")]
    pub(crate) fn ingest(&self, name: Table, file: &Path) -> Result<(), StoreError> {
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        let db = self.db()?;
        db.ingest_external_file_cf_opts(&table(&db, name)?, &options, vec![file])
            .map_err(failed)
    }

    /// Leaves nothing for compaction to do.
    #[cfg(feature = "bulk")]
    pub(crate) fn compact(&self) -> Result<(), StoreError> {
        let db = self.db()?;
        for name in Table::ALL {
            db.compact_range_cf(&table(&db, name)?, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Hands over every row of a table as it lies on disk.
    #[cfg(feature = "bulk")]
    pub(crate) fn raw_rows(
        &self,
        name: Table,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut rows = db.raw_iterator_cf(table(&db, name)?);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            each(key, value);
            rows.next();
        }
        rows.status().map_err(failed)
    }

    /// Writes a consistent copy into `folder`, which must not exist.
    pub(crate) fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&*self.db()?)
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(failed)
    }

    /// Runs `read` over the rows as they are now.
    pub(crate) fn frozen<R>(
        &self,
        read: impl FnOnce(&dyn View) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let db = self.db()?;
        read(&Frozen {
            db: &db,
            snapshot: db.snapshot(),
        })
    }
}

fn open(folder: &Path, options: &Options, floor: &Arc<AtomicU32>) -> Result<DB, StoreError> {
    let tables = options.for_tables(floor);
    DB::open_cf_descriptors(&options.for_database(), folder, tables).map_err(failed)
}

fn table(db: &DB, table: Table) -> Result<&ColumnFamily, StoreError> {
    db.cf_handle(table.name()).ok_or_else(|| {
        StoreError::Damaged(format!("there is no column family {}", table.name()).into())
    })
}

/// The rows at one instant.
struct Frozen<'a> {
    db: &'a DB,
    snapshot: Snapshot<'a>,
}

impl View for Base {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let (name, octets) = keys::encode(key);
        let db = self.db()?;
        let found = db.get_pinned_cf(table(&db, name)?, octets);
        let found = found.map_err(failed)?;
        found.map(|found| values::decode(key, &found)).transpose()
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.frozen(|view| view.scan(range, each))
    }
}

impl View for Frozen<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let (name, octets) = keys::encode(key);
        let table = table(self.db, name)?;
        let found = self.snapshot.get_pinned_cf(table, octets).map_err(failed)?;
        found.map(|found| values::decode(key, &found)).transpose()
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let (name, from) = keys::encode(range.start());
        let (_, mut to) = keys::encode(range.end());
        to.push(0); // the bound is exclusive: the first octets after the last key
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut rows = self
            .snapshot
            .raw_iterator_cf_opt(table(self.db, name)?, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            let key = keys::decode(name, key)?;
            let row = values::decode(&key, value)?;
            if !each(key, row)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(failed)
    }
}

/// Refuses tables that this build doesn't know before opening them could change them.
fn refuse_foreign_tables(folder: &Path) -> Result<(), StoreError> {
    if !folder.join("CURRENT").exists() {
        return Ok(());
    }
    let options = rocksdb::Options::default();
    let names = DB::list_cf(&options, folder).map_err(failed)?;
    let known = |name: &String| {
        name == "default" || Table::ALL.iter().any(|table| table.name() == name.as_str())
    };
    let Some(foreign) = names.iter().find(|name| !known(name)) else {
        return Ok(());
    };
    let meta = Table::Meta.name();
    let db =
        DB::open_cf_for_read_only(&options, folder, ["default", meta], false).map_err(|_| {
            StoreError::Damaged(format!("`{foreign}` is no table of this store").into())
        })?;
    let found = db
        .cf_handle(meta)
        .map(|meta| db.get_cf(meta, SCHEMA_KEY))
        .transpose();
    match found
        .map_err(failed)?
        .flatten()
        .as_deref()
        .map(schema)
        .transpose()?
    {
        Some(found) if ![SCHEMA, UNINDEXED].contains(&found) => Err(StoreError::Schema {
            found,
            known: SCHEMA,
        }),
        _ => Err(StoreError::Damaged(
            format!("`{foreign}` is no table of this store").into(),
        )),
    }
}

fn schema(octets: &[u8]) -> Result<u32, StoreError> {
    match octets {
        [1, version @ ..] if version.len() == 4 => Ok(version
            .iter()
            .fold(0, |number, octet| number << 8 | u32::from(*octet))),
        _ => Err(StoreError::Damaged(
            "the schema version can't be read".into(),
        )),
    }
}

/// Says in domain terms what RocksDB refused.
pub(crate) fn failed(error: rocksdb::Error) -> StoreError {
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged(error.into_string().into()),
        _ => StoreError::Failed(error.into_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_status::Slot;
    use taskmint_store::conformance::sample::{self, BUCKET};

    #[test]
    fn compaction_drops_ids_below_the_floor_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let base = Base::open(folder.path(), &Options::default()).unwrap();
        let mut batch = WriteBatch::default();
        let mut keys = Vec::new();
        for number in 0..4 {
            let bucket = BUCKET + number;
            let id = Key::TaskId(sample::task_id(number.into()));
            let slot = Slot::new(bucket, 1).unwrap();
            base.put(&mut batch, &id, Some(&Row::TaskId(slot))).unwrap();
            let request = Key::Request(sample::hash(number.into()));
            let row = Row::Request(sample::request(1, bucket).into());
            base.put(&mut batch, &request, Some(&row)).unwrap();
            keys.push([id, request]);
        }
        base.write(batch, &Options::default().for_writes()).unwrap();
        base.set_floor(BUCKET + 2);
        for table in [Table::TaskId, Table::Request] {
            let db = base.db().unwrap();
            db.compact_range_cf(
                super::table(&db, table).unwrap(),
                None::<&[u8]>,
                None::<&[u8]>,
            );
        }
        for (number, pair) in keys.iter().enumerate() {
            for key in pair {
                assert_eq!(base.get(key).unwrap().is_some(), number >= 2, "{key:?}");
            }
        }
    }
}
