//! What runs beside the listeners for as long as the server does.

use std::future::{Future, pending};

use taskmint_daemon::Tasks;
use tokio::sync::watch;

use crate::server::ServeError;

/// Runs `work`, which does not end by itself, as a named task until the server is told to stop.
pub(crate) fn until_stopped(
    tasks: &Tasks,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = tasks.shutdown().requested();
    tasks.spawn(name, async move {
        tokio::select! {
            () = work => {}
            () = stop => {}
        }
        Ok::<_, ServeError>(())
    });
}

/// The server is not ready while this is false.
pub(crate) fn report(tasks: &Tasks, name: &'static str, mut holds: watch::Receiver<bool>) {
    let condition = tasks.readiness().condition(name);
    condition.set(*holds.borrow_and_update());
    until_stopped(tasks, name, async move {
        while holds.changed().await.is_ok() {
            condition.set(*holds.borrow_and_update());
        }
        // What reports no more is closed, or never failed.
        pending::<()>().await;
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
        report(&tasks, "store", writable);
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
