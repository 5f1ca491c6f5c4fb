//! One lock for each key, there while somebody holds it or waits for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Locks<K> = Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>;

/// Locks by key.
pub(crate) struct KeyedLocks<K>(Locks<K>);

/// A lock that is held.
pub(crate) struct Locked<K: Eq + Hash + Copy> {
    locks: Locks<K>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Copy> KeyedLocks<K> {
    /// Waits for the lock of `key`.
    pub(crate) async fn lock(&self, key: K) -> Locked<K> {
        let lock = Arc::clone(self.0.lock().entry(key).or_default());
        let guard = lock.lock_owned().await;
        Locked {
            locks: Arc::clone(&self.0),
            key,
            guard: Some(guard),
        }
    }
}

impl<K: Eq + Hash + Copy> Drop for Locked<K> {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        self.guard = None;
        // Only the map has it: nobody waits, and nobody can begin to while the map is locked.
        if locks
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_is_locked_once_at_a_time_and_forgotten_after() {
        let locks = KeyedLocks::<u32>::default();
        let first = locks.lock(1).await;
        let _other = locks.lock(2).await;
        let second = locks.lock(1);
        tokio::pin!(second);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(5), &mut second).await;
        assert!(waits.is_err());
        drop(first);
        drop(second.await);
        assert_eq!(locks.0.lock().len(), 1);
    }
}
