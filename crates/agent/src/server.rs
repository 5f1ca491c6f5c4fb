//! Calls to the server over the connection that counts now.

use std::sync::Arc;
use std::time::Duration;

use taskmint_wire::denial_of;
use taskmint_wire::node::nodes_client::NodesClient;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::denial::Denial;

/// How long a call may take before the server counts as out of reach.
const CALL: Duration = Duration::from_secs(10);

/// Largest answer: an inventory or the entries of a node with very many.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

pub(crate) type Nodes = NodesClient<Channel>;

/// The server, as long as a session with it is open.
pub(crate) struct Server {
    /// Held for reading during each call: a renewed SVID must not be used before the last call
    /// under the old one is answered, for the server takes that for a copy of this node (P11).
    client: Arc<RwLock<Option<Nodes>>>,
    up: watch::Sender<bool>,
}

/// No call is in hand; those that come wait until this goes on, or is dropped.
pub(crate) struct Paused(OwnedRwLockWriteGuard<Option<Nodes>>);

impl Paused {
    /// Sends all further calls over `channel`.
    pub(crate) fn go_on(mut self, channel: Channel) -> Nodes {
        let client = NodesClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        *self.0 = Some(client.clone());
        client
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            client: Arc::default(),
            up: watch::Sender::new(false),
        }
    }

    /// Waits until no call is in hand.
    pub(crate) async fn pause(&self) -> Paused {
        let mut client = Arc::clone(&self.client).write_owned().await;
        *client = None;
        Paused(client)
    }

    /// Says whether a session is open.
    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Returns once a session is open.
    pub(crate) async fn wait_up(&self) {
        // The sender lives in `self`.
        drop(self.up.subscribe().wait_for(|up| *up).await);
    }

    /// Calls the server. Its own denials come back as they are; where there is no answer, the
    /// caller hears that the server can't be reached.
    pub(crate) async fn call<T, F>(&self, call: impl FnOnce(Nodes) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        if !self.is_up() {
            return Err(unreachable());
        }
        let called = async {
            let client = self.client.read().await;
            let client = client.as_ref().ok_or_else(unreachable)?;
            call(client.clone()).await.map_err(passed_on)
        };
        match tokio::time::timeout(CALL, called).await {
            Ok(outcome) => outcome.map(Response::into_inner),
            Err(_) => Err(unreachable()),
        }
    }
}

/// No answer from the server: nothing was denied.
pub(crate) fn unreachable() -> Status {
    let message = "the server can't be reached now: what was issued goes on until it expires, but \
                   nothing new can be had";
    Denial::new(Code::Unavailable, "SERVER_UNREACHABLE", message)
        .fix("try again")
        .status()
}

/// Whether the server gave no answer, or too much is asked of it: nothing was decided.
pub(crate) fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
}

/// The server's denial for the caller; what is no denial says nothing about the caller.
pub(crate) fn passed_on(status: Status) -> Status {
    if denial_of(&status).is_some() {
        // Without the metadata of the server's connection.
        let details = status.details().to_vec().into();
        return Status::with_details(status.code(), status.message(), details);
    }
    tracing::warn!(%status, "the server gave no answer");
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => {
            let message = "agent and server don't understand each other; it is in the agent's log";
            Denial::new(Code::Internal, "FAULT", message).status()
        }
        _ => unreachable(),
    }
}
