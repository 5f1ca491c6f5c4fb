//! Open connections, closed when their task ends and when their certificate expires.
//!
//! TLS judges a peer once, in the handshake. What goes on afterwards is judged here: a connection
//! is registered under its task's place, and an end finds it there at once, however many others
//! are open. [`Guarded`] makes any stream end with its [`Guard`], so that a server needs no code
//! of its own for it; a stack that knows no tokio has a callback run ([`Connections::register_with`]).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_id::SpiffeId;
use taskmint_model::{Clock, Timestamp};
use taskmint_status::{Place, TaskBinding};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{PeerSvid, Refused, StatusCheck, judge};

/// How long the wall clock goes unread while a certificate's end is waited for: it may jump.
const LOOK: Duration = Duration::from_secs(30);

/// All open connections of a service. Clones share them.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    status: Option<Arc<dyn StatusCheck>>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    registered: u64,
    by_place: HashMap<Option<Place>, HashMap<u64, Entry>>,
}

struct Entry {
    spiffe_id: SpiffeId,
    binding: Option<TaskBinding>,
    not_after: Timestamp,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct Signal {
    why: OnceLock<Refused>,
    token: CancellationToken,
    callback: Mutex<Option<Callback>>,
}

type Callback = Box<dyn FnOnce(&Refused) + Send>;

/// One registered connection; dropping it takes it off the register.
pub struct Guard {
    inner: Arc<Inner>,
    number: u64,
    place: Option<Place>,
    not_after: Timestamp,
    signal: Arc<Signal>,
}

/// A stream that ends when its guard says so: reading and writing then fail with
/// `ConnectionAborted`, and the reason in words.
pub struct Guarded<S> {
    stream: S,
    closing: Closing,
}

/// A guard that a task polls.
pub(crate) struct Closing {
    guard: Arc<Guard>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    expiry: Pin<Box<tokio::time::Sleep>>,
}

impl Connections {
    /// Nothing registered yet. `status` is asked at each registration, so that a task which ended
    /// between handshake and registration is not missed.
    pub fn new(clock: Arc<dyn Clock>, status: Option<Arc<dyn StatusCheck>>) -> Self {
        Self(Arc::new(Inner {
            clock,
            status,
            open: Mutex::default(),
        }))
    }

    /// Registers the connection of a verified peer. A guard that is closed from the start belongs
    /// to a peer whose task ended in the meantime.
    pub fn register(&self, peer: &PeerSvid) -> Guard {
        self.register_signal(peer, Signal::default())
    }

    /// Registers a connection that `close` closes, for stacks without tokio: it is called once, with
    /// the reason, by whichever thread brings the end, perhaps before this returns. So it should
    /// be quick and not wait, as `shutdown` on a socket is. Not called once the guard is dropped.
    ///
    /// Certificates that expire are found by [`expire`](Self::expire), which
    /// `follow` calls by itself.
    pub fn register_with(
        &self,
        peer: &PeerSvid,
        close: impl FnOnce(&Refused) + Send + 'static,
    ) -> Guard {
        let signal = Signal {
            callback: Mutex::new(Some(Box::new(close))),
            ..Signal::default()
        };
        self.register_signal(peer, signal)
    }

    fn register_signal(&self, peer: &PeerSvid, signal: Signal) -> Guard {
        let signal = Arc::new(signal);
        let place = peer.place();
        let entry = Entry {
            spiffe_id: peer.spiffe_id.clone(),
            binding: peer.binding,
            not_after: peer.not_after,
            signal: Arc::clone(&signal),
        };
        let number = {
            let mut open = self.0.open.lock();
            open.registered += 1;
            let number = open.registered;
            open.by_place
                .entry(place)
                .or_default()
                .insert(number, entry);
            number
        };
        // After the insertion: an end that comes now finds it, one that came before shows here.
        if let Some(status) = &self.0.status
            && let Err(refused) = judge(status.as_ref(), &peer.spiffe_id, peer.binding.as_ref())
        {
            signal.mark(refused);
            signal.wake();
        }
        let inner = Arc::clone(&self.0);
        Guard {
            inner,
            number,
            place,
            not_after: peer.not_after,
            signal,
        }
    }

    /// Closes all connections of the task at `place`; their number does not matter to the others.
    pub fn close(&self, place: Place, why: &Refused) {
        let entries = self.0.open.lock().by_place.remove(&Some(place));
        let entries = entries.into_iter().flatten();
        let ended = entries.map(|(_, entry)| (entry.signal, why.clone()));
        close_all(ended);
    }

    /// Asks for the status of each connection again, and closes those that are refused.
    pub fn recheck(&self) {
        let Some(status) = &self.0.status else { return };
        self.close_where(|id, binding| judge(status.as_ref(), id, binding).err());
    }

    /// Closes those whose certificate has expired, and says when the next one will have. What was
    /// registered with a callback closes by this alone; the others have timers of their own.
    pub fn expire(&self) -> Option<Timestamp> {
        let now = self.0.clock.now();
        let (mut expired, mut next) = (Vec::new(), None);
        for entry in self.0.open.lock().entries() {
            let end = end_of(entry.not_after);
            if end <= now {
                expired.push((Arc::clone(&entry.signal), svid_expired()));
            } else {
                next = Some(next.map_or(end, |next: Timestamp| next.min(end)));
            }
        }
        close_all(expired);
        next
    }

    /// As [`expire`](Self::expire): how long until the next one will have.
    #[cfg(feature = "watch")]
    pub(crate) fn expire_next(&self) -> Duration {
        let next = self.expire();
        // A clock of whole milliseconds may need another one.
        next.map_or(Duration::MAX, |at| at.since(self.0.clock.now()))
            .max(Duration::from_millis(1))
    }

    /// Closes those for which `why` has a reason.
    pub(crate) fn close_where(
        &self,
        why: impl Fn(&SpiffeId, Option<&TaskBinding>) -> Option<Refused>,
    ) {
        let mut refused = Vec::new();
        for entry in self.0.open.lock().entries() {
            if let Some(why) = why(&entry.spiffe_id, entry.binding.as_ref()) {
                refused.push((Arc::clone(&entry.signal), why));
            }
        }
        close_all(refused);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.0.open.lock().by_place.values().map(HashMap::len).sum()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({} open)", self.len())
    }
}

impl Open {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_place.values().flat_map(HashMap::values)
    }
}

/// Closes them, without the lock of the register: a callback may drop its guard.
///
/// All are marked before the first is woken: no octet passes any more on any of them then, while
/// waking ten thousand readers takes much longer.
fn close_all(closing: impl IntoIterator<Item = (Arc<Signal>, Refused)>) {
    let mark = |(signal, why): (Arc<Signal>, Refused)| {
        signal.mark(why);
        signal
    };
    let marked: Vec<_> = closing.into_iter().map(mark).collect();
    for signal in marked {
        signal.wake();
    }
}

impl Signal {
    /// From here on nothing is read or written.
    fn mark(&self, why: Refused) {
        // The first reason stays: it is what closed the connection.
        self.why.get_or_init(|| why);
    }

    /// Tells those who wait for it.
    fn wake(&self) {
        self.token.cancel();
        let callback = self.callback.lock().take();
        if let (Some(close), Some(why)) = (callback, self.why.get()) {
            close(why);
        }
    }
}

impl Guard {
    /// Waits until the connection has to be closed, and says why.
    pub async fn closed(&self) -> Refused {
        loop {
            if let Some(why) = self.check() {
                return why;
            }
            tokio::select! {
                () = self.signal.token.cancelled() => {}
                () = tokio::time::sleep(self.next_look()) => {}
            }
        }
    }

    /// Why the connection has to be closed, if it has to be.
    pub fn check(&self) -> Option<Refused> {
        if let Some(why) = self.signal.why.get() {
            return Some(why.clone());
        }
        (self.inner.clock.now() >= end_of(self.not_after)).then(svid_expired)
    }

    /// Cancelled when the connection has to be closed before its certificate expires; for expiry,
    /// it is [`Connections::expire`] that cancels it.
    pub fn token(&self) -> &CancellationToken {
        &self.signal.token
    }

    /// Ties a stream to this connection.
    pub fn guard<S>(self, stream: S) -> Guarded<S> {
        let closing = Closing::new(self);
        Guarded { stream, closing }
    }

    fn next_look(&self) -> Duration {
        end_of(self.not_after)
            .since(self.inner.clock.now())
            // A clock of whole milliseconds may need another one.
            .clamp(Duration::from_millis(1), LOOK)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({:?})", self.signal.why.get())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What was captured may hold the connection open.
        drop(self.signal.callback.lock().take());
        let mut open = self.inner.open.lock();
        if let Some(entries) = open.by_place.get_mut(&self.place) {
            entries.remove(&self.number);
            if entries.is_empty() {
                open.by_place.remove(&self.place);
            }
        }
    }
}

impl Closing {
    pub(crate) fn new(guard: Guard) -> Self {
        let cancelled = Box::pin(guard.signal.token.clone().cancelled_owned());
        let expiry = Box::pin(tokio::time::sleep(guard.next_look()));
        Self {
            guard: Arc::new(guard),
            cancelled,
            expiry,
        }
    }

    /// Ready once the connection has to be closed; wakes the task when that changes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refused> {
        loop {
            if let Some(why) = self.guard.check() {
                return Poll::Ready(why);
            }
            let cancelled = self.cancelled.as_mut().poll(cx).is_ready();
            if !cancelled {
                ready!(self.expiry.as_mut().poll(cx));
                let next = tokio::time::Instant::now() + self.guard.next_look();
                self.expiry.as_mut().reset(next);
            }
        }
    }
}

impl<S> Guarded<S> {
    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What decides over it.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.closing.guard
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let aborted = |why| io::Error::new(io::ErrorKind::ConnectionAborted, why);
        self.closing.poll(cx).map(aborted)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Always goes through: it is how a closed connection says so to its peer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A certificate counts to the end of its last second.
fn end_of(not_after: Timestamp) -> Timestamp {
    not_after.floor_to_second() + Duration::from_millis(1000)
}

fn svid_expired() -> Refused {
    Refused::new("SVID_EXPIRED", "the peer's certificate has expired")
}
