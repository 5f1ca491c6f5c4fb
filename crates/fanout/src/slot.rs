//! How a connection's task is woken, by its socket and by each publication.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;

/// The waker of one connection. While it is being polled a wake is only noted, and makes the poll
/// go round once more.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    task: AtomicWaker,
    polling: AtomicBool,
    /// The streams are to be polled.
    again: AtomicBool,
    /// h2 is to be polled.
    drive: AtomicBool,
    /// It has something to send that there is no room for: news can wait until there is.
    full: AtomicBool,
}

/// The waker that h2 gets for itself. It is woken for each frame that a stream hands to it, which
/// the same turn writes: that is no reason for another one.
#[derive(Debug)]
pub(crate) struct Driver(pub(crate) Arc<Slot>);

impl Slot {
    /// Wakes the task, or makes its present poll go round once more.
    pub(crate) fn ring(&self) {
        self.set(&self.again);
    }

    /// As [`Self::ring`], unless it has no room for news; where it has room again, it asks for them.
    pub(crate) fn tell(&self) {
        if !self.full.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    fn set(&self, flag: &AtomicBool) {
        // Where it is set already, the turn that looks at it is still to come: it was woken for, or
        // its poll has not ended.
        if !flag.swap(true, Ordering::SeqCst) && !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }

    /// A poll begins.
    pub(crate) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.polling.store(true, Ordering::SeqCst);
        // Before it asks what is newest: whoever has news from now on rings.
        self.full.swap(false, Ordering::SeqCst);
    }

    /// It waits for room.
    pub(crate) fn fill(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    /// The streams are about to be polled.
    pub(crate) fn streams(&self) {
        // A swap: what was published before any ring that it takes is seen from here on.
        self.again.swap(false, Ordering::SeqCst);
    }

    /// h2 is about to be polled.
    pub(crate) fn drive(&self) {
        self.drive.swap(false, Ordering::SeqCst);
    }

    /// Whether there was a wake that nobody has looked at.
    pub(crate) fn is_rung(&self) -> bool {
        self.again.load(Ordering::SeqCst) || self.drive.load(Ordering::SeqCst)
    }

    /// The poll ends; whether there was a wake that nobody has looked at.
    pub(crate) fn end(&self) -> bool {
        self.polling.store(false, Ordering::SeqCst);
        self.is_rung()
    }
}

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.0.set(&self.0.drive);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.set(&self.0.drive);
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wake_during_the_poll_goes_round_and_wakes_nobody() {
        let (wakes, slot) = (Arc::new(Wakes::default()), Slot::default());
        let waker = Waker::from(Arc::clone(&wakes));
        slot.begin(&waker);
        slot.ring();
        assert!(slot.is_rung());
        slot.streams();
        assert!(!slot.end());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        slot.ring();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_wake_that_comes_too_late_for_the_poll_is_told_at_its_end() {
        let slot = Slot::default();
        slot.begin(Waker::noop());
        slot.streams();
        slot.ring();
        assert!(slot.end());
    }

    #[test]
    fn those_who_ring_before_anybody_looked_wake_once() {
        let (wakes, slot) = (Arc::new(Wakes::default()), Slot::default());
        let waker = Waker::from(Arc::clone(&wakes));
        slot.begin(&waker);
        slot.streams();
        slot.end();
        slot.ring();
        slot.ring();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        slot.begin(&waker);
        slot.streams();
        assert!(!slot.end());
        slot.ring();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn who_has_no_room_is_told_nothing_until_it_looks_again() {
        let (wakes, slot) = (Arc::new(Wakes::default()), Slot::default());
        let waker = Waker::from(Arc::clone(&wakes));
        slot.begin(&waker);
        slot.streams();
        slot.fill();
        assert!(!slot.end());
        slot.tell();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        // Its socket is another matter.
        slot.ring();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        slot.begin(&waker);
        slot.streams();
        slot.tell();
        assert!(slot.end());
    }

    #[test]
    fn a_frame_for_h2_is_no_news_for_the_streams() {
        let slot = Arc::new(Slot::default());
        let driver = Waker::from(Arc::new(Driver(Arc::clone(&slot))));
        slot.begin(Waker::noop());
        slot.streams();
        driver.wake_by_ref();
        slot.drive();
        assert!(!slot.is_rung());
        slot.ring();
        slot.drive();
        assert!(slot.end(), "a publication is not taken for one");
    }
}
