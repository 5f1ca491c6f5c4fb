//! Each request is judged, however long its connection has been open.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use taskmint_verifier::layer::{Body, PeerLayer, REASON};
use taskmint_verifier::{PeerSvid, StatusCheck, verify_x509};
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
