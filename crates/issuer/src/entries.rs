//! Registration entries: kept whole in memory, so that matching costs no read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use taskmint_id::SpiffeId;
use taskmint_model::{Entry, EntryId, Selector, Selectors, Timestamp};
use taskmint_store::{Change, Commit, CommitError, Expect};
use tokio::sync::watch;

use crate::refused::{RefusalKind, Refused};
use crate::{Cause, Issuer, Principal};

/// All entries, and by the first selector of each: who matches is found without a scan.
#[derive(Debug)]
pub(crate) struct EntrySet {
    inner: RwLock<Inner>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<EntryId, Arc<Entry>>,
    by_selector: HashMap<Selector, Vec<EntryId>>,
    by_identity: HashMap<SpiffeId, Vec<EntryId>>,
}

impl EntrySet {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        let mut inner = Inner::default();
        for entry in entries {
            inner.put(entry);
        }
        Self {
            inner: RwLock::new(inner),
            revision: watch::Sender::new(1),
        }
    }

    pub(crate) fn get(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.inner.read().by_id.get(&id).cloned()
    }

    /// The entry with the same identity, parent and selectors, if there is one.
    fn same_as(&self, entry: &Entry) -> Option<EntryId> {
        let inner = self.inner.read();
        let candidates = inner.by_identity.get(&entry.spiffe_id)?;
        let mut candidates = candidates.iter().filter_map(|id| inner.by_id.get(id));
        let same = candidates
            .find(|other| other.parent == entry.parent && other.selectors == entry.selectors);
        same.map(|other| other.id)
    }

    /// Whether an entry with this identity has the watch grant.
    pub(crate) fn may_be_waited_for(&self, id: &SpiffeId, now: Timestamp) -> bool {
        let inner = self.inner.read();
        let of = inner.by_identity.get(id).into_iter().flatten();
        let mut entries = of.filter_map(|id| inner.by_id.get(id));
        entries.any(|entry| entry.watch && entry.expires_at.is_none_or(|at| at > now))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.inner.read().by_id.values().cloned().collect()
    }

    /// Entries that count on a node, oldest first.
    pub(crate) fn counting_on(&self, node: &SpiffeId, selectors: &Selectors) -> Vec<Arc<Entry>> {
        let inner = self.inner.read();
        inner
            .by_id
            .values()
            .filter(|entry| entry.counts_on(node, selectors))
            .cloned()
            .collect()
    }

    /// Entries that a caller matches, oldest first.
    pub(crate) fn matching(
        &self,
        node: &SpiffeId,
        node_selectors: &Selectors,
        caller: &Selectors,
        now: Timestamp,
    ) -> Vec<Arc<Entry>> {
        let inner = self.inner.read();
        let candidates = caller
            .iter()
            .filter_map(|selector| inner.by_selector.get(selector));
        let mut found: Vec<_> = candidates
            .flatten()
            .filter_map(|id| inner.by_id.get(id))
            .filter(|entry| entry.matches(caller, now) && entry.counts_on(node, node_selectors))
            .cloned()
            .collect();
        found.sort_by_key(|entry| entry.id);
        found
    }

    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn put(&self, entry: Entry) {
        self.inner.write().put(entry);
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn delete(&self, id: EntryId) {
        self.inner.write().delete(id);
        self.revision.send_modify(|revision| *revision += 1);
    }
}

impl Inner {
    fn put(&mut self, entry: Entry) {
        self.delete(entry.id);
        if let Some(first) = entry.selectors.first() {
            self.by_selector
                .entry(first.clone())
                .or_default()
                .push(entry.id);
        }
        self.by_identity
            .entry(entry.spiffe_id.clone())
            .or_default()
            .push(entry.id);
        self.by_id.insert(entry.id, Arc::new(entry));
    }

    fn delete(&mut self, id: EntryId) {
        let Some(old) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(first) = old.selectors.first() {
            forget(&mut self.by_selector, first, id);
        }
        forget(&mut self.by_identity, &old.spiffe_id, id);
    }
}

/// Takes an entry out of an index, and the key with its last entry.
fn forget<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<EntryId>>, key: &K, id: EntryId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

impl Issuer {
    /// Creates an entry. Id, revision, creator and time are set here.
    ///
    /// # Errors
    /// `BAD_ENTRY` names the first rule that does not hold; `ENTRY_EXISTS` the one that is equal.
    pub async fn create_entry(&self, by: &Principal, mut entry: Entry) -> Result<Entry, Refused> {
        let now = self.clock.now();
        entry.id = EntryId::new(now, &*self.entropy);
        entry.revision = 1;
        entry.created_by = by.to_string();
        entry.created_at = now;
        self.check_entry(&entry, now)?;
        let same = self.entries.same_as(&entry);
        if let Some(same) = same {
            let message = format!("entry {same} already has this id, parent and selectors");
            return Err(Refused::new(RefusalKind::Exists, "ENTRY_EXISTS", message)
                .fix("update that entry instead"));
        }
        let audit = self.audit(by, "entry.create", entry.spiffe_id.to_string(), None, now);
        let commit = Commit {
            expect: vec![Expect::Entry(entry.id, 0)],
            changes: vec![
                Change::PutEntry(Box::new(entry.clone())),
                Change::Audit(audit),
            ],
        };
        self.store.commit(commit).await?;
        self.entries.put(entry.clone());
        Ok(entry)
    }

    /// Replaces an entry whole; `entry.revision` must be the stored one. Running tasks keep what
    /// they were given at begin; what no longer matches gets no new task.
    ///
    /// # Errors
    /// `NO_SUCH_ENTRY`, `BAD_ENTRY`, or `ENTRY_CHANGED` when it was changed since it was read.
    pub async fn update_entry(&self, by: &Principal, mut entry: Entry) -> Result<Entry, Refused> {
        let now = self.clock.now();
        let old = self.entries.get(entry.id).ok_or_else(no_entry)?;
        let expected = entry.revision;
        entry.revision = expected.saturating_add(1);
        entry.created_by.clone_from(&old.created_by);
        entry.created_at = old.created_at;
        self.check_entry(&entry, now)?;
        let audit = self.audit(by, "entry.update", entry.spiffe_id.to_string(), None, now);
        let commit = Commit {
            expect: vec![Expect::Entry(entry.id, expected)],
            changes: vec![
                Change::PutEntry(Box::new(entry.clone())),
                Change::Audit(audit),
            ],
        };
        match self.store.commit(commit).await {
            Ok(_) => {}
            Err(CommitError::Conflict(_)) => {
                let message = format!("the entry is at revision {}, not {expected}", old.revision);
                return Err(Refused::new(RefusalKind::State, "ENTRY_CHANGED", message)
                    .fix("read it again and repeat the change"));
            }
            Err(error) => return Err(error.into()),
        }
        self.entries.put(entry.clone());
        Ok(entry)
    }

    /// Deletes an entry and, unless told otherwise, revokes its live tasks. Returns how many.
    ///
    /// # Errors
    /// `NO_SUCH_ENTRY`.
    pub async fn delete_entry(
        &self,
        by: &Principal,
        id: EntryId,
        keep_tasks: bool,
    ) -> Result<u64, Refused> {
        let now = self.clock.now();
        let entry = self.entries.get(id).ok_or_else(no_entry)?;
        let audit = self.audit(by, "entry.delete", entry.spiffe_id.to_string(), None, now);
        let commit = Commit {
            expect: vec![Expect::Entry(id, entry.revision)],
            changes: vec![Change::DeleteEntry(id), Change::Audit(audit)],
        };
        self.store.commit(commit).await?;
        // First no new tasks, then the old ones: the other order leaves a gap.
        self.entries.delete(id);
        if keep_tasks {
            return Ok(0);
        }
        let query = taskmint_store::TaskQuery {
            live_only: true,
            entry: Some(id),
            ..Default::default()
        };
        self.end_all(query, Cause::ENTRY_REMOVED, by).await
    }

    /// One entry.
    pub fn entry(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.entries.get(id)
    }

    /// All entries, oldest first.
    pub fn all_entries(&self) -> Vec<Arc<Entry>> {
        self.entries.all()
    }

    /// Entries that count on a node, oldest first.
    pub fn entries_on(&self, node: &SpiffeId, selectors: &Selectors) -> Vec<Arc<Entry>> {
        self.entries.counting_on(node, selectors)
    }

    /// Changes whenever an entry does.
    pub fn entries_revision(&self) -> watch::Receiver<u64> {
        self.entries.revision()
    }

    fn check_entry(&self, entry: &Entry, now: Timestamp) -> Result<(), Refused> {
        let bad = |e: taskmint_model::EntryError| {
            let reason = match e {
                taskmint_model::EntryError::NotYet(_) => "NOT_YET",
                _ => "BAD_ENTRY",
            };
            Refused::new(RefusalKind::Invalid, reason, e.to_string())
        };
        entry
            .validate(&self.settings.trust_domain, now)
            .map_err(bad)
    }
}

pub(crate) fn no_entry() -> Refused {
    Refused::new(RefusalKind::NotFound, "NO_SUCH_ENTRY", "no such entry")
}
