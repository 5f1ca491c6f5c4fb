//! The store that the configuration names, and whether it can be written to.

use std::sync::Arc;

use anyhow::Context;
use taskmint_config::{ServerConfig, StoreKind};
use taskmint_daemon::Tasks;
use taskmint_model::Timestamp;
use taskmint_status::LogId;
use taskmint_store::{Memory, Store};
use taskmint_store_rocksdb::RocksStore;
use tokio::sync::watch;

use crate::server::ServeError;

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

/// The server is not ready while nothing can be written.
pub(crate) fn report(tasks: &Tasks, mut writable: watch::Receiver<bool>) {
    let (condition, stop) = (tasks.readiness().condition("store"), tasks.shutdown());
    condition.set(*writable.borrow_and_update());
    let stop = stop.requested();
    tasks.spawn("store", async move {
        let follow = async {
            while writable.changed().await.is_ok() {
                condition.set(*writable.borrow_and_update());
            }
            // A store that reports no more is closed, or never failed.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = follow => {}
            () = stop => {}
        }
        Ok::<_, ServeError>(())
    });
}

#[cfg(test)]
mod tests {
    use taskmint_daemon::Shutdown;

    use super::*;

    #[tokio::test]
    async fn a_server_is_not_ready_while_nothing_can_be_written() {
        let (store, writable) = watch::channel(true);
        let tasks = Tasks::new(Shutdown::new());
        report(&tasks, writable);
        tasks.readiness().ready().await;
        store.send_replace(false);
        while tasks.readiness().is_ready() {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.readiness().missing(), ["store"]);
        store.send_replace(true);
        tasks.readiness().ready().await;
        drop(store);
        tokio::task::yield_now().await;
        assert!(tasks.readiness().is_ready(), "a closed store is no failure");
    }
}
