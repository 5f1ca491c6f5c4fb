//! Request ids (P6): what was asked before is answered again and not done again, and no caller
//! has more of them remembered than its share.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use taskmint_model::{Process, Task};
use taskmint_store::{
    Change, Commit, CommitError, Expect, RequestCount, RequestKey, RequestRecord,
};

use crate::refused::{RefusalKind, Refused};
use crate::{Issuer, Principal};

/// How many times its share an administrator may have: an orchestrator is one caller on behalf of
/// many, and nobody who is not trusted with far more can be one.
const ADMIN_SHARES: u32 = 64;

/// What a request id is scoped to, beside its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A task begins.
    Begin,
    /// A task begins below another one.
    Delegate,
    /// A deadline moves out.
    Extend,
    /// A task is suspended.
    Suspend,
    /// A suspension is lifted.
    Resume,
    /// A task ends, and what it was for is done.
    Complete,
    /// A task ends, and what it was for is not.
    Fail,
    /// A task ends, and what it was for is not wanted any more.
    Cancel,
    /// An operator ends a task.
    Revoke,
}

impl Method {
    const ALL: [Self; 9] = [
        Self::Begin,
        Self::Delegate,
        Self::Extend,
        Self::Suspend,
        Self::Resume,
        Self::Complete,
        Self::Fail,
        Self::Cancel,
        Self::Revoke,
    ];

    /// Its name in the store and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Delegate => "delegate",
            Self::Extend => "extend",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
            Self::Revoke => "revoke",
        }
    }

    /// The method of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// A request id with its method and a digest of what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMark {
    /// What was called.
    pub method: Method,
    /// Chosen by the caller.
    pub id: [u8; 16],
    /// SHA-256 over the content.
    pub digest: [u8; 32],
}

impl RequestMark {
    /// Marks a request by its id and its encoded content.
    pub fn new(method: Method, id: [u8; 16], content: &[u8]) -> Self {
        Self {
            method,
            id,
            digest: Sha256::digest(content).into(),
        }
    }
}

/// How many requests each caller has remembered. Rebuilt at start; swept with the buckets.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<HashMap<Asker, Tally>>);

type Asker = (String, Option<Process>);

#[derive(Debug, Default)]
struct Tally {
    /// Being written now.
    pending: u32,
    /// In the store, by the bucket that they go with.
    kept: BTreeMap<u32, u32>,
}

impl Tally {
    fn count(&self) -> u32 {
        self.kept
            .values()
            .fold(self.pending, |sum, count| sum.saturating_add(*count))
    }
}

impl Requests {
    /// Takes in what the store remembers.
    pub(crate) fn load(&self, counts: Vec<RequestCount>) {
        let mut tallies = self.0.lock();
        for of in counts {
            let tally = tallies.entry((of.via, of.process)).or_default();
            *tally.kept.entry(of.bucket).or_default() += of.count;
        }
    }

    /// Forgets what went with the buckets below a floor.
    pub(crate) fn sweep(&self, floor: u32) {
        self.0.lock().retain(|_, tally| {
            tally.kept = tally.kept.split_off(&floor);
            tally.count() > 0
        });
    }

    /// Makes room for one more, if there are fewer than `max`.
    fn reserve(&self, asker: Asker, max: u32) -> Option<Room<'_>> {
        let mut tallies = self.0.lock();
        let tally = tallies.entry(asker.clone()).or_default();
        if tally.count() >= max {
            return None;
        }
        tally.pending += 1;
        Some(Room {
            requests: self,
            asker: Some(asker),
        })
    }

    fn settle(&self, asker: Asker, bucket: Option<u32>) {
        let mut tallies = self.0.lock();
        let Some(tally) = tallies.get_mut(&asker) else {
            return;
        };
        tally.pending = tally.pending.saturating_sub(1);
        if let Some(bucket) = bucket {
            *tally.kept.entry(bucket).or_default() += 1;
        }
        if tally.count() == 0 {
            tallies.remove(&asker);
        }
    }
}

/// Room for one request that is being written; given back unless it was.
#[derive(Debug)]
struct Room<'a> {
    requests: &'a Requests,
    asker: Option<Asker>,
}

impl Room<'_> {
    fn taken(mut self, bucket: u32) {
        if let Some(asker) = self.asker.take() {
            self.requests.settle(asker, Some(bucket));
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            self.requests.settle(asker, None);
        }
    }
}

/// A request in hand, with an id or without: then there is nothing to remember.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    key: Option<(RequestKey, [u8; 32])>,
    room: Option<Room<'a>>,
}

impl Asked<'_> {
    /// Adds to a commit that this request was answered with `task`, if nobody was faster.
    pub(crate) fn write(&self, commit: &mut Commit, task: &Task) {
        let Some((key, digest)) = &self.key else {
            return;
        };
        commit.expect.push(Expect::NewRequest(key.clone()));
        commit.changes.push(Change::PutRequest(RequestRecord {
            key: key.clone(),
            digest: *digest,
            task: task.id,
            bucket: task.place.bucket(),
        }));
    }

    /// The commit went through: from now on it counts until the task's bucket is swept.
    pub(crate) fn written(&mut self, task: &Task) {
        if let Some(room) = self.room.take() {
            room.taken(task.place.bucket());
        }
    }
}

impl Issuer {
    /// Takes a request in hand.
    ///
    /// What an agent says for itself is not remembered: it has no caller to be scoped to, and says
    /// an end until it was taken.
    pub(crate) fn asked(&self, who: &Principal, mark: Option<&RequestMark>) -> Asked<'_> {
        let key = mark.and_then(|mark| Some((request_key(who, mark)?, mark.digest)));
        Asked { key, room: None }
    }

    /// The task that this request was answered with before, as it is now. If there is none, there
    /// is room to remember it from here on: so nothing is spent on a request too many.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED`, `TOO_MANY_REQUEST_IDS`.
    pub(crate) async fn answered<'a>(
        &'a self,
        asked: &mut Asked<'a>,
    ) -> Result<Option<Task>, Refused> {
        let Some((key, digest)) = &asked.key else {
            return Ok(None);
        };
        if let Some(seen) = self.store.request(key).await? {
            if seen.digest != *digest {
                return Err(reused());
            }
            let task = self.store.task(seen.task).await?;
            return task.map(Some).ok_or_else(Refused::no_task);
        }
        if asked.room.is_none() {
            let share = self.settings.max_request_ids;
            let max = match key.process {
                Some(_) => share,
                None => share.saturating_mul(ADMIN_SHARES),
            };
            let asker = (key.via.clone(), key.process);
            let room = self.requests.reserve(asker, max);
            asked.room = Some(room.ok_or_else(|| too_many(max))?);
        }
        Ok(None)
    }

    /// The task that a request was answered with before, as it is now; none if it never was.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED`.
    pub async fn recall(
        &self,
        who: &Principal,
        mark: &RequestMark,
    ) -> Result<Option<Task>, Refused> {
        let Some(key) = request_key(who, mark) else {
            return Ok(None);
        };
        match self.store.request(&key).await? {
            Some(seen) if seen.digest != mark.digest => Err(reused()),
            Some(seen) => Ok(self.store.task(seen.task).await?),
            None => Ok(None),
        }
    }

    /// Remembers a request that found everything as it asked for.
    ///
    /// Though it changed nothing: its id means this from now on, and not the next task's end.
    pub(crate) async fn remember<'a>(
        &'a self,
        asked: &mut Asked<'a>,
        task: Task,
    ) -> Result<Task, Refused> {
        if let Some(before) = self.answered(asked).await? {
            return Ok(before);
        }
        if asked.key.is_none() {
            return Ok(task);
        }
        let mut commit = Commit::default();
        asked.write(&mut commit, &task);
        match self.store.commit(commit).await {
            Ok(_) => {
                asked.written(&task);
                Ok(task)
            }
            // Its twin was faster.
            Err(CommitError::Conflict(_)) => match self.answered(asked).await? {
                Some(before) => Ok(before),
                None => Err(Refused::busy()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn request_key(who: &Principal, mark: &RequestMark) -> Option<RequestKey> {
    let (via, process) = match who {
        Principal::Workload(caller) => (caller.node.to_string(), Some(caller.process)),
        Principal::Admin(name) => (name.clone(), None),
        Principal::Node(_) | Principal::Watcher(_) | Principal::Issuer => return None,
    };
    Some(RequestKey {
        via,
        process,
        method: mark.method.name().to_owned(),
        id: mark.id,
    })
}

fn reused() -> Refused {
    let message = "this request id was used for another request";
    Refused::new(RefusalKind::Exists, "REQUEST_ID_REUSED", message).fix("choose a new request id")
}

fn too_many(max: u32) -> Refused {
    let message = format!("{max} request ids of this caller are remembered, and that is the most");
    Refused::new(RefusalKind::Exhausted, "TOO_MANY_REQUEST_IDS", message).fix(
        "ask without a request id, or wait: ids are forgotten some time after their tasks' limits",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 3;

    fn asker(pid: u32) -> Asker {
        let process = Process {
            pid,
            start_time: 1,
            boot_id: [0; 16],
        };
        ("node".to_owned(), Some(process))
    }

    fn fill(requests: &Requests, pid: u32, bucket: u32) {
        while let Some(room) = requests.reserve(asker(pid), MAX) {
            room.taken(bucket);
        }
    }

    #[test]
    fn a_caller_that_has_used_up_its_share_takes_nothing_from_another() {
        let requests = Requests::default();
        fill(&requests, 1, 9);
        assert!(requests.reserve(asker(1), MAX).is_none());
        assert!(requests.reserve(asker(2), MAX).is_some());
    }

    #[test]
    fn room_that_was_not_taken_is_given_back() {
        let requests = Requests::default();
        let held: Vec<_> = (0..MAX)
            .map(|_| requests.reserve(asker(1), MAX).unwrap())
            .collect();
        assert!(requests.reserve(asker(1), MAX).is_none(), "all at once");
        drop(held);
        assert!(requests.reserve(asker(1), MAX).is_some());
        assert!(requests.0.lock().is_empty(), "nobody is remembered for it");
    }

    #[test]
    fn a_sweep_makes_room_again_and_forgets_callers() {
        let requests = Requests::default();
        fill(&requests, 1, 9);
        fill(&requests, 2, 10);
        requests.sweep(10);
        assert!(requests.reserve(asker(1), MAX).is_some());
        assert!(requests.reserve(asker(2), MAX).is_none());
        requests.sweep(11);
        assert!(requests.0.lock().is_empty());
    }

    #[test]
    fn a_restart_does_not_empty_the_count() {
        let (via, process) = asker(1);
        let count = |bucket, count| RequestCount {
            via: via.clone(),
            process,
            bucket,
            count,
        };
        let requests = Requests::default();
        requests.load(vec![count(9, 1), count(10, MAX - 1)]);
        assert!(requests.reserve(asker(1), MAX).is_none());
        requests.sweep(10);
        assert!(requests.reserve(asker(1), MAX).is_some());
    }

    #[test]
    fn every_method_has_a_name_of_its_own() {
        for method in Method::ALL {
            assert_eq!(Method::from_name(method.name()), Some(method));
        }
        assert_eq!(Method::from_name("get"), None);
    }
}
