//! Requests judged by their headers, and the headers and trailers that answer them.

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use taskmint_wire::Denied;
use tonic::{Code, Status};

use crate::WATCH;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// What is wrong with a request before its first message.
pub(crate) enum Unfit {
    /// Not gRPC.
    Http(StatusCode),
    Grpc(Status),
}

/// Judges a request by what it asks for.
pub(crate) fn judge<B>(request: &Request<B>) -> Result<(), Unfit> {
    if request.method() != Method::POST {
        return Err(Unfit::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !is_grpc(request.headers().get(CONTENT_TYPE)) {
        return Err(Unfit::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    if request.uri().path() != WATCH {
        let message = "the revocation log can be watched here, and nothing else";
        return Err(unimplemented("NO_SUCH_METHOD", message));
    }
    let encoding = request.headers().get(ENCODING);
    if encoding.is_some_and(|encoding| encoding != IDENTITY) {
        return Err(unimplemented(
            "COMPRESSED",
            "messages are not to be compressed",
        ));
    }
    Ok(())
}

fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let Some(content_type) = content_type.map(HeaderValue::as_bytes) else {
        return false;
    };
    let rest = content_type.strip_prefix(GRPC.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn unimplemented(reason: &str, message: &str) -> Unfit {
    Unfit::Grpc(Denied::new(Code::Unimplemented, reason, message).into())
}

/// The headers of a stream, sent before its first message came: a client may wait for them.
pub(crate) fn accepted() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response.headers_mut().insert(ACCEPT_ENCODING, IDENTITY);
    response
}

/// Answers a request that comes to nothing. One that is gone already needs no answer.
pub(crate) fn refuse(mut respond: SendResponse<Bytes>, unfit: Unfit) {
    let response = match unfit {
        Unfit::Http(code) => {
            let mut response = Response::new(());
            *response.status_mut() = code;
            response
        }
        Unfit::Grpc(status) => {
            let mut response = accepted();
            response.headers_mut().extend(trailers(&status));
            response
        }
    };
    drop(respond.send_response(response, true));
}

/// How a stream ends.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(unfit) = status.add_header(&mut trailers) {
        trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(unfit.code() as i32));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |text: &'static str| is_grpc(Some(&HeaderValue::from_static(text)));
        assert!(is("application/grpc") && is("application/grpc+proto"));
        assert!(is("application/grpc;charset=utf-8"));
        assert!(!is("application/grpc-web") && !is("application/json") && !is_grpc(None));
    }
}
