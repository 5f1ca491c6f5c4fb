//! The database itself: opening it, reading rows, turning effects into one batch.

use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, DB, ErrorKind, FlushOptions, ReadOptions, Snapshot, WriteBatch};
use taskmint_store::{Effects, Key, LogIdentity, Row, StoreError, View};

use crate::keys::{self, Table};
use crate::{Options, values};

/// The layout that this build reads and writes.
pub const SCHEMA: u32 = 1;

const SCHEMA_KEY: &[u8] = b"schema";
const IDENTITY_KEY: &[u8] = b"identity";

/// The open database.
pub(crate) struct Base {
    db: DB,
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
        let tables = options.for_tables(&floor);
        let db =
            DB::open_cf_descriptors(&options.for_database(), folder, tables).map_err(failed)?;
        let base = Self { db, floor };
        match base.schema()? {
            None | Some(SCHEMA) => Ok(base),
            Some(found) => Err(StoreError::Schema {
                found,
                known: SCHEMA,
            }),
        }
    }

    /// The layout on disk; none if nothing was ever written.
    pub(crate) fn schema(&self) -> Result<Option<u32>, StoreError> {
        let meta = self.table(Table::Meta)?;
        let found = self.db.get_cf(meta, SCHEMA_KEY).map_err(failed)?;
        match found {
            Some(octets) => schema(&octets).map(Some),
            None if self.is_empty()? => Ok(None),
            None => Err(StoreError::Damaged(
                "there are rows but no schema version".into(),
            )),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        for table in Table::ALL {
            let mut rows = self.db.raw_iterator_cf(self.table(table)?);
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
        let found = self
            .db
            .get_cf(self.table(Table::Meta)?, IDENTITY_KEY)
            .map_err(failed)?;
        let octets = found.ok_or_else(|| StoreError::Damaged("there is no identity".into()))?;
        values::decode_identity(&octets)
    }

    /// The largest number that a table numbered from 1 has.
    pub(crate) fn last(&self, table: Table) -> Result<Option<u64>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(table)?);
        rows.seek_to_last();
        let last = rows.key().map(|key| keys::decode(table, key)).transpose()?;
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
        let meta = self.table(Table::Meta)?;
        let mut schema = vec![1];
        schema.extend_from_slice(&SCHEMA.to_be_bytes());
        batch.put_cf(meta, SCHEMA_KEY, schema);
        batch.put_cf(meta, IDENTITY_KEY, values::encode_identity(identity));
        Ok(())
    }

    /// Adds one row, or its deletion.
    pub(crate) fn put(
        &self,
        batch: &mut WriteBatch,
        key: &Key,
        row: Option<&Row>,
    ) -> Result<(), StoreError> {
        let (table, octets) = keys::encode(key);
        let table = self.table(table)?;
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
            let log = self.table(Table::Log)?;
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
        for table in Table::ALL.into_iter().filter(|table| table.is_swept()) {
            batch.delete_range_cf(self.table(table)?, [0; 4], floor.to_be_bytes());
        }
        Ok(())
    }

    /// Adds the deletion of every row of a table whose keys are numbers or begin with one.
    pub(crate) fn clear(&self, batch: &mut WriteBatch, table: Table) -> Result<(), StoreError> {
        batch.delete_range_cf(self.table(table)?, vec![0; 8], vec![u8::MAX; 24]);
        Ok(())
    }

    /// Writes a batch.
    pub(crate) fn write(
        &self,
        batch: WriteBatch,
        options: &rocksdb::WriteOptions,
    ) -> Result<(), StoreError> {
        self.db.write_opt(batch, options).map_err(failed)
    }

    /// Lets compaction drop what lies below the floor.
    pub(crate) fn set_floor(&self, floor: u32) {
        self.floor.store(floor, Ordering::Release);
    }

    /// Moves everything from the write-ahead log into table files.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            tables.push(self.table(table)?);
        }
        self.db
            .flush_cfs_opt(&tables, &FlushOptions::default())
            .map_err(failed)
    }

    /// Writes a consistent copy into `folder`, which must not exist.
    pub(crate) fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(failed)
    }

    /// Runs `read` over the rows as they are now.
    pub(crate) fn frozen<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        read(&Frozen {
            base: self,
            snapshot: self.db.snapshot(),
        })
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(table.name()).ok_or_else(|| {
            StoreError::Damaged(format!("there is no column family {}", table.name()).into())
        })
    }
}

/// The rows at one instant.
struct Frozen<'a> {
    base: &'a Base,
    snapshot: Snapshot<'a>,
}

impl View for Base {
    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let (table, octets) = keys::encode(key);
        let found = self
            .db
            .get_pinned_cf(self.table(table)?, octets)
            .map_err(failed)?;
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
        let (table, octets) = keys::encode(key);
        let table = self.base.table(table)?;
        let found = self.snapshot.get_pinned_cf(table, octets).map_err(failed)?;
        found.map(|found| values::decode(key, &found)).transpose()
    }

    fn scan(
        &self,
        range: RangeInclusive<Key>,
        each: &mut dyn FnMut(Key, Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let (table, from) = keys::encode(range.start());
        let (_, mut to) = keys::encode(range.end());
        to.push(0); // the bound is exclusive: the first octets after the last key
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut rows = self
            .snapshot
            .raw_iterator_cf_opt(self.base.table(table)?, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            let key = keys::decode(table, key)?;
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
        Some(found) if found != SCHEMA => Err(StoreError::Schema {
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
            let table = base.table(table).unwrap();
            base.db
                .compact_range_cf(table, None::<&[u8]>, None::<&[u8]>);
        }
        for (number, pair) in keys.iter().enumerate() {
            for key in pair {
                assert_eq!(base.get(key).unwrap().is_some(), number >= 2, "{key:?}");
            }
        }
    }
}
