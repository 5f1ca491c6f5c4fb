//! A tower layer that puts the peer into each request's extensions and asks for its task's status
//! again, so that a request on an open connection is refused the moment its task ends.
//!
//! The peer comes from the connection: [`PeerLayer::peer`] where a service is made for each
//! connection, or a [`PeerSvid`] that the server has put into the request's extensions itself.
//!
//! A refused request is answered here: 403 with the reason in words, and for gRPC
//! `PERMISSION_DENIED` with `google.rpc.ErrorInfo`. Both carry the stable name in the header
//! [`REASON`].

use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD;
use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::future::{Either as Or, MapOk, Ready, ready};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use taskmint_model::Clock;
use tower::{Layer, Service};

use crate::{PeerSvid, Refused, StatusCheck, judge};

/// The header that carries a refusal's stable name.
pub const REASON: HeaderName = HeaderName::from_static("taskmint-reason");

/// gRPC's number for `PERMISSION_DENIED`.
const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");

/// The domain of our reasons in `ErrorInfo`.
const DOMAIN: &[u8] = b"taskmint";

/// What a judged service answers with: its own body, or the words of a refusal.
pub type Body<B> = Either<Full<Bytes>, B>;

/// Judges each request's peer.
#[derive(Clone)]
pub struct PeerLayer {
    clock: Arc<dyn Clock>,
    status: Option<Arc<dyn StatusCheck>>,
    peer: Option<PeerSvid>,
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
            required: true,
        }
    }

    /// All requests come from this peer, as its handshake said.
    #[must_use]
    pub fn peer(mut self, peer: PeerSvid) -> Self {
        self.peer = Some(peer);
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
    type Future = Or<
        Ready<Result<Self::Response, S::Error>>,
        MapOk<S::Future, fn(Response<B>) -> Response<Body<B>>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        if let Some(peer) = &self.layer.peer {
            request.extensions_mut().insert(peer.clone());
        }
        if let Err(refused) = self.layer.judge(request.extensions().get::<PeerSvid>()) {
            return Or::Left(ready(Ok(answer(request.headers(), &refused))));
        }
        let own: fn(Response<B>) -> Response<Body<B>> = |response| response.map(Either::Right);
        Or::Right(self.inner.call(request).map_ok(own))
    }
}

fn answer<B>(asked: &HeaderMap, refused: &Refused) -> Response<Body<B>> {
    let words = format!("{}: {}", refused.reason, refused.message);
    let grpc = asked
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let body = if grpc {
        Bytes::new()
    } else {
        Bytes::from(format!("{words}\n"))
    };
    let mut response = Response::new(Either::Left(Full::new(body)));
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(refused.reason));
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", PERMISSION_DENIED);
        let details = STANDARD_NO_PAD.encode(details(refused.reason, &words));
        let told = [
            ("grpc-message", percent_encoded(&words)),
            ("grpc-status-details-bin", details),
        ];
        for (name, text) in told {
            if let Ok(text) = HeaderValue::try_from(text) {
                headers.insert(name, text);
            }
        }
    } else {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
}

/// A `google.rpc.Status` with an `ErrorInfo`, in protobuf: two messages of three texts are not
/// worth a library here.
fn details(reason: &str, words: &str) -> Vec<u8> {
    let (mut info, mut any) = (Vec::new(), Vec::new());
    field(&mut info, 1, reason.as_bytes());
    field(&mut info, 2, DOMAIN);
    field(&mut any, 1, b"type.googleapis.com/google.rpc.ErrorInfo");
    field(&mut any, 2, &info);
    let mut status = vec![0x08, 7];
    field(&mut status, 2, words.as_bytes());
    field(&mut status, 3, &any);
    status
}

/// A field of octets: key, length as a varint, content.
fn field(into: &mut Vec<u8>, number: u8, content: &[u8]) {
    into.push(number << 3 | 2);
    let mut length = content.len();
    while length >= 0x80 {
        into.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    into.push(length as u8);
    into.extend_from_slice(content);
}

/// As gRPC over HTTP/2 wants `grpc-message`: printable ASCII but for the percent sign.
fn percent_encoded(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b'%' => text.push_str("%25"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
