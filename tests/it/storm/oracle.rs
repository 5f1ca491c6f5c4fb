//! What was promised of ends, and whether each verdict and each event agrees with it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use taskmint_model::{TaskId, Timestamp};
use taskmint_status::TaskBinding;
use taskmint_verifier::watch::Event;

/// For so long at most a verifier believes what it has heard last: the storm's `max_age`, and its
/// drift allowance.
pub(super) const BELIEVED: Duration = Duration::from_secs(3);

/// By which a verifier must refuse.
pub(super) const RULES: [&str; 5] = [
    "by receipt",
    "by its own word",
    "past the bound",
    "younger than the end",
    "cut off",
];

/// An end that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) binding: TaskBinding,
    pub(super) position: u64,
    pub(super) acknowledged: Timestamp,
    pub(super) dead_by: Timestamp,
}

/// Who is asked, and what is known of it before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) verifier: usize,
    /// When it was started and knew nothing.
    pub(super) born: Timestamp,
    /// What it says itself that it has applied.
    pub(super) applied: u64,
    /// Since when nothing arrives at it, if it is so before and after it answers.
    pub(super) cut_off: Option<Timestamp>,
    pub(super) at: Timestamp,
}

/// Facts, and the verdicts that are held against them.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// In the order in which they were acknowledged.
    pub(super) ends: Vec<End>,
    /// How often which rule said that a verifier must refuse, and what verifiers said.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// By the word of receipts, of each verifier.
    heard: HashMap<usize, u64>,
    wrong: Option<String>,
}

/// What one verifier has told of the log so far.
#[derive(Debug, Default)]
pub(super) struct Follower {
    position: u64,
    /// The last end that it told of.
    told: u64,
    /// Nothing may be missing since then.
    is_unbroken: bool,
}

impl Oracle {
    pub(super) fn ended(&mut self, end: End) {
        if end.dead_by > end.acknowledged + BELIEVED {
            self.object(format!("the bound lies further ahead than it may: {end:?}"));
        }
        self.ends.push(end);
    }

    /// A receipt says that a verifier has applied everything up to a position.
    pub(super) fn heard(&mut self, verifier: usize, position: u64) {
        let known = self.heard.entry(verifier).or_default();
        *known = position.max(*known);
    }

    /// Holds a verdict about an end, or about a task that lives, against all that is known.
    pub(super) fn judge(&mut self, asked: &Asked, end: Option<&End>, said: Option<&'static str>) {
        let heard = self.heard.get(&asked.verifier).copied().unwrap_or(0);
        let believed_until = asked.cut_off.map(|since| since + BELIEVED);
        let must_refuse = [
            end.is_some_and(|end| end.position <= heard),
            end.is_some_and(|end| end.position <= asked.applied),
            end.is_some_and(|end| end.dead_by < asked.at),
            end.is_some_and(|end| end.acknowledged < asked.born),
            believed_until.is_some_and(|until| until < asked.at),
        ];
        for (rule, must) in RULES.into_iter().zip(must_refuse) {
            if must {
                self.count(rule);
            }
            if must && said.is_none() {
                self.object(format!("{asked:?} accepted {end:?}, to be refused {rule}"));
            }
        }
        self.count(said.unwrap_or("accepted"));
        let fails_closed = |reason: &str| {
            ["STATUS_", "CLOCK_"]
                .iter()
                .any(|of| reason.starts_with(of))
        };
        if end.is_none() && said.is_some_and(|reason| !fails_closed(reason)) {
            self.object(format!("{asked:?} says {said:?} of a task that lives"));
        }
    }

    /// Takes in what came of something that was looked at.
    pub(super) fn take(&mut self, found: Result<(), String>) {
        if let Err(wrong) = found {
            self.object(wrong);
        }
    }

    /// The first objection, if there is one.
    pub(super) fn objection(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn object(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }
}

impl Follower {
    /// What the verifier has applied, as it says itself.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Takes in where it says that it stands; whether that is further than before.
    pub(super) fn stands(&mut self, position: u64) -> Result<bool, String> {
        let before = std::mem::replace(&mut self.position, position);
        match position.cmp(&before) {
            std::cmp::Ordering::Less => Err(format!("went back from {before} to {position}")),
            other => Ok(other.is_gt()),
        }
    }

    /// Takes in what it tells. Events carry no position: theirs is found in the log, by their task.
    /// What a reset stands for can't be seen.
    pub(super) fn tells(
        &mut self,
        event: &Event,
        log: &HashMap<TaskId, u64>,
    ) -> Result<(), String> {
        let Event::Ended { task, .. } = event else {
            self.is_unbroken = false;
            return match event {
                Event::Reset => Ok(()),
                other => Err(format!("tells of {other:?}, which nobody did")),
            };
        };
        let Some(position) = log.get(task).copied() else {
            return Err(format!(
                "tells of the end of {task}, which the log does not"
            ));
        };
        let before = std::mem::replace(&mut self.told, position);
        let follows = std::mem::replace(&mut self.is_unbroken, true);
        if position <= before || follows && position > before + 1 {
            return Err(format!("told of {position} after {before}"));
        }
        Ok(())
    }

    /// Whether it told of everything up to the last end, if it was not reset after it.
    pub(super) fn told_all(&self, last: u64) -> bool {
        !self.is_unbroken || self.told == last
    }
}

fn binding(index: u64) -> TaskBinding {
    let place = taskmint_status::Place::new(taskmint_status::LogId([1; 8]), 7, index).unwrap();
    TaskBinding {
        place,
        task: [2; 16],
        root: [3; 16],
    }
}

/// An end that verifier 1 has applied by the word of a receipt, and a question that was asked of
/// verifier 2, which need not know of it.
fn known() -> (Oracle, End, Asked) {
    let at = Timestamp::from_secs(1_000);
    let end = End {
        binding: binding(1),
        position: 5,
        acknowledged: at,
        dead_by: at + BELIEVED,
    };
    let mut oracle = Oracle::default();
    oracle.ended(end);
    oracle.heard(1, 5);
    let asked = Asked {
        verifier: 2,
        born: Timestamp::from_secs(900),
        applied: 4,
        cut_off: None,
        at: at + Duration::from_secs(1),
    };
    (oracle, end, asked)
}

#[track_caller]
fn objects(change: impl Fn(&mut Asked), because: &str) {
    let (mut oracle, end, mut asked) = known();
    oracle.judge(&asked, Some(&end), None);
    assert_eq!(oracle.objection(), None, "it may not know of it yet");
    change(&mut asked);
    oracle.judge(&asked, Some(&end), Some("TASK_ENDED"));
    assert_eq!(oracle.objection(), None);
    oracle.judge(&asked, Some(&end), None);
    let objection = oracle.objection().expect("nobody noticed");
    assert!(objection.ends_with(because), "{objection}");
}

#[test]
fn who_accepts_what_a_receipt_says_that_it_has_applied_is_objected_to() {
    objects(|asked| asked.verifier = 1, "refused by receipt");
}

#[test]
fn who_accepts_what_it_can_t_have_missed_is_objected_to() {
    objects(|asked| asked.applied = 5, "by its own word");
    let late = Timestamp::from_secs(1_004);
    objects(|asked| asked.at = late, "past the bound");
    let after = Timestamp::from_secs(1_001);
    objects(|asked| asked.born = after, "younger than the end");
    let long_ago = Some(Timestamp::from_secs(997));
    objects(|asked| asked.cut_off = long_ago, "cut off");
}

#[test]
fn a_live_task_is_refused_for_want_of_news_alone_and_accepted_by_nobody_who_is_cut_off() {
    let (mut oracle, _, mut asked) = known();
    oracle.judge(&asked, None, Some("STATUS_STALE"));
    oracle.judge(&asked, None, None);
    assert_eq!(oracle.objection(), None);
    oracle.judge(&asked, None, Some("TASK_ENDED"));
    assert!(oracle.objection().is_some());
    let (mut oracle, ..) = known();
    asked.cut_off = Some(asked.at - BELIEVED - Duration::from_millis(1));
    oracle.judge(&asked, None, None);
    assert!(oracle.objection().is_some());
}

#[test]
fn a_bound_beyond_what_is_believed_is_objected_to() {
    let (mut oracle, mut end, _) = known();
    end.dead_by = end.dead_by + Duration::from_millis(1);
    oracle.ended(end);
    assert!(oracle.objection().is_some());
}

#[test]
fn what_is_told_twice_late_or_not_at_all_is_objected_to() {
    let ids: Vec<_> = (1..=9).map(|n| TaskId::from_octets([n; 16])).collect();
    let log: HashMap<_, _> = ids.iter().copied().zip(1..).collect();
    let tell = |positions: &[usize]| {
        let mut follower = Follower::default();
        let mut found = Ok(());
        for position in positions {
            let event = match position {
                0 => Event::Reset,
                position => Event::Ended {
                    place: binding(1).place,
                    task: ids[position - 1],
                    cause: None,
                },
            };
            found = found.and(follower.tells(&event, &log));
        }
        found.map(|()| follower)
    };
    assert!(tell(&[0, 2, 3, 4]).unwrap().told_all(4));
    assert!(!tell(&[0, 2, 3, 4]).unwrap().told_all(5), "5 is missing");
    assert!(tell(&[0, 2, 3, 0, 7, 8, 0]).unwrap().told_all(9), "resets");
    for wrong in [&[0, 2, 2][..], &[0, 2, 4], &[0, 3, 2], &[0, 3, 0, 3]] {
        assert!(tell(wrong).is_err(), "{wrong:?}");
    }
    let mut follower = Follower::default();
    assert_eq!(follower.stands(3), Ok(true));
    assert_eq!(follower.stands(3), Ok(false));
    assert!(follower.stands(2).is_err(), "it went back");
}
