//! A real HTTP/2 server behind the adapter, and the same server without it.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::AuthorityStream;

/// Three calls as grpcio 1.85.1 writes them, on streams 1, 3 and 5.
const GRPCIO: &[u8] = include_bytes!("grpcio-1.85.1.bin");

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// Answers with the authority it was asked for.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Else the server resets what the client has left to say.
    let (request, body) = request.into_parts();
    body.collect().await.ok();
    let authority = request
        .uri
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    Ok(Response::new(Full::from(authority)))
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A reset or a hang-up of the client is what some of these tests want.
    builder
        .serve_connection(TokioIo::new(io), service_fn(answer))
        .await
        .ok();
}

/// Serves one connection at `path`, and says so once it listens.
fn listen(path: &Path, adapted: bool) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        if adapted {
            serve(AuthorityStream::new(socket)).await
        } else {
            serve(socket).await
        }
    });
}

struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read_frame(socket: &mut UnixStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    socket.read_exact(&mut payload).await?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok(Frame {
        kind: head[3],
        stream,
        payload,
    })
}

/// Sends `bytes` in pieces of `size`; returns the frames about `streams` until each has one.
async fn ask(path: &Path, bytes: &[u8], size: usize, streams: &[u32]) -> Vec<Frame> {
    let mut socket = UnixStream::connect(path).await.unwrap();
    for piece in bytes.chunks(size) {
        socket.write_all(piece).await.unwrap();
    }
    let mut found: Vec<Frame> = Vec::new();
    while !streams
        .iter()
        .all(|stream| found.iter().any(|frame| frame.stream == *stream))
    {
        let frame = read_frame(&mut socket).await.unwrap();
        if streams.contains(&frame.stream) && [HEADERS, RST_STREAM].contains(&frame.kind) {
            found.push(frame);
        }
    }
    found
}

/// The client's bytes up to its cancellation of the calls.
fn calls() -> &'static [u8] {
    let cancelled = GRPCIO.len() - 3 * 13;
    &GRPCIO[..cancelled]
}

/// A request with the raw path of its socket as authority, as grpc-java writes it.
fn java_call() -> Vec<u8> {
    let mut block = vec![0x82, 0x84, 0x86, 0x41, 14];
    block.extend(b"/run/some.sock");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

#[tokio::test]
async fn a_percent_encoded_path_as_authority_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    for size in [1, 50, usize::MAX] {
        let path = dir.path().join(size.to_string());
        listen(&path, true);
        let frames = ask(&path, calls(), size, &[1, 3, 5]).await;
        for frame in &frames {
            assert_eq!(frame.kind, HEADERS, "stream {}", frame.stream);
            assert_eq!(frame.payload[0], 0x88, "status 200 out of the static table");
        }
    }
}

#[tokio::test]
async fn a_raw_path_as_authority_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    listen(&path, true);
    let frames = ask(&path, &java_call(), usize::MAX, &[1]).await;
    assert_eq!(frames[0].kind, HEADERS);
    assert_eq!(frames[0].payload[0], 0x88);
}

#[tokio::test]
async fn without_the_adapter_both_are_reset() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("python", calls()), ("java", &java_call())] {
        let path = dir.path().join(name);
        listen(&path, false);
        let frames = ask(&path, bytes, usize::MAX, &[1]).await;
        assert_eq!(frames[0].kind, RST_STREAM, "{name}");
        assert_eq!(frames[0].payload, [0, 0, 0, 1], "PROTOCOL_ERROR");
    }
}

#[tokio::test]
async fn nothing_is_lost_on_a_pipe_of_one_byte() {
    let (mut client, server) = tokio::io::duplex(1);
    let sent = tokio::spawn(async move {
        client.write_all(GRPCIO).await.unwrap();
        client.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    let mut stream = AuthorityStream::new(server);
    stream.read_to_end(&mut got).await.unwrap();
    sent.await.unwrap();
    assert_eq!(
        got.windows(9)
            .filter(|window| window == b"localhost")
            .count(),
        3
    );
    assert!(!got.windows(3).any(|window| window == b"%2F"));
}
