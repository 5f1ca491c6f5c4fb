//! The connection to a signer: what waits for it, what it works on, and who is to be told.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::meters::Meters;
use crate::protocol::{
    Answer, BadMessage, Call, CheckKey, Digest, Given, MAX_BATCH, MAX_FRAME, Numbered, Open,
    Unchecked, Wanted, digest, length_of,
};
use crate::request::{Refusal, Request};

/// The most requests that go out in one frame: more would make the first wait for the last.
const GROUP: usize = 128;

/// The most octets of requests that are put together into one frame.
const GROUP_WEIGHT: usize = 1 << 20;

/// Frames that each worker of the signer may have: one to work on, one that waits.
const FRAMES_PER_WORKER: usize = 2;

type Results = Vec<Result<Given, Refusal>>;

/// A connection, or none.
pub(super) struct Line {
    max_waiting: usize,
    meters: std::sync::Arc<Meters>,
    state: Mutex<State>,
    /// Told when the socket took less than it was given.
    stuck: Notify,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    waiting: VecDeque<Part>,
    /// Requests in `waiting`.
    requests: usize,
}

/// Part of a batch, and who asked.
struct Part {
    wanted: Vec<Wanted>,
    /// About so many octets.
    weight: usize,
    answer: oneshot::Sender<Results>,
}

struct Link {
    writer: std::sync::Arc<OwnedWriteHalf>,
    check: CheckKey,
    next: u64,
    frames: usize,
    max_frames: usize,
    asked: HashMap<u64, Asked>,
    /// What the socket did not take yet.
    out: BytesMut,
}

/// A frame that is on its way.
struct Asked {
    digest: Digest,
    at: Instant,
    who: Who,
}

enum Who {
    One(oneshot::Sender<Answer>),
    Many(Vec<(usize, oneshot::Sender<Results>)>),
}

/// An answer that nobody can be given.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    #[error("an answer to nothing")]
    Unasked,
    #[error("another answer than was asked for")]
    Other,
    #[error(transparent)]
    Bad(#[from] BadMessage),
}

impl Line {
    pub(super) fn new(max_waiting: usize, meters: std::sync::Arc<Meters>) -> Self {
        Self {
            max_waiting,
            meters,
            state: Mutex::default(),
            stuck: Notify::new(),
        }
    }

    /// Begins a connection with its first frame.
    pub(super) fn open(
        &self,
        writer: OwnedWriteHalf,
        check: CheckKey,
        open: Open,
    ) -> Result<oneshot::Receiver<Answer>, Refusal> {
        self.close();
        self.state.lock().link = Some(Link {
            writer: std::sync::Arc::new(writer),
            check,
            next: 1,
            frames: 0,
            max_frames: 1,
            asked: HashMap::new(),
            out: BytesMut::new(),
        });
        self.call(Call::Open(open))
    }

    /// Lets so many workers have something to do.
    pub(super) fn has_workers(&self, workers: u32) {
        let workers = usize::try_from(workers).unwrap_or(1).clamp(1, 64);
        if let Some(link) = &mut self.state.lock().link {
            link.max_frames = workers * FRAMES_PER_WORKER;
        }
    }

    /// Ends the connection: whoever waits is told that the signer is away.
    pub(super) fn close(&self) {
        // Dropped outside the lock: those who wait wake up.
        let over = std::mem::take(&mut *self.state.lock());
        drop(over);
    }

    /// Sends what stands for itself.
    pub(super) fn call(&self, call: Call) -> Result<oneshot::Receiver<Answer>, Refusal> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let link = state.link.as_mut().ok_or(Refusal::Away)?;
        self.send(link, call, Who::One(answer))
            .map_err(|(refusal, _)| refusal)?;
        Ok(receiver)
    }

    /// Sends a batch, alone or with others.
    pub(super) fn batch(&self, wanted: Vec<Wanted>) -> Result<oneshot::Receiver<Results>, Refusal> {
        if wanted.len() > MAX_BATCH {
            return Err(Refusal::Busy);
        }
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.link.is_none() {
            return Err(Refusal::Away);
        }
        if state.requests + wanted.len() > self.max_waiting {
            self.meters.refused(wanted.len());
            return Err(Refusal::Busy);
        }
        state.requests += wanted.len();
        let weight = wanted.iter().map(weight).sum();
        state.waiting.push_back(Part {
            wanted,
            weight,
            answer,
        });
        self.pump(&mut state);
        Ok(receiver)
    }

    /// Hands on an answer, and what waits to the signer.
    pub(super) fn answered(&self, answer: Unchecked) -> Result<(), BadAnswer> {
        let (asked, check) = {
            let mut state = self.state.lock();
            let link = state.link.as_mut().ok_or(BadAnswer::Unasked)?;
            let asked = link.asked.remove(&answer.id).ok_or(BadAnswer::Unasked)?;
            let check = link.check.clone();
            if matches!(asked.who, Who::Many(_)) {
                link.frames -= 1;
                self.pump(&mut state);
            }
            (asked, check)
        };
        let answer = answer.checked(&check, &asked.digest)?;
        match (asked.who, answer) {
            // Whoever asked may have given up: that is no fault.
            (Who::One(to), answer) => drop(to.send(answer)),
            (Who::Many(parts), Answer::Batch(results)) => divide(parts, results)?,
            (who @ Who::Many(_), Answer::Refused(refusal)) => who.refuse(&refusal),
            (Who::Many(_), _) => return Err(BadAnswer::Other),
        }
        Ok(())
    }

    /// How long the signer has been working on the frame that it has had longest.
    pub(super) fn oldest(&self) -> Duration {
        let state = self.state.lock();
        let asked = state.link.iter().flat_map(|link| link.asked.values());
        let first = asked.map(|asked| asked.at).min();
        first.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// Writes what the socket did not take; returns when something was, or it broke.
    pub(super) async fn flush(&self) -> io::Result<()> {
        loop {
            let writer = {
                let state = self.state.lock();
                let stuck = state.link.as_ref().filter(|link| !link.out.is_empty());
                stuck.map(|link| std::sync::Arc::clone(&link.writer))
            };
            match writer {
                Some(writer) => {
                    writer.writable().await?;
                    if let Some(link) = &mut self.state.lock().link {
                        link.write()?;
                    }
                }
                None => self.stuck.notified().await,
            }
        }
    }

    /// Sends what waits, as far as the signer has room.
    fn pump(&self, state: &mut State) {
        let State {
            link: Some(link),
            waiting,
            requests,
        } = state
        else {
            return;
        };
        while link.frames < link.max_frames && !waiting.is_empty() {
            let (mut batch, mut parts, mut weight) = (Vec::new(), Vec::new(), 0);
            while let Some(part) = waiting.front() {
                let full =
                    batch.len() + part.wanted.len() > GROUP || weight + part.weight > GROUP_WEIGHT;
                if full && !batch.is_empty() {
                    break;
                }
                let Some(part) = waiting.pop_front() else {
                    break;
                };
                *requests -= part.wanted.len();
                // Whoever asked has given up: nothing is signed for nobody.
                if part.answer.is_closed() {
                    continue;
                }
                weight += part.weight;
                parts.push((part.wanted.len(), part.answer));
                batch.extend(part.wanted);
            }
            if parts.is_empty() {
                continue;
            }
            link.frames += 1;
            self.meters.sent(batch.len());
            if let Err((refusal, who)) = self.send(link, Call::Batch(batch), Who::Many(parts)) {
                link.frames -= 1;
                who.refuse(&refusal);
            }
        }
    }

    fn send(&self, link: &mut Link, call: Call, who: Who) -> Result<(), (Refusal, Who)> {
        let id = link.next;
        let message = Numbered { id, what: call }.encode();
        let Some(length) = length_of(&message) else {
            return Err((Refusal::Failed("a request is too large".to_owned()), who));
        };
        // Only what is sent has a number: the signer counts, too.
        link.next += 1;
        link.asked.insert(
            id,
            Asked {
                digest: digest(&message),
                at: Instant::now(),
                who,
            },
        );
        link.out.extend_from_slice(&length);
        link.out.extend_from_slice(&message);
        // The reader finds out what is wrong with a broken socket.
        if link.write().is_ok_and(|all| !all) {
            self.stuck.notify_one();
        }
        Ok(())
    }
}

impl Who {
    fn refuse(self, refusal: &Refusal) {
        match self {
            Self::One(to) => drop(to.send(Answer::Refused(refusal.clone()))),
            Self::Many(parts) => {
                for (count, to) in parts {
                    drop(to.send(vec![Err(refusal.clone()); count]));
                }
            }
        }
    }
}

/// About how many octets a request has, if it may have many.
fn weight(wanted: &Wanted) -> usize {
    match wanted {
        Wanted::Sign(Request::Head(head)) => head.records.len() * 64,
        Wanted::Sign(Request::Checkpoint(checkpoint)) => checkpoint.digests.len() * 64,
        Wanted::Sign(Request::Crl(list)) => list.revoked.len() * 64,
        Wanted::Sign(Request::StatusList(list)) => list.list.len(),
        Wanted::Sign(Request::X509(_) | Request::Jwt(_)) | Wanted::Grant(_) => 0,
    }
}

impl Link {
    /// Gives the socket what it takes; true if that was all.
    fn write(&mut self) -> io::Result<bool> {
        while !self.out.is_empty() {
            match self.writer.try_write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn divide(
    parts: Vec<(usize, oneshot::Sender<Results>)>,
    mut results: Results,
) -> Result<(), BadAnswer> {
    let asked: usize = parts.iter().map(|(count, _)| count).sum();
    if asked != results.len() {
        return Err(BadAnswer::Other);
    }
    let mut rest = results.drain(..);
    for (count, to) in parts {
        drop(to.send(rest.by_ref().take(count).collect()));
    }
    Ok(())
}

/// Reads one frame.
pub(super) async fn read(reader: &mut OwnedReadHalf) -> io::Result<Bytes> {
    let length = reader.read_u32().await? as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame is too long",
        ));
    }
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    while frame.len() < length {
        let missing = length - frame.len();
        if reader.take(missing as u64).read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}
