//! Bundles as a Workload API pushes them: certificates and keys come apart and belong together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use taskmint_client::Endpoint;
use taskmint_id::Bundle;
use taskmint_model::SystemEntropy;
use taskmint_verifier::Trust;
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_wire::workload as wire;
use taskmint_wire::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

use crate::world::World;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Pushes the bundle of the moment on both streams.
struct Agent(watch::Receiver<Bundle>);

impl Agent {
    fn named(bundle: &Bundle, octets: Vec<u8>) -> std::collections::HashMap<String, Vec<u8>> {
        [(bundle.trust_domain().id().to_string(), octets)]
            .into_iter()
            .collect()
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Responses<wire::X509svidResponse>;
    type FetchX509BundlesStream = Responses<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Responses<wire::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let responses = WatchStream::new(self.0.clone()).map(|bundle| {
            let bundles = Self::named(&bundle, bundle.x509_der());
            Ok(wire::X509BundlesResponse {
                crl: Vec::new(),
                bundles,
            })
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let responses = WatchStream::new(self.0.clone()).map(|bundle| {
            let bundles = Self::named(&bundle, bundle.to_json().into_bytes());
            Ok(wire::JwtBundlesResponse { bundles })
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn until(trust: &Trust, wanted: &Bundle) {
    let got = |bundle: &Bundle| {
        bundle.x509_authorities() == wanted.x509_authorities()
            && bundle.jwt_authorities() == wanted.jwt_authorities()
    };
    while !trust.get().get(wanted.trust_domain()).is_some_and(got) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn certificates_and_keys_of_a_workload_api_are_joined_and_follow_its_pushes() {
    let (before, after) = (World::of("example.org", 1), World::of("example.org", 2));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let (push, pushed) = watch::channel(before.bundle());
    let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let service = SpiffeWorkloadApiServer::new(Agent(pushed));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));

    let trust = Trust::default();
    let no_relay = Source::Relay(folder.path().join("none.sock"));
    let options = Options {
        bundles: Bundles::WorkloadApi(Endpoint::Unix(path)),
        ..Options::new(before.trust_domain.clone(), no_relay, "test")
    };
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let watch = Watch::start(options, trust.clone(), clocks, entropy).unwrap();
    until(&trust, &before.bundle()).await;
    push.send(after.bundle()).unwrap();
    until(&trust, &after.bundle()).await;
    assert!(watch.state().closed.is_some(), "bundles alone open nothing");
}
