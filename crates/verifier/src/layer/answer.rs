//! A refusal as HTTP and gRPC say it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::REASON;
use crate::Refused;

/// gRPC's number for `PERMISSION_DENIED`.
const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");

/// The domain of our reasons in `ErrorInfo`.
const DOMAIN: &[u8] = b"taskmint";

/// Of what kind a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
}

impl Kind {
    pub(super) fn of(asked: &HeaderMap) -> Self {
        let kind = asked.get(CONTENT_TYPE);
        match kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            true => Self::Grpc,
            false => Self::Http,
        }
    }

    /// The whole answer.
    pub(super) fn answer(self, refused: &Refused) -> Response<Full<Bytes>> {
        let body = match self {
            Self::Grpc => Bytes::new(),
            Self::Http => Bytes::from(format!("{}\n", words(refused))),
        };
        let mut response = Response::new(Full::new(body));
        let kind = match self {
            Self::Grpc => {
                *response.headers_mut() = trailers(refused);
                "application/grpc"
            }
            Self::Http => {
                let reason = HeaderValue::from_static(refused.reason);
                response.headers_mut().insert(REASON, reason);
                *response.status_mut() = StatusCode::FORBIDDEN;
                "text/plain; charset=utf-8"
            }
        };
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// How a gRPC call ends that is refused.
pub(super) fn trailers(refused: &Refused) -> HeaderMap {
    let words = words(refused);
    let mut headers = HeaderMap::new();
    headers.insert(REASON, HeaderValue::from_static(refused.reason));
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
    headers
}

fn words(refused: &Refused) -> String {
    format!("{}: {}", refused.reason, refused.message)
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
