//! The relay of the revocation log: frames pass through as they come, to verifiers on this node.
//! It can neither forge nor drop anything unnoticed (contract line 6), so it looks at nothing.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use taskmint_wire::revocation;
use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::revocation_server::Revocation;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::agent::Agent;
use crate::denial::Denial;
use crate::identity::NodeIdentity;
use crate::server::{MAX_MESSAGE, unreachable};

/// The relay over an agent. One stream to the server for each local watcher, on one connection.
#[derive(Clone)]
pub(crate) struct Relay {
    agent: Arc<Agent>,
    upstream: Arc<Upstream>,
}

#[derive(Default)]
struct Upstream {
    open: ArcSwapOption<Open>,
    opening: Mutex<()>,
}

/// A connection, and under what it was opened: a renewed SVID or a moved server needs another.
struct Open {
    channel: Channel,
    certificate: Vec<u8>,
    address: String,
}

impl Relay {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            upstream: Arc::default(),
        }
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let identity = self.agent.identity.load_full().ok_or_else(unreachable)?;
        let address = self
            .agent
            .watch_address
            .load_full()
            .ok_or_else(unreachable)?;
        if let Some(channel) = self.fitting(&identity, &address) {
            return Ok(channel);
        }
        let _alone = self.upstream.opening.lock().await;
        if let Some(channel) = self.fitting(&identity, &address) {
            return Ok(channel);
        }
        let opened = self.agent.upstream.watch(&address, &identity).await;
        let channel = opened.map_err(|error| {
            tracing::warn!(%error, "the revocation log can't be reached");
            unreachable()
        })?;
        let open = Open {
            channel: channel.clone(),
            certificate: identity.certificate.clone(),
            address: address.to_string(),
        };
        self.upstream.open.store(Some(Arc::new(open)));
        Ok(channel)
    }

    fn too_many(&self) -> Status {
        self.agent.metrics.denied("TOO_MANY_WATCHERS");
        let message = "too many watches through this agent; share one within a process";
        Denial::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", message).status()
    }

    fn fitting(&self, identity: &NodeIdentity, address: &str) -> Option<Channel> {
        let open = self.upstream.open.load();
        let open = open.as_ref()?;
        let fits = open.certificate == identity.certificate && open.address == address;
        fits.then(|| open.channel.clone())
    }
}

#[tonic::async_trait]
impl Revocation for Relay {
    type WatchStream = ReceiverStream<Result<revocation::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<revocation::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // Anyone attested may watch (P19).
        let caller = self.agent.caller(&request, "Watch").await?;
        let slot = self.agent.watches.take(caller.uid());
        let slot = slot.ok_or_else(|| self.too_many())?;
        let channel = self.channel().await?;
        let mut client = RevocationClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        // What the watcher says ends when it does; an error of its own stream is its end too.
        let said = request
            .into_inner()
            .take_while(|said| std::future::ready(said.is_ok()));
        // The server's side of the stream lives as long as this body: it has to end with the frames.
        let over = CancellationToken::new();
        let said = said
            .filter_map(|said| std::future::ready(said.ok()))
            .take_until(over.clone().cancelled_owned());
        let mut frames = client.watch(said).await.map_err(away)?.into_inner();
        let (out, passed) = mpsc::channel(4);
        let shutdown = self.agent.shutdown.clone();
        let over = over.drop_guard();
        tokio::spawn(async move {
            let (_over, _slot) = (over, slot);
            let pass = async {
                loop {
                    let frame = match frames.message().await {
                        Ok(Some(frame)) => Ok(frame),
                        Ok(None) => Err(unreachable()),
                        Err(status) => Err(away(status)),
                    };
                    let is_last = frame.is_err();
                    if out.send(frame).await.is_err() || is_last {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pass => {}
                () = out.closed() => {}
                () = shutdown.requested() => {}
            }
            tracing::debug!(process = %caller.process(), "a watcher's stream is over");
        });
        Ok(Response::new(ReceiverStream::new(passed)))
    }
}

/// What the server says of the watch is for the watcher; what the wire says is not.
fn away(status: Status) -> Status {
    if taskmint_wire::denial_of(&status).is_some() {
        let details = status.details().to_vec().into();
        return Status::with_details(status.code(), status.message(), details);
    }
    tracing::debug!(%status, "the revocation log broke off");
    unreachable()
}
