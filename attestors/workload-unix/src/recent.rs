//! What was just found out about a process, for as long as it looks the same.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use taskmint_model::Selector;
use taskmint_peer::{ProcessFacts, ProcessRef};

/// For how long names of users and groups, and what lies at a path, are not looked up again.
pub(crate) const AGE: Duration = Duration::from_secs(1);

/// Processes that are remembered.
const REMEMBERED: usize = 1024;

/// Who has more is not remembered: a process may be given 65,536 groups.
const MAX_SELECTORS: usize = 64;

/// Selectors by what the kernel said of the process when they were found. It is asked anew before
/// each reply; only what takes files to find out is remembered, and only while its answer is the
/// same to the last field: ids, groups, namespaces, the file that runs and when that last changed.
#[derive(Default)]
pub(crate) struct Recent(Mutex<HashMap<ProcessRef, Found>>);

struct Found {
    facts: ProcessFacts,
    selectors: Vec<Selector>,
    at: Instant,
}

impl Recent {
    /// What was found no longer than [`AGE`] ago.
    pub(crate) fn get(&self, facts: &ProcessFacts, now: Instant) -> Option<Vec<Selector>> {
        let found = self.0.lock();
        let found = found.get(&facts.process)?;
        (found.is_young(now) && found.facts == *facts).then(|| found.selectors.clone())
    }

    pub(crate) fn put(&self, facts: ProcessFacts, selectors: Vec<Selector>, now: Instant) {
        if selectors.len() > MAX_SELECTORS {
            return;
        }
        let mut found = self.0.lock();
        if found.len() >= REMEMBERED {
            found.retain(|_, found| found.is_young(now));
        }
        if found.len() >= REMEMBERED {
            return;
        }
        let process = facts.process;
        found.insert(
            process,
            Found {
                facts,
                selectors,
                at: now,
            },
        );
    }
}

impl Found {
    fn is_young(&self, now: Instant) -> bool {
        now.duration_since(self.at) <= AGE
    }
}

#[cfg(test)]
mod tests {
    use taskmint_peer::{ExecutableError, HeldProcess};

    use super::*;

    fn own() -> ProcessFacts {
        HeldProcess::open(std::process::id())
            .unwrap()
            .facts()
            .unwrap()
    }

    fn selectors() -> Vec<Selector> {
        vec![Selector::new("unix", "user:alice").unwrap()]
    }

    #[test]
    fn it_is_forgotten_once_it_is_old_or_the_process_looks_otherwise() {
        let (recent, now) = (Recent::default(), Instant::now());
        assert_eq!(recent.get(&own(), now), None);
        recent.put(own(), selectors(), now);
        assert_eq!(recent.get(&own(), now), Some(selectors()));
        assert_eq!(recent.get(&own(), now + AGE), Some(selectors()));
        let later = now + AGE + Duration::from_nanos(1);
        assert_eq!(recent.get(&own(), later), None);
        let changes: [fn(&mut ProcessFacts); 5] = [
            |facts| facts.uid.saved += 1,
            |facts| facts.groups.push(4711),
            |facts| facts.namespaces.mount = None,
            |facts| facts.executable = Err(ExecutableError::Missing),
            |facts| facts.executable.as_mut().unwrap().file.changed.1 ^= 1,
        ];
        for change in changes {
            let mut facts = own();
            change(&mut facts);
            assert_eq!(recent.get(&facts, now), None, "{facts:?}");
        }
    }

    #[test]
    fn who_has_very_many_groups_is_not_remembered() {
        let (recent, now) = (Recent::default(), Instant::now());
        let many = |count| selectors().into_iter().cycle().take(count).collect();
        recent.put(own(), many(MAX_SELECTORS + 1), now);
        assert_eq!(recent.get(&own(), now), None);
        recent.put(own(), many(MAX_SELECTORS), now);
        assert!(recent.get(&own(), now).is_some());
    }

    #[test]
    fn as_many_processes_as_there_are_take_up_no_more_room() {
        let (recent, now) = (Recent::default(), Instant::now());
        let process = |pid| {
            let mut facts = own();
            facts.process.pid = pid;
            facts
        };
        for pid in 0..2 * u32::try_from(REMEMBERED).unwrap() {
            recent.put(process(pid), selectors(), now);
        }
        assert_eq!(recent.0.lock().len(), REMEMBERED);
        let later = now + AGE * 2;
        recent.put(own(), selectors(), later);
        assert_eq!(recent.0.lock().len(), 1);
        assert_eq!(recent.get(&own(), later), Some(selectors()));
    }
}
