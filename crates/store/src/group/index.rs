//! What finds live tasks again without reading all of them: by deadline, by holder, and counted.

use taskmint_model::{Task, TaskKind};

use super::Draft;
use crate::port::StoreError;
use crate::rows::{self, Key, Row};

/// The rows that find a task while it is live; none once it has ended.
pub fn index_rows(task: &Task) -> Vec<(Key, Row)> {
    if task.is_ended() {
        return Vec::new();
    }
    let slot = task.place.slot();
    let due = Key::Due(slot.bucket(), task.times.deadline, slot.index());
    let mut rows = vec![(due, Row::Due(task.id))];
    if let Some(holder) = holder(task) {
        rows.push((Key::Held(holder, task.id), Row::Held(slot)));
    }
    rows
}

/// Under whose name it is found: its node's, or no name for the issuer's own.
fn holder(task: &Task) -> Option<String> {
    match (&task.holder.node, task.kind) {
        (Some(node), _) => Some(node.as_str().to_owned()),
        (None, TaskKind::Server) => Some(String::new()),
        (None, _) => None,
    }
}

impl Draft<'_, '_> {
    /// Brings the index from a task as it was to the task as it is.
    pub(super) fn index(&mut self, before: Option<&Task>, after: &Task) -> Result<(), StoreError> {
        let (old, new) = (
            before.map(index_rows).unwrap_or_default(),
            index_rows(after),
        );
        if old == new {
            return Ok(());
        }
        let (was_live, is_live) = (!old.is_empty(), !new.is_empty());
        for (key, _) in old {
            self.delete(key);
        }
        for (key, row) in new {
            self.put(key, row);
        }
        if was_live == is_live {
            return Ok(());
        }
        let key = Key::Live(after.place.bucket());
        let count = rows::live(self, &key)?.unwrap_or(0);
        let count = match is_live {
            true => count + 1,
            false => count.saturating_sub(1),
        };
        self.put(key, Row::Live(count));
        Ok(())
    }
}
