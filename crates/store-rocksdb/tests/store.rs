//! The RocksDB store passes the suite, on disk and synced.

#![expect(clippy::unwrap_used, reason = "tests")]

use taskmint_status::LogId;
use taskmint_store::Retention;
use taskmint_store::conformance::sample::NOW;
use taskmint_store_rocksdb::{Options, RocksStore};
use tempfile::TempDir;

fn keeping(retention: Retention, mut options: Options) -> Options {
    options.retention = retention;
    options
}

async fn open(retention: Retention) -> (RocksStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = keeping(retention, Options::default());
    let store = RocksStore::open(folder.path(), LogId([7; 8]), NOW, options).unwrap();
    (store, folder)
}

taskmint_store::conformance!(open);
