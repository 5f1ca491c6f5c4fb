//! Who has to look again when something changes: a stream subscribes to the processes and tasks
//! that its caller's view depends on, so that a change costs those streams and no others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use taskmint_model::{Process, TaskId};
use tokio::sync::Notify;

/// What a view can depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Tasks that this process holds.
    Process(Process),
    /// This task.
    Task(TaskId),
}

type Registry = Arc<Mutex<Inner>>;

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    subscribers: HashMap<Topic, HashMap<u64, Arc<Notify>>>,
}

/// All subscriptions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topics(Registry);

/// One subscription, until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    registry: Registry,
    number: u64,
    topics: Vec<Topic>,
    notify: Arc<Notify>,
}

impl Topics {
    /// A subscription to nothing yet.
    pub(crate) fn subscription(&self) -> Subscription {
        let mut inner = self.0.lock();
        inner.next += 1;
        Subscription {
            registry: Arc::clone(&self.0),
            number: inner.next,
            topics: Vec::new(),
            notify: Arc::new(Notify::new()),
        }
    }

    /// Tells everybody whose view depends on `topic`.
    pub(crate) fn announce(&self, topic: Topic) {
        if let Some(subscribers) = self.0.lock().subscribers.get(&topic) {
            subscribers.values().for_each(|notify| notify.notify_one());
        }
    }
}

impl Subscription {
    /// Depends on these from now on, and on nothing else.
    pub(crate) fn set(&mut self, topics: Vec<Topic>) {
        if topics == self.topics {
            return;
        }
        let registry = Arc::clone(&self.registry);
        let mut inner = registry.lock();
        for topic in self.topics.iter().filter(|topic| !topics.contains(topic)) {
            inner.remove(*topic, self.number);
        }
        for topic in &topics {
            let subscribers = inner.subscribers.entry(*topic).or_default();
            subscribers.insert(self.number, Arc::clone(&self.notify));
        }
        self.topics = topics;
    }

    /// Returns once something changed since the last call. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Inner {
    fn remove(&mut self, topic: Topic, number: u64) {
        if let Some(subscribers) = self.subscribers.get_mut(&topic) {
            subscribers.remove(&number);
            if subscribers.is_empty() {
                self.subscribers.remove(&topic);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        for topic in &self.topics {
            inner.remove(*topic, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_those_who_depend_on_it_are_told_and_a_change_between_looks_is_not_lost() {
        let topics = Topics::default();
        let (one, two) = (TaskId::from_octets([1; 16]), TaskId::from_octets([2; 16]));
        let mut first = topics.subscription();
        let mut second = topics.subscription();
        first.set(vec![Topic::Task(one)]);
        second.set(vec![Topic::Task(two)]);
        topics.announce(Topic::Task(one));
        first.changed().await;
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(10), second.changed());
        assert!(quiet.await.is_err());
        second.set(vec![Topic::Task(one)]);
        drop(first);
        topics.announce(Topic::Task(one));
        second.changed().await;
        drop(second);
        assert!(topics.0.lock().subscribers.is_empty());
    }
}
