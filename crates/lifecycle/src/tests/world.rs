//! A small issuer in memory: keeps what the rules return, and refuses what a store would.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taskmint_id::SpiffeId;
use taskmint_model::{
    Actor, Authority, Binding, Cause, Entry, EntryId, EntryTtls, Holder, KeyType, NodeMatch,
    Process, Task, TaskId, TaskKind, Timestamp,
};
use taskmint_status::{LogId, Place};

use crate::{
    Ask, Begun, Changes, Defaults, Refusal, TaskStatus, Tree, begin, end, extend, resume,
    successor, suspend, times,
};

pub(super) const START: Timestamp = Timestamp::from_secs(1_750_000_000);

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

pub(super) fn node() -> SpiffeId {
    spiffe_id("/taskmint/node/join/n1")
}

pub(super) fn authority(scopes: &[&str], audiences: &[&str]) -> Authority {
    let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    Authority {
        scopes: set(scopes),
        audiences: set(audiences),
    }
}

pub(super) fn task_id(number: u64) -> TaskId {
    TaskId::from_octets(u128::from(number).to_be_bytes())
}

pub(super) fn entry() -> Entry {
    Entry {
        id: EntryId::from_octets([7; 16]),
        revision: 1,
        parent: NodeMatch::Node(node()),
        spiffe_id: spiffe_id("/billing"),
        selectors: BTreeSet::from(["unix:uid:1000".parse().unwrap()]),
        ttls: EntryTtls::default(),
        key_type: KeyType::EcP256,
        dns_names: Vec::new(),
        hint: String::new(),
        federates_with: BTreeSet::new(),
        downstream: false,
        owner: "alice".to_owned(),
        class: String::new(),
        authority: authority(&["a", "b", "c"], &["x", "y"]),
        implicit: true,
        descendants: false,
        watch: false,
        crl: false,
        max_limit: None,
        max_children: 3,
        max_depth: 3,
        expires_at: None,
        labels: BTreeMap::new(),
        created_by: "admin".to_owned(),
        created_at: START,
    }
}

pub(super) fn ask(kind: TaskKind) -> Ask {
    let process = Process {
        pid: 7,
        start_time: 99,
        boot_id: [1; 16],
    };
    let (entry_id, id, process, binding) = match kind {
        TaskKind::Node => (None, node(), None, Binding::None),
        TaskKind::Server => (None, spiffe_id("/taskmint/server/s1"), None, Binding::None),
        _ => (
            Some(entry().id),
            entry().spiffe_id,
            Some(process),
            Binding::Process,
        ),
    };
    Ask {
        kind,
        entry: entry_id,
        spiffe_id: id,
        owner: String::new(),
        purpose: "reconcile invoices".to_owned(),
        authority: None,
        ttl: None,
        limit: None,
        limits: None,
        holder: Holder {
            node: Some(node()),
            process,
        },
        binding,
        continues: None,
    }
}

/// Everything that an issuer would have stored.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) defaults: Defaults,
    pub(super) entry: Entry,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    /// The revocation log.
    pub(super) statuses: Vec<TaskStatus>,
    /// Tasks whose process was barred.
    pub(super) barred: BTreeSet<TaskId>,
    /// Tasks whose bar was lifted.
    pub(super) lifted: BTreeSet<TaskId>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: START,
            defaults: Defaults::default(),
            entry: entry(),
            tasks: BTreeMap::new(),
            statuses: Vec::new(),
            barred: BTreeSet::new(),
            lifted: BTreeSet::new(),
        }
    }

    pub(super) fn task(&self, id: TaskId) -> &Task {
        &self.tasks[&id]
    }

    pub(super) fn begin(&mut self, ask: Ask) -> Result<TaskId, Refusal> {
        self.begin_below(None, ask)
    }

    pub(super) fn begin_below(
        &mut self,
        parent: Option<TaskId>,
        ask: Ask,
    ) -> Result<TaskId, Refusal> {
        let parent = parent.map(|id| self.task(id).clone());
        let entry = ask.entry.map(|_| self.entry.clone());
        let (entry, parent) = (entry.as_ref(), parent.as_ref());
        let planned = times(&ask, entry, parent, &self.defaults, self.now)?;
        let number = self.tasks.len() as u64;
        let place = Place::new(LogId([1; 8]), planned.limit.hour(), number).unwrap();
        let id = task_id(number);
        let begun = begin(ask, entry, parent, id, place, &self.defaults, self.now)?;
        let Begun { task, parent } = begun;
        assert_eq!(task.times, planned, "a begin must give what its plan said");
        if let Some(parent) = parent {
            let version = parent.version - 1;
            self.store(parent, version);
        }
        assert!(self.tasks.insert(id, task).is_none());
        Ok(id)
    }

    pub(super) fn succeed(&mut self, id: TaskId) -> Result<TaskId, Refusal> {
        let ask = successor(self.task(id), self.now)?;
        self.begin(ask)
    }

    pub(super) fn extend(&mut self, id: TaskId, ttl: Duration) -> Result<(), Refusal> {
        let task = self.task(id);
        let extended = extend(task, &self.ancestors(id), self.now + ttl, self.now)?;
        let version = task.version;
        self.store(extended, version);
        Ok(())
    }

    pub(super) fn suspend(&mut self, id: TaskId, by: Actor) -> Result<(), Refusal> {
        let changes = suspend(self.tree(id), by, "because".to_owned(), self.now)?;
        self.apply(id, changes);
        Ok(())
    }

    pub(super) fn resume(&mut self, id: TaskId, by: Actor) -> Result<(), Refusal> {
        let above = self
            .ancestors(id)
            .iter()
            .any(|task| task.state.name() == "suspended");
        let changes = resume(self.tree(id), by, above, self.now)?;
        self.apply(id, changes);
        Ok(())
    }

    pub(super) fn end(&mut self, id: TaskId, cause: Cause, by: Actor) -> Result<(), Refusal> {
        let parent = self.task(id).parent.map(|parent| self.task(parent).clone());
        let changes = end(self.tree(id), parent.as_ref(), cause, by, self.now)?;
        self.apply(id, changes);
        Ok(())
    }

    /// Ends everything whose deadline has passed, as the issuer's sweep does.
    pub(super) fn sweep(&mut self) {
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        for id in ids {
            let task = self.task(id);
            if !task.is_ended() && task.times.deadline <= self.now {
                self.end(id, Cause::EXPIRED, Actor::Issuer).unwrap();
            }
        }
    }

    /// All tasks above, nearest first.
    pub(super) fn ancestors(&self, id: TaskId) -> Vec<Task> {
        let mut above = Vec::new();
        let mut next = self.task(id).parent;
        while let Some(parent) = next {
            above.push(self.task(parent).clone());
            next = self.task(parent).parent;
        }
        above
    }

    /// All tasks below, ended ones included.
    pub(super) fn descendants(&self, id: TaskId) -> Vec<Task> {
        let below = |task: &&Task| self.ancestors(task.id).iter().any(|above| above.id == id);
        self.tasks.values().filter(below).cloned().collect()
    }

    fn tree(&self, id: TaskId) -> Tree {
        let mut below = self.descendants(id);
        below.retain(|task| !task.is_ended());
        // "In any order" includes the least convenient one.
        below.reverse();
        Tree {
            top: self.task(id).clone(),
            below,
        }
    }

    fn apply(&mut self, top: TaskId, changes: Changes) {
        for (task, version) in changes.tasks {
            self.store(task, version);
        }
        self.statuses.extend(changes.statuses);
        if changes.bar {
            self.barred.insert(top);
        }
        if changes.lift {
            self.lifted.insert(top);
        }
    }

    fn store(&mut self, task: Task, expected: u64) {
        let old = self.tasks.insert(task.id, task.clone()).unwrap();
        assert_eq!(
            old.version, expected,
            "a rule must expect the version that it read"
        );
        assert_eq!(task.version, expected + 1, "a change is one version on");
    }
}
