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

/// The longest that a request waits for its turn: whoever asked gives up at about that time, and what
/// nobody waits for is not to be signed.
const DEADLINE: Duration = Duration::from_secs(5);

/// Over so many requests the pace of the signer is taken: one large list among them says little.
const PACE_OVER: u32 = 256;

/// The least that whoever is refused is told to wait.
const LEAST_WAIT: Duration = Duration::from_millis(10);

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
    pace: Pace,
}

/// How fast the signer works.
#[derive(Default)]
struct Pace {
    /// For one request, over about the last [`PACE_OVER`] of them.
    each: Duration,
    /// When it last answered.
    answered: Option<Instant>,
}

/// Part of a batch, and who asked.
struct Part {
    wanted: Vec<Wanted>,
    /// About so many octets.
    weight: usize,
    since: Instant,
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
            // No time makes it fit.
            return Err(Refusal::Failed("a batch is too large".to_owned()));
        }
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.link.is_none() {
            return Err(Refusal::Away);
        }
        if let Some(wait) = self.room_in(&state, wanted.len()) {
            self.meters.refused(wanted.len());
            return Err(Refusal::Busy(wait));
        }
        state.requests += wanted.len();
        let weight = wanted.iter().map(weight).sum();
        state.waiting.push_back(Part {
            wanted,
            weight,
            since: Instant::now(),
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
            if let Who::Many(parts) = &asked.who {
                link.frames -= 1;
                let requests = parts.iter().map(|(count, _)| *count).sum();
                state.pace.answered(asked.at, requests);
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

    /// Refuses what has waited too long for its turn, so that an answer never comes late.
    pub(super) fn expire(&self) {
        let mut late = Vec::new();
        let mut state = self.state.lock();
        while let Some(part) = state
            .waiting
            .pop_front_if(|part| part.since.elapsed() > DEADLINE)
        {
            state.requests -= part.wanted.len();
            self.meters.refused(part.wanted.len());
            late.push(part);
        }
        drop(state);
        for part in late {
            let refusal = Err(Refusal::Busy(DEADLINE));
            drop(part.answer.send(vec![refusal; part.wanted.len()]));
        }
    }

    /// After how long so many more requests may wait; none if they may now. Their turn must come before
    /// the deadline, at the pace that the signer has.
    fn room_in(&self, state: &State, more: usize) -> Option<Duration> {
        let requests = state.requests + more;
        let each = state.pace.each;
        let over = u32::try_from(requests.saturating_sub(self.max_waiting)).unwrap_or(u32::MAX);
        let all = u32::try_from(requests).unwrap_or(u32::MAX);
        let late = each.saturating_mul(all).saturating_sub(DEADLINE);
        let alone = state.requests == 0;
        if over == 0 && (late.is_zero() || alone) {
            return None;
        }
        Some(
            each.saturating_mul(over)
                .max(late)
                .clamp(LEAST_WAIT, DEADLINE),
        )
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
            ..
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

impl Pace {
    /// An answer to so many requests that were sent at that time.
    fn answered(&mut self, sent: Instant, requests: usize) {
        let now = Instant::now();
        // It worked on these since it was done with those before.
        let began = self.answered.map_or(sent, |before| before.max(sent));
        self.answered = Some(now);
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        let took = self.each.saturating_mul(PACE_OVER) + now.duration_since(began);
        self.each = took / PACE_OVER.saturating_add(requests);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(waiting: usize, each: Duration) -> Line {
        let line = Line::new(1_000, std::sync::Arc::default());
        line.state.lock().requests = waiting;
        line.state.lock().pace.each = each;
        line
    }

    fn room_in(line: &Line, more: usize) -> Option<Duration> {
        line.room_in(&line.state.lock(), more)
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_the_time_that_requests_take_and_not_that_nobody_asks() {
        let mut pace = Pace::default();
        for _ in 0..64 {
            tokio::time::advance(Duration::from_secs(3)).await;
            let sent = Instant::now();
            tokio::time::advance(Duration::from_millis(200)).await;
            pace.answered(sent, 100);
        }
        let wrong = pace.each.abs_diff(Duration::from_millis(2));
        assert!(wrong < Duration::from_micros(10), "{:?}", pace.each);
    }

    #[test]
    fn who_finds_no_room_is_told_when_there_is_some() {
        let each = Duration::from_millis(2);
        assert_eq!(room_in(&line(900, each), 100), None);
        let wait = Duration::from_millis(200);
        assert_eq!(room_in(&line(1_000, each), 100), Some(wait));
        assert_eq!(
            room_in(&line(1_000, Duration::ZERO), 1),
            Some(LEAST_WAIT),
            "nothing is known yet"
        );
    }

    #[test]
    fn what_would_come_late_is_refused_early() {
        let slow = Duration::from_millis(20);
        assert_eq!(room_in(&line(200, slow), 50), None);
        assert_eq!(room_in(&line(200, slow), 100), Some(Duration::from_secs(1)));
        // With nothing before it, it is as early as can be.
        assert_eq!(room_in(&line(0, slow), 500), None);
    }
}
