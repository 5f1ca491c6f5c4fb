//! What the relay says to the server: chosen when it can leave, so that an acknowledgement is the
//! newest there is then, and one waits at most.

use std::sync::Arc;

use futures::Stream;
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_request::Message;
use tokio::time::{Instant, sleep_until};

use super::Relay;

/// The messages of a stream that begins with `open`.
pub(super) fn requests(
    relay: Arc<Relay>,
    stream: u64,
    open: wire::Open,
) -> impl Stream<Item = wire::WatchRequest> + Send + 'static {
    let first = Some(Message::Open(open));
    futures::stream::unfold((relay, first), move |(relay, mut first)| async move {
        let message = match first.take() {
            Some(first) => first,
            None => next(&relay, stream).await,
        };
        let message = Some(message);
        Some((wire::WatchRequest { message }, (relay, None)))
    })
}

async fn next(relay: &Relay, stream: u64) -> Message {
    loop {
        let said = relay.said.notified();
        // A nonce first: whoever asks refuses everything until it is answered.
        if let Some(nonce) = relay.nonces.next(stream) {
            let nonce = nonce.to_vec().into();
            return Message::Nonce(wire::Nonce { nonce });
        }
        let now = Instant::now();
        match relay.behind.due(stream, now) {
            Some(due) if due <= now => {
                return Message::Acknowledge(relay.behind.word(now));
            }
            Some(due) => tokio::select! {
                () = said => {}
                () = sleep_until(due) => {}
            },
            None => said.await,
        }
    }
}
