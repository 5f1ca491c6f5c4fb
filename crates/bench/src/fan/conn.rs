//! One watcher of a player: as much of HTTP/2 and gRPC as one stream needs.

use anyhow::{Context as _, bail, ensure};
use taskmint_wire::revocation::{self as wire, watch_request};

use super::ledger::{Ledger, Said, said_message};
use super::link::{Link, To};

/// Octets of one message of the raw floor.
pub(crate) const RAW: usize = 100;

/// Applied and unacknowledged records for which nobody waits for the tick.
const UNACKNOWLEDGED: u64 = 1_000;

/// Octets that an ordinary client lets be on their way to it (RFC 9113, 6.9.2); it makes room again
/// once it has taken half of them.
pub(crate) const WINDOW: u32 = 65_535;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// A watcher.
pub(crate) struct Conn {
    pub(crate) link: Link,
    /// It gets numbers, and says nothing.
    is_raw: bool,
    /// Octets that it lets be on their way, and those that it has taken since it last made room.
    window: u32,
    taken: u32,
    /// The part of a frame that came so far, and that of a message.
    frames: Vec<u8>,
    message: Vec<u8>,
    pub(crate) cursor: Cursor,
}

/// Where a watcher stands.
#[derive(Default)]
pub(crate) struct Cursor {
    /// What it has applied.
    pub(crate) position: Option<u64>,
    /// Where its records end.
    end: Option<u64>,
    acknowledged: u64,
}

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
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

/// What a client says first: its settings, all but the window of a stream as they are by default,
/// and a gRPC call that opens a watch.
fn greeting(name: &str, window: u32) -> Vec<u8> {
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
    let open = watch_request::Message::Open(wire::Open {
        name: name.to_owned(),
        ..wire::Open::default()
    });
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let [a, b, c, d] = window.to_be_bytes();
    octets.extend(frame(4, 0, 0, &[0, 4, a, b, c, d]));
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
    /// Connects, and asks for the log.
    pub(crate) fn open(to: To<'_>, name: &str, window: u32) -> anyhow::Result<Self> {
        let mut conn = Self {
            link: Link::open(to)?,
            is_raw: matches!(to, To::Bare(_)),
            window,
            taken: 0,
            frames: Vec::new(),
            message: Vec::new(),
            cursor: Cursor::default(),
        };
        if !conn.is_raw {
            conn.link.say(&greeting(name, window))?;
        }
        Ok(conn)
    }

    /// Reads once, and takes in what came.
    pub(crate) fn read(
        &mut self,
        ledger: &mut Ledger,
        buffer: &mut [u8],
        now: u64,
    ) -> anyhow::Result<()> {
        self.link.fill()?;
        while let Some(length) = self.link.read(buffer)? {
            let octets = buffer.get(..length).unwrap_or_default();
            let mut rest = std::mem::take(&mut self.frames);
            with_rest(&mut rest, octets, &mut |octets| match self.is_raw {
                true => self.take_raw(octets, ledger, now),
                false => self.take(octets, ledger, now),
            })?;
            self.frames = rest;
        }
        Ok(())
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
                    self.make_room(payload.len())?;
                }
                4 if flags & ACK == 0 => self.link.say(&frame(4, ACK, 0, &[]))?,
                6 if flags & ACK == 0 => self.link.say(&frame(6, ACK, 0, payload))?,
                3 | 7 => bail!("the server resets the watch"),
                _ => {}
            }
            ensure!(
                kind > 1 || flags & END_STREAM == 0,
                "the server ends the watch: {}",
                payload.escape_ascii()
            );
            left = rest;
        }
        Ok(octets.len() - left.len())
    }

    /// Lets as much more come as was taken, in the stream and in the connection.
    fn make_room(&mut self, taken: usize) -> anyhow::Result<()> {
        self.taken += u32::try_from(taken)?;
        if self.taken < self.window / 2 {
            return Ok(());
        }
        let taken = std::mem::take(&mut self.taken).to_be_bytes();
        let mut octets = frame(8, 0, 0, &taken);
        octets.extend(frame(8, 0, 1, &taken));
        self.link.say(&octets)
    }

    fn messages(&mut self, octets: &[u8], ledger: &mut Ledger, now: u64) -> anyhow::Result<usize> {
        let mut left = octets;
        while let Some((&[_, a, b, c, d], rest)) = left.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some((message, rest)) = rest.split_at_checked(length) else {
                break;
            };
            let said = ledger.hear(message)?;
            if self.cursor.apply(said, ledger, now)? {
                self.acknowledge(ledger)?;
            }
            left = rest;
        }
        Ok(octets.len() - left.len())
    }

    /// Acknowledges what it has applied since the last time.
    pub(crate) fn acknowledge(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        match self.cursor.due() {
            Some(position) if !self.is_raw => self.link.say(ledger.acknowledgement(position)),
            _ => Ok(()),
        }
    }

    /// Takes whole messages of the raw floor; how many octets they were.
    fn take_raw(&mut self, octets: &[u8], ledger: &mut Ledger, now: u64) -> anyhow::Result<usize> {
        for message in octets.chunks_exact(RAW) {
            let number = message.first_chunk::<8>().context("a short message")?;
            let sequence = u64::from_be_bytes(*number);
            ledger.raw(sequence)?;
            let old = self.cursor.position.replace(sequence);
            ledger.stands(old, sequence, now)?;
        }
        Ok(octets.len() - octets.len() % RAW)
    }
}

impl Cursor {
    /// Nothing may be missing, nothing may come twice. Whether an acknowledgement can't wait.
    pub(crate) fn apply(
        &mut self,
        said: Said,
        ledger: &mut Ledger,
        now: u64,
    ) -> anyhow::Result<bool> {
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
                return Ok(prompt || sequence >= self.acknowledged + UNACKNOWLEDGED);
            }
        }
        Ok(false)
    }

    /// What it has applied since it was last asked, to be acknowledged.
    pub(crate) fn due(&mut self) -> Option<u64> {
        let position = self
            .position
            .filter(|position| *position > self.acknowledged)?;
        self.acknowledged = position;
        Some(position)
    }
}
