//! The store that the configuration names, and whether it can be written to.

use std::sync::Arc;

use anyhow::Context;
use taskmint_config::{ServerConfig, StoreKind};
use taskmint_model::Timestamp;
use taskmint_status::LogId;
use taskmint_store::{Memory, Store};
use taskmint_store_rocksdb::RocksStore;
use tokio::sync::watch;

/// Opens the store; says beside it whether it takes commits.
pub(crate) async fn open(
    config: &ServerConfig,
    log: LogId,
    now: Timestamp,
) -> anyhow::Result<(Arc<dyn Store>, watch::Receiver<bool>)> {
    match config.store {
        StoreKind::Memory => Ok((Arc::new(Memory::new(log)), watch::channel(true).1)),
        StoreKind::RocksDb => {
            let folder = config.data_dir.join("store");
            let shown = folder.display().to_string();
            let open = move || RocksStore::open(&folder, log, now, Default::default());
            let store = tokio::task::spawn_blocking(open).await?;
            let store = store.with_context(|| format!("cannot open the store in {shown}"))?;
            let writable = store.writable();
            Ok((Arc::new(store), writable))
        }
    }
}
