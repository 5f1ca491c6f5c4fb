//! The loop: a frame in, a frame out, by as many threads as sign.

use std::io::BufReader;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};

use parking_lot::Mutex;
use taskmint_authority::Core;
use taskmint_mint::protocol::{
    self, Answer, Call, CheckKey, FrameError, Given, MAX_FRAME, Numbered, Opened, VERSION, Wanted,
    digest, read_frame, write_frame,
};
use taskmint_mint::{Policy, Refusal};
use taskmint_model::Clock;

use crate::journal::Journal;
use crate::refusals::Refusals;

/// What the threads share.
pub(crate) struct Desk {
    /// The keys.
    pub(crate) core: Core,
    /// Where signatures are counted.
    pub(crate) journal: Journal,
    /// The clock of the journal.
    pub(crate) clock: Arc<dyn Clock>,
    /// What it refuses whoever asks.
    pub(crate) policy: Policy,
    /// Threads that sign.
    pub(crate) workers: u32,
    /// What was refused.
    pub(crate) refusals: Refusals,
}

/// A connection: read by one thread at a time, written by one at a time.
struct Line {
    reader: Mutex<Reader>,
    writer: Mutex<UnixStream>,
    /// Ends it under those who read and write.
    socket: UnixStream,
    check: OnceLock<CheckKey>,
}

struct Reader {
    stream: BufReader<UnixStream>,
    /// Frames that came.
    frames: u64,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the server is gone")]
    Gone,
    #[error("{0}")]
    Nonsense(String),
    #[error("the journal can't be written")]
    Journal(#[source] std::io::Error),
}

/// How many connections were turned away.
static TURNED_AWAY: AtomicU64 = AtomicU64::new(0);

/// Threads that wait for their connection, made before the fences forbid new ones.
pub(crate) struct Workers {
    ready: Arc<Barrier>,
    line: Arc<OnceLock<Line>>,
    threads: Vec<std::thread::JoinHandle<bool>>,
}

impl Workers {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has no thread.
    pub(crate) fn start(desk: &Arc<Desk>) -> std::io::Result<Self> {
        let count = usize::try_from(desk.workers).unwrap_or(1);
        let ready = Arc::new(Barrier::new(count + 1));
        let line: Arc<OnceLock<Line>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let (desk, ready) = (Arc::clone(desk), Arc::clone(&ready));
            let (line, over) = (Arc::clone(&line), Arc::clone(&over));
            std::thread::Builder::new()
                .name(format!("signer-{number}"))
                .spawn(move || {
                    // Its secret stack is made here, while descriptors are plenty.
                    taskmint_secret::on_secret_stack(|| ());
                    ready.wait();
                    ready.wait();
                    line.get().is_none_or(|line| desk.work(line, &over))
                })
        });
        let threads = threads.collect::<Result<_, _>>()?;
        ready.wait();
        Ok(Self {
            ready,
            line,
            threads,
        })
    }

    /// Serves one connection to its end. True if it ended well.
    pub(crate) fn serve(self, stream: UnixStream) -> std::io::Result<bool> {
        let line = Line {
            reader: Mutex::new(Reader {
                stream: BufReader::with_capacity(256 << 10, stream.try_clone()?),
                frames: 0,
            }),
            writer: Mutex::new(stream.try_clone()?),
            socket: stream,
            check: OnceLock::new(),
        };
        // Set once only: this is the one call.
        drop(self.line.set(line));
        self.ready.wait();
        let mut well = true;
        for thread in self.threads {
            well &= thread.join().unwrap_or(false);
        }
        Ok(well)
    }
}

/// Turns away whoever else connects, for ever.
pub(crate) fn turn_away(listener: &UnixListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Nobody to turn away, and perhaps never again.
            std::thread::sleep(std::time::Duration::from_secs(1));
            continue;
        };
        let count = TURNED_AWAY.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            count,
            "turned away another connection: one server is served"
        );
        let taken = Numbered {
            id: 0,
            what: Answer::Refused(Refusal::Taken),
        };
        let unknown = taken.encode(&CheckKey::new([0; 32]), &digest(&[]));
        drop(write_frame(&mut stream, &unknown));
    }
}

impl Line {
    /// The next frame; says its number, counted from 1.
    fn read(&self, frame: &mut Vec<u8>) -> Result<u64, Over> {
        let mut reader = self.reader.lock();
        match read_frame(&mut reader.stream, frame) {
            Ok(true) => {
                reader.frames += 1;
                Ok(reader.frames)
            }
            Ok(false) | Err(FrameError::Io(_)) => Err(Over::Gone),
            Err(error @ FrameError::TooLong(_)) => {
                drop(reader);
                self.complain(&error.to_string());
                Err(Over::Nonsense(error.to_string()))
            }
        }
    }

    /// Says why it is over, in answer to no frame.
    fn complain(&self, why: &str) {
        let what = Answer::Refused(Refusal::Protocol(why.to_owned().into()));
        let zero = CheckKey::new([0; 32]);
        let check = self.check.get().unwrap_or(&zero);
        let reply = Numbered { id: 0, what }.encode(check, &digest(&[]));
        drop(write_frame(&mut *self.writer.lock(), &reply));
    }
}

impl Desk {
    /// Works until the connection is over. True if it ended well.
    fn work(&self, line: &Line, over: &AtomicBool) -> bool {
        let mut frame = Vec::new();
        let reason = loop {
            if over.load(Ordering::Relaxed) {
                return true;
            }
            match self.serve_one(line, &mut frame) {
                Ok(()) => {}
                Err(reason) => break reason,
            }
        };
        if over.swap(true, Ordering::Relaxed) {
            return true;
        }
        let well = matches!(reason, Over::Gone);
        if well {
            tracing::info!("the server has left: the keys are wiped");
        } else {
            let source = std::error::Error::source(&reason).map(ToString::to_string);
            tracing::error!(%reason, source, "the connection is given up");
        }
        // The others are waiting for a frame, or for room to write one: no lock is to be had.
        drop(line.socket.shutdown(std::net::Shutdown::Both));
        well
    }

    fn serve_one(&self, line: &Line, frame: &mut Vec<u8>) -> Result<(), Over> {
        let number = line.read(frame)?;
        let asked = digest(frame);
        let (id, answer) = match Numbered::<Call>::decode(frame) {
            Ok(Numbered { id, .. }) if id != number => (
                id,
                Err(format!(
                    "frame {number} says that it is number {id}: one was lost, or came again"
                )),
            ),
            Ok(Numbered { id, what }) => {
                let answer = self.answer(line, what);
                if let Ok(answer) = &answer {
                    self.refusals.count(answer);
                }
                (id, answer)
            }
            Err(error) => (number, Err(error.to_string())),
        };
        // Whatever was signed is counted, also by a frame that then failed.
        self.journal
            .write(&self.core, &*self.clock)
            .map_err(Over::Journal)?;
        let (what, nonsense) = match answer {
            Ok(answer) => (answer, None),
            Err(why) => (
                Answer::Refused(Refusal::Protocol(why.clone().into())),
                Some(why),
            ),
        };
        let zero = CheckKey::new([0; 32]);
        let check = line.check.get().unwrap_or(&zero);
        let mut reply = Numbered { id, what }.encode(check, &asked);
        if reply.len() > MAX_FRAME {
            let what = Answer::Refused(Refusal::Failed("the answer is too large".to_owned()));
            reply = Numbered { id, what }.encode(check, &asked);
        }
        let written = write_frame(&mut *line.writer.lock(), &reply);
        match (nonsense, written) {
            (Some(why), _) => Err(Over::Nonsense(why)),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(Over::Gone),
        }
    }

    /// The answer, or what makes no sense.
    fn answer(&self, line: &Line, call: Call) -> Result<Answer, String> {
        if let Call::Open(open) = call {
            return self.open(line, open);
        }
        if line.check.get().is_none() {
            return Err("a frame before the one that opens".to_owned());
        }
        Ok(match call {
            Call::Open(_) => return Err("opened twice".to_owned()),
            Call::Load(keys, start) => done(self.core.load(&keys, &start)),
            Call::Prepare(kind, id, now) => {
                answered(self.core.prepare(kind, id, now), Answer::Prepared)
            }
            Call::Activate(id) => done(self.core.activate(id)),
            Call::Retire(id) => done(self.core.retire(id)),
            Call::CertifyLogKey(request) => {
                answered(self.core.certify_log_key(request), Answer::Certificate)
            }
            Call::Batch(batch) => Answer::Batch(self.batch(batch)),
        })
    }

    fn open(&self, line: &Line, open: protocol::Open) -> Result<Answer, String> {
        if open.version != VERSION {
            return Err(format!(
                "protocol version {} is not {VERSION}: server and signer must be of one release",
                open.version
            ));
        }
        let own = &self.policy.trust_domain;
        if open.trust_domain != own.as_str() {
            return Err(format!(
                "the server is of trust domain `{}`, this signer of `{own}`",
                open.trust_domain
            ));
        }
        line.check
            .set(open.check)
            .map_err(|_| "opened twice".to_owned())?;
        Ok(Answer::Opened(Opened {
            instance: self.core.instance(),
            workers: self.workers,
            protection: taskmint_secret::protection().to_string(),
            policy: self.policy.clone(),
        }))
    }

    /// In order; signatures that stand together are made together.
    fn batch(&self, batch: Vec<Wanted>) -> Vec<Result<Given, Refusal>> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut signing = Vec::with_capacity(batch.len());
        for wanted in batch {
            match wanted {
                Wanted::Sign(request) => signing.push(request),
                Wanted::Grant(facts) => {
                    self.sign(&mut signing, &mut answers);
                    answers.push(self.core.grant(&facts).map(Given::Grant));
                }
            }
        }
        self.sign(&mut signing, &mut answers);
        answers
    }

    fn sign(
        &self,
        requests: &mut Vec<taskmint_mint::Request>,
        answers: &mut Vec<Result<Given, Refusal>>,
    ) {
        if requests.is_empty() {
            return;
        }
        let signed = self.core.issue(std::mem::take(requests));
        answers.extend(
            signed
                .into_iter()
                .map(|signed| signed.map(|signed| Given::Signed(Box::new(signed)))),
        );
    }
}

fn done(result: Result<(), Refusal>) -> Answer {
    answered(result, |()| Answer::Done)
}

fn answered<T>(result: Result<T, Refusal>, answer: impl FnOnce(T) -> Answer) -> Answer {
    result.map_or_else(Answer::Refused, answer)
}
