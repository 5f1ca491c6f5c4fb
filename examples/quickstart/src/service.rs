//! A service that answers over mTLS, one line for each line, for as long as the caller's task lives.
//!
//! Everything that taskmint asks of a service is in [`main`]: keep the own identity fresh, watch
//! the revocation log, judge peers in the handshake, and register open connections so that an end
//! closes them.
//!
//!     quickstart-service <SPIFFE ID that may call>

use std::sync::Arc;

use anyhow::Context as _;
use taskmint_client::{Endpoint, WorkloadApi};
use taskmint_id::SpiffeId;
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_verifier::connections::{Connections, Guarded};
use taskmint_verifier::tls::{self, Clients, Identity, authorize, read_verified, refusal_of};
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_verifier::{PeerSvid, Trust};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let caller = std::env::args()
        .nth(1)
        .context("usage: quickstart-service <SPIFFE ID>")?;
    let caller = SpiffeId::parse(&caller)?;
    let workload = Endpoint::from_env("SPIFFE_ENDPOINT_SOCKET")?;
    let Endpoint::Unix(relay) = Endpoint::from_env("TASKMINT_REVOCATION_SOCKET")? else {
        anyhow::bail!("the relay is a unix socket");
    };

    // Who we are, renewed for as long as we run.
    let (identity, trust) = (Identity::new(), Trust::default());
    let mut contexts = WorkloadApi::connect(&workload)
        .await?
        .x509_contexts()
        .await?;
    let first = contexts.next().await.context("no identity")??;
    let own = take(&identity, &first)?;
    trust.set(first.bundles);
    let kept = identity.clone();
    tokio::spawn(async move {
        while let Some(context) = contexts.next().await {
            if let Err(error) = context
                .map_err(anyhow::Error::from)
                .and_then(|c| take(&kept, &c))
            {
                println!("identity lost: {error}");
                kept.clear();
            }
        }
    });

    // Whose task has ended: from the agent's relay, believed only under fresh signed heads.
    let mut options = Options::new(
        own.trust_domain().clone(),
        Source::Relay(relay),
        "quickstart-service",
    );
    options.bundles = Bundles::WorkloadApi(workload);
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let watch = Watch::start(options, trust.clone(), clocks, entropy)?;
    watch.synced().await;

    // Peers are judged in the handshake, and again when something ends.
    let status = Arc::new(watch.clone());
    let connections = Connections::new(Arc::new(SystemClock), Some(status.clone()));
    tokio::spawn(connections.clone().follow(watch));
    let authorize = authorize::ids([caller]);
    let clock = Arc::new(SystemClock);
    let config = tls::server_config(
        &identity,
        &trust,
        clock,
        Clients::Required,
        authorize,
        Some(status),
    )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {} as {own}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, acceptor.clone(), connections.clone()));
    }
}

/// Shows the default identity from now on.
fn take(identity: &Identity, context: &taskmint_client::X509Context) -> anyhow::Result<SpiffeId> {
    let svid = context.svids.first().context("no identity")?;
    identity.set(svid.chain.clone(), &svid.key)?;
    Ok(svid.spiffe_id.clone())
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, connections: Connections) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            match refusal_of(&error) {
                Some(refused) => println!("refused [{}]: {refused}", refused.reason()),
                None => println!("no handshake: {error}"),
            }
            return;
        }
    };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let Some(Ok(peer)) = leaf.map(read_verified) else {
        return;
    };
    let guarded = connections.register(&peer).guard(stream);
    answer(guarded, &peer).await;
}

/// Answers until the caller goes, or its task does.
async fn answer(guarded: Guarded<TlsStream<TcpStream>>, peer: &PeerSvid) {
    let task = peer.task().map(|task| task.to_string()).unwrap_or_default();
    let guard = Arc::clone(guarded.guard());
    let mut stream = BufStream::new(guarded);
    let mut line = String::new();
    loop {
        line.clear();
        let answered = async {
            if stream.read_line(&mut line).await? == 0 {
                return Ok(false);
            }
            let answer = format!("{} for {} in task {task}\n", line.trim(), peer.spiffe_id);
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            Ok::<_, std::io::Error>(true)
        };
        match answered.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                match guard.check() {
                    Some(why) => println!("closed [{}]: {} ({why})", why.reason, peer.spiffe_id),
                    None => println!("connection lost: {error}"),
                }
                break;
            }
        }
    }
    // Tells the caller that it was no accident; it may be gone already.
    stream.get_mut().shutdown().await.ok();
}
