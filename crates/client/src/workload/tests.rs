//! The Workload API's client against a server on a real socket.

use std::path::Path;
use std::pin::Pin;

use crate::{Endpoint, WorkloadApi, connect};
use futures::{Stream, StreamExt as _};
use taskmint_id::{Bundle, SpiffeId, TrustDomain};
use taskmint_model::Clock as _;
use taskmint_testkit::{ManualClock, SeededEntropy, TestCa, TestLeaf};
use taskmint_wire::Denied;
use taskmint_wire::workload as wire;
use taskmint_wire::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Hands out one SVID, then says that the task has ended.
struct Agent {
    id: SpiffeId,
    ca: TestCa,
    leaf: TestLeaf,
    federated: TestCa,
}

impl Agent {
    fn new() -> Self {
        let (now, entropy) = (ManualClock::default().now(), SeededEntropy::new(1));
        let ca = |name| TestCa::new(&TrustDomain::parse(name).unwrap(), now, &entropy);
        let (ca, federated) = (ca("example.org"), ca("other.example"));
        let id = SpiffeId::new(ca.trust_domain(), "/billing").unwrap();
        let leaf = ca.svid(&id, now, &entropy);
        Self {
            id,
            ca,
            leaf,
            federated,
        }
    }

    fn serve_in(self, folder: &Path) -> Endpoint {
        let path = folder.join("api.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let service = SpiffeWorkloadApiServer::new(self);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        Endpoint::Unix(path)
    }
}

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let header = request.metadata().get("workload.spiffe.io");
    if header.is_some_and(|value| value == "true") {
        return Ok(());
    }
    Err(Status::invalid_argument("security header missing"))
}

fn ended() -> Status {
    Denied::new(Code::PermissionDenied, "TASK_ENDED", "the task has ended")
        .fix("begin a new one")
        .into()
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Responses<wire::X509svidResponse>;
    type FetchX509BundlesStream = Responses<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Responses<wire::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check(&request)?;
        let mut chain = self.leaf.certificate.clone();
        chain.extend_from_slice(self.ca.certificate());
        let svid = wire::X509svid {
            spiffe_id: self.id.to_string(),
            x509_svid: chain,
            x509_svid_key: self.leaf.key.pkcs8(),
            bundle: self.ca.certificate().to_vec(),
            hint: "first".to_owned(),
        };
        let federated = (
            "spiffe://other.example".to_owned(),
            self.federated.certificate().to_vec(),
        );
        let response = wire::X509svidResponse {
            svids: vec![svid],
            crl: Vec::new(),
            federated_bundles: [federated].into_iter().collect(),
        };
        Ok(Response::new(
            futures::stream::iter([Ok(response), Err(ended())]).boxed(),
        ))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check(&request)?;
        let own = ("example.org".to_owned(), self.ca.certificate().to_vec());
        let torn = ("example.org".to_owned(), b"torn".to_vec());
        let with = |bundle| wire::X509BundlesResponse {
            crl: Vec::new(),
            bundles: [bundle].into_iter().collect(),
        };
        Ok(Response::new(
            futures::stream::iter([Ok(with(own)), Ok(with(torn))]).boxed(),
        ))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        check(&request)?;
        let request = request.into_inner();
        let svid = format!("{}.{}", request.audience.join("+"), request.spiffe_id);
        let svid = wire::Jwtsvid {
            spiffe_id: self.id.to_string(),
            svid,
            hint: String::new(),
        };
        Ok(Response::new(wire::JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check(&request)?;
        let mut bundle = Bundle::new(self.ca.trust_domain().clone());
        bundle
            .add_jwt_authority("k1", *self.ca.jwt_key().public())
            .unwrap();
        let named = (
            "spiffe://example.org".to_owned(),
            bundle.to_json().into_bytes(),
        );
        let response = wire::JwtBundlesResponse {
            bundles: [named].into_iter().collect(),
        };
        Ok(Response::new(futures::stream::iter([Ok(response)]).boxed()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        check(&request)?;
        let spiffe_id = self.id.to_string();
        Ok(Response::new(wire::ValidateJwtsvidResponse {
            spiffe_id,
            claims: None,
        }))
    }
}

#[tokio::test]
async fn an_svid_comes_with_its_bundles_and_its_end_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::new();
    let (id, leaf) = (agent.id.clone(), agent.leaf.certificate.clone());
    let api = WorkloadApi::connect(&agent.serve_in(folder.path()))
        .await
        .unwrap();
    let mut contexts = api.x509_contexts().await.unwrap();
    let context = contexts.next().await.unwrap().unwrap();
    let svid = &context.svids[0];
    assert_eq!(
        (&svid.spiffe_id, svid.hint.as_str(), svid.chain.len()),
        (&id, "first", 2)
    );
    assert_eq!(*svid.chain[0], *leaf);
    let names: Vec<_> = context
        .bundles
        .iter()
        .map(|b| b.trust_domain().as_str())
        .collect();
    assert_eq!(names, ["example.org", "other.example"]);
    let end = contexts.next().await.unwrap().unwrap_err();
    assert_eq!(
        (end.code, end.reason.as_deref()),
        (Code::PermissionDenied, Some("TASK_ENDED"))
    );
    assert_eq!(
        end.to_string(),
        "the task has ended [TASK_ENDED]; begin a new one"
    );
}

#[tokio::test]
async fn bundles_and_tokens_are_values_and_nonsense_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::new();
    let id = agent.id.clone();
    let api = WorkloadApi::connect(&agent.serve_in(folder.path()))
        .await
        .unwrap();
    let mut x509 = api.x509_bundles().await.unwrap();
    let bundles = x509.next().await.unwrap().unwrap();
    assert_eq!(
        bundles
            .get(id.trust_domain())
            .unwrap()
            .x509_authorities()
            .len(),
        1
    );
    let torn = x509.next().await.unwrap().unwrap_err();
    assert!(
        torn.to_string()
            .contains("makes no sense: a certificate is malformed"),
        "{torn}"
    );
    let jwt = api
        .jwt_bundles()
        .await
        .unwrap()
        .next()
        .await
        .unwrap()
        .unwrap();
    assert!(
        jwt.get(id.trust_domain())
            .unwrap()
            .jwt_authority("k1")
            .is_some()
    );
    let tokens = api
        .jwt_svids(&["a".to_owned(), "b".to_owned()], Some(&id))
        .await
        .unwrap();
    assert_eq!(tokens[0].token, format!("a+b.{id}"));
    assert_eq!(api.validate_jwt("a", "token").await.unwrap(), id);
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    let error = connect(&Endpoint::Unix(path.clone())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("can't connect to `unix:{}`", path.display())
    );
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
}
