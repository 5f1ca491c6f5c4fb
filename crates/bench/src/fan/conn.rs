//! One watcher of a player: TLS by rustls, and as much of HTTP/2 and gRPC as one stream needs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use taskmint_wire::revocation::{self as wire, watch_request};

use super::ledger::{Ledger, Said, said_message};

/// Octets of one message of the raw floor.
pub(crate) const RAW: usize = 100;

/// Applied and unacknowledged records for which nobody waits for the tick.
const UNACKNOWLEDGED: u64 = 1_000;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// A watcher.
pub(crate) struct Conn {
    pub(crate) socket: TcpStream,
    session: Option<ClientConnection>,
    /// The part of a frame that came so far, and that of a message.
    frames: Vec<u8>,
    message: Vec<u8>,
    /// What it has applied.
    pub(crate) position: Option<u64>,
    /// Where its records end.
    end: Option<u64>,
    acknowledged: u64,
    /// It has more to say than the kernel takes.
    pub(crate) is_blocked: bool,
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.extend(length.iter().skip(1));
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Octets of the one stream.
pub(crate) fn data(payload: &[u8]) -> Vec<u8> {
    frame(0, 0, 1, payload)
}

/// What a client says first, with windows as large as they get, and a gRPC call that opens a watch.
fn greeting(name: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", taskmint_fanout::WATCH),
        (":authority", "server"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap_or(0));
            headers.extend(text.as_bytes());
        }
    }
    let largest = 0x7fff_ffff_u32;
    let mut settings = vec![0, 4];
    settings.extend(largest.to_be_bytes());
    let open = watch_request::Message::Open(wire::Open {
        name: name.to_owned(),
        ..wire::Open::default()
    });
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    octets.extend(frame(4, 0, 0, &settings));
    octets.extend(frame(8, 0, 0, &(largest - 65_535).to_be_bytes()));
    octets.extend(frame(1, 4, 1, &headers));
    octets.extend(data(&said_message(open)));
    octets
}

/// Runs `parse` over what is left from before and what came; keeps what it leaves.
fn with_rest(
    rest: &mut Vec<u8>,
    octets: &[u8],
    parse: &mut dyn FnMut(&[u8]) -> anyhow::Result<usize>,
) -> anyhow::Result<()> {
    if rest.is_empty() {
        let used = parse(octets)?;
        rest.extend_from_slice(octets.get(used..).unwrap_or_default());
        return Ok(());
    }
    rest.extend_from_slice(octets);
    let used = parse(rest)?;
    rest.drain(..used);
    Ok(())
}

impl Conn {
    /// Connects; over TLS, unless for the raw floor.
    pub(crate) fn open(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        name: &str,
    ) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut session = None;
        if let Some(tls) = tls {
            let server = ServerName::try_from("server")?;
            session = Some(ClientConnection::new(Arc::clone(tls), server)?);
        }
        let mut conn = Self {
            socket,
            session,
            frames: Vec::new(),
            message: Vec::new(),
            position: None,
            end: None,
            acknowledged: 0,
            is_blocked: false,
        };
        if conn.session.is_some() {
            // Goes out once the handshake is done.
            conn.say(&greeting(name))?;
        }
        Ok(conn)
    }

    /// Whether the handshake is done and all that it said is gone.
    pub(crate) fn has_greeted(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| !session.is_handshaking() && !session.wants_write())
    }

    fn say(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        let session = self.session.as_mut().context("the raw floor is mute")?;
        session.writer().write_all(octets)?;
        self.flush()
    }

    /// Writes as much as the kernel takes.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.is_blocked = false;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        while session.wants_write() {
            match session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads once, and takes in what came.
    pub(crate) fn read(
        &mut self,
        ledger: &mut Ledger,
        buffer: &mut [u8],
        now: u64,
    ) -> anyhow::Result<()> {
        let Some(session) = &mut self.session else {
            return self.read_raw(ledger, buffer, now);
        };
        match session.read_tls(&mut self.socket) {
            Ok(0) => bail!("the server hung up"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        session.process_new_packets()?;
        self.flush()?;
        loop {
            let Some(session) = &mut self.session else {
                return Ok(());
            };
            let length = match session.reader().read(buffer) {
                Ok(0) => bail!("the server hung up"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut rest = std::mem::take(&mut self.frames);
            let octets = buffer.get(..length).unwrap_or_default();
            with_rest(&mut rest, octets, &mut |octets| {
                self.take(octets, ledger, now)
            })?;
            self.frames = rest;
        }
    }

    /// Takes whole frames; how many octets they were.
    fn take(&mut self, octets: &[u8], ledger: &mut Ledger, now: u64) -> anyhow::Result<usize> {
        let mut left = octets;
        while let Some((header, rest)) = left.split_at_checked(9) {
            let &[a, b, c, kind, flags, ..] = header else {
                break;
            };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((payload, rest)) = rest.split_at_checked(length) else {
                break;
            };
            match kind {
                0 => {
                    let mut message = std::mem::take(&mut self.message);
                    with_rest(&mut message, payload, &mut |octets| {
                        self.messages(octets, ledger, now)
                    })?;
                    self.message = message;
                }
                4 if flags & ACK == 0 => self.say(&frame(4, ACK, 0, &[]))?,
                6 if flags & ACK == 0 => self.say(&frame(6, ACK, 0, payload))?,
                3 | 7 => bail!("the server resets the watch"),
                _ => {}
            }
            ensure!(
                kind > 1 || flags & END_STREAM == 0,
                "the server ends the watch: {}",
                String::from_utf8_lossy(payload)
            );
            left = rest;
        }
        Ok(octets.len() - left.len())
    }

    fn messages(&mut self, octets: &[u8], ledger: &mut Ledger, now: u64) -> anyhow::Result<usize> {
        let mut left = octets;
        while let Some((&[_, a, b, c, d], rest)) = left.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some((message, rest)) = rest.split_at_checked(length) else {
                break;
            };
            let said = ledger.hear(message)?;
            self.apply(said, ledger, now)?;
            left = rest;
        }
        Ok(octets.len() - left.len())
    }

    /// Nothing may be missing, nothing may come twice.
    fn apply(&mut self, said: Said, ledger: &mut Ledger, now: u64) -> anyhow::Result<()> {
        match said {
            Said::Checkpoint(sequence) => self.end = Some(sequence),
            Said::Delta { first, last } => {
                let follows = self.end.is_none_or(|end| end + 1 == first);
                ensure!(
                    follows || ledger.lossy,
                    "records from {first} on, at {:?}",
                    self.end
                );
                self.end = Some(last);
            }
            Said::Head { sequence, prompt } => {
                let covers = self.end.is_none_or(|end| end == sequence);
                ensure!(
                    covers || ledger.lossy,
                    "a head at {sequence}, at {:?}",
                    self.end
                );
                self.end = Some(sequence);
                let old = self.position.replace(sequence);
                ensure!(old <= Some(sequence), "a head that leads back");
                ledger.stands(old, sequence, now)?;
                if prompt || sequence >= self.acknowledged + UNACKNOWLEDGED {
                    self.acknowledge(ledger)?;
                }
            }
        }
        Ok(())
    }

    /// Acknowledges what it has applied since the last time.
    pub(crate) fn acknowledge(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        match self.position {
            Some(position) if position > self.acknowledged && self.session.is_some() => {
                self.acknowledged = position;
                self.say(ledger.acknowledgement(position))
            }
            _ => Ok(()),
        }
    }

    fn read_raw(&mut self, ledger: &mut Ledger, buffer: &mut [u8], now: u64) -> anyhow::Result<()> {
        let length = match self.socket.read(buffer) {
            Ok(0) => bail!("the server hung up"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut rest = std::mem::take(&mut self.message);
        let octets = buffer.get(..length).unwrap_or_default();
        with_rest(&mut rest, octets, &mut |octets| {
            for message in octets.chunks_exact(RAW) {
                let number = message.first_chunk::<8>().context("a short message")?;
                let sequence = u64::from_be_bytes(*number);
                ledger.raw(sequence)?;
                let old = self.position.replace(sequence);
                ledger.stands(old, sequence, now)?;
            }
            Ok(octets.len() - octets.len() % RAW)
        })?;
        self.message = rest;
        Ok(())
    }
}
