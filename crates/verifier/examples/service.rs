//! A service that echoes what an expected caller says, for as long as the caller's task lives.
//!
//! `cargo run -p taskmint-verifier --features watch --example service -- spiffe://example.org/caller`
//!
//! `docs/guide/services.md` shows everything but `main`; `tests/lib/docs` holds the two together.

use std::sync::Arc;

use anyhow::Context as _;
use taskmint_client::{Endpoint, WorkloadApi};
use taskmint_id::SpiffeId;
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::connections::Connections;
use taskmint_verifier::tls::{self, Clients, Identity, authorize};
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_verifier::{StatusCheck, Trust};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;

async fn serve(caller: SpiffeId) -> anyhow::Result<()> {
    // Who we are: an SVID of our own. Keep reading `contexts` and set what comes: it is renewed.
    let workload = Endpoint::from_env("SPIFFE_ENDPOINT_SOCKET")?;
    let mut contexts = WorkloadApi::connect(&workload)
        .await?
        .x509_contexts()
        .await?;
    let context = contexts.next().await.context("no identity")??;
    let (identity, trust) = (Identity::new(), Trust::default());
    let own = context.svids.first().context("no identity")?;
    identity.set(own.chain.clone(), &own.key)?;
    let trust_domain = own.spiffe_id.trust_domain().clone();
    trust.set(context.bundles);

    // Whose task has ended: from the relay on this node. It is not trusted; signed heads are.
    let relay = Source::Relay("/run/taskmint/revocation.sock".into());
    let mut options = Options::new(trust_domain, relay, "my-service");
    options.bundles = Bundles::WorkloadApi(workload);
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let watch = Watch::start(options, trust.clone(), clocks, entropy)?;
    watch.synced().await;

    // Peers are judged in the handshake; open connections are closed when their task ends.
    let clock = Arc::new(SystemClock);
    let status: Arc<dyn StatusCheck> = Arc::new(watch.clone());
    let connections = Connections::new(clock.clone(), Some(Arc::clone(&status)));
    tokio::spawn(connections.clone().follow(watch));
    let may = authorize::ids([caller]);
    let config = tls::server_config(
        &identity,
        &trust,
        clock,
        Clients::Required,
        may,
        Some(status),
    )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("0.0.0.0:8443").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let chain = stream.get_ref().1.peer_certificates();
            let peer = tls::read_verified(chain.and_then(<[_]>::first).context("no certificate")?)?;
            // `peer` says who and for which task. The guarded stream breaks off when that ends.
            let stream = connections.register(&peer).guard(stream);
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await?;
            anyhow::Ok(())
        });
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let caller = std::env::args().nth(1).context("whom to expect?")?;
    serve(caller.parse()?).await
}
