//! Closes registered connections as the log says.

use std::time::Duration;

use taskmint_status::{Place, Refusal};

use super::{Event, Watch};
use crate::connections::Connections;
use crate::{Refused, judge};

/// How much longer than the staleness bound an open connection lives: a clock that was set needs
/// a moment until the server has answered a new nonce.
pub const GRACE: Duration = Duration::from_secs(3);

const LOOK: Duration = Duration::from_millis(500);

impl Connections {
    /// Closes the connections of each task that `watch` hears to have ended or been suspended,
    /// those whose certificate expires, and all of the watched trust domain once nothing can be
    /// believed any more for [`GRACE`].
    /// Runs until it is dropped, and keeps the watch alive.
    ///
    /// The registry's own status check should be the same watch: it decides what is refused after
    /// statuses came as a whole.
    pub async fn follow(self, watch: Watch) {
        let mut events = watch.subscribe();
        // What ended before the subscription.
        self.recheck();
        let mut look = tokio::time::interval(LOOK);
        let mut closed_looks = 0;
        let mut expiry = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            tokio::select! {
                () = &mut expiry => {
                    let next = self.expire_next().min(LOOK);
                    expiry.as_mut().reset(tokio::time::Instant::now() + next);
                }
                event = events.next() => match event {
                    Some(event) => self.on_event(event, &watch),
                    None => return,
                },
                _ = look.tick() => {
                    closed_looks = if watch.state().closed.is_some() { closed_looks + 1 } else { 0 };
                    if LOOK * closed_looks > GRACE {
                        self.recheck();
                    }
                }
            }
        }
    }

    fn on_event(&self, event: Event, watch: &Watch) {
        match event {
            Event::Ended { place, .. } => self.end(place, watch.refused(Refusal::TaskEnded)),
            Event::Suspended { place, .. } => {
                self.end(place, watch.refused(Refusal::TaskSuspended));
            }
            Event::Resumed { .. } => {}
            // While nothing can be believed, everything would be refused: the grace decides then.
            Event::Reset if watch.state().closed.is_some() => self.recheck_final(watch),
            Event::Reset => self.recheck(),
        }
    }

    fn end(&self, place: Place, why: Refused) {
        self.close(place, &why);
    }

    fn recheck_final(&self, watch: &Watch) {
        self.close_where(|id, binding| judge(watch, id, binding).err().filter(is_final));
    }
}

/// What staleness makes no less true.
fn is_final(refused: &Refused) -> bool {
    let finals = [Refusal::TaskEnded, Refusal::BelowFloor, Refusal::OtherLog];
    finals
        .iter()
        .any(|refusal| refusal.reason() == refused.reason)
}
