//! Denials that this agent gives by itself: an id, a reason, the caller's own facts, what to do.
//! The server keeps their stories, so that `explain` can tell them (contract line 11).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_model::{Clock, DenialId, Entropy, Process, Selectors, Timestamp};
use taskmint_wire::{Denied, node};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::caller::Caller;
use crate::metrics::Metrics;

/// Clients retry: for this long, the same denial of the same process keeps its id and is not
/// reported again.
const SAME: Duration = Duration::from_secs(60);

/// Denials that are remembered for that.
const REMEMBERED: usize = 4_096;

/// Reports that wait for the server.
const QUEUED: usize = 1_024;

/// The phrase that SPIFFE clients look for (T-26).
pub(crate) const NO_IDENTITY: &str = "no identity issued";

/// A denial before it has an id.
#[derive(Debug, Clone)]
pub(crate) struct Denial {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) fix: &'static str,
    /// For the operator alone.
    pub(crate) detail: Vec<String>,
    /// Asking again before is in vain.
    pub(crate) retry_after: Option<Duration>,
}

/// What was asked, and by which process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    process: Process,
    action: &'static str,
    /// Of whom, where it was asked of somebody else; empty if not.
    about: &'a str,
}

/// Gives denials their ids and has them kept.
pub(crate) struct Denials {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    recent: Mutex<Recent>,
    reports: mpsc::Sender<node::ReportDenialRequest>,
    metrics: Arc<Metrics>,
}

/// Who asked, for what, about whom, and why not.
type Key = (Process, &'static str, Box<str>, &'static str);

#[derive(Default)]
struct Recent {
    ids: HashMap<Key, (DenialId, Timestamp)>,
    order: VecDeque<Key>,
}

impl Denial {
    pub(crate) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            fix: "",
            detail: Vec::new(),
            retry_after: None,
        }
    }

    /// A caller that gets no identity, in the words that its client looks for.
    pub(crate) fn no_identity(reason: &'static str, why: impl std::fmt::Display) -> Self {
        Self::new(
            Code::PermissionDenied,
            reason,
            format!("{NO_IDENTITY}: {why}"),
        )
    }

    /// The request can't mean anything.
    pub(crate) fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, message)
    }

    pub(crate) fn fix(self, fix: &'static str) -> Self {
        Self { fix, ..self }
    }

    pub(crate) fn detail(self, detail: Vec<String>) -> Self {
        Self { detail, ..self }
    }

    /// With when to ask again.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        let retry_after = Some(wait);
        Self {
            retry_after,
            ..self
        }
    }

    fn with(self, id: DenialId) -> Denied {
        self.denied().id(id)
    }

    fn denied(self) -> Denied {
        let mut denied = Denied::new(self.code, self.reason, self.message).fix(self.fix);
        denied.retry_after = self.retry_after;
        denied
    }

    /// As a status without id and story: what merely has to be asked for rightly, or again.
    pub(crate) fn status(self) -> Status {
        self.denied().into()
    }
}

impl Asked<'static> {
    /// By a process for itself.
    pub(crate) fn new(process: Process, action: &'static str) -> Self {
        let about = "";
        Self {
            process,
            action,
            about,
        }
    }

    /// By the same process, of somebody else.
    pub(crate) fn about<'a>(self, about: &'a str) -> Asked<'a> {
        Asked { about, ..self }
    }
}

impl Denials {
    /// Denials, and where their reports come out.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::Receiver<node::ReportDenialRequest>) {
        let (reports, receiver) = mpsc::channel(QUEUED);
        (
            Self {
                clock,
                entropy,
                recent: Mutex::default(),
                reports,
                metrics,
            },
            receiver,
        )
    }

    /// Denies `caller` something: logs it, has it kept, and answers with an id.
    pub(crate) fn give(&self, caller: &Caller, action: &'static str, denial: Denial) -> Status {
        let asked = Asked::new(caller.process(), action);
        match self.keep(&asked, &denial, || caller.to_wire()) {
            Some(id) => denial.with(id).facts(caller.selectors().clone()).into(),
            None => denial.status(),
        }
    }

    /// Denies a peer that could not be attested: all there is of it is what the socket says.
    pub(crate) fn give_unattested(
        &self,
        process: Process,
        uid: u32,
        action: &'static str,
        denial: Denial,
    ) -> Status {
        let caller = || node::Caller {
            process: process.to_string(),
            uid,
            selectors: Vec::new(),
        };
        match self.keep(&Asked::new(process, action), &denial, caller) {
            Some(id) => denial.with(id).into(),
            None => denial.status(),
        }
    }

    /// Counts a denial, logs it and has it kept, for whoever answers in words of its own; its id.
    /// None for what has to be tried again: it leaves no story, for nobody will ask about it.
    pub(crate) fn keep(
        &self,
        asked: &Asked<'_>,
        denial: &Denial,
        caller: impl FnOnce() -> node::Caller,
    ) -> Option<DenialId> {
        self.metrics.denied(denial.reason);
        if matches!(denial.code, Code::Unavailable | Code::ResourceExhausted) {
            return None;
        }
        let Asked {
            process,
            action,
            about,
        } = *asked;
        let (id, new) = self.id((process, action, about.into(), denial.reason));
        if new {
            let (reason, caller) = (denial.reason, caller());
            let uid = caller.uid;
            tracing::warn!(%id, reason, action, %process, uid, about, "denied: {}", denial.message);
            self.send(id, action, caller, denial);
        }
        Some(id)
    }

    fn send(&self, id: DenialId, action: &str, caller: node::Caller, denial: &Denial) {
        let report = node::ReportDenialRequest {
            denial_id: id.to_string(),
            action: action.to_owned(),
            reason: denial.reason.to_owned(),
            message: denial.message.clone(),
            fix: denial.fix.to_owned(),
            caller: Some(caller),
            detail: denial.detail.clone(),
        };
        if self.reports.try_send(report).is_err() {
            tracing::warn!(%id, "the server will not know this denial: too many wait");
        }
    }

    fn id(&self, key: Key) -> (DenialId, bool) {
        let now = self.clock.now();
        let mut recent = self.recent.lock();
        if let Some((id, at)) = recent.ids.get(&key)
            && now.since(*at) < SAME
        {
            return (*id, false);
        }
        let id = DenialId::new(now, &*self.entropy);
        if recent.ids.insert(key.clone(), (id, now)).is_none() {
            recent.order.push_back(key);
        }
        if recent.order.len() > REMEMBERED
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.ids.remove(&oldest);
        }
        (id, true)
    }
}

/// Selectors as the wire has them.
pub(crate) fn texts(selectors: &Selectors) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}
