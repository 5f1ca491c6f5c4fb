//! What the fan-out is compared with: a plain tonic stream, and sockets without anything.
//!
//! The tonic server is what one writes without a second thought: one broadcast channel, each watch
//! a stream of its messages, the same messages and the same acknowledgements over the same TLS.

use std::io::{self, Write as _};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use taskmint_fanout::Head;
use taskmint_wire::revocation::revocation_server::{Revocation, RevocationServer};
use taskmint_wire::revocation::watch_request::Message;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{self as wire, WatchRequest, WatchResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::conn::RAW;
use super::log::{Event, Place};

/// Events that a slow watch may be behind.
const BEHIND: usize = 1024;

/// A plain tonic server of the log.
#[derive(Clone)]
pub(crate) struct Plain {
    events: broadcast::Sender<Event>,
    newest: Arc<Mutex<Head>>,
}

impl Plain {
    pub(crate) fn new(newest: Head) -> Self {
        Self {
            events: broadcast::Sender::new(BEHIND),
            newest: Arc::new(Mutex::new(newest)),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        let mut newest = self.newest.lock();
        *newest = event.head.clone();
        // Nobody may be there.
        drop(self.events.send(event));
    }

    /// Serves for as long as it is polled.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        mut tls: rustls::ServerConfig,
    ) -> anyhow::Result<()> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (sender, accepted) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    drop(stream.set_nodelay(true));
                    if let Ok(stream) = acceptor.accept(stream).await {
                        drop(sender.send(Ok::<_, io::Error>(Accepted(stream))).await);
                    }
                });
            }
        });
        let router = tonic::transport::Server::builder().add_service(RevocationServer::new(self));
        let incoming = ReceiverStream::new(accepted);
        Ok(router.serve_with_incoming(incoming).await?)
    }
}

pub(super) fn head(head: &Head, certified: bool) -> WatchResponse {
    let certificate = certified.then(|| head.key.certificate.clone());
    WatchResponse {
        frame: Some(Frame::Head(wire::Head {
            body: head.body.clone(),
            signature: head.signature.clone(),
            key_certificate: certificate.unwrap_or_default(),
        })),
        prompt: false,
    }
}

pub(super) fn delta(event: &Event) -> WatchResponse {
    WatchResponse {
        frame: Some(Frame::Delta(wire::Delta {
            records: event.records.clone(),
            first: event.first,
            last: event.head.sequence,
        })),
        prompt: false,
    }
}

#[tonic::async_trait]
impl Revocation for Plain {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (first, events) = {
            let newest = self.newest.lock();
            (newest.clone(), self.events.subscribe())
        };
        let place = Arc::new(Place::default());
        place.sent(first.sequence);
        let heard = Arc::clone(&place);
        let mut said = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(said)) = said.message().await {
                if let Some(Message::Acknowledge(said)) = said.message
                    && heard.acknowledge(&said).is_err()
                {
                    return;
                }
            }
        });
        let events = BroadcastStream::new(events)
            .filter_map(|event| std::future::ready(event.ok()))
            .flat_map(move |event| {
                place.sent(event.head.sequence);
                let frames = [delta(&event), head(&event.head, false)];
                futures::stream::iter(frames.map(Ok))
            });
        let first = futures::stream::iter([Ok(head(&first, true))]);
        Ok(Response::new(Box::pin(first.chain(events))))
    }
}

/// A connection whose handshake is done.
struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Two threads that write to sockets: what nothing can be faster than.
pub(crate) struct Raw(Vec<mpsc::Sender<u64>>);

impl Raw {
    pub(crate) fn start(listener: StdListener) -> io::Result<Self> {
        let halves: [Arc<Mutex<Vec<StdStream>>>; 2] = Default::default();
        let mut senders = Vec::new();
        for half in &halves {
            let (sender, numbers) = mpsc::channel::<u64>();
            let half = Arc::clone(half);
            std::thread::spawn(move || {
                for number in numbers {
                    for stream in half.lock().iter_mut() {
                        drop(stream.write_all(&message(number)));
                    }
                }
            });
            senders.push(sender);
        }
        std::thread::spawn(move || {
            for half in halves.iter().cycle() {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                drop(stream.set_nodelay(true));
                drop(stream.write_all(&message(0)));
                half.lock().push(stream);
            }
        });
        Ok(Self(senders))
    }

    pub(crate) fn tell(&self, number: u64) {
        for sender in &self.0 {
            // Its thread ends with the process.
            sender.send(number).ok();
        }
    }
}

fn message(number: u64) -> [u8; RAW] {
    let mut message = [7; RAW];
    let (start, _) = message.split_at_mut(8);
    start.copy_from_slice(&number.to_be_bytes());
    message
}
