//! What became of tasks, for those who want to hear of it.

use futures::Stream;
use taskmint_model::TaskId;
use taskmint_status::{Applied, Cause, Place, Status};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// How many events a slow subscriber may lag behind before it has to look at everything.
pub(super) const BACKLOG: usize = 4096;

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It ended, for good.
    Ended {
        /// Its place.
        place: Place,
        /// Its id.
        task: TaskId,
        /// Why, where the log says.
        cause: Option<Cause>,
    },
    /// It is not to be accepted for now.
    Suspended {
        /// Its place.
        place: Place,
        /// Its id.
        task: TaskId,
    },
    /// It is accepted again.
    Resumed {
        /// Its place.
        place: Place,
        /// Its id.
        task: TaskId,
    },
    /// Anything may have changed: statuses came as a whole, the floor moved, or this subscriber
    /// was too slow. What matters has to be asked for again.
    Reset,
}

/// A subscription.
#[derive(Debug)]
pub struct Events(pub(super) broadcast::Receiver<Event>);

impl Events {
    /// The next event; none once the watch has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(_)) => Some(Event::Reset),
            Err(RecvError::Closed) => None,
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send {
        futures::stream::unfold(self, |mut events| async {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}

impl From<&Applied> for Event {
    fn from(applied: &Applied) -> Self {
        match applied {
            Applied::Reset(_) | Applied::Floor { .. } => Self::Reset,
            Applied::Status {
                place,
                task,
                status,
                cause,
            } => {
                let (place, task) = (*place, TaskId::from_octets(*task));
                match status {
                    Status::Ended => Self::Ended {
                        place,
                        task,
                        cause: *cause,
                    },
                    Status::Suspended => Self::Suspended { place, task },
                    Status::Valid => Self::Resumed { place, task },
                }
            }
        }
    }
}
