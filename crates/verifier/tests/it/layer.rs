//! Each request is judged, however long its connection has been open.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use taskmint_verifier::connections::Connections;
use taskmint_verifier::layer::{Body, PeerLayer, REASON};
use taskmint_verifier::{PeerSvid, Refused, StatusCheck, verify_x509};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::world::{Statuses, World, chain};

struct Stage {
    world: World,
    statuses: Arc<Statuses>,
}

impl Stage {
    fn new() -> Self {
        Self {
            world: World::new(),
            statuses: Arc::default(),
        }
    }

    fn layer(&self) -> PeerLayer {
        let status: Arc<dyn StatusCheck> = Arc::<Statuses>::clone(&self.statuses);
        PeerLayer::new(Arc::new(self.world.clock.clone()), Some(status))
    }

    fn peer(&self) -> PeerSvid {
        let leaf = self.world.task("/agent", 1);
        verify_x509(&chain(&leaf), &self.world.bundles(), self.world.now()).unwrap()
    }
}

async fn who(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let peer = request.extensions().get::<PeerSvid>();
    let text = peer.map_or("nobody".to_owned(), |peer| peer.spiffe_id.to_string());
    Ok(Response::new(Full::from(text)))
}

async fn ask(layer: &PeerLayer, request: Request<()>) -> Response<Body<Full<Bytes>>> {
    layer.layer(service_fn(who)).oneshot(request).await.unwrap()
}

async fn text(response: Response<Body<Full<Bytes>>>) -> String {
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_finds_its_peer_and_is_refused_once_the_task_has_ended() {
    let stage = Stage::new();
    let layer = stage.layer().peer(stage.peer());
    assert_eq!(
        text(ask(&layer, Request::default()).await).await,
        "spiffe://example.org/agent"
    );
    stage.statuses.end(stage.world.binding(1).place);
    let refused = ask(&layer, Request::default()).await;
    assert_eq!(
        (refused.status(), &refused.headers()[REASON]),
        (StatusCode::FORBIDDEN, &"TASK_ENDED".parse().unwrap())
    );
    assert_eq!(text(refused).await, "TASK_ENDED: the task has ended\n");
}

#[tokio::test]
async fn a_grpc_request_is_answered_with_permission_denied() {
    let stage = Stage::new();
    let layer = stage.layer().peer(stage.peer());
    stage.statuses.end(stage.world.binding(1).place);
    let request = Request::builder().header("content-type", "application/grpc+proto");
    let refused = ask(&layer, request.body(()).unwrap()).await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "7");
    assert_eq!(
        refused.headers()["grpc-message"],
        "TASK_ENDED: the task has ended"
    );
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    let (reason, _) = taskmint_wire::denial_of(&status).unwrap();
    assert_eq!(
        (reason.as_str(), status.code()),
        ("TASK_ENDED", tonic::Code::PermissionDenied)
    );
    assert_eq!(text(refused).await, "");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_an_open_connection() {
    let stage = Stage::new();
    let layer = stage.layer().peer(stage.peer());
    stage.world.clock.advance(Duration::from_secs(601));
    let refused = ask(&layer, Request::default()).await;
    assert_eq!(refused.headers()[REASON], "SVID_EXPIRED");
}

#[tokio::test]
async fn a_request_without_a_peer_passes_only_where_it_is_optional() {
    let stage = Stage::new();
    let refused = ask(&stage.layer(), Request::default()).await;
    assert_eq!(refused.headers()[REASON], "SVID_MISSING");
    let passed = ask(&stage.layer().optional(), Request::default()).await;
    assert_eq!(text(passed).await, "nobody");
    let mut request = Request::default();
    request.extensions_mut().insert(stage.peer());
    assert_eq!(
        text(ask(&stage.layer(), request).await).await,
        "spiffe://example.org/agent"
    );
}

/// A service that answers with what is sent to it from outside, as a stream does.
fn streaming(
    frames: futures::channel::mpsc::UnboundedReceiver<Bytes>,
) -> impl tower::Service<
    Request<()>,
    Response = Response<Streamed>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<Streamed>, Infallible>>,
> {
    let mut frames = Some(frames);
    service_fn(move |_| {
        let frames = frames.take().expect("one call");
        let frames = frames.map(frame as fn(Bytes) -> _);
        std::future::ready(Ok(Response::new(StreamBody::new(frames))))
    })
}

type Streamed = StreamBody<
    futures::stream::Map<
        futures::channel::mpsc::UnboundedReceiver<Bytes>,
        fn(Bytes) -> Result<Frame<Bytes>, Infallible>,
    >,
>;

fn frame(octets: Bytes) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(octets))
}

fn request(kind: &str) -> Request<()> {
    let request = Request::builder().header("content-type", kind);
    request.body(()).unwrap()
}

/// A stream that is open, in a register of its own: what it says next, and why it ended.
struct Open {
    connections: Connections,
    say: futures::channel::mpsc::UnboundedSender<Bytes>,
    body: Body<Streamed>,
}

impl Open {
    async fn new(stage: &Stage, kind: &str) -> Self {
        let connections = Connections::new(Arc::new(stage.world.clock.clone()), None);
        let layer = stage.layer().peer(stage.peer());
        let layer = layer.connections(connections.clone());
        let (say, frames) = futures::channel::mpsc::unbounded();
        let response = layer.layer(streaming(frames)).oneshot(request(kind)).await;
        let mut open = Self {
            connections,
            say,
            body: response.unwrap().into_body(),
        };
        open.say.unbounded_send("one".into()).unwrap();
        let said = open.body.frame().await.unwrap().unwrap();
        assert_eq!(said.into_data().unwrap(), "one");
        assert_eq!(open.connections.len(), 1);
        open
    }

    fn end(&self, stage: &Stage) {
        let refused = Refused::new("TASK_ENDED", "the task has ended");
        self.connections
            .close(stage.world.binding(1).place, &refused);
    }
}

#[tokio::test]
async fn a_stream_that_is_open_is_cut_off_when_its_task_ends() {
    let stage = Stage::new();
    let mut open = Open::new(&stage, "text/plain").await;
    assert!(futures::poll!(open.body.frame()).is_pending());
    open.end(&stage);
    let error = open.body.frame().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the task has ended"), "{error}");
    // What its service says goes nowhere, and it is in no register any more.
    open.say.unbounded_send("two".into()).unwrap();
    assert!(open.body.frame().await.is_none());
    assert!(open.connections.is_empty());
}

#[tokio::test]
async fn a_grpc_stream_that_is_open_ends_with_permission_denied() {
    let stage = Stage::new();
    let mut open = Open::new(&stage, "application/grpc").await;
    open.end(&stage);
    let trailers = open.body.frame().await.unwrap().unwrap();
    let trailers = trailers.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "7");
    assert_eq!(trailers[REASON], "TASK_ENDED");
    assert!(open.body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_its_peers_certificate_by_nothing() {
    let stage = Stage::new();
    let mut open = Open::new(&stage, "text/plain").await;
    let left = stage.peer().not_after.since(stage.world.now());
    stage.world.clock.advance(left + Duration::from_secs(1));
    let error = open.body.frame().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn a_call_that_has_not_answered_is_refused_when_its_task_ends() {
    let stage = Stage::new();
    let connections = Connections::new(Arc::new(stage.world.clock.clone()), None);
    let layer = stage.layer().peer(stage.peer());
    let layer = layer.connections(connections.clone());
    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let call = layer.layer(never).oneshot(request("application/grpc"));
    tokio::pin!(call);
    assert!(futures::poll!(call.as_mut()).is_pending());
    assert_eq!(connections.len(), 1);
    let refused = Refused::new("TASK_ENDED", "the task has ended");
    connections.close(stage.world.binding(1).place, &refused);
    let answer = call.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "7");
    assert!(connections.is_empty());
}

#[tokio::test]
async fn a_call_that_is_over_is_in_no_register() {
    let stage = Stage::new();
    let connections = Connections::new(Arc::new(stage.world.clock.clone()), None);
    let layer = stage.layer().peer(stage.peer());
    let layer = layer.connections(connections.clone());
    let answer = ask(&layer, Request::default()).await;
    assert_eq!(connections.len(), 1, "its body is still to be sent");
    assert_eq!(text(answer).await, "spiffe://example.org/agent");
    assert!(connections.is_empty());
}
