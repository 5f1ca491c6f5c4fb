//! A call that runs, and a body that is being sent: both end with the peer's task.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;

use super::answer::{Kind, trailers};
use crate::Refused;
use crate::connections::Closing;

pin_project! {
    /// The answer to come of a judged request.
    pub struct Call<F> {
        kind: Kind,
        refused: Option<Refused>,
        closing: Option<Closing>,
        #[pin]
        call: Option<F>,
    }
}

pin_project! {
    /// A body for as long as its peer's task lives.
    pub struct Running<B> {
        kind: Kind,
        closing: Option<Closing>,
        is_cut_off: bool,
        #[pin]
        body: B,
    }
}

impl<F> Call<F> {
    pub(super) fn refused(kind: Kind, refused: Refused) -> Self {
        Self {
            kind,
            refused: Some(refused),
            closing: None,
            call: None,
        }
    }

    pub(super) fn running(kind: Kind, closing: Option<Closing>, call: F) -> Self {
        Self {
            kind,
            refused: None,
            closing,
            call: Some(call),
        }
    }
}

impl<F, B, E> Future for Call<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<super::Body<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let ended = poll_ended(this.closing, cx);
        if let Some(refused) = this.refused.take().or(ended) {
            // What it has done so far is undone by nobody; it goes no further.
            this.call.set(None);
            let answer: Response<Full<Bytes>> = this.kind.answer(&refused);
            return Poll::Ready(Ok(answer.map(Either::Left)));
        }
        let Some(call) = this.call.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let answered = ready!(call.poll(cx));
        let (kind, closing) = (*this.kind, this.closing.take());
        this.call.set(None);
        Poll::Ready(answered.map(|response| {
            response.map(|body| {
                Either::Right(Running {
                    kind,
                    closing,
                    is_cut_off: false,
                    body,
                })
            })
        }))
    }
}

impl<B> Body for Running<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if *this.is_cut_off {
            return Poll::Ready(None);
        }
        if let Some(refused) = poll_ended(this.closing, cx) {
            *this.is_cut_off = true;
            return Poll::Ready(Some(match this.kind {
                Kind::Grpc => Ok(Frame::trailers(trailers(&refused))),
                Kind::Http => Err(refused.into()),
            }));
        }
        let frame = ready!(this.body.poll_frame(cx));
        if frame.is_none() {
            *this.closing = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_cut_off || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why it has to end, once it has to; then it is over, and in no register.
fn poll_ended(closing: &mut Option<Closing>, cx: &mut Context<'_>) -> Option<Refused> {
    let Poll::Ready(refused) = closing.as_mut()?.poll(cx) else {
        return None;
    };
    *closing = None;
    Some(refused)
}

impl<F> fmt::Debug for Call<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({:?})", self.kind)
    }
}

impl<B> fmt::Debug for Running<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({:?}, cut off: {})", self.kind, self.is_cut_off)
    }
}
