//! Several SVIDs in one answer: which come, in which order, under which hints (P7).

use std::collections::HashSet;

use taskmint_model::{EntryId, TaskId};

/// The most SVIDs in one answer; the rest are had by the task API or on a task's own socket.
pub(crate) const MAX_SVIDS: usize = 64;

/// A task as far as its hint depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hinted<'a> {
    pub(crate) task: TaskId,
    pub(crate) entry: Option<EntryId>,
    /// The operator's hint for the entry; may be empty.
    pub(crate) hint: &'a str,
}

/// A hint for each of `tasks`, which are in order of begin: the entry's for its first task, the
/// task's id for the others. No two are the same; of two entries with one hint the one whose task
/// began first keeps it (WAPI-22).
pub(crate) fn hints(tasks: &[Hinted<'_>]) -> Vec<String> {
    let mut entries = HashSet::new();
    let mut taken = HashSet::new();
    let hint = |task: &Hinted<'_>| {
        let first = task.entry.is_some_and(|entry| entries.insert(entry));
        // Nothing to choose by is no clash: empty hints may be many.
        if first && (task.hint.is_empty() || taken.insert(task.hint.to_owned())) {
            task.hint.to_owned()
        } else {
            task.task.to_string()
        }
    };
    tasks.iter().map(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(number: u8) -> TaskId {
        TaskId::from_octets([number; 16])
    }

    fn hinted(number: u8, entry: u8, hint: &str) -> Hinted<'_> {
        Hinted {
            task: task(number),
            entry: Some(EntryId::from_octets([entry; 16])),
            hint,
        }
    }

    #[test]
    fn the_first_task_of_an_entry_has_its_hint_and_the_others_their_ids() {
        let tasks = [
            hinted(1, 1, "a"),
            hinted(2, 1, "a"),
            hinted(3, 2, "b"),
            hinted(4, 3, ""),
        ];
        let id = task(2).to_string();
        assert_eq!(hints(&tasks), ["a", &id, "b", ""]);
    }

    #[test]
    fn of_two_entries_with_one_hint_the_older_task_keeps_it() {
        let id = task(2).to_string();
        assert_eq!(hints(&[hinted(1, 1, "a"), hinted(2, 2, "a")]), ["a", &id]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn no_two_hints_are_the_same(entries in proptest::collection::vec((0u8..6, "[ab]?"), 0..40)) {
            let tasks: Vec<_> = entries.iter().enumerate()
                .map(|(n, (entry, hint))| hinted(u8::try_from(n).unwrap(), *entry, hint))
                .collect();
            let hints: Vec<_> = hints(&tasks).into_iter().filter(|hint| !hint.is_empty()).collect();
            let distinct: HashSet<_> = hints.iter().collect();
            prop_assert_eq!(distinct.len(), hints.len());
        }
    }
}
