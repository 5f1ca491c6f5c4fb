//! The security header (WEP-06 to 08): what a request forged by way of a web page can't have. It is
//! asked for on every request on the workload socket, but for what Envoy calls, which knows no such
//! header.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::denial::Denial;

const NAME: &str = "workload.spiffe.io";

/// Refuses requests without the header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecurityHeader;

/// A service behind the header.
#[derive(Debug, Clone)]
pub(crate) struct Guarded<S>(S);

impl<S> Layer<S> for SecurityHeader {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded(inner)
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_envoys(request.uri().path()) || has_header(request.headers()) {
            return Either::Left(self.0.call(request));
        }
        let message = "the metadata `workload.spiffe.io: true` is missing, or not exactly that";
        let denial = Denial::invalid("SECURITY_HEADER", message)
            .fix("use a SPIFFE client library, or add it to every call");
        Either::Right(ready(Ok(denial.status().into_http())))
    }
}

/// Envoy's own services: to none of them can a web page speak, for they need HTTP/2 and protobuf.
fn is_envoys(path: &str) -> bool {
    path.starts_with("/envoy.service.")
}

/// Exactly once, and exactly `true`.
fn has_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(NAME).iter();
    matches!((values.next(), values.next()), (Some(value), None) if value.as_bytes() == b"true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_lower_case_true_will_do() {
        let check = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(NAME, value.parse().unwrap());
            }
            has_header(&headers)
        };
        assert!(check(&["true"]));
        let bad: [&[&'static str]; 7] = [
            &[],
            &["True"],
            &["1"],
            &[""],
            &["true", "true"],
            &["true,true"],
            &["false"],
        ];
        for values in bad {
            assert!(!check(values), "{values:?}");
        }
    }
}
