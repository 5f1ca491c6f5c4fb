//! Gives a store of the layout before this one the index of what is live.

use std::collections::BTreeMap;

use rocksdb::WriteBatch;
use taskmint_status::{Slot, place::MAX_INDEX};
use taskmint_store::{Key, Row, StoreError, View, index_rows, ledger};

use crate::Options;
use crate::base::Base;
use crate::keys::Table;

/// Rows per batch, so that it needs no memory for all of them.
const BATCH: usize = 10_000;

/// Tasks after which it says how far it is.
const PROGRESS: u64 = 1_000_000;

/// Reads every task once. Cut off, it begins anew: the new layout is noted last, with a sync that
/// covers all before.
pub(crate) fn build(base: &Base, options: &Options) -> Result<(), StoreError> {
    tracing::info!("building the index of live tasks: once for a store of the old layout");
    let mut batch = WriteBatch::default();
    for table in [Table::Due, Table::Held, Table::Live] {
        base.clear(&mut batch, table)?;
    }
    let mut unsynced = options.for_writes();
    unsynced.set_sync(false);
    let (mut seen, mut counts) = (0_u64, BTreeMap::<u32, u64>::new());
    base.scan(tasks(ledger(base)?.floor)?, &mut |_, row| {
        let Row::Task(task) = row else {
            return Ok(true);
        };
        let rows = index_rows(&task);
        if !rows.is_empty() {
            *counts.entry(task.place.bucket()).or_default() += 1;
        }
        for (key, row) in rows {
            base.put(&mut batch, &key, Some(&row))?;
        }
        if batch.len() >= BATCH {
            base.write(std::mem::take(&mut batch), &unsynced)?;
        }
        seen += 1;
        if seen.is_multiple_of(PROGRESS) {
            tracing::info!(tasks = seen, "building the index of live tasks");
        }
        Ok(true)
    })?;
    for (bucket, count) in counts {
        base.put(&mut batch, &Key::Live(bucket), Some(&Row::Live(count)))?;
    }
    base.put_schema(&mut batch)?;
    base.write(batch, &options.for_writes())?;
    tracing::info!(tasks = seen, "the index of live tasks is built");
    Ok(())
}

fn tasks(floor: u32) -> Result<std::ops::RangeInclusive<Key>, StoreError> {
    let slot = |bucket, index| {
        Slot::new(bucket, index).map_err(|error| StoreError::Failed(error.to_string().into()))
    };
    Ok(Key::Task(slot(floor, 0)?)..=Key::Task(slot(u32::MAX, MAX_INDEX)?))
}
