//! Signals, as values: the process gets them from the kernel, a test from a channel.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{Reload, Shutdown};

/// What the outside asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop; the second time, at once.
    Stop,
    /// SIGHUP: read files again.
    Reload,
}

/// The signals sent to this process from now on. Must be called within a tokio runtime.
///
/// # Errors
///
/// The kernel's refusal to register a handler.
pub fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let (received, signal) = tokio::select! {
                received = terminate.recv() => (received, Signal::Stop),
                received = interrupt.recv() => (received, Signal::Stop),
                received = hangup.recv() => (received, Signal::Reload),
            };
            if received.is_none() || sender.send(signal).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Does what the signals ask, until there are no more.
pub async fn obey(mut signals: mpsc::Receiver<Signal>, shutdown: Shutdown, reload: Reload) {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Reload => {
                info!("asked to reload");
                reload.request();
            }
            Signal::Stop if shutdown.is_requested() => {
                warn!("asked to stop again: at once");
                shutdown.force();
            }
            Signal::Stop => {
                info!("asked to stop");
                shutdown.request();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_stop_signal_is_hard() {
        let (sender, receiver) = mpsc::channel(1);
        let (shutdown, reload) = (Shutdown::new(), Reload::new());
        let mut reloads = reload.subscribe();
        let obeying = tokio::spawn(obey(receiver, shutdown.clone(), reload));

        sender.send(Signal::Reload).await.expect("heard");
        reloads.next().await;
        assert!(!shutdown.is_requested(), "a reload is no stop");

        sender.send(Signal::Stop).await.expect("heard");
        shutdown.requested().await;
        assert!(!shutdown.is_forced());

        sender.send(Signal::Stop).await.expect("heard");
        shutdown.forced().await;
        drop(sender);
        obeying.await.expect("no panic");
    }
}
