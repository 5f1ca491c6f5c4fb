//! One watch: messages in, frames out as far as there is room for them.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::{BadField, Denied, revocation as wire};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::decode::Decoder;
use crate::follow::Follow;
use crate::lane::Shared;
use crate::metrics::Counted;
use crate::nonces::{Nonce, Pending, nonce};
use crate::outgoing::Outgoing;
use crate::settings::SEND_BUFFER;
use crate::{Admission, Allowance, Source, reply};

/// Pieces that are read before somebody else has a turn.
const AT_ONCE: usize = 64;

/// One watch of a connection.
pub(crate) struct Stream<S: Source> {
    receive: RecvStream,
    send: SendStream<Bytes>,
    decoder: Decoder,
    phase: Phase<S>,
    outgoing: Outgoing,
    /// By when what is outgoing has to be gone.
    due: Option<Instant>,
    _counted: Counted,
}

enum Phase<S: Source> {
    Opening {
        until: Instant,
    },
    Entering {
        nonce: Option<Nonce>,
        pending: Pending<Admission<S::Watcher>>,
    },
    Following(Box<Follow<S>>),
}

/// How a watch is over.
#[derive(Debug)]
pub(crate) enum End {
    /// It is told so; nothing at all: the watcher itself was done.
    Told(Option<Status>),
    /// The watcher does not read: it could not be told.
    TooSlow,
    /// The watcher has reset it, or its connection is gone.
    Gone,
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Told(Some(status))
    }
}

impl From<BadField> for End {
    fn from(bad: BadField) -> Self {
        Status::from(bad).into()
    }
}

impl From<h2::Error> for End {
    fn from(_: h2::Error) -> Self {
        Self::Gone
    }
}

impl<S: Source> Stream<S> {
    pub(crate) fn new(
        receive: RecvStream,
        send: SendStream<Bytes>,
        lane: &Shared<S>,
        now: Instant,
    ) -> Self {
        Self {
            receive,
            send,
            decoder: Decoder::new(Allowance::workload().message),
            phase: Phase::Opening {
                until: now + lane.settings.open,
            },
            outgoing: Outgoing::default(),
            due: None,
            _counted: Counted::new(&lane.metrics, |metrics| &metrics.watchers),
        }
    }

    /// Does all that can be done now. `stuck` says that the connection takes nothing.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        peer: &Arc<S::Peer>,
        (now, stuck): (Instant, bool),
    ) -> Result<(), End> {
        self.enter(cx, now)?;
        self.read(cx, lane, peer, now)?;
        self.write(cx, lane, now, stuck)
    }

    /// Whether it waits for room.
    pub(crate) fn is_full(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// When to look again, if nothing else happens.
    pub(crate) fn deadline(&mut self, lane: &Shared<S>, now: Instant) -> Option<Instant> {
        let next = match &mut self.phase {
            Phase::Opening { until } => Some(*until),
            Phase::Entering { .. } => None,
            Phase::Following(follow) => follow.deadline(lane, now),
        };
        next.into_iter().chain(self.due).min()
    }

    /// Says its last word.
    pub(crate) fn end(mut self, end: &End, lane: &Shared<S>) {
        match end {
            End::Told(status) => {
                let fine = Status::new(Code::Ok, "");
                let trailers = reply::trailers(status.as_ref().unwrap_or(&fine));
                // Refused by h2 only where the watcher is gone already.
                drop(self.send.send_trailers(trailers));
            }
            End::TooSlow => {
                lane.metrics.slow.add(1);
                self.send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            }
            End::Gone => {}
        }
    }

    fn enter(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), End> {
        let Phase::Entering { nonce, pending } = &mut self.phase else {
            return Ok(());
        };
        if let Poll::Ready(admission) = pending.as_mut().poll(cx) {
            let admission = admission?;
            self.decoder.set_most(admission.allowance.message);
            let follow = Follow::new(admission, *nonce, now);
            self.phase = Phase::Following(Box::new(follow));
        }
        Ok(())
    }

    /// Until a watcher is let in, what it says after its opening stays in its window.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        peer: &Arc<S::Peer>,
        now: Instant,
    ) -> Result<(), End> {
        if let Phase::Opening { until } = self.phase
            && until <= now
        {
            return Err(deny(Code::DeadlineExceeded, "TOO_LATE", "no open came"));
        }
        for _ in 0..AT_ONCE {
            while let Some(said) = self.heard()? {
                self.hear(cx, lane, peer, said, now)?;
            }
            if matches!(self.phase, Phase::Entering { .. }) {
                return Ok(());
            }
            match self.receive.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(octets)) => {
                    let octets = octets?;
                    self.receive.flow_control().release_capacity(octets.len())?;
                    self.decoder.push(&octets);
                }
                Poll::Ready(None) => {
                    self.decoder.end().map_err(Status::from)?;
                    return match self.phase {
                        Phase::Opening { .. } => Err(not_open()),
                        _ => Err(End::Told(None)),
                    };
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn heard(&mut self) -> Result<Option<wire::WatchRequest>, Status> {
        match self.phase {
            Phase::Entering { .. } => Ok(None),
            _ => Ok(self.decoder.next_message()?),
        }
    }

    fn hear(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        peer: &Arc<S::Peer>,
        said: wire::WatchRequest,
        now: Instant,
    ) -> Result<(), End> {
        match (&mut self.phase, said.message) {
            (Phase::Opening { .. }, Some(Message::Open(open))) => {
                self.phase = entering(lane, peer, open)?;
                self.enter(cx, now)
            }
            (Phase::Following(follow), Some(Message::Acknowledge(said))) => {
                Ok(follow.acknowledge(&lane.source, said)?)
            }
            (Phase::Following(follow), Some(Message::Nonce(wire::Nonce { nonce: octets }))) => {
                let bad = || BadField::new("nonce", "must have 16 octets");
                Ok(follow.ask(nonce(&octets)?.ok_or_else(bad)?)?)
            }
            (Phase::Following(_), Some(Message::Open(_))) => {
                Err(BadField::new("message", "the stream is open already").into())
            }
            (Phase::Following(_), None) => {
                Err(BadField::new("message", "is of no known kind").into())
            }
            (Phase::Opening { .. } | Phase::Entering { .. }, _) => Err(not_open()),
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Shared<S>,
        now: Instant,
        stuck: bool,
    ) -> Result<(), End> {
        loop {
            if self.outgoing.is_empty() {
                self.due = None;
                let Phase::Following(follow) = &mut self.phase else {
                    return Ok(());
                };
                if stuck {
                    // Chosen once there is room: by then there is something newer.
                    return Ok(());
                }
                let Some(outgoing) = follow.next(cx, lane, now)? else {
                    return Ok(());
                };
                self.due = Some(now + outgoing.allowance(lane.settings.unread));
                self.outgoing = outgoing;
            }
            let Some(room) = self.room(cx)? else {
                return match self.due {
                    Some(due) if due <= now => Err(End::TooSlow),
                    _ => Ok(()),
                };
            };
            let piece = self.outgoing.take(room);
            self.send.send_data(piece, false)?;
        }
    }

    /// How much h2 takes now; without asking it, nothing would wake this task when it takes more.
    fn room(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, End> {
        self.send
            .reserve_capacity(self.outgoing.octets().min(SEND_BUFFER));
        loop {
            match self.send.capacity() {
                0 => {}
                room => return Ok(Some(room)),
            }
            match self.send.poll_capacity(cx) {
                Poll::Pending => return Ok(None),
                Poll::Ready(None) => return Err(End::Gone),
                Poll::Ready(Some(room)) => drop(room?),
            }
        }
    }
}

fn entering<S: Source>(
    lane: &Shared<S>,
    peer: &Arc<S::Peer>,
    open: wire::Open,
) -> Result<Phase<S>, End> {
    let nonce = nonce(&open.nonce)?;
    let (source, peer) = (Arc::clone(&lane.source), Arc::clone(peer));
    Ok(Phase::Entering {
        // Before the source looks: whatever starts over meanwhile is then seen to have.
        nonce,
        pending: Box::pin(async move { source.open(&peer, open).await }),
    })
}

fn not_open() -> End {
    BadField::new("message", "the first must be an open").into()
}

pub(crate) fn deny(code: Code, reason: &str, message: &str) -> End {
    Status::from(Denied::new(code, reason, message)).into()
}
