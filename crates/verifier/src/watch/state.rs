//! What a watch shows of itself, and what readers share with the task that writes.

use std::sync::Arc;
use std::time::Duration;

use taskmint_status::{Applied, Freshness, Now, Position, Refusal, StatusView};
use tokio::sync::{broadcast, watch};

use super::clocks::Clocks;
use super::events::{BACKLOG, Event, Events};
use crate::Policy;

/// Where a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What is applied.
    pub position: Option<Position>,
    /// How old the newest head that counts is, at most.
    pub age: Option<Duration>,
    /// Why nothing is believed now; none while statuses count.
    pub closed: Option<Refusal>,
    /// Whether a connection to the log is open.
    pub connected: bool,
    /// What went wrong last on a connection; none once statuses counted again.
    pub trouble: Option<String>,
}

pub(super) struct Shared {
    pub(super) view: StatusView,
    pub(super) clocks: Arc<dyn Clocks>,
    pub(super) policy: Policy,
    report: watch::Sender<Report>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
pub(super) struct Report {
    position: Option<Position>,
    freshness: Option<Freshness>,
    connected: bool,
    trouble: Option<String>,
}

impl Shared {
    pub(super) fn new(view: StatusView, clocks: Arc<dyn Clocks>, policy: Policy) -> Self {
        let (report, _) = watch::channel(Report::default());
        let (events, _) = broadcast::channel(BACKLOG);
        Self {
            view,
            clocks,
            policy,
            report,
            events,
        }
    }

    /// Lets readers see what was applied, then tells subscribers, then those who wait.
    pub(super) fn publish(
        &self,
        applied: &[Applied],
        freshness: Freshness,
        position: Option<Position>,
    ) {
        self.view.publish(applied, freshness);
        for change in applied {
            // Nobody listens: that is all that can go wrong.
            self.events.send(Event::from(change)).ok();
        }
        let fresh = self.view.check(self.clocks.now()).is_ok();
        self.report.send_modify(|report| {
            report.position = position;
            report.freshness = Some(freshness);
            if fresh {
                report.trouble = None;
            }
        });
    }

    pub(super) fn connected(&self) {
        self.report.send_modify(|report| report.connected = true);
    }

    /// Whether that is news.
    pub(super) fn disconnected(&self, trouble: &str) -> bool {
        let mut news = false;
        self.report.send_modify(|report| {
            report.connected = false;
            news = report.trouble.as_deref() != Some(trouble);
            report.trouble = Some(trouble.to_owned());
        });
        news
    }

    pub(super) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.events.subscribe())
    }

    pub(super) fn state(&self) -> State {
        let now = self.clocks.now();
        let report = self.report.borrow();
        State {
            position: report.position,
            age: report.age(now),
            closed: self.view.check(now).err(),
            connected: report.connected,
            trouble: report.trouble.clone(),
        }
    }

    /// A refusal in words; where nothing can be believed, with the age and what is in the way.
    pub(super) fn words(&self, refusal: Refusal) -> String {
        let mut words = refusal.to_string();
        if refusal.is_about_place() {
            return words;
        }
        let report = self.report.borrow();
        if let Some(age) = report.age(self.clocks.now()) {
            words = format!("{words} for {} s", age.as_secs());
        }
        match &report.trouble {
            Some(trouble) => format!("{words}: {trouble}"),
            None => words,
        }
    }
}

impl Report {
    fn age(&self, now: Now) -> Option<Duration> {
        self.freshness.as_ref()?.age(now)
    }
}
