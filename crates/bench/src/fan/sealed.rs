//! What is left once all that a server decides is taken away: two threads that seal ready-made frames
//! for one connection after the other, and write them.
//!
//! The octets on the wire are those of the fan-out. Nothing is read once a watch is open, no window is
//! kept, no time passes and nobody leaves: a floor, and no server.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use prost::Message as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use taskmint_wire::revocation::WatchResponse;

use super::conn::{data, frame};
use super::log::Event;
use super::plain::{delta, head};

/// What a watcher says at least before it waits for an answer: HTTP/2's preface.
const PREFACE: usize = 24;

const SETTINGS: u8 = 4;

type Connection = StreamOwned<ServerConnection, TcpStream>;

/// The two threads.
pub(crate) struct Sealed(Vec<mpsc::Sender<Arc<[u8]>>>);

impl Sealed {
    /// Lets everybody in, one after the other, and tells each where the log stands.
    pub(crate) fn start(
        listener: TcpListener,
        mut tls: ServerConfig,
        first: &Event,
    ) -> io::Result<Self> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Arc::new(tls);
        let halves: [Arc<Mutex<Vec<Connection>>>; 2] = Default::default();
        let mut senders = Vec::new();
        for half in &halves {
            let (sender, frames) = mpsc::channel::<Arc<[u8]>>();
            let half = Arc::clone(half);
            std::thread::spawn(move || {
                for frame in frames {
                    for connection in half.lock().iter_mut() {
                        // One that has left is not counted as told.
                        drop(write(connection, &frame));
                    }
                }
            });
            senders.push(sender);
        }
        let greeting = [
            frame(SETTINGS, 0, 0, &[]),
            data(&message(&head(&first.head, true))),
        ]
        .concat();
        std::thread::spawn(move || {
            for half in halves.iter().cycle() {
                let Ok((stream, _)) = listener.accept() else {
                    return;
                };
                if let Ok(connection) = let_in(stream, &tls, &greeting) {
                    half.lock().push(connection);
                }
            }
        });
        Ok(Self(senders))
    }

    pub(crate) fn tell(&self, event: &Event) {
        let messages = [message(&delta(event)), message(&head(&event.head, false))];
        let frame: Arc<[u8]> = data(&messages.concat()).into();
        for sender in &self.0 {
            // Its thread ends with the process.
            sender.send(Arc::clone(&frame)).ok();
        }
    }
}

fn let_in(stream: TcpStream, tls: &Arc<ServerConfig>, greeting: &[u8]) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let session = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
    let mut connection = StreamOwned::new(session, stream);
    connection.read_exact(&mut [0; PREFACE])?;
    write(&mut connection, greeting)?;
    Ok(connection)
}

fn write(connection: &mut Connection, octets: &[u8]) -> io::Result<()> {
    connection.write_all(octets)?;
    connection.flush()
}

/// As gRPC has it: not compressed, its length, the message.
fn message(response: &WatchResponse) -> Vec<u8> {
    let length = u32::try_from(response.encoded_len()).unwrap_or(0);
    let mut octets = vec![0];
    octets.extend(length.to_be_bytes());
    octets.extend(response.encode_to_vec());
    octets
}
