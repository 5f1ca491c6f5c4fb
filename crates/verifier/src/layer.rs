//! A tower layer that puts the peer into each request's extensions and asks for its task's status
//! again, so that a request on an open connection is refused the moment its task ends. With
//! [`PeerLayer::connections`] what still runs then ends, too: answers that take long, and streams.
//!
//! The peer comes from the connection: [`PeerLayer::peer`] where a service is made for each
//! connection, or a [`PeerSvid`] that the server has put into the request's extensions itself.
//!
//! A refused request is answered here: 403 with the reason in words, and for gRPC
//! `PERMISSION_DENIED` with `google.rpc.ErrorInfo`. Both carry the stable name in the header
//! [`REASON`].

mod answer;
mod running;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{Either, Full};
use taskmint_model::Clock;
use tower::{Layer, Service};

use self::answer::Kind;
pub use self::running::{Call, Running};
use crate::connections::{Closing, Connections};
use crate::{PeerSvid, Refused, StatusCheck, judge};

/// The header that carries a refusal's stable name.
pub const REASON: HeaderName = HeaderName::from_static("taskmint-reason");

/// What a judged service answers with: its own body, for as long as the task lives, or the words of a
/// refusal.
pub type Body<B> = Either<Full<Bytes>, Running<B>>;

/// Judges each request's peer.
#[derive(Clone)]
pub struct PeerLayer {
    clock: Arc<dyn Clock>,
    status: Option<Arc<dyn StatusCheck>>,
    peer: Option<PeerSvid>,
    connections: Option<Connections>,
    required: bool,
}

/// A service behind a [`PeerLayer`].
#[derive(Clone)]
pub struct PeerService<S> {
    layer: PeerLayer,
    inner: S,
}

impl PeerLayer {
    /// Requests without a peer are refused.
    pub fn new(clock: Arc<dyn Clock>, status: Option<Arc<dyn StatusCheck>>) -> Self {
        Self {
            clock,
            status,
            peer: None,
            connections: None,
            required: true,
        }
    }

    /// All requests come from this peer, as its handshake said.
    #[must_use]
    pub fn peer(mut self, peer: PeerSvid) -> Self {
        self.peer = Some(peer);
        self
    }

    /// What runs when its peer's task ends, or its certificate does, ends with it: a call that has not
    /// answered is refused, and a body is cut off, for gRPC by `PERMISSION_DENIED` in its trailers.
    /// Each call is in this register while it runs, as connections are.
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Requests without a peer pass, for services that judge them otherwise.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    fn judge(&self, shown: Option<&PeerSvid>) -> Result<(), Refused> {
        let peer = match shown {
            Some(peer) => peer,
            None if self.required => {
                return Err(Refused::new(
                    "SVID_MISSING",
                    "the request comes without an svid",
                ));
            }
            None => return Ok(()),
        };
        if self.clock.now().secs() > peer.not_after.secs() {
            return Err(Refused::new(
                "SVID_EXPIRED",
                "the peer's certificate has expired",
            ));
        }
        match &self.status {
            Some(status) => judge(status.as_ref(), &peer.spiffe_id, peer.binding.as_ref()),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for PeerLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerLayer({:?})", self.peer)
    }
}

impl<S> Layer<S> for PeerLayer {
    type Service = PeerService<S>;

    fn layer(&self, inner: S) -> PeerService<S> {
        PeerService {
            layer: self.clone(),
            inner,
        }
    }
}

impl<S, A, B> Service<Request<A>> for PeerService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<Body<B>>;
    type Error = S::Error;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let kind = Kind::of(request.headers());
        if let Some(peer) = &self.layer.peer {
            request.extensions_mut().insert(peer.clone());
        }
        let peer = request.extensions().get::<PeerSvid>();
        if let Err(refused) = self.layer.judge(peer) {
            return Call::refused(kind, refused);
        }
        let connections = self.layer.connections.as_ref();
        let guard = connections.zip(peer).map(|(all, peer)| all.register(peer));
        Call::running(kind, guard.map(Closing::new), self.inner.call(request))
    }
}
