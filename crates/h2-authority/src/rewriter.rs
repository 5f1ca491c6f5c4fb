//! The client's side of a connection as a state machine without I/O.

use crate::Violation;
use crate::block::Translator;
use crate::frame::{
    CONTINUATION, END_HEADERS, END_STREAM, HEAD, HEADERS, Head, MAX_FRAME, PADDED, PREFACE,
    PRIORITY, PUSH_PROMISE, write_head,
};

/// The longest header block in bytes, over HEADERS and all its CONTINUATION frames.
pub const MAX_BLOCK: usize = 16 * 1024;

/// The most CONTINUATION frames in one header block: without it, empty ones could go on for ever.
pub const MAX_CONTINUATIONS: usize = 16;

/// Buffers larger than this are given back once a block is done with.
const KEEP: usize = 4096;

/// What became of the bytes shown to [`Rewriter::step`].
pub(crate) enum Step {
    /// So many leading bytes go to the server as they are. Not zero.
    Pass(usize),
    /// So many leading bytes were taken in; [`Rewriter::out`] may have something now. Not zero.
    Take(usize),
}

/// Reads frames, lets most of them pass, and rewrites header blocks.
pub(crate) struct Rewriter {
    state: State,
    open: Option<Open>,
    translator: Translator,
    out: Vec<u8>,
    sent: usize,
}

enum State {
    /// Inside the preface; what must still come.
    Preface(&'static [u8]),
    /// Not HTTP/2: everything passes.
    Raw,
    /// Between frames, with what has come of the next frame's header.
    Head { held: [u8; HEAD], len: usize },
    /// Inside a frame that passes; never zero bytes left.
    Copy { left: usize },
    /// Inside a frame of the open header block; `last` if the block ends with it.
    Fragment { left: usize, last: bool },
}

const BETWEEN: State = State::Head {
    held: [0; HEAD],
    len: 0,
};

/// A header block on its way in.
struct Open {
    stream: u32,
    flags: u8,
    priority: Option<[u8; 5]>,
    continuations: usize,
    bytes: Vec<u8>,
}

impl Rewriter {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Preface(PREFACE),
            open: None,
            translator: Translator::new(),
            out: Vec::new(),
            sent: 0,
        }
    }

    /// What waits to go to the server before anything else.
    pub(crate) fn out(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// Marks so many bytes of [`Self::out`] as delivered.
    pub(crate) fn delivered(&mut self, n: usize) {
        self.sent += n;
        if self.out().is_empty() {
            self.out.clear();
            self.out.shrink_to(KEEP);
            self.sent = 0;
        }
    }

    /// Whether the client has stopped in the middle of something that is held back.
    pub(crate) fn is_holding(&self) -> bool {
        self.open.is_some() || matches!(self.state, State::Head { len: 1.., .. })
    }

    /// Goes one step on through `bytes`, which is not empty; call it only while [`Self::out`] is.
    ///
    /// # Errors
    ///
    /// After one, nothing that follows can be understood: don't call it again.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match self.state {
            State::Raw => Ok(Step::Pass(bytes.len())),
            State::Preface(awaited) => Ok(Step::Pass(self.preface(awaited, bytes))),
            State::Copy { left } => {
                let n = left.min(bytes.len());
                self.state = copy(left - n);
                Ok(Step::Pass(n))
            }
            State::Head { held, len } => self.head(held, len, bytes),
            State::Fragment { left, last } => self.fragment(left, last, bytes).map(Step::Take),
        }
    }

    fn preface(&mut self, awaited: &'static [u8], bytes: &[u8]) -> usize {
        let same = awaited
            .iter()
            .zip(bytes)
            .take_while(|(a, b)| a == b)
            .count();
        let awaited = awaited.get(same..).unwrap_or_default();
        if awaited.is_empty() {
            self.state = BETWEEN;
            return same;
        }
        self.state = if same == bytes.len() {
            State::Preface(awaited)
        } else {
            State::Raw
        };
        bytes.len()
    }

    fn head(&mut self, mut held: [u8; HEAD], len: usize, bytes: &[u8]) -> Result<Step, Violation> {
        let fresh = bytes.iter().take(HEAD - len);
        let n = fresh.len();
        held.iter_mut()
            .skip(len)
            .zip(fresh)
            .for_each(|(to, from)| *to = *from);
        if len + n < HEAD {
            self.state = State::Head { held, len: len + n };
            return Ok(Step::Take(n));
        }
        let head = Head::parse(held);
        if self.open.is_some() || head.carries_block() {
            self.begin(head)?;
            return Ok(Step::Take(n));
        }
        self.state = copy(head.len);
        if len == 0 {
            return Ok(Step::Pass(n));
        }
        self.out.extend_from_slice(&held);
        Ok(Step::Take(n))
    }

    /// Begins a frame of a header block.
    fn begin(&mut self, head: Head) -> Result<(), Violation> {
        let open = match (head.kind, self.open.take()) {
            (HEADERS, None) => Open::new(head),
            (CONTINUATION, Some(open)) if open.stream == head.stream => open.continued()?,
            (_, Some(_)) => return Err(Violation::Interrupted),
            (PUSH_PROMISE, None) => return Err(Violation::Push),
            (_, None) => return Err(Violation::StrayContinuation),
        };
        if head.len > MAX_FRAME {
            return Err(Violation::FrameTooLong);
        }
        if open.bytes.len() + head.len > MAX_BLOCK {
            return Err(Violation::BlockTooLong);
        }
        self.open = Some(open);
        let last = head.flags & END_HEADERS != 0;
        self.state = State::Fragment {
            left: head.len,
            last,
        };
        if head.len == 0 {
            self.fragment(0, last, &[])?;
        }
        Ok(())
    }

    fn fragment(&mut self, left: usize, last: bool, bytes: &[u8]) -> Result<usize, Violation> {
        let Some(mut open) = self.open.take() else {
            return Err(Violation::StrayContinuation);
        };
        let (part, _) = bytes.split_at(left.min(bytes.len()));
        open.bytes.extend_from_slice(part);
        let left = left - part.len();
        if left > 0 {
            self.state = State::Fragment { left, last };
            self.open = Some(open);
            return Ok(part.len());
        }
        self.state = BETWEEN;
        if open.continuations == 0 {
            open.strip()?;
        }
        if last {
            self.rewrite(&open)?;
        } else {
            self.open = Some(open);
        }
        Ok(part.len())
    }

    /// Writes a complete header block anew, in as many frames as it needs.
    fn rewrite(&mut self, open: &Open) -> Result<(), Violation> {
        let fields = self.translator.translate(&open.bytes)?;
        let priority = open.priority.as_ref().map_or(&[][..], <[u8; 5]>::as_slice);
        let (first, mut rest) = fields.split_at(fields.len().min(MAX_FRAME - priority.len()));
        let flags = open.flags & (END_STREAM | PRIORITY) | end_headers(rest);
        write_head(
            &mut self.out,
            priority.len() + first.len(),
            HEADERS,
            flags,
            open.stream,
        );
        self.out.extend_from_slice(priority);
        self.out.extend_from_slice(first);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(MAX_FRAME));
            rest = after;
            write_head(
                &mut self.out,
                part.len(),
                CONTINUATION,
                end_headers(rest),
                open.stream,
            );
            self.out.extend_from_slice(part);
        }
        self.translator.shrink(KEEP);
        Ok(())
    }
}

impl Open {
    fn new(head: Head) -> Self {
        Self {
            stream: head.stream,
            flags: head.flags,
            priority: None,
            continuations: 0,
            bytes: Vec::new(),
        }
    }

    fn continued(mut self) -> Result<Self, Violation> {
        self.continuations += 1;
        if self.continuations > MAX_CONTINUATIONS {
            return Err(Violation::TooManyContinuations);
        }
        Ok(self)
    }

    /// Takes padding and priority off the payload of HEADERS.
    fn strip(&mut self) -> Result<(), Violation> {
        if self.flags & (PADDED | PRIORITY) == 0 {
            return Ok(());
        }
        let mut rest = self.bytes.as_slice();
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            let (&len, after) = rest.split_first().ok_or(Violation::Padding)?;
            (padding, rest) = (usize::from(len), after);
        }
        if self.flags & PRIORITY != 0 {
            let (&field, after) = rest.split_first_chunk().ok_or(Violation::Padding)?;
            (self.priority, rest) = (Some(field), after);
        }
        let len = rest.len().checked_sub(padding).ok_or(Violation::Padding)?;
        let (fragment, _) = rest.split_at(len);
        self.bytes = fragment.to_vec();
        Ok(())
    }
}

/// The state inside a passing frame with so many bytes left.
fn copy(left: usize) -> State {
    if left == 0 {
        BETWEEN
    } else {
        State::Copy { left }
    }
}

/// The flag of a frame after which `rest` is still to come.
fn end_headers(rest: &[u8]) -> u8 {
    if rest.is_empty() { END_HEADERS } else { 0 }
}
