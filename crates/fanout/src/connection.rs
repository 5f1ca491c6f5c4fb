//! One connection: its HTTP/2 state, its watches and its pings, all in one task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream, server};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tonic::Code;

use crate::Source;
use crate::lane::Shared;
use crate::meter::{Meter, Pulse};
use crate::reply::{self, Unfit};
use crate::settings::SEND_BUFFER;
use crate::slot::{Driver, Slot};
use crate::stream::{End, Stream, deny};

/// Streams that HTTP/2 lets through: more than are served, so that one too many gets an answer.
const STREAMS: u32 = 8;

/// What h2 buffers of a watcher's messages: they are read as they come.
const WINDOW: u32 = 64 << 10;

/// Headers of more than this are refused.
const HEADERS: u32 = 16 << 10;

/// Turns of one poll: beyond them others come first.
const TURNS: usize = 16;

/// A connection being served.
pub(crate) struct Connection<IO, S: Source> {
    lane: Arc<Shared<S>>,
    peer: Arc<S::Peer>,
    http: server::Connection<Meter<IO>, Bytes>,
    pings: Option<PingPong>,
    pulse: Arc<Pulse>,
    streams: Vec<Stream<S>>,
    timer: Pin<Box<Sleep>>,
    /// When something last came in.
    heard: Instant,
    /// Since when a ping is unanswered.
    pinged: Option<Instant>,
    /// Since when the transport takes nothing.
    stuck: Option<Instant>,
    /// Since when there has been no watch.
    idle: Option<Instant>,
    /// Since when the lane has been stopping.
    stopping: Option<Instant>,
}

/// Serves a connection until it is over.
pub(crate) async fn serve<IO, S>(lane: Arc<Shared<S>>, io: IO, peer: S::Peer)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Source,
{
    let member = lane.crowd.enter();
    let pulse = Arc::new(Pulse::default());
    let io = Meter::new(io, Arc::clone(&pulse), Arc::clone(&lane.metrics));
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(lane.streams().saturating_add(STREAMS))
        .initial_window_size(WINDOW)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER);
    let greeting = tokio::time::timeout(lane.settings.open, builder.handshake(io));
    let http = tokio::select! {
        greeted = greeting => greeted,
        () = lane.stop.cancelled() => return,
    };
    let Ok(Ok(mut http)) = http else {
        return;
    };
    let now = Instant::now();
    let mut connection = Connection {
        peer: Arc::new(peer),
        pings: http.ping_pong(),
        http,
        pulse,
        streams: Vec::new(),
        timer: Box::pin(tokio::time::sleep_until(now + lane.settings.keepalive)),
        heard: now,
        pinged: None,
        stuck: None,
        idle: Some(now),
        stopping: None,
        lane,
    };
    let slot = Arc::clone(member.slot());
    let wakers = Wakers {
        streams: Waker::from(Arc::clone(&slot)),
        driver: Waker::from(Arc::new(Driver(Arc::clone(&slot)))),
    };
    std::future::poll_fn(|cx| connection.poll(cx, &slot, &wakers)).await;
}

/// Who is woken by what.
struct Wakers {
    streams: Waker,
    driver: Waker,
}

impl<IO, S> Connection<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Source,
{
    fn poll(&mut self, cx: &mut Context<'_>, slot: &Slot, wakers: &Wakers) -> Poll<()> {
        slot.begin(cx.waker());
        for _ in 0..TURNS {
            if self.turn(slot, wakers).is_ready() {
                slot.end();
                return Poll::Ready(());
            }
            if !slot.is_rung() {
                break;
            }
        }
        if self.is_full() {
            slot.fill();
        }
        if slot.end() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether nobody on it could be sent anything now. What makes room wakes it.
    fn is_full(&self) -> bool {
        !self.streams.is_empty()
            && (self.pulse.is_blocked() || self.streams.iter().all(Stream::is_full))
    }

    /// Streams first: what they send is then encrypted and written right away.
    fn turn(&mut self, slot: &Slot, wakers: &Wakers) -> Poll<()> {
        let now = Instant::now();
        let mut cx = Context::from_waker(&wakers.streams);
        slot.streams();
        if self.lane.stop.is_cancelled() && self.stopping.is_none() {
            self.stop(now);
        }
        self.write(&mut cx, now);
        slot.drive();
        let mut driver = Context::from_waker(&wakers.driver);
        loop {
            match self.http.poll_accept(&mut driver) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(accepted))) => self.accept(accepted, now),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            }
            // Its first message may be here already.
            slot.ring();
        }
        self.look(&mut cx, now);
        match self.pass(&mut cx, now) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) {
        let blocked = self.pulse.is_blocked();
        let mut at = 0;
        while let Some(stream) = self.streams.get_mut(at) {
            match stream.poll(cx, &self.lane, &self.peer, (now, blocked)) {
                Ok(()) => at += 1,
                Err(end) => {
                    tracing::debug!(?end, "a watch is over");
                    self.streams.swap_remove(at).end(&end, &self.lane);
                }
            }
        }
    }

    fn accept(&mut self, accepted: (Request<RecvStream>, SendResponse<Bytes>), now: Instant) {
        let (request, mut respond) = accepted;
        if let Err(unfit) = reply::judge(&request) {
            return reply::refuse(respond, unfit);
        }
        let unfit = if self.stopping.is_some() {
            stopping()
        } else if self.streams.len() >= self.lane.settings.streams {
            let message = "too many watches on one connection";
            deny(Code::ResourceExhausted, "TOO_MANY_STREAMS", message)
        } else {
            // Fails only where the watcher has reset it.
            if let Ok(send) = respond.send_response(reply::accepted(), false) {
                let stream = Stream::new(request.into_body(), send, &self.lane, now);
                self.streams.push(stream);
            }
            return;
        };
        if let End::Told(Some(status)) = unfit {
            reply::refuse(respond, Unfit::Grpc(status));
        }
    }

    /// Looks at what came of this turn's reads and writes.
    fn look(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.pulse.take_heard() {
            self.heard = now;
            self.pinged = None;
        }
        if let Some(pings) = &mut self.pings {
            // Its answer was heard already; this makes room for the next.
            drop(pings.poll_pong(cx));
        }
        match (self.pulse.is_blocked(), self.stuck) {
            (true, None) => self.stuck = Some(now),
            (false, Some(_)) => {
                self.stuck = None;
                // What was not chosen while it was stuck.
                cx.waker().wake_by_ref();
            }
            _ => {}
        }
        match (self.streams.is_empty(), self.idle) {
            (true, None) => self.idle = Some(now),
            (false, Some(_)) => self.idle = None,
            _ => {}
        }
    }

    /// Does what time asks for; whether the connection is over by it.
    fn pass(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let settings = &self.lane.settings;
        if let Some(since) = self.stopping
            && since + settings.drain <= now
        {
            return true;
        }
        if let Some(since) = self.stuck
            && since + settings.unread <= now
        {
            self.lane.metrics.slow.add(1);
            return true;
        }
        if let Some(since) = self.idle
            && since + settings.open <= now
        {
            return true;
        }
        match self.pinged {
            Some(since) if since + settings.pong <= now => {
                self.lane.metrics.silent.add(1);
                return true;
            }
            None if self.heard + settings.keepalive <= now => {
                if let Some(pings) = &mut self.pings {
                    // Refused where one is still unanswered: then that one counts, from now on.
                    drop(pings.send_ping(Ping::opaque()));
                }
                self.pinged = Some(now);
            }
            _ => {}
        }
        let next = self.deadline(now);
        // A timer that fires too early is set anew then; most deadlines only ever move away.
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        false
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        let settings = &self.lane.settings;
        let ping = match self.pinged {
            Some(since) => since + settings.pong,
            None => self.heard + settings.keepalive,
        };
        let others = [
            self.stopping.map(|since| since + settings.drain),
            self.stuck.map(|since| since + settings.unread),
            self.idle.map(|since| since + settings.open),
        ];
        let lane = &self.lane;
        let streams = self
            .streams
            .iter_mut()
            .filter_map(|stream| stream.deadline(lane, now))
            // What is due and could not be done now waits for something else to happen.
            .filter(|at| *at > now);
        others
            .into_iter()
            .flatten()
            .chain(streams)
            .fold(ping, Instant::min)
    }

    /// The lane stops: every watcher is told, and then the connection.
    fn stop(&mut self, now: Instant) {
        self.stopping = Some(now);
        let end = stopping();
        for stream in self.streams.drain(..) {
            stream.end(&end, &self.lane);
        }
        self.http.graceful_shutdown();
    }
}

fn stopping() -> End {
    deny(Code::Unavailable, "STOPPING", "the server stops")
}
