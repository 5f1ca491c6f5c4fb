//! SIGHUP, as a subscription.

use tokio::sync::watch;

/// Announces that files should be read again. Clones share one state.
#[derive(Clone, Debug)]
pub struct Reload {
    count: watch::Sender<u64>,
}

/// One subscriber's view of [`Reload`].
#[derive(Debug)]
pub struct Reloads {
    count: watch::Receiver<u64>,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            count: watch::Sender::new(0),
        }
    }
}

impl Reload {
    /// A handle on which nothing has been asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every subscriber to read its files again.
    pub fn request(&self) {
        self.count.send_modify(|count| *count += 1);
    }

    /// Sees the requests made from now on.
    pub fn subscribe(&self) -> Reloads {
        Reloads {
            count: self.count.subscribe(),
        }
    }
}

impl Reloads {
    /// Returns at the next request; several that came meanwhile count as one. Waits for ever once
    /// no [`Reload`] is left.
    pub async fn next(&mut self) {
        if self.count.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_subscriber_sees_a_reload_and_many_count_as_one() {
        let reload = Reload::new();
        let (mut one, mut two) = (reload.subscribe(), reload.subscribe());
        reload.request();
        reload.request();
        one.next().await;
        two.next().await;
        assert!(!one.count.has_changed().expect("the sender lives"));
        let late = reload.subscribe();
        assert!(!late.count.has_changed().expect("the sender lives"));
    }
}
