//! What the server has told this node: entries, the bundle, lifetimes. Replaced whole, never
//! patched; whoever depends on it is woken by a `watch`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use taskmint_id::{Bundle, SpiffeId};
use taskmint_model::{EntryId, Selector, Selectors, Timestamp};
use taskmint_wire::{BadField, node, selectors_from_wire};
use tokio::sync::watch;

/// What an agent knows of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) revision: u64,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) selectors: Selectors,
    pub(crate) hint: String,
    pub(crate) implicit: bool,
    pub(crate) descendants: bool,
    /// Its workloads receive revocation lists.
    pub(crate) crl: bool,
    /// Ends are waited for until its verifiers have applied them.
    pub(crate) watch: bool,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
}

/// All entries that count on this node, and by one selector of each: who matches is found without
/// a look at all of them.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    by_id: HashMap<EntryId, Arc<Entry>>,
    by_selector: HashMap<Selector, Vec<Arc<Entry>>>,
}

/// The trust domain's revocation lists, DER; none before the first.
pub(crate) type Crls = Arc<Vec<Vec<u8>>>;

/// What the server has told; nothing before the first session.
#[derive(Debug)]
pub(crate) struct Knowledge {
    entries: watch::Sender<Option<Arc<Entries>>>,
    bundle: watch::Sender<Option<Arc<Bundle>>>,
    crls: watch::Sender<Crls>,
    times: watch::Sender<Times>,
}

/// Lifetimes that the trust domain has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// How long this node may be silent.
    pub(crate) lease: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
        }
    }
}

impl TryFrom<&node::Entry> for Entry {
    type Error = BadField;

    fn try_from(entry: &node::Entry) -> Result<Self, BadField> {
        let at = |millis| (millis > 0).then(|| Timestamp::from_millis(millis));
        Ok(Self {
            id: entry.id.parse().map_err(|e| BadField::new("entry.id", e))?,
            revision: entry.revision,
            spiffe_id: entry
                .spiffe_id
                .parse()
                .map_err(|e| BadField::new("entry.spiffe_id", e))?,
            selectors: selectors_from_wire("entry.selectors", &entry.selectors)?,
            hint: entry.hint.clone(),
            implicit: entry.implicit,
            descendants: entry.descendants,
            crl: entry.crl,
            watch: entry.watch,
            expires_at: at(entry.expires_at_ms),
            created_at: Timestamp::from_millis(entry.created_at_ms),
        })
    }
}

impl Entry {
    /// Whether a caller that is attested to be `selectors` matches it now.
    pub(crate) fn matches(&self, selectors: &Selectors, now: Timestamp) -> bool {
        let counts = self.expires_at.is_none_or(|at| now < at);
        counts && !self.selectors.is_empty() && self.selectors.is_subset(selectors)
    }
}

impl Entries {
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        let mut count: HashMap<&Selector, usize> = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors) {
            *count.entry(selector).or_default() += 1;
        }
        let mut by_selector: HashMap<Selector, Vec<Arc<Entry>>> = HashMap::new();
        for entry in &entries {
            // The one that fewest entries have: everybody has some group, few have this digest.
            let rarest = entry
                .selectors
                .iter()
                .min_by_key(|s| count.get(s).copied().unwrap_or(0));
            if let Some(selector) = rarest {
                by_selector
                    .entry(selector.clone())
                    .or_default()
                    .push(Arc::clone(entry));
            }
        }
        Self {
            by_id: entries.into_iter().map(|entry| (entry.id, entry)).collect(),
            by_selector,
        }
    }

    /// Reads what the server sent. An entry that can't be read is left out: nobody matches it.
    pub(crate) fn read(entries: &[node::Entry]) -> Self {
        Self::new(entries.iter().filter_map(|entry| {
            Entry::try_from(entry)
                .inspect_err(|error| tracing::error!(entry = entry.id, %error, "entry left out"))
                .ok()
        }))
    }

    pub(crate) fn get(&self, id: EntryId) -> Option<&Arc<Entry>> {
        self.by_id.get(&id)
    }

    /// Entries that a caller matches, oldest first.
    pub(crate) fn matching(&self, selectors: &Selectors, now: Timestamp) -> Vec<Arc<Entry>> {
        let candidates = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector));
        let matching = candidates
            .flatten()
            .filter(|entry| entry.matches(selectors, now));
        let mut matching: Vec<_> = matching.cloned().collect();
        matching.sort_by_key(|entry| (entry.created_at, entry.id));
        matching
    }

    /// Entries that have at least one selector of a caller's, in no order: for explanations.
    pub(crate) fn sharing(&self, selectors: &Selectors) -> impl Iterator<Item = Arc<Entry>> {
        let shares = |entry: &&Arc<Entry>| !entry.selectors.is_disjoint(selectors);
        self.by_id.values().filter(shares).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Knowledge {
    pub(crate) fn new() -> Self {
        Self {
            entries: watch::Sender::new(None),
            bundle: watch::Sender::new(None),
            crls: watch::Sender::default(),
            times: watch::Sender::new(Times::default()),
        }
    }

    pub(crate) fn set_entries(&self, entries: Entries) {
        self.entries.send_replace(Some(Arc::new(entries)));
    }

    /// Takes a bundle; false if it says nothing new.
    pub(crate) fn set_bundle(&self, bundle: &Bundle) -> bool {
        self.bundle.send_if_modified(|current| {
            let new = current
                .as_ref()
                .is_none_or(|current| !current.same_content(bundle));
            if new {
                *current = Some(Arc::new(bundle.clone()));
            }
            new
        })
    }

    /// The old ones stay while there are no others: they run out by themselves.
    pub(crate) fn set_crls(&self, lists: Vec<Vec<u8>>) {
        self.crls.send_replace(Arc::new(lists));
    }

    pub(crate) fn set_times(&self, settings: node::Settings) {
        if settings.lease_ms > 0 {
            let lease = Duration::from_millis(settings.lease_ms);
            self.times.send_replace(Times { lease });
        }
    }

    pub(crate) fn entries(&self) -> Option<Arc<Entries>> {
        self.entries.borrow().clone()
    }

    pub(crate) fn bundle(&self) -> Option<Arc<Bundle>> {
        self.bundle.borrow().clone()
    }

    pub(crate) fn crls(&self) -> Crls {
        self.crls.borrow().clone()
    }

    pub(crate) fn crls_changed(&self) -> watch::Receiver<Crls> {
        self.crls.subscribe()
    }

    pub(crate) fn times(&self) -> Times {
        *self.times.borrow()
    }

    pub(crate) fn entries_changed(&self) -> watch::Receiver<Option<Arc<Entries>>> {
        self.entries.subscribe()
    }

    pub(crate) fn bundle_changed(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.bundle.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry(number: u8, selectors: &[&str]) -> Entry {
        Entry {
            id: EntryId::from_octets([number; 16]),
            revision: 1,
            spiffe_id: format!("spiffe://example.org/e{number}").parse().unwrap(),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            hint: String::new(),
            implicit: true,
            descendants: false,
            crl: false,
            watch: false,
            expires_at: None,
            created_at: Timestamp::from_secs(u64::from(number)),
        }
    }

    #[test]
    fn an_entry_matches_who_has_all_its_selectors() {
        let mut expired = entry(4, &["unix:uid:1"]);
        expired.expires_at = Some(Timestamp::from_secs(100));
        let entries = Entries::new([
            entry(3, &["unix:uid:1"]),
            entry(1, &["unix:uid:1", "unix:gid:1"]),
            entry(2, &["unix:uid:1", "unix:path:/bin/x"]),
            entry(5, &[]),
            expired,
        ]);
        let found = |selectors: &[&str], now| -> Vec<u64> {
            let selectors = selectors.iter().map(|s| s.parse().unwrap()).collect();
            let found = entries.matching(&selectors, Timestamp::from_secs(now));
            found.iter().map(|entry| entry.created_at.secs()).collect()
        };
        assert_eq!(found(&["unix:uid:1", "unix:gid:1"], 99), [1, 3, 4]);
        assert_eq!(found(&["unix:uid:1", "unix:gid:1"], 100), [1, 3]);
        assert_eq!(
            found(&["unix:uid:1", "unix:gid:2", "unix:path:/bin/x"], 100),
            [2, 3]
        );
        assert_eq!(found(&["unix:gid:1"], 99), [0; 0]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_left_out() {
        let good = node::Entry {
            id: EntryId::from_octets([1; 16]).to_string(),
            spiffe_id: "spiffe://example.org/a".to_owned(),
            selectors: vec!["unix:uid:1".to_owned()],
            ..Default::default()
        };
        let bad = node::Entry {
            selectors: vec!["uid".to_owned()],
            ..good.clone()
        };
        assert_eq!(Entries::read(&[good, bad]).len(), 1);
    }
}
