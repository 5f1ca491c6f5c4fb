//! What the service manager hears (`sd_notify(3)`). Without one, each call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{Readiness, Shutdown};

/// Tells of readiness, and that the runtime still turns. Never returns.
pub(crate) async fn report(readiness: Readiness) {
    tokio::join!(announce(readiness), ping(sd_notify::watchdog_enabled()));
}

async fn announce(readiness: Readiness) {
    readiness.ready().await;
    info!("ready");
    tell(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// Tells of the stop once it is asked for, or has come by itself.
pub(crate) async fn stopping(shutdown: Shutdown) {
    shutdown.requested().await;
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing the work in hand"),
    ]);
}

/// Pings at half the period, as `sd_watchdog_enabled(3)` recommends.
async fn ping(watchdog: Option<Duration>) {
    let Some(period) = watchdog
        .map(|period| period / 2)
        .filter(|half| !half.is_zero())
    else {
        return std::future::pending().await;
    };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager does not hear us");
    }
}
