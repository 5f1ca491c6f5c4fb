//! Tasks below their parents.

use std::collections::{BTreeMap, BTreeSet};

use taskmint_wire::task::Task;

use super::record::{record, state};
use crate::output::{Field, Record};

/// Deeper than the rules allow: what a server sends must not exhaust the stack.
const MAX_DEPTH: usize = 256;

/// As lines; a task whose parent is not among them stands at the left.
pub(super) fn draw(tasks: &[Task]) -> String {
    let below = Below::new(tasks);
    let mut text = String::new();
    for root in &below.roots {
        text.push_str(&format!("{}\n", line(root)));
        below.draw(root, "", 0, &mut text);
    }
    text
}

/// As records, each with `tasks`: those below it.
pub(super) fn nested(tasks: &[Task]) -> Vec<Record> {
    let below = Below::new(tasks);
    below
        .roots
        .iter()
        .map(|root| below.nested(root, 0))
        .collect()
}

struct Below<'a> {
    roots: Vec<&'a Task>,
    children: BTreeMap<&'a str, Vec<&'a Task>>,
}

impl<'a> Below<'a> {
    fn new(tasks: &'a [Task]) -> Self {
        let ids: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
        let mut below = Self {
            roots: Vec::new(),
            children: BTreeMap::new(),
        };
        for task in tasks {
            if ids.contains(task.parent_id.as_str()) && task.parent_id != task.id {
                below
                    .children
                    .entry(&task.parent_id)
                    .or_default()
                    .push(task);
            } else {
                below.roots.push(task);
            }
        }
        below
    }

    fn of(&self, task: &Task) -> &[&'a Task] {
        self.children
            .get(task.id.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn draw(&self, task: &Task, indent: &str, depth: usize, text: &mut String) {
        let children = self.of(task);
        if depth == MAX_DEPTH {
            return;
        }
        for (index, child) in children.iter().enumerate() {
            let is_last = index + 1 == children.len();
            let (branch, below) = if is_last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            text.push_str(&format!("{indent}{branch}{}\n", line(child)));
            self.draw(child, &format!("{indent}{below}"), depth + 1, text);
        }
    }

    fn nested(&self, task: &Task, depth: usize) -> Record {
        let children = if depth == MAX_DEPTH {
            &[][..]
        } else {
            self.of(task)
        };
        let children = children
            .iter()
            .map(|child| self.nested(child, depth + 1))
            .collect();
        record(task).with("tasks", Field::Records(children))
    }
}

fn line(task: &Task) -> String {
    let shown = |name: &str| record(task).get(name).map(Field::show).unwrap_or_default();
    let purpose = shown("purpose");
    let purpose = if purpose.is_empty() {
        purpose
    } else {
        format!("  {purpose}")
    };
    format!(
        "{}  {}  {}{purpose}",
        task.id,
        state(task.state()),
        task.spiffe_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_wire::task::State;

    fn task(id: &str, parent: &str) -> Task {
        Task {
            id: id.to_owned(),
            parent_id: parent.to_owned(),
            spiffe_id: "spiffe://e.org/a".to_owned(),
            state: State::Live.into(),
            ..Default::default()
        }
    }

    #[test]
    fn children_stand_below_their_parents() {
        let tasks = [
            task("a", ""),
            task("b", "a"),
            task("c", "b"),
            task("d", "a"),
            task("e", "gone"),
        ];
        let expected = "a  live  spiffe://e.org/a\n\
                        ├─ b  live  spiffe://e.org/a\n\
                        │  └─ c  live  spiffe://e.org/a\n\
                        └─ d  live  spiffe://e.org/a\n\
                        e  live  spiffe://e.org/a\n";
        assert_eq!(draw(&tasks), expected);
        let nested = nested(&tasks);
        assert_eq!(nested[0].json()["tasks"][0]["tasks"][0]["id"], "c");
    }

    #[test]
    fn a_loop_ends() {
        assert_eq!(draw(&[task("a", "b"), task("b", "a")]), "");
        assert_eq!(draw(&[task("a", "a")]).lines().count(), 1);
    }
}
