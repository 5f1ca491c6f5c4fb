//! How RocksDB is set up: small when empty, bounded when full, never losing what was synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    WriteOptions,
};
use taskmint_store::Retention;

use crate::keys::Table;
use crate::values;

/// Sizes of a store, and how much it keeps.
#[derive(Debug, Clone)]
pub struct Options {
    /// Octets of blocks read from disk that stay in memory.
    pub block_cache: usize,
    /// Octets of writes that stay in memory before they go to table files.
    pub write_buffer: usize,
    /// How much is kept of what no bucket sweeps.
    pub retention: Retention,
    sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        let retention = Retention::default();
        Self {
            block_cache: 32 << 20,
            write_buffer: 64 << 20,
            retention,
            sync: true,
        }
    }
}

impl Options {
    /// Leaves out the write-ahead log and with it the sync, so that the kill test can be seen to
    /// fail. Leaving out the sync alone would not show: a process that is killed leaves what it
    /// wrote in the kernel's page cache.
    #[cfg(feature = "unsynced")]
    #[must_use]
    pub fn unsynced(self) -> Self {
        Self {
            sync: false,
            ..self
        }
    }

    pub(crate) fn for_writes(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        options.disable_wal(!self.sync);
        options
    }

    pub(crate) fn for_database(&self) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record is a write that was never acknowledged. Damage before it is not
        // skipped: a lost end would read as live.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_max_total_wal_size(self.write_buffer as u64);
        options.set_db_write_buffer_size(self.write_buffer);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_max_file_opening_threads(1);
        options.set_skip_stats_update_on_db_open(true);
        // One writer: nothing to gain from its insertions being concurrent.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Error);
        options
    }

    /// Every column family's options; rows found by an id are dropped by compaction once their
    /// bucket is below `floor`.
    pub(crate) fn for_tables(&self, floor: &Arc<AtomicU32>) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.block_cache);
        let table = |table: Table| {
            let mut options = self.for_table(&cache);
            if table.is_found_by_id() {
                let floor = Arc::clone(floor);
                options.set_periodic_compaction_seconds(24 * 3600);
                options.set_compaction_filter("below-floor", move |_, _: &[u8], value: &[u8]| {
                    match values::bucket(table, value) {
                        Some(bucket) if bucket < floor.load(Ordering::Acquire) => Decision::Remove,
                        _ => Decision::Keep,
                    }
                });
            }
            ColumnFamilyDescriptor::new(table.name(), options)
        };
        let default = ColumnFamilyDescriptor::new("default", self.for_table(&cache));
        std::iter::once(default)
            .chain(Table::ALL.map(table))
            .collect()
    }

    /// For a table file that is written beside the database.
    #[cfg(feature = "bulk")]
    pub(crate) fn for_files(&self) -> rocksdb::Options {
        self.for_table(&Cache::new_lru_cache(1 << 20))
    }

    fn for_table(&self, cache: &Cache) -> rocksdb::Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        blocks.set_block_size(16 << 10);
        // Within the cache's bound, or thousands of table files would grow the process.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_bloom_filter(10.0, false);
        let mut options = rocksdb::Options::default();
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size((self.write_buffer / 4).max(1 << 20));
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }
}
